//! Why the proxy is not ready: looked for in the background and at a pace of its own, only as long as
//! it is not.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::admin::{Admin, AdminError};
use super::readiness::State;

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub text: String,
    pub fix: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cause: {} | fix: {}", self.text, self.fix)
    }
}

/// How long the usual start may take before anything is looked for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two searches.
const PACE: Duration = Duration::from_secs(5);

/// Searches until the proxy is ready.
pub(super) async fn follow(
    admin: Admin,
    mut state: watch::Receiver<State>,
    causes: watch::Sender<Option<Cause>>,
) {
    let ready = state.wait_for(|state| *state == State::Ready);
    let search = async {
        tokio::time::sleep(PATIENCE).await;
        loop {
            let cause = rejection(&admin).await.ok().flatten();
            causes.send_replace(cause);
            tokio::time::sleep(PACE).await;
        }
    };
    tokio::select! {
        _ = ready => {}
        () = search => {}
    }
}

/// Envoy's own words about what it rejects, if it does. Clusters are not shown this way: Envoy keeps
/// such words for listeners and routes only.
async fn rejection(admin: &Admin) -> Result<Option<Cause>, AdminError> {
    let page = admin.get("/config_dump").await?;
    let Ok(dump) = serde_json::from_slice(&page) else { return Ok(None) };
    let mut found = Vec::new();
    rejections(&dump, &mut found);
    let [first, rest @ ..] = found.as_slice() else { return Ok(None) };
    let more = match rest {
        [] => String::new(),
        _ => format!(" (and {} more)", rest.len()),
    };
    Ok(Some(Cause {
        text: format!("Envoy rejects {first}{more}"),
        fix: "change what the text names; /debug/syncz of the control plane shows who else rejects it"
            .to_owned(),
    }))
}

/// Name and reason of everything that has an `error_state`.
fn rejections(dump: &Value, found: &mut Vec<String>) {
    match dump {
        Value::Object(fields) => {
            if let Some(error) = fields.get("error_state") {
                let name = |of: Option<&Value>| of?.get("name")?.as_str().map(str::to_owned);
                let name = name(Some(dump)).or_else(|| name(error.get("failed_configuration")));
                let reason = error.get("details").and_then(Value::as_str).unwrap_or_default();
                found.push(format!("{:?}: {reason}", name.unwrap_or_default()));
            } else {
                fields.values().for_each(|value| rejections(value, found));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| rejections(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rejection_is_found_wherever_it_stands() {
        let rejected = |name: &str, text: &str| {
            json!({
                "name": name,
                "error_state": { "failed_configuration": { "name": name }, "details": text },
            })
        };
        let dump = json!({ "configs": [
            { "dynamic_listeners": [{ "name": "good" }, rejected("one", "taken")] },
            { "dynamic_route_configs": [rejected("two", "wrong")] },
        ] });
        let mut found = Vec::new();
        rejections(&dump, &mut found);
        assert_eq!(found, [r#""one": taken"#, r#""two": wrong"#]);
    }
}
