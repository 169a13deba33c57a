//! `resolv.conf`, and the names that a lookup really asks for (resolv.conf(5)).

use std::net::IpAddr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<IpAddr>,
    pub(super) search: Vec<String>,
    pub(super) ndots: usize,
}

/// Name servers beyond these are not asked by any resolver.
const SERVERS: usize = 3;

impl ResolvConf {
    /// Reads the file. What is not understood is passed over, as resolvers do.
    pub(super) fn parse(text: &str) -> Self {
        let mut conf = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // fe80::1%eth0: the zone is the system's affair.
                    let address = words
                        .next()
                        .and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
                    conf.servers.extend(address);
                }
                // The last of them counts, and `domain` is a list of one.
                Some("search") => conf.search = words.map(bare).collect(),
                Some("domain") => conf.search = words.take(1).map(bare).collect(),
                Some("options") => {
                    let mut ndots =
                        words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    conf.ndots = ndots.next_back().unwrap_or(conf.ndots).min(15);
                }
                _ => {}
            }
        }
        conf.servers.truncate(SERVERS);
        conf
    }

    /// The full names to ask for, in their order; the first that exists is the answer.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let searched = self.search.iter().filter(|domain| !domain.is_empty());
        let mut names: Vec<String> = searched.map(|domain| format!("{name}.{domain}")).collect();
        let as_it_is = if name.matches('.').count() >= self.ndots { 0 } else { names.len() };
        names.insert(as_it_is, name.to_owned());
        names
    }
}

fn bare(domain: &str) -> String {
    domain.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "search default.svc.cluster.local svc.cluster.local cluster.local\n\
                       nameserver 10.96.0.10\noptions ndots:5\n";

    #[test]
    fn a_pods_file_is_read() {
        let conf = ResolvConf::parse(POD);
        assert_eq!(conf.servers, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!((conf.search.len(), conf.ndots), (3, 5));
    }

    #[test]
    fn comments_duplicates_and_nonsense_do_no_harm() {
        let conf = ResolvConf::parse(
            "# nameserver 1.1.1.1\nnameserver fe80::1%eth0 ; a zone\nnameserver nonsense\nnonsense\n\
             nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n\
             domain a.example.\nsearch b.example c.example.\noptions rotate ndots:99 timeout:1\n",
        );
        assert_eq!(conf.servers.len(), 3);
        assert_eq!(conf.search, ["b.example", "c.example"]);
        assert_eq!(conf.ndots, 15);
        assert_eq!(ResolvConf::parse("").ndots, 1);
    }

    #[test]
    fn the_search_list_goes_first_below_ndots_and_last_from_there_on() {
        let conf = ResolvConf::parse(POD);
        let names = conf.candidates("istio-pilot.istio-system");
        assert_eq!(
            names,
            [
                "istio-pilot.istio-system.default.svc.cluster.local",
                "istio-pilot.istio-system.svc.cluster.local",
                "istio-pilot.istio-system.cluster.local",
                "istio-pilot.istio-system",
            ]
        );
        let two = ResolvConf { ndots: 1, ..conf.clone() };
        assert_eq!(two.candidates("istio-pilot.istio-system")[0], "istio-pilot.istio-system");
        assert_eq!(conf.candidates("istio-pilot.istio-system.svc.cluster.local.").len(), 1);
        assert_eq!(ResolvConf::parse("").candidates("a"), ["a"]);
    }
}
