//! A manifest as a tree that keeps the order of its keys, so that what is printed is what was read
//! and what was added, and nothing has moved.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub(super) type Map = IndexMap<String, Node>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Map),
}

impl Node {
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_map_mut(&mut self) -> Option<&mut Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(super) fn as_list(&self) -> Option<&Vec<Self>> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(map) => map.get(key),
            _ => None,
        }
    }

    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    pub(super) fn at_mut(&mut self, path: &[&str]) -> Option<&mut Self> {
        path.iter().try_fold(self, |node, key| node.as_map_mut()?.get_mut(*key))
    }

    /// The text at a path; empty where there is none.
    pub(super) fn text(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Self::as_str).unwrap_or_default()
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// The list under a key, made where there is none; none where something else stands there.
pub(super) fn list_at<'a>(map: &'a mut Map, key: &str) -> Option<&'a mut Vec<Node>> {
    let found = map.entry(key.to_owned()).or_insert(Node::Null);
    if *found == Node::Null {
        *found = Node::List(Vec::new());
    }
    match found {
        Node::List(list) => Some(list),
        _ => None,
    }
}

/// Likewise the map under a key.
pub(super) fn map_at<'a>(map: &'a mut Map, key: &str) -> Option<&'a mut Map> {
    let found = map.entry(key.to_owned()).or_insert(Node::Null);
    if *found == Node::Null {
        *found = Node::Map(Map::new());
    }
    found.as_map_mut()
}
