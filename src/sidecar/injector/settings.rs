//! The settings of the injector: those of `pilothouse inject` under the same names in camelCase, and beside
//! them what only a webhook can have. Pure.
//!
//! ```yaml
//! image: registry.example/pilothouse-proxy:0.1.0
//! discoveryAddress: istio-pilot.istio-system:15010
//! nativeSidecars: auto
//! onError: refuse
//! namespaces:          # what is otherwise for the pods of one namespace
//!   shop: {cpu: 200m, discovery: on-demand}
//! ```

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::sidecar::inject::{NativeSidecars, Settings};
use crate::yaml;

/// What becomes of a pod that says something wrong of its sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnError {
    /// It is refused, with a sentence.
    #[default]
    Refuse,
    /// It starts without a sidecar, with the sentence as a warning.
    PassThrough,
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectorSettings {
    pub on_error: OnError,
    of_all: Settings,
    /// Complete, for namespaces that have something of their own.
    namespaces: BTreeMap<String, Settings>,
}

/// Why a file of settings cannot be used.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    #[error("{0}")]
    Yaml(String),
    #[error("{field}: {error}")]
    Field { field: String, error: String },
}

/// The fields that only a webhook has.
const ON_ERROR: &str = "onError";
const NAMESPACES: &str = "namespaces";

impl InjectorSettings {
    /// From YAML; an empty file has the defaults.
    ///
    /// # Errors
    /// What cannot be read, a field that is not known, or a value that makes no sense, by its name.
    pub fn parse(text: &[u8]) -> Result<Self, SettingsError> {
        let read: Option<Map<String, Value>> = match is_blank(text) {
            true => None,
            false => {
                let options = serde_saphyr::options! { with_snippet: false };
                serde_saphyr::from_slice_with_options(text, options)
                    .map_err(|error| SettingsError::Yaml(yaml::explain(&error, text)))?
            }
        };
        let mut of_all = read.unwrap_or_default();
        let on_error = take(&mut of_all, ON_ERROR)?.unwrap_or_default();
        let namespaces: BTreeMap<String, Map<String, Value>> =
            take(&mut of_all, NAMESPACES)?.unwrap_or_default();
        let settings = settings(&of_all).map_err(SettingsError::Yaml)?;
        let namespaces = namespaces.into_iter().map(|(name, own)| {
            let mut fields = of_all.clone();
            fields.extend(own);
            match self::settings(&fields) {
                Ok(settings) => Ok((name, settings)),
                Err(error) => {
                    Err(SettingsError::Field { field: format!("{NAMESPACES}.{name}"), error })
                }
            }
        });
        Ok(Self { on_error, of_all: settings, namespaces: namespaces.collect::<Result<_, _>>()? })
    }

    /// For the pods of a namespace, where `native` says whether every kubelet has native sidecars. None if
    /// that is needed and not known.
    pub fn of(&self, namespace: &str, native: Option<bool>) -> Option<Settings> {
        let mut settings = self.namespaces.get(namespace).unwrap_or(&self.of_all).clone();
        if settings.native_sidecars == NativeSidecars::Auto {
            settings.resolve_native_sidecars(native?);
        }
        Some(settings)
    }

    /// Whether the version of the API server makes a difference.
    pub(super) fn asks_the_cluster(&self) -> bool {
        let mut all = std::iter::once(&self.of_all).chain(self.namespaces.values());
        all.any(|settings| settings.native_sidecars == NativeSidecars::Auto)
    }
}

/// Whether a file has nothing but comments, which is no document.
fn is_blank(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'))
}

fn take<T: DeserializeOwned>(
    fields: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<T>, SettingsError> {
    let Some(value) = fields.remove(name).filter(|value| !value.is_null()) else { return Ok(None) };
    serde_json::from_value(value)
        .map(Some)
        .map_err(|error| SettingsError::Field { field: name.to_owned(), error: error.to_string() })
}

/// What `inject` understands. JSON is YAML, in which a number stands for its text (`cpu: 2`).
fn settings(fields: &Map<String, Value>) -> Result<Settings, String> {
    let text = Value::Object(fields.clone()).to_string();
    Settings::from_yaml(&text).map_err(|error| {
        let said = error.to_string();
        let line = said.lines().next().unwrap_or_default();
        // A place in the text that was made here helps nobody.
        let line = line.strip_prefix("error: ").unwrap_or(line);
        let placed = line.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
        let line = placed.map_or(line, |(_, words)| words);
        line.split(" at line ").next().unwrap_or(line).to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::agent::Discovery;

    fn parse(text: &str) -> Result<InjectorSettings, String> {
        InjectorSettings::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_has_the_defaults() {
        for text in ["", "\n", "# only a comment\n", "{}"] {
            let settings = parse(text).unwrap();
            assert_eq!(settings.on_error, OnError::Refuse);
            assert_eq!(settings.of("any", Some(false)).unwrap().image, Settings::default().image);
        }
    }

    #[test]
    fn a_namespace_has_what_all_have_and_its_own_over_it() {
        let settings = parse(
            "image: registry.example/proxy:2\ncpu: 2\nonError: passThrough\n\
             namespaces:\n  shop:\n    cpu: 300m\n  bank: {nativeSidecars: never}\n",
        )
        .unwrap();
        assert_eq!(settings.on_error, OnError::PassThrough);
        let cpu = |of| settings.of(of, Some(true)).unwrap().cpu;
        assert_eq!((cpu("shop").as_deref(), cpu("other").as_deref()), (Some("300m"), Some("2")));
        assert_eq!(settings.of("shop", Some(true)).unwrap().image, "registry.example/proxy:2");
        let native = |of, cluster| settings.of(of, cluster).map(|one| one.native_sidecars);
        assert_eq!(native("other", None), None, "the cluster's version is to be waited for");
        assert_eq!(native("other", Some(true)), Some(NativeSidecars::Always));
        assert_eq!(native("bank", None), Some(NativeSidecars::Never));
        assert!(settings.asks_the_cluster());
        assert!(!parse("nativeSidecars: never").unwrap().asks_the_cluster());
    }

    #[test]
    fn clusters_come_on_demand_by_namespace() {
        let settings = parse("namespaces: {shop: {discovery: on-demand}}").unwrap();
        let of = |namespace| settings.of(namespace, Some(true)).unwrap().discovery;
        assert_eq!((of("shop"), of("bank")), (Discovery::OnDemand, Discovery::All));
        let but_one = parse("discovery: on-demand\nnamespaces: {shop: {discovery: all}}").unwrap();
        let of = |namespace| but_one.of(namespace, Some(true)).unwrap().discovery;
        assert_eq!((of("shop"), of("bank")), (Discovery::All, Discovery::OnDemand));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            (
                "namespaces: {shop: {discovery: lazy}}",
                &["namespaces.shop", "lazy", "on-demand"][..],
            ),
            ("imagee: a", &["imagee"]),
            ("onError: ignore", &["onError", "ignore", "passThrough"]),
            ("namespaces: {shop: {cpus: 1}}", &["namespaces.shop", "cpus"]),
            ("namespaces: [shop]", &["namespaces"]),
            ("cpu: lots", &["lots"]),
            ("image: [", &["line 1"]),
            ("- image", &[]),
            ("image: a\nimage: b", &["duplicate"]),
            ("discoveryAddress: nowhere", &["nowhere"]),
        ] {
            let said = parse(text).unwrap_err();
            assert!(words.iter().all(|word| said.contains(word)), "{text:?}: {said}");
            // No place in a text that nobody has written, and one line.
            assert!(!said.contains("column 2") && !said.contains('\n'), "{said}");
        }
    }
}
