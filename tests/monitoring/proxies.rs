//! Proxies without an Envoy, of the three sorts that the dashboard tells apart.

use std::net::SocketAddr;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::rpc::Status;
use tokio_util::task::AbortOnDropHandle;

use pilothouse_testkit::xds_client::{CDS, EDS, ack, cluster, connect, delta, node, open_delta};

/// What it does with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Accepts,
    Rejects,
    Never,
}

/// A proxy that asks for clusters and for the endpoints of `web`, and goes on until it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(control: SocketAddr, id: &str, answers: Answers) -> Self {
        let mut stream = open_delta(connect(control).await).await;
        for asked in [delta(CDS, &["*"]), delta(EDS, &[&cluster("web")])] {
            stream.say(DeltaDiscoveryRequest { node: Some(node(id)), ..asked }).await;
        }
        let task = async move {
            while let Ok(Some(response)) = stream.responses.message().await {
                match answers {
                    Answers::Accepts => stream.say(ack(&response)).await,
                    Answers::Rejects => {
                        let error_detail = Some(Status {
                            code: 3,
                            message: "no room".into(),
                            ..Default::default()
                        });
                        let nack = DeltaDiscoveryRequest { error_detail, ..ack(&response) };
                        stream.say(nack).await;
                    }
                    Answers::Never => {}
                }
            }
        };
        Self { _task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }
}
