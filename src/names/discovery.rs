//! Clusters on demand, as the metadata of a node has them: said by the sidecar's wing, read by the control plane.

use std::fmt;

use clap::ValueEnum;
use serde::Deserialize;

/// In the metadata of a node: [`Discovery`].
pub const DISCOVERY_METADATA: &str = "DISCOVERY";
/// In the metadata of an on-demand sidecar's node: what it is known to need, as [`uses_entries`].
pub const USES_METADATA: &str = "USES";

/// Bytes of [`USES_METADATA`] that are read, and entries.
pub const MAX_USES_BYTES: usize = 4 << 10;
pub const MAX_USES_ENTRIES: usize = 200;

/// Which clusters a proxy holds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Discovery {
    /// Those of every Service that the proxy may call.
    #[default]
    All,
    /// Those that it calls.
    OnDemand,
}

impl Discovery {
    /// As flags, annotations and the metadata have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::OnDemand => "on-demand",
        }
    }

    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
            .map_err(|_| format!("{text:?} is neither all nor on-demand"))
    }
}

impl fmt::Display for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_separator(letter: char) -> bool {
    letter == ',' || letter.is_whitespace()
}

/// The entries of a list with commas or white space between them: hosts of Services (`reviews`, `ratings.shop`,
/// the full name) and names of clusters.
pub fn uses_entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_separator).filter(|entry| !entry.is_empty())
}

/// As much of such a list as is read: cut where an entry ends.
pub fn read_of_uses(text: &str) -> &str {
    let within = &text[..text.floor_char_boundary(MAX_USES_BYTES)];
    if within.len() == text.len() {
        return text;
    }
    within.rfind(is_separator).map_or("", |end| &within[..end])
}
