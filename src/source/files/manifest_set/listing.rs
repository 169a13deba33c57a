//! The manifest files of a path.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// How many subfolders a warning names.
const MAX_NAMED_FOLDERS: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The manifests in the order of their paths, with their lengths in bytes or why one cannot be read.
    pub(super) files: Vec<(PathBuf, Result<u64, String>)>,
    /// Names of subfolders, which are not read.
    folders: Vec<String>,
    is_folder: bool,
}

impl Listing {
    /// What is probably a mistake.
    pub(super) fn warning(&self) -> Option<String> {
        let empty = self.is_folder && self.files.is_empty();
        let nothing = empty.then(|| "there is no .yaml, .yml or .json file in it".to_owned());
        let subfolders = (!self.folders.is_empty()).then(|| {
            let named = &self.folders[..self.folders.len().min(MAX_NAMED_FOLDERS)];
            let more = if self.folders.len() > MAX_NAMED_FOLDERS { " and others" } else { "" };
            format!(
                "subfolders are not read ({}{more}): give each by a --manifests of its own",
                named.join(", ")
            )
        });
        let both: Vec<_> = nothing.into_iter().chain(subfolders).collect();
        (!both.is_empty()).then(|| both.join("; "))
    }
}

/// The file, or the manifests directly in the folder, without hidden files: those are of editors
/// and of Kubernetes.
pub(super) fn list(path: &Path) -> io::Result<Listing> {
    let found = fs::metadata(path)?;
    if found.is_file() {
        return Ok(Listing {
            files: vec![(path.to_owned(), Ok(found.len()))],
            ..Listing::default()
        });
    }
    if !found.is_dir() {
        return Err(io::Error::other("neither a file nor a folder"));
    }
    let mut listing = Listing { is_folder: true, ..Listing::default() };
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Symlinks are followed, as a ConfigMap is mounted by them.
        let length = match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {
                listing.folders.push(name.to_string_lossy().into_owned());
                continue;
            }
            Ok(found) if found.is_file() => Ok(found.len()),
            // Reading a pipe would block.
            Ok(_) => {
                Err("it is no file but a pipe, a socket or a device, which is not read".into())
            }
            Err(_) if fs::symlink_metadata(&path).is_err() => continue, // gone meanwhile
            Err(error) => Err(symlink_error(&path, &error)),
        };
        if is_manifest(&path) {
            listing.files.push((path, length));
        }
    }
    listing.folders.sort();
    listing.files.sort();
    Ok(listing)
}

fn symlink_error(path: &Path, error: &io::Error) -> String {
    match fs::read_link(path) {
        Ok(target) => format!("it is a symlink to {}: {error}", target.display()),
        Err(_) => error.to_string(),
    }
}

fn is_manifest(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    ["yaml", "yml", "json"].iter().any(|known| ending.eq_ignore_ascii_case(known))
}
