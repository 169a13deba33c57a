//! The volumes of the sidecar: its own, those that TLS needs, and those that the pod's author wants to
//! have mounted into it (`sidecar.istio.io/userVolume`, `userVolumeMount`).

use super::annotations::{self, Annotations};
use super::documents::read_yaml;
use super::node::{Map, Node, list_at};
use super::overlay;
use super::settings::{Settings, Tls};
use crate::names;

/// Where the agent looks for them.
const TLS_FOLDER: &str = "/var/run/secrets/pilothouse/tls";
const TOKEN_FOLDER: &str = "/var/run/secrets/tokens";
const TLS_VOLUME: &str = "pilothouse-tls";
const TOKEN_VOLUME: &str = "istio-token";
const LONGEST_NAME: usize = 63;

/// What goes into the pod, and what of it into the proxy's container.
#[derive(Debug)]
pub(super) struct Volumes {
    own: Vec<Map>,
    of_author: Vec<Map>,
    mounts: Vec<Map>,
    mounts_of_author: Vec<Map>,
}

impl Volumes {
    pub(super) fn new(
        settings: &Settings,
        tls: Tls,
        annotations: &Annotations,
    ) -> Result<Self, String> {
        let mut own = maps(include_str!("volumes.yaml"))?;
        let mut mounts = Vec::new();
        // None is optional: a pod that waits for a Secret says so in `kubectl describe`.
        let of_tls = match tls {
            Tls::Off => None,
            Tls::Certificate => {
                Some(object([("secret", object([("secretName", settings.tls_secret().into())]))]))
            }
            Tls::Token => {
                own.extend(maps(include_str!("token-volume.yaml"))?);
                mounts.push(mount(TOKEN_VOLUME, TOKEN_FOLDER));
                Some(object([("configMap", object([("name", settings.ca_config_map().into())]))]))
            }
        };
        if let Some(Node::Map(source)) = of_tls {
            let mut volume: Map = [("name".to_owned(), TLS_VOLUME.into())].into_iter().collect();
            volume.extend(source);
            own.push(volume);
            mounts.push(mount(TLS_VOLUME, TLS_FOLDER));
        }
        let of_author = named_objects(annotations, annotations::USER_VOLUME)?;
        let mounts_of_author = named_objects(annotations, annotations::USER_VOLUME_MOUNT)?;
        for mount in &mounts_of_author {
            let path = mount.get("mountPath").and_then(Node::as_str).unwrap_or_default();
            if !path.starts_with('/') || path.contains(':') {
                return Err(format!(
                    "annotation {}: {} has the mountPath {path:?}, which is no absolute path",
                    annotations::USER_VOLUME_MOUNT,
                    name_of(mount)
                ));
            }
        }
        Ok(Self { own, of_author, mounts, mounts_of_author })
    }

    /// Mounts them into the proxy's container.
    pub(super) fn mount(&self, proxy: &mut Map) -> Result<(), String> {
        let mounts = list_at(proxy, "volumeMounts").ok_or("volumeMounts is no list")?;
        mounts.extend(self.mounts.iter().cloned().map(Node::Map));
        for mount in &self.mounts_of_author {
            let path = mount.get("mountPath");
            if mounts.iter().any(|other| other.get("mountPath") == path) {
                return Err(format!(
                    "annotation {}: {} is to be mounted where another volume is, at {}",
                    annotations::USER_VOLUME_MOUNT,
                    name_of(mount),
                    path.and_then(Node::as_str).unwrap_or_default()
                ));
            }
            mounts.push(Node::Map(mount.clone()));
        }
        Ok(())
    }

    /// Adds them to the pod and gives their names. One of the pod's own that has one of our names is
    /// merged with ours if it is of the same kind.
    pub(super) fn add(self, spec: &mut Map) -> Result<Vec<String>, String> {
        let volumes = list_at(spec, "volumes").ok_or("volumes is no list")?;
        let names = self.own.iter().chain(&self.of_author).map(|one| name_of(one).to_owned());
        let names: Vec<String> = names.collect();
        for mut our in self.own {
            let name = our.get("name").cloned();
            let Some(at) = volumes.iter().position(|volume| volume.get("name") == name.as_ref())
            else {
                volumes.push(Node::Map(our));
                continue;
            };
            match &volumes[at] {
                Node::Map(own) if own.keys().all(|key| our.contains_key(key)) => {
                    overlay::merge_object(&mut our, own.clone());
                    volumes[at] = Node::Map(our);
                }
                _ => {
                    return Err(format!(
                        "it has a volume {} of its own, and the sidecar needs one of that name: rename it",
                        name_of(&our)
                    ));
                }
            }
        }
        for volume in self.of_author {
            if volumes.iter().any(|other| other.get("name") == volume.get("name")) {
                return Err(format!(
                    "annotation {}: the pod has a volume {} already; {} alone mounts it",
                    annotations::USER_VOLUME,
                    name_of(&volume),
                    annotations::USER_VOLUME_MOUNT
                ));
            }
            volumes.push(Node::Map(volume));
        }
        let there = |name: &Node| volumes.iter().any(|volume| volume.get("name") == Some(name));
        let missing =
            self.mounts_of_author.iter().find(|mount| !mount.get("name").is_some_and(there));
        match missing {
            None => Ok(names),
            Some(mount) => Err(format!(
                "annotation {}: there is no volume {}; {} adds one",
                annotations::USER_VOLUME_MOUNT,
                name_of(mount),
                annotations::USER_VOLUME
            )),
        }
    }
}

fn name_of(map: &Map) -> &str {
    map.get("name").and_then(Node::as_str).unwrap_or_default()
}

/// `{"NAME": {...}}`, as Istio has both annotations; the name becomes a field of the object.
fn named_objects(annotations: &Annotations, annotation: &str) -> Result<Vec<Map>, String> {
    let Some(text) = annotations.get(annotation) else { return Ok(Vec::new()) };
    let wrong = |what: String| format!("annotation {annotation}: {what}");
    let all: indexmap::IndexMap<String, Node> = serde_json::from_str(text)
        .map_err(|error| wrong(format!("it must be JSON like {{\"NAME\": {{...}}}}: {error}")))?;
    let one = |(name, fields): (String, Node)| {
        if name.len() > LONGEST_NAME || !names::is_dns_label(&name) {
            return Err(wrong(format!(
                "{name:?} is not the name of a volume, which is made of a-z, 0-9 and '-'"
            )));
        }
        let Node::Map(fields) = fields else {
            return Err(wrong(format!("{name} must be an object")));
        };
        let mut object: Map = [("name".to_owned(), name.into())].into_iter().collect();
        object.extend(fields.into_iter().filter(|(field, _)| field != "name"));
        Ok(object)
    };
    all.into_iter().map(one).collect()
}

fn maps(yaml: &str) -> Result<Vec<Map>, String> {
    let Node::List(list) = read_yaml(yaml, 0)? else {
        return Err("the volumes are no list".to_owned());
    };
    let map = |node| match node {
        Node::Map(map) => Ok(map),
        _ => Err("a volume is no object".to_owned()),
    };
    list.into_iter().map(map).collect()
}

fn object<const N: usize>(fields: [(&str, Node); N]) -> Node {
    Node::Map(fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect())
}

fn mount(name: &str, path: &str) -> Map {
    let fields =
        [("name", name.into()), ("mountPath", path.into()), ("readOnly", Node::Bool(true))];
    fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect()
}
