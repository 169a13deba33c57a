//! Whether the pod's iptables rules bring its traffic to Envoy, and Envoy's own past it.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::finding::{Code, Finding};
use crate::well_known::{INBOUND_CAPTURE_PORT, OUTBOUND_CAPTURE_PORT, PROXY_UID};

/// The rules of the nat table; an error if they cannot be looked at.
pub(super) async fn rules(limit: Duration) -> Result<String, String> {
    let command = Command::new("iptables-save")
        .args(["-t", "nat"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(limit, command).await.map_err(|_| "iptables-save hangs".to_owned())?;
    let output = output.map_err(|error| format!("iptables-save: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().next().unwrap_or("iptables-save fails").to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is wrong with rules as `iptables-save` prints them.
pub(super) fn fault(rules: &str) -> Option<Finding> {
    let missing = |what: &str, port| {
        Finding::new(
            Code::CaptureMissing,
            format!("capture is missing: no rule of the pod brings {what} traffic to port {port}"),
            "see whether the init container ran (kubectl logs POD -c istio-init), or run \
             pilothouse iptables in the pod",
        )
    };
    let outbound = reaches(rules, "OUTPUT", OUTBOUND_CAPTURE_PORT);
    match outbound {
        None => return Some(missing("outbound", OUTBOUND_CAPTURE_PORT)),
        Some(false) => {
            return Some(Finding::new(
                Code::CaptureLoops,
                format!(
                    "capture loops: Envoy's own connections (uid and gid {PROXY_UID}) are brought back \
                     to its port {OUTBOUND_CAPTURE_PORT}, for ever"
                ),
                format!(
                    "leave uid and gid {PROXY_UID} out of the capture (pilothouse iptables does), and \
                     run Envoy as that user"
                ),
            ));
        }
        Some(true) => {}
    }
    reaches(rules, "PREROUTING", INBOUND_CAPTURE_PORT)
        .is_none()
        .then(|| missing("inbound", INBOUND_CAPTURE_PORT))
}

/// Whether a chain leads to a redirect to `port`, and if so, whether Envoy's own traffic leaves
/// before it.
fn reaches(rules: &str, chain: &str, port: u16) -> Option<bool> {
    let mut proxy_is_left_out = false;
    walk(rules, chain, port, &mut proxy_is_left_out, 0).then_some(proxy_is_left_out)
}

/// Follows jumps; chains are a handful deep, and a loop of them cannot be loaded.
fn walk(rules: &str, chain: &str, port: u16, proxy_is_left_out: &mut bool, depth: usize) -> bool {
    let own = rules.lines().filter_map(|line| line.strip_prefix("-A ")?.strip_prefix(chain));
    let proxy = PROXY_UID.to_string();
    for rule in own.filter_map(|rule| rule.strip_prefix(' ')) {
        let after = |flag: &str| {
            let mut words = rule.split_whitespace().skip_while(|word| *word != flag).skip(1);
            words.next()
        };
        let owner = after("--uid-owner").or_else(|| after("--gid-owner"));
        let negated = rule.contains("! --uid-owner") || rule.contains("! --gid-owner");
        match after("-j").or_else(|| after("-g")) {
            Some("REDIRECT") if after("--to-ports") == Some(&*port.to_string()) => {
                *proxy_is_left_out |= negated && owner == Some(&*proxy);
                return true;
            }
            Some("REDIRECT") => {}
            // A return for some destination only (-d, -o lo) spares not all of it.
            Some("RETURN" | "ACCEPT") => {
                *proxy_is_left_out |= owner == Some(&*proxy)
                    && !negated
                    && after("-d").is_none()
                    && after("-o").is_none();
            }
            Some(next) if depth < 16 && walk(rules, next, port, proxy_is_left_out, depth + 1) => {
                *proxy_is_left_out |= negated && owner == Some(&*proxy);
                return true;
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Istio's init container leaves behind.
    const ISTIO: &str = "\
*nat
:OUTPUT ACCEPT [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
";

    fn code(rules: &str) -> Option<Code> {
        fault(rules).map(|finding| finding.code)
    }

    #[test]
    fn whole_rules_are_well() {
        assert_eq!(code(ISTIO), None);
        let negated = "-A OUTPUT -p tcp -m owner ! --uid-owner 1337 -j REDIRECT --to-ports 15001\n\
                       -A PREROUTING -p tcp -j REDIRECT --to-ports 15006\n";
        assert_eq!(code(negated), None);
    }

    #[test]
    fn missing_rules_are_said() {
        assert_eq!(code(""), Some(Code::CaptureMissing));
        let no_jump = ISTIO.replace("-A OUTPUT -p tcp -j ISTIO_OUTPUT\n", "");
        assert_eq!(code(&no_jump), Some(Code::CaptureMissing));
        let no_inbound = ISTIO.replace("-A PREROUTING -p tcp -j ISTIO_INBOUND\n", "");
        let found = fault(&no_inbound).unwrap();
        assert!(found.cause.contains("inbound") && found.cause.contains("15006"));
    }

    #[test]
    fn a_loop_is_said() {
        let own = "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n\
                   -A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN\n";
        assert_eq!(code(&ISTIO.replace(own, "")), Some(Code::CaptureLoops));
    }
}
