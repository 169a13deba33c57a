//! The rules of routes for a service: whose requests go where, and which routes do not apply.

use serde_json::Value;

use crate::escape;
use crate::operator::table::{Cell, Screen, Table, elastic, rigid};

/// Nothing if no route names the service.
pub(super) fn describe(rules: &Value, screen: Screen) -> String {
    let mut table = Table::new(&[
        elastic("ROUTE"),
        rigid("KIND"),
        elastic("CLIENTS"),
        rigid("PORT"),
        rigid("RULE"),
        elastic("MATCHES"),
        elastic("LEADS TO"),
    ]);
    let consumers = rules["consumers"].as_object().into_iter().flatten();
    let consumers = consumers.map(|(namespace, ports)| (format!("of {namespace}"), ports));
    let everybody = std::iter::once(("all".to_owned(), &rules["producer"]));
    for (clients, ports) in everybody.chain(consumers) {
        for port in list(ports) {
            for route in list(&port["routes"]) {
                for (at, rule) in list(&route["rules"]).iter().enumerate() {
                    let name = rule["name"].as_str().map_or_else(|| at.to_string(), str::to_owned);
                    let row = [
                        format!("{}/{}", text(route, "namespace"), text(route, "name")),
                        text(port, "kind"),
                        clients.clone(),
                        port["port"].to_string(),
                        name,
                        joined(&rule["matches"], " or "),
                        leads_to(rule),
                    ];
                    table.rows.push(row.iter().map(|one| Cell::new(one)).collect());
                }
            }
        }
    }
    let mut said = String::new();
    if !table.rows.is_empty() {
        said.push('\n');
        said.push_str(&table.render(screen));
    }
    for problem in list(&rules["problems"]) {
        let condition = ["accepted", "resolved_refs"].into_iter().map(|name| &problem[name]);
        let condition = condition.filter(|one| one["status"] == false);
        for one in condition {
            let words = format!(
                "{} is not as it was meant: {}: {}",
                text(problem, "route"),
                text(one, "reason"),
                text(one, "message")
            );
            said.push_str(&format!("{}\n", escape::line(&words)));
        }
    }
    said
}

/// A rule's backends with their shares, else what it does in their place.
fn leads_to(rule: &Value) -> String {
    let backends: Vec<String> = list(&rule["backends"]).iter().map(backend).collect();
    let filters = joined(&rule["filters"], ", ");
    match (backends.is_empty(), filters.is_empty()) {
        (true, true) => "nowhere: 500".to_owned(),
        (true, false) => filters,
        (false, true) => backends.join(", "),
        (false, false) => format!("{} ({filters})", backends.join(", ")),
    }
}

fn backend(of: &Value) -> String {
    let problem = of["problem"].as_str().map(|problem| format!(" {problem}"));
    let none = (of["ready"] == 0).then(|| " without endpoints".to_owned());
    let more = problem.or(none).unwrap_or_default();
    format!("{} weight {}{more}", text(of, "backend"), of["weight"])
}

fn list(of: &Value) -> &[Value] {
    of.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(of: &Value, name: &str) -> String {
    of[name].as_str().unwrap_or_default().to_owned()
}

fn joined(of: &Value, by: &str) -> String {
    list(of).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(by)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_rule_is_a_row_and_each_problem_a_line() {
        let backend = |name: &str, weight: u32| json!({ "backend": name, "weight": weight });
        let mut gone = backend("shop/gone:80", 10);
        gone["problem"] = json!("BackendNotFound");
        let mut empty = backend("shop/v1:80", 90);
        empty["ready"] = json!(0);
        let rules = json!({
            "producer": [{ "port": 80, "kind": "HTTPRoute", "routes": [{
                "namespace": "shop", "name": "split", "rules": [
                    { "name": "by-user", "matches": ["/a (prefix)", "/b (exact)"], "backends": [empty, gone] },
                    { "matches": ["/ (prefix)"], "backends": [] },
                ],
            }]}],
            "consumers": { "a": [{ "port": 80, "kind": "GRPCRoute", "routes": [{
                "namespace": "a", "name": "mine", "rules": [
                    { "matches": ["/*/*"], "filters": ["redirect 301"], "backends": [] },
                ],
            }]}]},
            "problems": [{
                "route": "HTTPRoute shop/wrong\u{1b}[2J",
                "accepted": { "status": false, "reason": "UnsupportedValue", "message": "no such filter" },
                "resolved_refs": { "status": true, "reason": "ResolvedRefs", "message": "" },
            }],
        });
        let said = describe(&rules, Screen::default());
        for words in [
            "shop/split",
            "by-user",
            "/a (prefix) or /b (exact)",
            "shop/v1:80 weight 90 without endpoints, shop/gone:80 weight 10 BackendNotFound",
            "nowhere: 500",
            "of a",
            "redirect 301",
            "is not as it was meant: UnsupportedValue: no such filter",
        ] {
            assert!(said.contains(words), "{words} in {said}");
        }
        assert!(!said.contains('\u{1b}'), "{said:?}");
        assert_eq!(said.lines().filter(|line| !line.is_empty()).count(), 5);
        assert_eq!(describe(&Value::Null, Screen::default()), "");
    }
}
