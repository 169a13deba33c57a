//! What a pod's annotations say of its sidecar: the names are Istio's.

use super::node::{Map, Node};

pub(super) const INJECT: &str = "sidecar.istio.io/inject";
pub(super) const STATUS: &str = "sidecar.istio.io/status";
pub(super) const NATIVE: &str = "sidecar.istio.io/nativeSidecar";
pub(super) const INTERCEPTION: &str = "sidecar.istio.io/interceptionMode";
pub(super) const REWRITE_PROBES: &str = "sidecar.istio.io/rewriteAppHTTPProbers";
pub(super) const IMAGE: &str = "sidecar.istio.io/proxyImage";
pub(super) const LOG_LEVEL: &str = "sidecar.istio.io/logLevel";
pub(super) const COMPONENT_LOG_LEVEL: &str = "sidecar.istio.io/componentLogLevel";
pub(super) const CPU: &str = "sidecar.istio.io/proxyCPU";
pub(super) const MEMORY: &str = "sidecar.istio.io/proxyMemory";
pub(super) const CPU_LIMIT: &str = "sidecar.istio.io/proxyCPULimit";
pub(super) const MEMORY_LIMIT: &str = "sidecar.istio.io/proxyMemoryLimit";
pub(super) const PROXY_CONFIG: &str = "proxy.istio.io/config";
pub(super) const USER_VOLUME: &str = "sidecar.istio.io/userVolume";
pub(super) const USER_VOLUME_MOUNT: &str = "sidecar.istio.io/userVolumeMount";
pub(super) const STATUS_PORT: &str = "status.sidecar.istio.io/port";
pub(super) const INITIAL_DELAY: &str = "readiness.status.sidecar.istio.io/initialDelaySeconds";
pub(super) const PERIOD: &str = "readiness.status.sidecar.istio.io/periodSeconds";
pub(super) const FAILURE_THRESHOLD: &str = "readiness.status.sidecar.istio.io/failureThreshold";
pub(super) const MERGE_METRICS: &str = "prometheus.istio.io/merge-metrics";
/// Ours: of Istio's names there is only the field of its proxy configuration.
pub(super) const TERMINATION_DRAIN: &str = "pilothouse.io/termination-drain-duration";
/// Which clusters the proxy holds, and of those on demand which it starts with.
pub(super) const DISCOVERY: &str = "pilothouse.io/discovery";
pub(super) const USES: &str = "pilothouse.io/uses";

/// Those about traffic, and the flags of `pilothouse iptables` that they become.
pub(super) const TRAFFIC: [(&str, &str); 7] = [
    ("traffic.sidecar.istio.io/includeInboundPorts", "-b"),
    ("traffic.sidecar.istio.io/excludeInboundPorts", "-d"),
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", "-i"),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "-x"),
    ("traffic.sidecar.istio.io/includeOutboundPorts", "-q"),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", "-o"),
    ("traffic.sidecar.istio.io/excludeInterfaces", "-c"),
];

const OTHERS: [&str; 23] = [
    INJECT,
    STATUS,
    NATIVE,
    INTERCEPTION,
    REWRITE_PROBES,
    IMAGE,
    LOG_LEVEL,
    COMPONENT_LOG_LEVEL,
    CPU,
    MEMORY,
    CPU_LIMIT,
    MEMORY_LIMIT,
    PROXY_CONFIG,
    TERMINATION_DRAIN,
    DISCOVERY,
    USES,
    USER_VOLUME,
    USER_VOLUME_MOUNT,
    STATUS_PORT,
    INITIAL_DELAY,
    PERIOD,
    FAILURE_THRESHOLD,
    MERGE_METRICS,
];

/// Whoever writes an annotation of these domains means the sidecar.
const DOMAINS: [&str; 9] = [
    "sidecar.istio.io",
    "traffic.sidecar.istio.io",
    "traffic.istio.io",
    "status.sidecar.istio.io",
    "readiness.status.sidecar.istio.io",
    "proxy.istio.io",
    "inject.istio.io",
    "prometheus.istio.io",
    "pilothouse.io",
];

/// As far as a name may be from one that counts to be taken for a slip of the pen.
const SLIP: usize = 3;

/// The pod's annotations, as they were before anything was added.
pub(super) struct Annotations(Map);

impl Annotations {
    /// # Errors
    /// A label or an annotation that is no text: the API server refuses the pod, and whoever wrote
    /// `8080` or `false` without quotes would otherwise lose what he meant.
    pub(super) fn from_pod(pod: &Node) -> Result<Self, String> {
        for kind in ["labels", "annotations"] {
            let Some(Node::Map(map)) = pod.at(&["metadata", kind]) else { continue };
            for (name, value) in map {
                let shown = match value {
                    Node::Text(_) | Node::Null => continue,
                    Node::Bool(truth) => truth.to_string(),
                    Node::Unsigned(number) => number.to_string(),
                    Node::Signed(number) => number.to_string(),
                    Node::Float(number) => number.to_string(),
                    Node::List(_) | Node::Map(_) => "no text".to_owned(),
                };
                return Err(format!(
                    "metadata.{kind}: the value of {name} is {shown} and must be text, or the API \
                     server refuses it: put it into quotes"
                ));
            }
        }
        match pod.at(&["metadata", "annotations"]) {
            Some(Node::Map(map)) => Ok(Self(map.clone())),
            _ => Ok(Self(Map::new())),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Node::as_str)
    }

    /// A truth value as Istio reads those of annotations (Go's `ParseBool`).
    pub(super) fn truth(&self, name: &str) -> Result<Option<bool>, String> {
        match self.get(name) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(Some(false)),
            Some(other) => {
                Err(format!("annotation {name} is {other:?}, which is neither true nor false"))
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
    }

    /// Those that are meant for the sidecar and say nothing to it.
    pub(super) fn without_effect(&self) -> Vec<String> {
        let unknown = self.0.keys().filter(|name| {
            let domain = name.split_once('/').map_or("", |(domain, _)| domain);
            DOMAINS.contains(&domain) && !counting().any(|one| one == name.as_str())
        });
        unknown
            .map(|name| match nearest(name) {
                Some(near) => {
                    format!("annotation {name} has no effect; {near} is probably meant")
                }
                None => format!("annotation {name} has no effect here"),
            })
            .collect()
    }
}

/// Whether Istio takes this for a yes; everything else that is said is a no.
pub(super) fn is_yes(text: &str) -> bool {
    ["y", "yes", "true", "on"].iter().any(|yes| text.eq_ignore_ascii_case(yes))
}

fn counting() -> impl Iterator<Item = &'static str> {
    TRAFFIC.into_iter().map(|(name, _)| name).chain(OTHERS)
}

/// The annotation that was probably meant: the same name in another domain, or one that differs by a
/// few letters.
fn nearest(name: &str) -> Option<&'static str> {
    let (_, last) = name.rsplit_once('/')?;
    let of = |known: &'static str| known.rsplit_once('/').map_or(known, |(_, last)| last);
    let same = counting().find(|known| of(known).eq_ignore_ascii_case(last));
    same.or_else(|| {
        let near = counting().map(|known| (distance(of(known), last), known));
        near.filter(|(distance, _)| *distance <= SLIP).min().map(|(_, known)| known)
    })
}

/// Letters to insert, leave out or change (Levenshtein's).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (b, cell) in other.iter().zip(&mut row[1..]) {
            let up = *cell;
            *cell = (diagonal + usize::from(a != *b)).min(up + 1).min(left + 1);
            (diagonal, left) = (up, *cell);
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_pen_are_recognised() {
        for (written, meant) in [
            ("traffic.sidecar.istio.io/excludeOutboundPort", Some("excludeOutboundPorts")),
            ("traffic.sidecar.istio.io/excludeOutboundIpRanges", Some("excludeOutboundIPRanges")),
            ("sidecar.istio.io/excludeInboundPorts", Some("excludeInboundPorts")),
            ("sidecar.istio.io/proxyCpu", Some("proxyCPU")),
            ("sidecar.istio.io/proxymemorylimit", Some("proxyMemoryLimit")),
            ("sidecar.istio.io/bootstrapOverride", None),
        ] {
            let found = nearest(written).and_then(|name| name.rsplit_once('/'));
            assert_eq!(found.map(|(_, name)| name), meant, "{written}");
        }
        assert_eq!((distance("", "abc"), distance("kitten", "sitting")), (3, 3));
    }
}
