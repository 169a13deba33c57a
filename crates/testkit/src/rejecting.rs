//! A proxy that rejects every response.

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::rpc::Status;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use crate::xds_client::{CDS, ack, delta, node, open_delta};

#[derive(Debug)]
pub struct Rejecting {
    _task: AbortOnDropHandle<()>,
}

impl Rejecting {
    /// Asks for all clusters as this node, and says `words` of the first response (0), the next (1) and so on.
    pub async fn start(
        channel: Channel,
        id: &str,
        words: impl Fn(usize) -> String + Send + 'static,
    ) -> Self {
        let mut stream = open_delta(channel).await;
        stream.say(DeltaDiscoveryRequest { node: Some(node(id)), ..delta(CDS, &[]) }).await;
        let task = async move {
            let mut responses = 0;
            while let Ok(Some(response)) = stream.responses.message().await {
                let message = words(responses);
                let error_detail = Some(Status { code: 3, message, ..Default::default() });
                stream.say(DeltaDiscoveryRequest { error_detail, ..ack(&response) }).await;
                responses += 1;
            }
        };
        Self { _task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }
}
