//! Every view of the mesh at one moment: what the publisher publishes and streams serve.
//!
//! Resources, sets and views are those of [`pilothouse_xds`]; a [`Snapshot`] maps each [`ViewKey`] to its
//! view, and says which services conflict.
//!
//! Uses `names` and `view`; knows nothing of the model, of streams or of async.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use imbl::OrdMap;
use pilothouse_xds::View;

use crate::view::ViewKey;

/// Two services claim the same listener or port; the kinds are Istio's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConflictKind {
    /// Between two TCP services.
    TcpOverTcp,
    /// A TCP service's, taken by HTTP services.
    TcpOverHttp,
    /// A workload's port that two services call by different protocols.
    Inbound,
}

impl ConflictKind {
    pub const ALL: [Self; 3] = [Self::TcpOverTcp, Self::TcpOverHttp, Self::Inbound];

    /// Istio's name for the number of them.
    pub fn metric(self) -> &'static str {
        match self {
            Self::TcpOverTcp => "pilot_conflict_outbound_listener_tcp_over_current_tcp",
            Self::TcpOverHttp => "pilot_conflict_outbound_listener_tcp_over_current_http",
            Self::Inbound => "pilot_conflict_inbound_listener",
        }
    }

    /// What that metric says.
    pub fn help(self) -> &'static str {
        match self {
            Self::TcpOverTcp => {
                "TCP services without a listener because another TCP service has it"
            }
            Self::TcpOverHttp => "TCP services without a listener because HTTP services have it",
            Self::Inbound => {
                "Ports of workloads that a service calls by another protocol than an earlier one"
            }
        }
    }
}

/// A listener or port that a service does not get.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    pub kind: ConflictKind,
    /// The listener's name; for [`ConflictKind::Inbound`] the workload's port.
    pub place: Arc<str>,
    /// `NAMESPACE/NAME` of the service.
    pub loser: Arc<str>,
}

/// All conflicts in a snapshot, each with a sentence for people.
pub type Conflicts = OrdMap<Conflict, Arc<str>>;

/// Every view at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts the snapshots published by this process; for people and ordering, not content.
    pub generation: u64,
    /// When the source sent the first of the changes that are new in this snapshot.
    pub since: Option<Instant>,
    pub views: HashMap<ViewKey, Arc<View>>,
    pub conflicts: Conflicts,
}

impl Snapshot {
    /// Drops cached differences from sets that no stream is at any more; to be called periodically.
    pub fn forget_gone_sets(&self) {
        self.views.values().for_each(|view| view.forget_gone_sets());
    }
}
