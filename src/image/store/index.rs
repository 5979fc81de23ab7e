// SPDX-License-Identifier: Apache-2.0
//! The names of the store: an index.json as layouts have it.
//!
//! Whoever changes it holds `index.lock` from before it is read until after it is
//! replaced; whoever reads it needs no lock.

use super::Store;
use crate::image::digest::Digest;
use crate::image::error::ImageError;
use crate::image::manifest::{self, OCI_MANIFEST, Part, Unfit};
use crate::image::name::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

/// The name (image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// When it came, in seconds since 1970.
const ADDED: &str = "husk.added";
/// Most names. Stops the index from becoming longer than is read of it.
const MAX_NAMES: usize = 4096;

/// An image of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Complete: `docker.io/library/nginx:latest`.
    pub name: String,
    pub manifest: Part,
    /// Seconds since 1970.
    pub added: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    manifests: Vec<Entry>,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Entry {
    /// None for what husk did not write.
    fn kept(&self) -> Option<Kept> {
        Some(Kept {
            name: self.annotations.get(REF_NAME)?.clone(),
            manifest: Part {
                digest: Digest::parse(&self.digest)?,
                size: self.size,
            },
            added: self.annotations.get(ADDED)?.parse().ok()?,
        })
    }
}

impl Store {
    /// All images by name.
    pub fn images(&self) -> Result<Vec<Kept>, ImageError> {
        let mut images: Vec<Kept> = self.read_index()?.iter().filter_map(Entry::kept).collect();
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// The image of that name. A digest is enough: whatever it is called, it is the same.
    pub fn find(&self, name: &Name) -> Result<Option<Kept>, ImageError> {
        let full = name.to_string();
        let same = |kept: &Kept| kept.name == full || Some(kept.manifest.digest) == name.digest;
        Ok(self.images()?.into_iter().find(same))
    }

    /// Gives an image that is complete a name; what had it has it no longer.
    pub fn name(&self, name: &Name, manifest: &Part) -> Result<(), ImageError> {
        let full = name.to_string();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let added = since.map_or(0, |since| since.as_secs()).to_string();
        self.change(|entries| {
            let known = |entry: &Entry| entry.annotations.get(REF_NAME) == Some(&full);
            let digest = manifest.digest.to_string();
            // The same again is no news, and the disk need not hear of it.
            if entries
                .iter()
                .any(|entry| known(entry) && entry.digest == digest)
            {
                return false;
            }
            entries.retain(|entry| !known(entry));
            entries.push(Entry {
                media_type: OCI_MANIFEST.to_owned(),
                digest,
                size: manifest.size,
                annotations: [(REF_NAME, &full), (ADDED, &added)]
                    .map(|(key, value)| (key.to_owned(), value.clone()))
                    .into(),
            });
            true
        })
    }

    /// Takes names away; their blobs stay until they are collected. Returns how many there
    /// were.
    pub fn unname(&self, names: &[String]) -> Result<usize, ImageError> {
        let mut removed = 0;
        self.change(|entries| {
            let before = entries.len();
            let named = |entry: &Entry| {
                let name = entry.annotations.get(REF_NAME);
                name.is_some_and(|name| names.contains(name))
            };
            entries.retain(|entry| !named(entry));
            removed = before - entries.len();
            removed > 0
        })?;
        Ok(removed)
    }

    fn read_index(&self) -> Result<Vec<Entry>, ImageError> {
        let path = self.root.join("index.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ImageError::io("read", &path, error)),
        };
        let index: Index = manifest::parse("index", &bytes)
            .map_err(|problem| ImageError::unfit(&path, problem))?;
        Ok(index.manifests)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Entry>) -> bool) -> Result<(), ImageError> {
        let _locked = self.index_lock()?;
        let mut manifests = self.read_index()?;
        if !change(&mut manifests) {
            return Ok(());
        }
        let path = self.root.join("index.json");
        if manifests.len() > MAX_NAMES {
            return Err(ImageError::unfit(&path, Unfit::Names));
        }
        let index = Index {
            schema_version: 2,
            manifests,
        };
        let bytes = serde_json::to_vec(&index)
            .map_err(|error| ImageError::io("write", &path, io::Error::other(error)))?;
        self.replace(&path, &bytes)
    }
}
