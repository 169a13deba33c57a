//! Proxies as rows.

use std::time::SystemTime;

use crate::operator::answers::{NamedClusters, Proxy, State, TYPES, TypeStatus, age};
use crate::operator::table::{Cell, Table, Tone, elastic, rigid};

pub(super) fn of_proxies<'a>(
    proxies: impl Iterator<Item = &'a Proxy>,
    wide: bool,
    now: SystemTime,
) -> Table {
    let proxies: Vec<&Proxy> = proxies.collect();
    let mut columns = vec![elastic("NAME"), rigid("KIND")];
    // Where nobody is on demand it says nothing.
    let has_discovery = proxies.iter().any(|proxy| proxy.is_on_demand());
    if has_discovery {
        columns.push(rigid("DISCOVERY"));
    }
    columns.extend(TYPES.map(rigid));
    columns.extend([elastic("REPLICA"), elastic("VERSION")]);
    if wide {
        columns.extend([elastic("ZONE"), rigid("ADDRESS"), rigid("PROTOCOL"), rigid("CONNECTED")]);
        columns.extend([rigid("GENERATION"), rigid("SENT"), rigid("ACKS"), rigid("NACKS")]);
        columns.push(elastic("IDENTITY"));
    }
    let mut table = Table::new(&columns);
    for proxy in proxies {
        let name = match proxy.probe {
            true => format!("{} (probe)", proxy.name),
            false => proxy.name.clone(),
        };
        let mut row = vec![Cell::new(&name), Cell::new(&proxy.kind)];
        if has_discovery {
            row.push(discovery_cell(proxy));
        }
        row.extend(TYPES.map(|of| state_cell(proxy.of(of), now)));
        row.extend([Cell::new(&proxy.replica), Cell::new(&proxy.version)]);
        if wide {
            let connected = age(&proxy.connected, now).unwrap_or_default();
            row.extend(
                [&proxy.zone, &proxy.address, &proxy.protocol, &connected]
                    .map(|text| Cell::new(text)),
            );
            let generation = proxy.generation_acknowledged.map(|number| number.to_string());
            row.push(Cell::new(&generation.unwrap_or_default()));
            let sum = |count: fn(&TypeStatus) -> Option<u64>| {
                let counts = proxy.types.values().flatten().filter_map(count);
                Cell::new(&counts.fold(0, u64::saturating_add).to_string())
            };
            row.extend([sum(|of| of.sent), sum(|of| of.acknowledged), sum(|of| of.rejected)]);
            row.push(Cell::new(&proxy.identity));
        }
        table.rows.push(row);
    }
    table
}

/// How many clusters it has named, of how many.
fn discovery_cell(proxy: &Proxy) -> Cell {
    match &proxy.clusters {
        Some(clusters) => {
            let NamedClusters { subscribed, available, .. } = clusters;
            Cell::new(&format!("{} {subscribed}/{available}", proxy.discovery))
        }
        None => Cell::new(&proxy.discovery),
    }
}

/// The state, with its age while an answer is waited for.
pub(super) fn state_cell(status: Option<&TypeStatus>, now: SystemTime) -> Cell {
    let Some(status) = status.filter(|status| !status.state.is_empty()) else {
        return Cell::toned("", Tone::Faint);
    };
    match State::read(&status.state) {
        Some(State::Synced) => Cell::toned("SYNCED", Tone::Good),
        Some(State::Rejected) => Cell::toned("REJECTED", Tone::Bad),
        Some(State::NotSent) => Cell::toned("NOT SENT", Tone::Faint),
        Some(State::Stale) => match age(&status.since, now) {
            Some(age) => Cell::toned(&format!("STALE {age}"), Tone::Waiting),
            None => Cell::toned("STALE", Tone::Waiting),
        },
        None => Cell::new(&status.state),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::answers::time;
    use crate::operator::table::Screen;

    #[test]
    fn a_row_a_proxy_and_a_cell_a_type() {
        let status = |state: &str| json!({ "state": state, "since": "2026-11-26T14:00:00Z", "sent": 2, "acknowledged": 1 });
        let rejected = Proxy::read(&json!({
            "name": "reviews-v1.default", "kind": "sidecar", "replica": "pilot-a", "version": "envoy/1.40.0",
            "types": { "CDS": status("REJECTED"), "EDS": status("STALE"), "LDS": status("SYNCED") },
        }))
        .unwrap();
        let probe = Proxy::read(&json!({
            "name": "doctor\u{202e}", "kind": "standalone", "replica": "pilot-b", "probe": true,
            "zone": "z1", "address": "10.0.0.1:4711", "protocol": "delta", "generation_acknowledged": 41,
            "connected": "2026-11-26T13:00:10Z", "identity": "spiffe://cluster.local/ns/ops/sa/doctor",
            "types": { "CDS": status("NOT SENT") },
        }))
        .unwrap();
        let now = time("2026-11-26T14:00:12Z").unwrap();
        let screen = Screen { width: None, colors: false };
        let narrow = of_proxies([&rejected, &probe].into_iter(), false, now).render(screen);
        assert_eq!(
            narrow,
            "NAME                     KIND         CDS        EDS         LDS      RDS   REPLICA   VERSION\n\
             reviews-v1.default       sidecar      REJECTED   STALE 12s   SYNCED   -     pilot-a   envoy/1.40.0\n\
             doctor\\u{202e} (probe)   standalone   NOT SENT   -           -        -     pilot-b   -\n"
        );
        let on_demand = Proxy::read(&json!({
            "name": "web-0.shop", "kind": "sidecar", "discovery": "on-demand",
            "clusters": { "subscribed": 11, "available": 1004, "unknown": 1 },
        }))
        .unwrap();
        let all = Proxy { discovery: "all".to_owned(), ..rejected.clone() };
        let mixed = of_proxies([&on_demand, &all].into_iter(), false, now).render(screen);
        let cell =
            |line: &str| line.split_whitespace().skip(2).take(2).collect::<Vec<_>>().join(" ");
        let cells: Vec<String> = mixed.lines().map(cell).collect();
        assert_eq!(cells, ["DISCOVERY CDS", "on-demand 11/1004", "all REJECTED"], "{mixed}");
        let wide = of_proxies([&probe].into_iter(), true, now).render(screen);
        let line = wide.lines().nth(1).unwrap();
        assert!(
            line.ends_with(
                "z1     10.0.0.1:4711   delta      60m         41           2      1      0       \
                 spiffe://cluster.local/ns/ops/sa/doctor"
            ),
            "{wide}"
        );
    }
}
