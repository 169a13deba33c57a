//! Proxies without an Envoy, which answer as a test has them.

use std::net::SocketAddr;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use envoy_types::pb::google::rpc::Status;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use pilothouse_testkit::xds_client::{CDS, ack, connect, delta, open_delta};

/// How a proxy answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Ack,
    /// With these words.
    Nack(&'static str),
    /// Not at all, until it is told otherwise.
    Nothing,
}

/// A sidecar that subscribes to all clusters; it goes when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    answers: watch::Sender<Answers>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr, name: &str, answers: Answers) -> Self {
        let (answers, mut wanted) = watch::channel(answers);
        let mut stream = open_delta(connect(server).await).await;
        let mut first = delta(CDS, &["*"]);
        first.node.as_mut().unwrap().id =
            format!("sidecar~10.0.0.1~{name}.default~default.svc.cluster.local");
        stream.say(first).await;
        let task = tokio::spawn(async move {
            let mut unanswered: Option<DeltaDiscoveryResponse> = None;
            loop {
                tokio::select! {
                    response = stream.responses.message() => match response {
                        Ok(Some(response)) => unanswered = Some(response),
                        Ok(None) | Err(_) => return,
                    },
                    changed = wanted.changed() => if changed.is_err() { return },
                }
                let answers = *wanted.borrow();
                if answers == Answers::Nothing {
                    continue;
                }
                let Some(response) = unanswered.take() else { continue };
                let mut request = ack(&response);
                if let Answers::Nack(words) = answers {
                    let message = words.to_owned();
                    request.error_detail = Some(Status { code: 3, message, details: Vec::new() });
                }
                stream.say(request).await;
            }
        });
        Self { answers, task }
    }

    pub(crate) fn answers(&self, answers: Answers) {
        self.answers.send_replace(answers);
    }
}
