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

/// Envoy's own words about what it rejected last, if it did.
async fn rejection(admin: &Admin) -> Result<Option<Cause>, AdminError> {
    let page = admin.get("/config_dump").await?;
    let Ok(dump) = serde_json::from_slice::<Value>(&page) else { return Ok(None) };
    Ok(find_rejection(&dump).map(|text| Cause {
        text,
        fix:
            "correct what the text names, or ask the control plane's /debug/syncz who else rejects \
              it"
            .to_owned(),
    }))
}

/// The details of the first `error_state` in the dump.
fn find_rejection(dump: &Value) -> Option<String> {
    match dump {
        Value::Object(fields) => {
            let own = fields.get("error_state").and_then(|error| error.get("details"));
            let own = own.and_then(Value::as_str).filter(|text| !text.is_empty());
            own.map(str::to_owned).or_else(|| fields.values().find_map(find_rejection))
        }
        Value::Array(items) => items.iter().find_map(find_rejection),
        _ => None,
    }
}
