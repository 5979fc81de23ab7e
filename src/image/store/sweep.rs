// SPDX-License-Identifier: Apache-2.0
//! Removes from the store what no name leads to.
//!
//! Alone in the store while it looks and removes. It may be interrupted anywhere: each
//! file it removes was of no use to anybody.

use super::Store;
use crate::image::digest::Digest;
use crate::image::error::{BlobFault, ImageError};
use crate::image::layers::Described;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reclaimed {
    pub blobs: u64,
    /// Downloads that were never finished.
    pub partial: u64,
    /// Of disk.
    pub bytes: u64,
}

impl Store {
    /// Waits for those who use the store, and tells so.
    pub fn sweep(&self, waiting: &mut dyn FnMut()) -> Result<Reclaimed, ImageError> {
        let _alone = self.alone(waiting)?;
        let mut used = BTreeSet::new();
        for kept in self.images()? {
            used.insert(kept.manifest.digest.hex());
            match Described::read(&self.source(kept.manifest.digest), &self.root) {
                Ok(image) => {
                    used.insert(image.manifest.config.digest.hex());
                    used.extend(image.manifest.layers.iter().map(|layer| layer.digest.hex()));
                }
                // Damaged, and so of no use: whoever asks for it again gets it again.
                Err(ImageError::Blob {
                    problem: BlobFault::Absent | BlobFault::Digest,
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut reclaimed = Reclaimed::default();
        remove(
            &self.root.join("blobs/sha256"),
            &mut reclaimed,
            |name, all| {
                let unused = Digest::from_hex(name).is_none() || !used.contains(name);
                all.blobs += u64::from(unused);
                unused
            },
        )?;
        remove(&self.root.join("partial"), &mut reclaimed, |_, all| {
            all.partial += 1;
            true
        })?;
        Ok(reclaimed)
    }
}

fn remove(
    folder: &Path,
    reclaimed: &mut Reclaimed,
    unused: impl Fn(&str, &mut Reclaimed) -> bool,
) -> Result<(), ImageError> {
    let failed = |error| ImageError::io("read", folder, error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if !unused(&name.to_string_lossy(), reclaimed) {
            continue;
        }
        let path = entry.path();
        let bytes = entry
            .metadata()
            .map_or(0, |metadata| metadata.blocks() * 512);
        fs::remove_file(&path).map_err(|error| ImageError::io("remove", &path, error))?;
        reclaimed.bytes += bytes;
    }
    Ok(())
}
