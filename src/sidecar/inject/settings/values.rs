//! How values of the file are read: as text, checked as the flags of the same names are.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::flags;
use crate::sidecar::host_port::HostPort;
use crate::sidecar::inject::{args, resources};

pub(super) const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

fn checked<'de, D: Deserializer<'de>, T>(
    from: D,
    check: impl Fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    check(&String::deserialize(from)?).map_err(D::Error::custom)
}

fn some<'de, D: Deserializer<'de>, T>(
    from: D,
    check: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| check(&text)).transpose().map_err(D::Error::custom)
}

pub(super) fn image<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, args::image)
}

pub(super) fn some_image<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    some(from, args::image)
}

pub(super) fn pull_policy<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    some(from, |text| match PULL_POLICIES.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is none of {}", PULL_POLICIES.join(", "))),
    })
}

pub(super) fn some_host_port<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<HostPort>, D::Error> {
    some(from, |text| text.parse().map_err(|error| format!("{error}")))
}

pub(super) fn objects<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let names = Option::<Vec<String>>::deserialize(from)?.unwrap_or_default();
    names.iter().map(|name| args::object(name)).collect::<Result<_, _>>().map_err(D::Error::custom)
}

pub(super) fn some_object<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    some(from, args::object)
}

pub(super) fn domain<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, flags::domain)
}

pub(super) fn some_duration<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<String>, D::Error> {
    some(from, args::duration)
}

pub(super) fn some_cpu<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    some(from, resources::cpu)
}

pub(super) fn some_memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    some(from, resources::memory)
}

pub(super) fn some_log_level<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<String>, D::Error> {
    some(from, args::log_level)
}

pub(super) fn some_component_log_levels<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<String>, D::Error> {
    some(from, args::component_log_levels)
}

pub(super) fn status_port<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    args::status_port(&u64::deserialize(from)?.to_string()).map_err(D::Error::custom)
}

pub(super) fn word<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, args::word)
}

pub(super) fn some_word<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    some(from, args::word)
}
