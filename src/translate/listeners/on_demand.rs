//! What makes the listeners of on-demand sidecars ask for a cluster when the first request or connection
//! needs it (ODCDS), over the stream that everything comes over.
//!
//! With Envoy 1.40: a request waits in the filter until the cluster is there and warm, is told that there is
//! none (503, flag NC), or the timeout is over (the same). Its body may follow meanwhile.

use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::http::on_demand::v3::{OnDemand, OnDemandCds};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy;

use super::{TypedExtensionConfig, early_header, http_filter};
use crate::names;
use crate::translate::{
    ADDRESS_CLUSTER_HEADER, DESTINATION_HEADER, ads_config_source, proto_duration, to_any,
};

const FILTER: &str = "envoy.filters.http.on_demand";

/// The address that a captured connection was made to.
const DESTINATION: &str = "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%";

/// The first filter of an HTTP listener.
pub(super) fn filter(timeout: Duration) -> HttpFilter {
    let odcds = OnDemandCds {
        source: Some(ads_config_source()),
        timeout: Some(proto_duration(timeout)),
        ..Default::default()
    };
    http_filter(FILTER, to_any(&OnDemand { odcds: Some(odcds) }))
}

/// The same for a TCP proxy.
pub(super) fn of_tcp(timeout: Duration) -> tcp_proxy::OnDemand {
    tcp_proxy::OnDemand {
        odcds_config: Some(ads_config_source()),
        timeout: Some(proto_duration(timeout)),
        ..Default::default()
    }
}

/// Tells the table where a request to this port was sent ([`super::super::routes`]).
pub(super) fn early_headers(port: u16) -> Vec<TypedExtensionConfig> {
    vec![
        destination_header(),
        early_header(ADDRESS_CLUSTER_HEADER, names::outbound_cluster(port, DESTINATION)),
    ]
}

/// The header of [`DESTINATION_HEADER`] alone.
pub(super) fn destination_header() -> TypedExtensionConfig {
    early_header(DESTINATION_HEADER, DESTINATION.to_owned())
}
