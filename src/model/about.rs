//! What a Service says that means nothing to proxies and is shown to people.

use std::sync::Arc;

/// By key.
pub type Labels = Box<[(Arc<str>, Arc<str>)]>;

/// The pods' port that a Service's port leads to, as it is written there. Which number a name stands
/// for is the slices' to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Name(Arc<str>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub labels: Labels,
    /// Empty if it has none.
    pub selector: Labels,
    /// By the number of the service's port, where it is another one.
    pub target_ports: Box<[(u16, TargetPort)]>,
}

impl About {
    /// What the service's port of this number leads to.
    pub fn target_port(&self, port: u16) -> TargetPort {
        let known = self.target_ports.iter().find(|(own, _)| *own == port);
        known.map_or(TargetPort::Number(port), |(_, target)| target.clone())
    }
}
