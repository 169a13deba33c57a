//! Copies of requests for another backend.

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;

use super::Called;
use super::backends::resolve;
use crate::model::route::{Mirror, ResolvedBackends};
use crate::names::{self, Discovery};

/// None for a mirror whose backend is not valid, or that gets no request at all.
pub(super) fn policy(
    called: Called<'_>,
    mirror: &Mirror,
    backends: &ResolvedBackends,
) -> Option<RequestMirrorPolicy> {
    let (service, port) = resolve(&mirror.backend, backends)?;
    if mirror.numerator == 0 {
        return None;
    }
    let host = names::host(&service.key.name, &service.key.namespace, called.domain);
    let cluster = match called.kind.discovery() {
        Discovery::All => names::outbound_cluster(port, &host),
        Discovery::OnDemand => names::mirror_cluster(port, &host),
    };
    let share = fraction(mirror.numerator, mirror.denominator);
    Some(RequestMirrorPolicy {
        cluster,
        runtime_fraction: share.map(|share| RuntimeFractionalPercent {
            default_value: Some(share),
            ..Default::default()
        }),
        // The copy is like the request, its Host included.
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    })
}

/// None for all. Envoy knows three denominators; others become millionths, rounded, and never nothing.
fn fraction(numerator: u32, denominator: u32) -> Option<FractionalPercent> {
    const MILLION: u64 = 1_000_000;
    if numerator >= denominator {
        return None;
    }
    let (numerator, denominator) = match denominator {
        100 => (numerator, DenominatorType::Hundred),
        10_000 => (numerator, DenominatorType::TenThousand),
        other => {
            let (part, whole) = (u64::from(numerator), u64::from(other));
            let millionths = ((part * MILLION + whole / 2) / whole).max(1);
            (u32::try_from(millionths).unwrap_or(u32::MAX), DenominatorType::Million)
        }
    };
    Some(FractionalPercent { numerator, denominator: denominator.into() })
}
