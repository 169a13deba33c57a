//! Nodes, for the one thing that endpoints do not say of themselves: which region a zone is in.

use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client};

use super::super::convert::{Converted, Converter, Rejection};
use super::events::Watched;
use super::lenient_decode::LenientDecode;
use crate::model::{Change, Node, Scope};

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

/// Of a Node nothing is kept but its name and these two labels.
impl Watched for core::Node {
    type Model = Node;
    const RESOURCE: &'static str = "nodes";

    fn api(client: Client, _: &Scope) -> Api<LenientDecode<Self>> {
        Api::all(client)
    }
    fn convert(&self, _: &mut Converter) -> Result<Option<Converted<Node>>, Rejection> {
        let label = |name: &str| {
            let value = self.metadata.labels.as_ref()?.get(name)?.as_str();
            Some(value).filter(|value| !value.is_empty()).map(Into::into)
        };
        let name = self.metadata.name.as_deref().unwrap_or_default().into();
        let value = Node { name, zone: label(ZONE), region: label(REGION) };
        Ok(Some(Converted { value, flaws: Vec::new(), notes: Vec::new() }))
    }
    fn updated(object: Node) -> Change {
        Change::Node(object)
    }
    fn listed(_: Scope, objects: Vec<Node>) -> Change {
        Change::Nodes(objects)
    }
    fn deleted(_: &str, name: &str) -> Change {
        Change::NodeGone(name.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::super::events::WatchIndex;
    use super::*;
    use crate::model::{Dirty, Model};
    use crate::source::health::Health;

    fn node(name: &str, zone: &str, region: &str) -> LenientDecode<core::Node> {
        serde_json::from_value(json!({ "metadata": {
            "name": name, "labels": { ZONE: zone, REGION: region, "other": "x" } } }))
        .unwrap()
    }

    #[test]
    fn a_list_and_what_follows_tell_the_region_of_each_zone() {
        let mut index = WatchIndex::<core::Node>::new(Scope::All, Arc::new(Health::default()));
        let (mut model, mut dirty) = (Model::default(), Dirty::default());
        let mut regions = |event| {
            if let Some(change) = index.apply(event) {
                model.apply(change, &mut dirty);
            }
            let known = model.regions().iter();
            known.map(|(zone, region)| format!("{zone} in {region}")).collect::<Vec<_>>()
        };
        regions(Event::Init);
        regions(Event::InitApply(node("n1", "a", "north")));
        regions(Event::InitApply(node("n2", "", "north")));
        assert_eq!(regions(Event::InitDone), ["a in north"]);
        let both = ["a in north", "b in south"];
        assert_eq!(regions(Event::Apply(node("n3", "b", "south"))), both);
        assert_eq!(regions(Event::Delete(node("n1", "a", "north"))), ["b in south"]);
    }
}
