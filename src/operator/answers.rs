//! What a replica says, as far as it is understood here. Fields that are missing are taken as not known;
//! fields that are not known stay in what is printed as JSON, which is made of the answers themselves.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;

/// The types in the order in which they are shown.
pub(super) const TYPES: [&str; 4] = ["CDS", "EDS", "LDS", "RDS"];

/// One page of `/debug/proxies`. Rows are read one by one: [`Proxy::read`].
#[derive(Clone, Debug)]
pub(super) struct ProxiesPage {
    pub(super) instance: String,
    pub(super) generation: Option<u64>,
    pub(super) matched: usize,
    pub(super) proxies: Vec<Value>,
}

impl ProxiesPage {
    /// Reads the page; its rows are taken out of it.
    pub(super) fn take(page: &mut Value) -> Result<Self, String> {
        let rows = page.get_mut("proxies").map(Value::take);
        let Some(Value::Array(proxies)) = rows else {
            return Err("no list of proxies".to_owned());
        };
        let text = |name: &str| page[name].as_str().map(str::to_owned);
        let instance = text("instance").ok_or("no instance")?;
        let matched = page["matched"].as_u64().ok_or("no number of proxies that match")?;
        let matched = usize::try_from(matched).unwrap_or(usize::MAX);
        Ok(Self { instance, generation: page["generation"].as_u64(), matched, proxies })
    }
}

/// How far a type of a proxy is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum State {
    Rejected,
    Stale,
    NotSent,
    Synced,
}

impl State {
    pub(super) const ALL: [Self; 4] = [Self::Rejected, Self::Stale, Self::NotSent, Self::Synced];

    /// As it is shown, and as the server filters by it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "REJECTED",
            Self::Stale => "STALE",
            Self::NotSent => "NOT SENT",
            Self::Synced => "SYNCED",
        }
    }

    /// In any case, with or without the blank.
    pub(super) fn read(text: &str) -> Option<Self> {
        let letters = |text: &str| -> String {
            text.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_uppercase()).collect()
        };
        Self::ALL.into_iter().find(|state| letters(state.as_str()) == letters(text))
    }
}

/// A row of `/debug/proxies`, and the page of one proxy, which has more.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Proxy {
    #[serde(deserialize_with = "text")]
    pub(super) key: String,
    #[serde(deserialize_with = "text")]
    pub(super) name: String,
    #[serde(deserialize_with = "text")]
    pub(super) node_id: String,
    #[serde(deserialize_with = "text")]
    pub(super) kind: String,
    #[serde(deserialize_with = "text")]
    pub(super) namespace: String,
    #[serde(deserialize_with = "text")]
    pub(super) zone: String,
    #[serde(deserialize_with = "text")]
    pub(super) version: String,
    #[serde(deserialize_with = "text")]
    pub(super) replica: String,
    #[serde(deserialize_with = "text")]
    pub(super) connected: String,
    #[serde(deserialize_with = "text")]
    pub(super) address: String,
    #[serde(deserialize_with = "text")]
    pub(super) identity: String,
    #[serde(deserialize_with = "text")]
    pub(super) protocol: String,
    pub(super) probe: bool,
    #[serde(deserialize_with = "text")]
    pub(super) discovery: String,
    /// On demand, once it has some.
    pub(super) clusters: Option<NamedClusters>,
    /// Of what it said that it uses, what was nothing when its stream began.
    pub(super) uses_unknown: Vec<String>,
    #[serde(deserialize_with = "text")]
    pub(super) state: String,
    pub(super) generation_acknowledged: Option<u64>,
    pub(super) types: BTreeMap<String, Option<TypeStatus>>,
    /// What follows stands in the page of one proxy only.
    #[serde(deserialize_with = "text")]
    pub(super) view: String,
    pub(super) history: Option<Vec<Event>>,
}

impl Default for Proxy {
    fn default() -> Self {
        let text = String::new;
        Self {
            key: text(),
            name: text(),
            node_id: text(),
            kind: text(),
            namespace: text(),
            zone: text(),
            version: text(),
            replica: text(),
            connected: text(),
            address: text(),
            identity: text(),
            protocol: text(),
            probe: false,
            discovery: text(),
            clusters: None,
            uses_unknown: Vec::new(),
            state: text(),
            generation_acknowledged: None,
            types: BTreeMap::new(),
            view: text(),
            history: None,
        }
    }
}

impl Proxy {
    pub(super) fn read(row: &Value) -> Result<Self, String> {
        // serde would take an array for one as well.
        match row.is_object() {
            true => serde_json::from_value(row.clone()).map_err(|error| error.to_string()),
            false => Err("a proxy that is no object".to_owned()),
        }
    }

    pub(super) fn of(&self, name: &str) -> Option<&TypeStatus> {
        self.types.get(name)?.as_ref()
    }

    /// Whether it names the clusters that it wants.
    pub(super) fn is_on_demand(&self) -> bool {
        self.discovery == "on-demand"
    }

    /// When the oldest response without an answer was sent.
    pub(super) fn oldest_stale(&self) -> Option<SystemTime> {
        let stale = self.types.values().flatten();
        let stale = stale.filter(|status| State::read(&status.state) == Some(State::Stale));
        stale.filter_map(|status| time(&status.since)).min()
    }
}

/// The clusters that a proxy on demand has named, and those that there are.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NamedClusters {
    pub(super) subscribed: u64,
    pub(super) available: u64,
    pub(super) unknown: u64,
    pub(super) passed_through: u64,
}

/// One type of a proxy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TypeStatus {
    #[serde(deserialize_with = "text")]
    pub(super) state: String,
    #[serde(deserialize_with = "text")]
    pub(super) since: String,
    pub(super) sent: Option<u64>,
    pub(super) acknowledged: Option<u64>,
    pub(super) rejected: Option<u64>,
    pub(super) resources: Option<u64>,
    /// Envoy's words for what it rejected.
    #[serde(deserialize_with = "text")]
    pub(super) error: String,
    #[serde(deserialize_with = "text")]
    pub(super) error_at: String,
    #[serde(deserialize_with = "text")]
    pub(super) last_sent: String,
    #[serde(deserialize_with = "text")]
    pub(super) last_acknowledged: String,
}

/// One response of a stream, or an answer to one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    #[serde(deserialize_with = "text")]
    pub(super) at: String,
    #[serde(rename = "type", deserialize_with = "text")]
    pub(super) of: String,
    #[serde(deserialize_with = "text")]
    pub(super) what: String,
    #[serde(deserialize_with = "text")]
    pub(super) nonce: String,
    pub(super) resources: Option<u64>,
    pub(super) removed: Option<u64>,
    pub(super) bytes: Option<u64>,
    pub(super) generation: Option<u64>,
    #[serde(deserialize_with = "text")]
    pub(super) error: String,
}

/// A proxy that has not acknowledged a change, or a generation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Straggler {
    #[serde(deserialize_with = "text")]
    pub(super) name: String,
    #[serde(rename = "type", deserialize_with = "text")]
    pub(super) of: String,
    #[serde(deserialize_with = "text")]
    pub(super) state: String,
    #[serde(deserialize_with = "text")]
    pub(super) since: String,
    #[serde(deserialize_with = "text")]
    pub(super) error: String,
}

/// A moment of an answer.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339_weak(text).ok()
}

/// How long ago that was, in kubectl's way. Clocks differ, so what lies ahead is now.
pub(super) fn age(moment: &str, now: SystemTime) -> Option<String> {
    let age = now.duration_since(time(moment)?).unwrap_or(Duration::ZERO);
    Some(short(age))
}

/// One number and its unit.
pub(super) fn short(time: Duration) -> String {
    match time.as_secs() {
        0 if !time.is_zero() => format!("{}ms", time.as_millis()),
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7_200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A string, or what stands for one; null is nothing.
pub(super) fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_read_with_what_it_lacks() {
        let proxy = Proxy::read(&json!({
            "key": 17, "name": "a.b", "zone": null,
            "types": { "CDS": { "state": "STALE", "since": "2026-11-26T14:00:00.500Z" }, "RDS": null },
        }))
        .unwrap();
        assert_eq!((proxy.key.as_str(), proxy.zone.as_str()), ("17", ""));
        assert_eq!(proxy.oldest_stale(), time("2026-11-26T14:00:00.5Z"));
        assert!(proxy.of("RDS").is_none() && proxy.of("LDS").is_none());
        assert!(Proxy::read(&json!(["no object"])).is_err());
    }

    #[test]
    fn ages_are_short() {
        let at = |seconds| short(Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(119), at(120), at(7_200), at(172_800)],
            ["0s", "119s", "2m", "2h", "2d"]
        );
        let moment = "2026-11-26T14:00:00Z";
        assert_eq!(age(moment, SystemTime::UNIX_EPOCH).as_deref(), Some("0s"), "it lies ahead");
        assert_eq!(age("yesterday", SystemTime::UNIX_EPOCH), None);
    }

    #[test]
    fn states_are_read_in_any_spelling() {
        for text in ["NOT SENT", "not_sent", "NotSent", "not-sent"] {
            assert_eq!(State::read(text), Some(State::NotSent));
        }
        assert_eq!(State::read("gone"), None);
    }
}
