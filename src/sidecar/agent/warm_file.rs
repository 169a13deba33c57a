//! The file with what the proxy used, `uses.json` beside the bootstrap: a pod's emptyDir outlives its
//! containers, so an Envoy that is restarted begins with the clusters that it had.
//!
//! It is of use to be read, and nothing depends on it: whatever is wrong with it is said, and the proxy
//! starts with what it was told.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::uses::is_entry;
use crate::names::MAX_USES_ENTRIES;

/// Far more than the entries that there may be.
const MAX_FILE_BYTES: u64 = 128 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    uses: Vec<String>,
}

/// Where it is.
#[derive(Clone, Debug)]
pub(super) struct WarmFile(PathBuf);

impl WarmFile {
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self(folder.join("uses.json"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// What is in it, as far as it is of use; nothing where there is none.
    pub(super) fn read(&self) -> Vec<String> {
        let content = match self.load() {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                warn!(
                    "{} is not used, so that what this proxy called before comes when it is called \
                     again: {error}",
                    self.0.display()
                );
                return Vec::new();
            }
        };
        let known = content.uses.into_iter().filter(|entry| is_entry(entry));
        known.take(MAX_USES_ENTRIES).collect()
    }

    fn load(&self) -> io::Result<Content> {
        // Of anything else than a file reading may never end.
        if !std::fs::metadata(&self.0)?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let mut bytes = Vec::new();
        File::open(&self.0)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Puts these in the place of what was there: whoever reads has one or the other as a whole, after a
    /// crash of the machine too.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub(super) fn write(&self, uses: &[String]) -> io::Result<()> {
        let content = Content { uses: uses.to_vec() };
        let mut text = serde_json::to_string_pretty(&content)?;
        text.push('\n');
        let beside = self.0.with_extension("json.new");
        // What a write that was cut short, or somebody else, has left there.
        _ = std::fs::remove_file(&beside);
        let mut file = File::create_new(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(&beside, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let folder = TempDir::new().unwrap();
        let file = WarmFile::in_folder(folder.path());
        assert_eq!(file.read(), Vec::<String>::new());
        let uses = ["ratings.shop".to_owned(), "outbound|81||a.b.svc.cluster.local".to_owned()];
        file.write(&uses).unwrap();
        assert_eq!(file.read(), uses);
        file.write(&uses[1..]).unwrap();
        assert_eq!(file.read(), uses[1..]);
        let names: Vec<_> = folder.path().read_dir().unwrap().map(|one| one.unwrap()).collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn what_is_of_no_use_does_no_harm() {
        let folder = TempDir::new().unwrap();
        let file = WarmFile::in_folder(folder.path());
        let huge = format!(r#"{{"uses": ["{}"]}}"#, "a".repeat(MAX_FILE_BYTES as usize));
        for content in
            ["", "{", "null", "[]", r#"{"uses": 1}"#, r#"{"uses": [1]}"#, "\u{0}", &*huge]
        {
            std::fs::write(file.path(), content).unwrap();
            assert_eq!(file.read(), Vec::<String>::new(), "{}", &content[..content.len().min(20)]);
        }
        std::fs::write(file.path(), b"\xff\xfe").unwrap();
        assert_eq!(file.read(), Vec::<String>::new());
        std::fs::write(file.path(), r#"{"uses": ["a b", "c", "../d", "e,f"], "more": {}}"#)
            .unwrap();
        assert_eq!(file.read(), ["c"]);
        let many: Vec<String> = (0..1_000).map(|number| format!("s{number}")).collect();
        file.write(&many).unwrap();
        assert_eq!(file.read().len(), MAX_USES_ENTRIES);
        std::fs::remove_file(file.path()).unwrap();
        std::fs::create_dir(file.path()).unwrap();
        assert_eq!(file.read(), Vec::<String>::new());
        assert!(file.write(&many).is_err());
    }
}
