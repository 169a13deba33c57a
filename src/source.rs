//! Where the mesh comes from: watch events turned into typed changes of the model.
//!
//! A source sends [`SourceEvent`](crate::model::SourceEvent)s over one bounded channel, in an order that is
//! true of the world it watches, and `Change::Synced` once every watch has listed. It may use
//! `model` and Kubernetes' types; it knows nothing of Envoy. `convert` is the one place where a
//! Kubernetes object becomes ours, so a manifest and a watch event mean the same.

pub mod convert;
pub mod files;
pub mod health;
pub mod kube;
