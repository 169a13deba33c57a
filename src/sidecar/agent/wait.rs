//! Waits for the agent of this pod, as `pilot-agent wait` does. It is the hook by which the kubelet starts
//! the application once the proxy serves (`holdApplicationUntilProxyStarts`).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

use crate::flags;
use crate::sidecar::http_client;
use crate::well_known::AGENT_STATUS_PORT;

const PAUSE: Duration = Duration::from_millis(100);
const LIMIT_OF_ONE: Duration = Duration::from_secs(2);

/// Wait until the agent of this pod says that its Envoy is ready
#[derive(Clone, Debug, clap::Args)]
pub struct AgentWaitArgs {
    /// Where the agent's pages are
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = flags::peer_address,
        default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, AGENT_STATUS_PORT))
    )]
    pub status_addr: SocketAddr,

    /// How long to wait; the exit code is 1 then
    #[arg(long, value_name = "DURATION", value_parser = flags::deadline, default_value = "60s")]
    pub timeout: Duration,
}

impl AgentWaitArgs {
    /// Asks until the answer is yes.
    ///
    /// # Errors
    /// It was not within the time; with what was said last.
    pub async fn run(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let page = http_client::get(self.status_addr, "/healthz/ready", LIMIT_OF_ONE).await;
            let reason = match page {
                Ok(page) if page.status == 200 => return Ok(()),
                Ok(page) => page.body.trim().to_owned(),
                Err(error) => format!("the agent ({}) does not answer: {error}", self.status_addr),
            };
            if start.elapsed() >= self.timeout {
                bail!("not ready within {:?}: {reason}", self.timeout);
            }
            sleep(PAUSE).await;
        }
    }
}
