//! An event as the API server takes it.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as KubeEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use pilothouse_xds::peer_text;
use serde_json::{Value, json};

use super::findings::{Finding, Kind};

/// Who reports; a name like a domain's, as the API demands.
const CONTROLLER: &str = "pilothouse.io/control-plane";

/// Limits of `events.k8s.io/v1`, bytes.
const MAX_NOTE: usize = 1024;
const MAX_INSTANCE: usize = 128;
/// Of an object's name in the event's: with what follows, a name that the API takes.
const MAX_NAME: usize = 220;

/// A finding that is to be told.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) finding: Finding,
    /// The finding's, or one that stands for many.
    pub(super) note: String,
    pub(super) key: u64,
    pub(super) count: u32,
}

impl Event {
    /// The same in every replica for the same words about the same object, so that it is told once.
    pub(super) fn name(&self) -> String {
        let name = &self.finding.object.name;
        let cut = name[..name.floor_char_boundary(MAX_NAME)].trim_end_matches(['.', '-']);
        format!("{cut}.{:016x}", self.key)
    }

    pub(super) fn namespace(&self) -> &str {
        &self.finding.object.namespace
    }

    /// All replicas see the same of a Service, and each connected proxy is seen by one.
    pub(super) fn is_seen_by_all_replicas(&self) -> bool {
        self.finding.object.kind == Kind::Service
    }

    /// The whole event, for the first time.
    pub(super) fn to_create(&self, instance: &str) -> KubeEvent {
        let object = &self.finding.object;
        let (kind, action) = match object.kind {
            Kind::Pod => ("Pod", "Push"),
            Kind::Service => ("Service", "Translate"),
        };
        KubeEvent {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(self.namespace().to_owned()),
                ..Default::default()
            },
            action: Some(action.to_owned()),
            event_time: Some(MicroTime(Timestamp::now())),
            note: Some(peer_text::cut(&self.note, MAX_NOTE).into_owned()),
            reason: Some(self.finding.reason.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some(kind.to_owned()),
                namespace: Some(object.namespace.to_string()),
                name: Some(object.name.to_string()),
                ..Default::default()
            }),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(peer_text::cut(instance, MAX_INSTANCE).into_owned()),
            type_: Some("Warning".to_owned()),
            ..Default::default()
        }
    }

    /// A merge patch of an event that is there: it was seen again. Everything else of it stays.
    pub(super) fn to_patch(&self) -> Value {
        let series =
            json!({ "count": self.count.max(2), "lastObservedTime": MicroTime(Timestamp::now()) });
        json!({ "series": series })
    }
}

#[cfg(test)]
mod tests {
    use super::super::findings::Object;
    use super::*;

    #[test]
    fn names_and_notes_are_within_what_the_api_takes() {
        let name = format!("{}-.{}", "a".repeat(219), "b".repeat(30));
        let object =
            Object { kind: Kind::Pod, namespace: "shop".into(), name: name.as_str().into() };
        let finding = Finding { object, reason: "ConfigRejected", note: String::new() };
        let event = Event { finding, note: "ä".repeat(2000), key: 7, count: 1 };
        assert_eq!(event.name(), format!("{}.0000000000000007", "a".repeat(219)));
        let created = event.to_create(&"i".repeat(300));
        assert!(created.note.unwrap().len() <= 1024);
        assert!(created.reporting_instance.unwrap().len() <= 128);
        assert_eq!(event.to_patch()["series"]["count"], 2);
    }
}
