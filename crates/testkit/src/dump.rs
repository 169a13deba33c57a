//! Envoy's `/config_dump` and the control plane's, made comparable.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// What a dump says, by resource name.
#[derive(Debug, PartialEq)]
pub struct Config {
    pub clusters: BTreeMap<String, Value>,
    pub listeners: BTreeMap<String, Value>,
    pub routes: BTreeMap<String, Value>,
    /// Addresses as `address:port`. Envoy makes its assignments up from its state, with defaults
    /// filled in, so only these are comparable.
    pub endpoints: BTreeMap<String, BTreeSet<String>>,
}

impl Config {
    /// Reads either dump: Envoy writes field names with underscores, the control plane in
    /// protobuf's JSON spelling.
    pub fn read(dump: &Value) -> Self {
        let dump = spelled_alike(dump);
        let mut config = Self {
            clusters: BTreeMap::new(),
            listeners: BTreeMap::new(),
            routes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
        };
        for entry in entries(&dump, "dynamicactiveclusters") {
            insert(&mut config.clusters, "name", &entry["cluster"]);
        }
        for entry in entries(&dump, "dynamiclisteners") {
            insert(&mut config.listeners, "name", &entry["activestate"]["listener"]);
        }
        for entry in entries(&dump, "dynamicrouteconfigs") {
            insert(&mut config.routes, "name", &entry["routeconfig"]);
        }
        for entry in entries(&dump, "dynamicendpointconfigs") {
            let assignment = &entry["endpointconfig"];
            let name = assignment["clustername"].as_str().expect("it has a name");
            let localities = assignment["endpoints"].as_array().into_iter().flatten();
            let endpoints = localities.flat_map(|one| one["lbendpoints"].as_array()).flatten();
            let addresses = endpoints.filter_map(|one| address(&one["endpoint"]["address"]));
            // Envoy lists one for every cluster, those without EDS included.
            let by_eds = config.clusters.get(name).is_some_and(|cluster| cluster["type"] == "EDS");
            if name.starts_with("outbound|") && by_eds {
                config.endpoints.insert(name.to_owned(), addresses.collect());
            }
        }
        config
    }

    /// Names of clusters and listeners that Envoy has in a version that it does not use yet.
    pub fn waiting(dump: &Value) -> Vec<String> {
        let dump = spelled_alike(dump);
        let clusters = entries(&dump, "dynamicwarmingclusters")
            .filter_map(|entry| entry["cluster"]["name"].as_str());
        let listeners = entries(&dump, "dynamiclisteners")
            // A removed one stays listed while its connections drain, which takes minutes.
            .filter(|entry| !entry["warmingstate"].is_null())
            .filter_map(|entry| entry["name"].as_str());
        clusters.chain(listeners).map(str::to_owned).collect()
    }

    /// `Ok` if both say the same, else the first difference.
    pub fn agrees(&self, other: &Self) -> Result<(), String> {
        agree("cluster", &self.clusters, &other.clusters)?;
        agree("listener", &self.listeners, &other.listeners)?;
        agree("route table", &self.routes, &other.routes)?;
        agree("endpoints of", &self.endpoints, &other.endpoints)
    }
}

/// `address:port` of an `Address` message.
pub fn address(message: &Value) -> Option<String> {
    let message = spelled_alike(message);
    let address = &message["socketaddress"];
    Some(format!("{}:{}", address["address"].as_str()?, address["portvalue"].as_u64()?))
}

fn agree<T: PartialEq + std::fmt::Debug>(
    what: &str,
    one: &BTreeMap<String, T>,
    other: &BTreeMap<String, T>,
) -> Result<(), String> {
    for name in one.keys().chain(other.keys()) {
        let (one, other) = (one.get(name), other.get(name));
        if one != other {
            return Err(format!("{what} {name} is {one:#?} on one side, {other:#?} on the other"));
        }
    }
    Ok(())
}

fn entries<'a>(dump: &'a Value, list: &'a str) -> impl Iterator<Item = &'a Value> {
    let sections = dump["configs"].as_array().into_iter().flatten();
    sections.filter_map(move |section| section[list].as_array()).flatten()
}

fn insert(into: &mut BTreeMap<String, Value>, name: &str, message: &Value) {
    if let Some(name) = message[name].as_str() {
        into.insert(name.to_owned(), message.clone());
    }
}

/// Keys in small letters without underscores.
fn spelled_alike(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let alike = |(key, value): (&String, &Value)| {
                (key.replace('_', "").to_ascii_lowercase(), spelled_alike(value))
            };
            Value::Object(fields.iter().map(alike).collect::<Map<_, _>>())
        }
        Value::Array(list) => list.iter().map(spelled_alike).collect(),
        other => other.clone(),
    }
}
