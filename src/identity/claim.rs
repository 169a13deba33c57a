//! What a proxy says of itself, compared with who it is.

use pilothouse_xds::peer_text;
use thiserror::Error;

use super::{ActFor, Principal};

/// Bytes of a claim that are shown.
const MAX_SHOWN: usize = 256;

/// The parts of a node that say on whose behalf it asks. What a node does not say it does not claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Of the node id (`sidecar~IP~POD.NAMESPACE~…`).
    pub namespace_of_id: Option<String>,
    /// Metadata `NAMESPACE`.
    pub namespace: Option<String>,
    /// Metadata `SERVICE_ACCOUNT`.
    pub service_account: Option<String>,
}

/// A proxy claims to be somebody that it is not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ClaimError {
    #[error(
        "the proxy's {place} claims the namespace {claimed}, and its identity {identity} is of the namespace \
         {own:?}: a proxy may only claim the namespace of its identity, unless --act-for names \
         {own}/{account}",
        own = identity.namespace, account = identity.service_account
    )]
    Namespace { place: &'static str, claimed: String, identity: Principal },
    #[error(
        "the proxy's metadata SERVICE_ACCOUNT claims the account {claimed}, and its identity is {identity}: a \
         proxy may only claim the ServiceAccount of its identity, unless --act-for names {own}/{account}",
        own = identity.namespace, account = identity.service_account
    )]
    ServiceAccount { claimed: String, identity: Principal },
}

impl Claim {
    /// Whether this principal may claim this.
    ///
    /// # Errors
    /// It may not; names the claim and the principal.
    pub fn check(&self, identity: &Principal, act_for: &ActFor) -> Result<(), ClaimError> {
        if act_for.has(identity) {
            return Ok(());
        }
        let places = [("node id", &self.namespace_of_id), ("metadata NAMESPACE", &self.namespace)];
        for (place, claimed) in places {
            if let Some(claimed) = claimed.as_deref().filter(|one| *one != &*identity.namespace) {
                let (claimed, identity) = (shown(claimed), identity.clone());
                return Err(ClaimError::Namespace { place, claimed, identity });
            }
        }
        let account = self.service_account.as_deref();
        if let Some(claimed) = account.filter(|one| *one != &*identity.service_account) {
            let (claimed, identity) = (shown(claimed), identity.clone());
            return Err(ClaimError::ServiceAccount { claimed, identity });
        }
        Ok(())
    }
}

fn shown(text: &str) -> String {
    format!("{:?}", peer_text::cut(text, MAX_SHOWN))
}
