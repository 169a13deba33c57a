//! From the control plane's name to its addresses: the hosts file, resolv.conf, its name servers, and the
//! name.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Walk;
use crate::sidecar::doctor::dns::{self, Lookup, Reply};
use crate::sidecar::doctor::finding::{Code, Finding};
use crate::sidecar::doctor::hosts;
use crate::sidecar::doctor::observations::Observations;
use crate::sidecar::doctor::resolv::ResolvConf;
use crate::sidecar::doctor::verdict::{no_name_server, no_such_name};
use crate::sidecar::host_port::HostPort;

impl Walk<'_> {
    /// resolv.conf, its name servers, and the name.
    pub(super) async fn resolve(
        &mut self,
        discovery: &HostPort,
        seen: &mut Observations,
    ) -> Result<(), Finding> {
        let since = Instant::now();
        let hosts = std::fs::read_to_string(&self.target.hosts).unwrap_or_default();
        let found = hosts::lookup(&hosts, &discovery.host);
        if !found.is_empty() {
            let listed: Vec<String> = found.iter().map(ToString::to_string).collect();
            let said = format!(
                "{} is {}, without a name server ({})",
                discovery.host,
                listed.join(", "),
                self.target.hosts.display()
            );
            self.well("name", since, said);
            seen.addresses = found;
            return Ok(());
        }
        let path = self.target.resolv_conf.display();
        let text = std::fs::read_to_string(&self.target.resolv_conf).unwrap_or_default();
        let conf = ResolvConf::parse(&text);
        if conf.servers.is_empty() {
            let finding = Finding::new(
                Code::ResolvConfUnreadable,
                format!("{path} cannot be read or names no name server"),
                "set the pod's dnsPolicy to ClusterFirst, or give it a dnsConfig",
            );
            return Err(self.broken("name server", since, path.to_string(), finding));
        }
        seen.servers.clone_from(&conf.servers);
        let with_port = |server: &IpAddr| SocketAddr::new(*server, self.target.dns_port);
        let servers: Vec<SocketAddr> = conf.servers.iter().map(with_port).collect();
        let names = conf.candidates(&discovery.host);
        let first = names.first().map_or(&*discovery.host, String::as_str);
        let replies = dns::query_each(&servers, first, self.deadline.step()?).await;
        let said: Vec<String> = replies
            .iter()
            .map(|(server, reply)| match reply {
                Ok(Reply::Error(code)) => format!("{}: {code}", server.ip()),
                Ok(_) => format!("{} answers", server.ip()),
                Err(error) => format!("{}: {error}", server.ip()),
            })
            .collect();
        let said = said.join("; ");
        let useful = replies
            .iter()
            .find(|(_, reply)| matches!(reply, Ok(Reply::Addresses(_) | Reply::NoSuchName)));
        let Some((server, _)) = useful else {
            let finding = no_name_server(&replies, &self.target.resolv_conf.display().to_string());
            return Err(self.broken("name server", since, said, finding));
        };
        let server = *server;
        self.well("name server", since, said.clone());
        if replies.iter().any(|(_, reply)| reply.is_err()) {
            self.notes.push(format!(
                "not every name server of {path} answers, which makes lookups slow ({said})"
            ));
        }

        let since = Instant::now();
        let is_service = discovery.service().is_some();
        match dns::lookup(server, &conf, &discovery.host, is_service, self.deadline.step()?).await {
            Lookup::Found { name, addresses } => {
                let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                self.well("name", since, format!("{name} is {}", listed.join(", ")));
                seen.addresses = addresses;
                Ok(())
            }
            Lookup::NotFound { asked, outside } => {
                let finding = no_such_name(discovery, server.ip(), &asked, outside.as_ref());
                let said = format!("{} does not exist", discovery.host);
                Err(self.broken("name", since, said, finding))
            }
            Lookup::Failed { name, why } => {
                let finding = Finding::new(
                    Code::NameServerFailed,
                    format!(
                        "name server {} answers, but could not answer for {name}: {why}",
                        server.ip()
                    ),
                    "look into its log (kubectl -n kube-system logs -l k8s-app=kube-dns): most \
                     often it cannot reach the API server, or the name server behind it",
                );
                Err(self.broken("name", since, format!("{name}: {why}"), finding))
            }
        }
    }
}
