// SPDX-License-Identifier: Apache-2.0
//! From a name to an image: directories, hostile archives, and the cache between.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests: a panic is the failure"
)]

mod archives;
mod caching;
mod costs;
mod directories;
mod hostile;
mod layers;
pub mod made;
pub mod tar;
mod unpacked;

use super::testing::{Body, Entry, read_image};
use super::{ImageError, RootFs, open};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

pub type Entries = BTreeMap<Vec<u8>, Entry>;

/// A directory for an image's source and one for its cache.
pub struct Place {
    pub source: TempDir,
    pub cache: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            source: TempDir::new().unwrap(),
            cache: TempDir::new().unwrap(),
        }
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.source.path().join(name), bytes).unwrap();
    }

    pub fn directory(&self) -> Result<RootFs, ImageError> {
        let reference = format!("dir:{}", self.source.path().display());
        open(&reference, self.cache.path(), &mut |_| {})
    }

    /// The names in the cache that end in `extension`.
    pub fn cached(&self, extension: &str) -> Vec<String> {
        names(&self.cache.path().join("images"), extension)
    }
}

pub fn names(directory: &Path, extension: &str) -> Vec<String> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(extension))
        .collect()
}

pub fn entries(image: &RootFs) -> Entries {
    read_image(&image.file)
}

pub fn bytes<'a>(entries: &'a Entries, path: &str) -> &'a [u8] {
    match &entries[path.as_bytes()].body {
        Body::Bytes(bytes) => bytes,
        other => panic!("{path}: {other:?}"),
    }
}
