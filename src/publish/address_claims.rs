//! Which service owns a virtual address that several claim.
//!
//! Two virtual hosts with one domain would make Envoy reject the table that holds them, so the
//! first claim by key counts: all replicas agree on it, whatever the order in which services came.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};

use crate::model::{Service, ServiceKey};
use crate::translate::routes::ClusterIpRanges;

#[derive(Debug, Default)]
pub(super) struct AddressClaims {
    by_address: BTreeMap<IpAddr, BTreeSet<ServiceKey>>,
}

impl AddressClaims {
    /// Moves a service's claims from its `old` addresses to its `new` ones; adds to `reassigned`
    /// whoever wins or loses an address by it.
    pub(super) fn update(
        &mut self,
        key: &ServiceKey,
        old: &[IpAddr],
        new: &[IpAddr],
        reassigned: &mut BTreeSet<ServiceKey>,
    ) {
        for address in old.iter().chain(new).collect::<BTreeSet<_>>() {
            let claims = self.by_address.entry(*address).or_default();
            let before = claims.first().cloned();
            if new.contains(address) {
                claims.insert(key.clone());
            } else {
                claims.remove(key);
            }
            let after = claims.first().cloned();
            if claims.is_empty() {
                self.by_address.remove(address);
            }
            if before != after {
                reassigned.extend(before.into_iter().chain(after));
            }
        }
    }

    /// Where the addresses are.
    pub(super) fn ranges(&self) -> ClusterIpRanges {
        let after = |address: IpAddr| {
            let mut behind = self.by_address.range((Excluded(address), Unbounded));
            behind.next().map(|(address, _)| *address)
        };
        ClusterIpRanges::of(self.by_address.keys().next().copied(), after)
    }

    /// The service's addresses that no other service claims before it.
    pub(super) fn owned_by(&self, service: &Service) -> Vec<IpAddr> {
        let owner = |address: &IpAddr| self.by_address.get(address).and_then(BTreeSet::first);
        let is_own = |address: &IpAddr| owner(address).is_none_or(|key| *key == service.key);
        service.cluster_ips().iter().copied().filter(is_own).collect()
    }
}
