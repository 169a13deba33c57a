//! Which files a path means.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// How many subfolders are named.
const NAMED: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The manifests in the order of their paths, with their lengths in bytes or why one cannot be read.
    pub(super) files: Vec<(PathBuf, Result<u64, String>)>,
    /// Names of subfolders, which are not read.
    folders: Vec<String>,
    is_folder: bool,
}

impl Listing {
    /// What is probably not meant.
    pub(super) fn warning(&self) -> Option<String> {
        let empty = self.is_folder && self.files.is_empty();
        let nothing = empty.then(|| "there is no .yaml, .yml or .json file in it".to_owned());
        let subfolders = (!self.folders.is_empty()).then(|| {
            let named = &self.folders[..self.folders.len().min(NAMED)];
            let more = if self.folders.len() > NAMED { " and others" } else { "" };
            format!(
                "subfolders are not read ({}{more}): give each by a --manifests of its own",
                named.join(", ")
            )
        });
        let both: Vec<_> = nothing.into_iter().chain(subfolders).collect();
        (!both.is_empty()).then(|| both.join("; "))
    }
}

/// The file, or the manifests directly in the folder. Hidden files are editors' and Kubernetes'
/// own.
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
        // Through symlinks, as ConfigMaps are mounted by them.
        let usable = match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {
                listing.folders.push(name.to_string_lossy().into_owned());
                continue;
            }
            Ok(found) if found.is_file() => Ok(found.len()),
            // A pipe would block whoever reads it.
            Ok(_) => {
                Err("it is no file but a pipe, a socket or a device, which is not read".into())
            }
            Err(_) if fs::symlink_metadata(&path).is_err() => continue, // gone meanwhile
            Err(error) => Err(leads_nowhere(&path, &error)),
        };
        if is_manifest(&path) {
            listing.files.push((path, usable));
        }
    }
    listing.folders.sort();
    listing.files.sort();
    Ok(listing)
}

fn leads_nowhere(path: &Path, error: &io::Error) -> String {
    match fs::read_link(path) {
        Ok(target) => format!("it is a symlink to {}: {error}", target.display()),
        Err(_) => error.to_string(),
    }
}

fn is_manifest(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    ["yaml", "yml", "json"].iter().any(|known| ending.eq_ignore_ascii_case(known))
}
