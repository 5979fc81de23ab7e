// SPDX-License-Identifier: Apache-2.0
//! An image in an OCI layout: a directory on the host, or the same in a tar archive.
//!
//! Runs on the thread that opens an image. Of the layout only three kinds of names are
//! ever opened, `oci-layout`, `index.json` and `blobs/sha256/DIGITS`; no text of a document
//! becomes a path.

use super::bundle::Bundle;
use crate::image::blob::{Blob, Source, document, fault};
use crate::image::digest::Digest;
use crate::image::error::{BlobFault, ImageError, Misread};
use crate::image::manifest::{self, Document};
use crate::image::open_for_reading;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A layout in a directory.
pub struct Layout {
    root: PathBuf,
    tag: Option<String>,
}

impl Layout {
    pub fn new(root: &Path, tag: Option<String>) -> Self {
        Self {
            root: root.to_owned(),
            tag,
        }
    }

    fn open(&self, name: &Path) -> Result<Blob, ImageError> {
        let path = self.root.join(name);
        let file = open_for_reading(&path, Misread::NotFile)?;
        let failed = |error| ImageError::io("read", &path, error);
        let len = file.metadata().map_err(failed)?.len();
        Ok(Blob {
            file: Arc::new(file),
            at: 0,
            len,
            path,
        })
    }
}

pub fn blob_name(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

impl Source for Layout {
    fn manifest(&self) -> Result<(Digest, Vec<u8>), ImageError> {
        let index = self.open(Path::new("index.json"))?.document()?;
        resolve(self, &index, self.tag.as_deref(), &self.root)
    }

    fn blob(&self, digest: &Digest) -> Result<Blob, ImageError> {
        self.open(&blob_name(digest)).map_err(|error| match error {
            ImageError::Reference {
                problem: Misread::Absent,
                ..
            } => fault(digest, BlobFault::Absent),
            other => other,
        })
    }
}

/// A layout in an archive.
pub struct OciArchive {
    bundle: Bundle,
    tag: Option<String>,
}

impl OciArchive {
    pub fn new(bundle: Bundle, tag: Option<String>) -> Self {
        Self { bundle, tag }
    }
}

impl Source for OciArchive {
    fn manifest(&self) -> Result<(Digest, Vec<u8>), ImageError> {
        let index = self.bundle.file("index.json")?.document()?;
        resolve(self, &index, self.tag.as_deref(), self.bundle.path())
    }

    fn blob(&self, digest: &Digest) -> Result<Blob, ImageError> {
        let found = self
            .bundle
            .find(&format!("blobs/sha256/{}", digest.hex()))?;
        found.ok_or_else(|| fault(digest, BlobFault::Absent))
    }
}

/// Most indices from a layout's own to a manifest: one by name, one of platforms, and one
/// to spare. Stops an index that leads to itself.
const MAX_INDICES: usize = 3;

fn resolve(
    source: &dyn Source,
    index: &[u8],
    tag: Option<&str>,
    path: &Path,
) -> Result<(Digest, Vec<u8>), ImageError> {
    let unfit = |problem| ImageError::unfit(path, problem);
    let mut part = manifest::named(index, tag).map_err(unfit)?;
    for _ in 0..MAX_INDICES {
        let bytes = document(source, &part.digest)?;
        match manifest::read(&bytes).map_err(unfit)? {
            Document::Manifest(_) => return Ok((part.digest, bytes)),
            Document::Index(next) => part = next,
        }
    }
    Err(unfit(manifest::Unfit::Kind("row of indices".into())))
}
