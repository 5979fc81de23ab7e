// SPDX-License-Identifier: Apache-2.0
//! Blobs: bytes somewhere on this host that are named by their digest.
//!
//! Runs on whatever thread opens an image. A blob is a part of an open file; nothing of it
//! is believed before its digest is.

use super::digest::{Digest, Digesting};
use super::error::{BlobFault, ImageError};
use super::manifest::{MAX_DOCUMENT, Part};
use super::name::Name;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the documents and layers of one image are.
pub trait Source: Sync {
    /// The manifest, or an index of several, and its digest, which its bytes have.
    fn manifest(&self) -> Result<(Digest, Vec<u8>), ImageError>;
    /// What the image was called by who put it there.
    fn name(&self) -> Option<Name> {
        None
    }
    /// The bytes that should have this digest. Whoever reads them must see that they have.
    fn blob(&self, digest: &Digest) -> Result<Blob, ImageError>;
}

/// A part of a file.
#[derive(Clone, Debug)]
pub struct Blob {
    pub file: Arc<File>,
    pub at: u64,
    pub len: u64,
    /// The file's, for messages.
    pub path: PathBuf,
}

impl Blob {
    pub fn reader(&self) -> BlobReader {
        BlobReader {
            file: Arc::clone(&self.file),
            at: self.at,
            left: self.len,
        }
    }

    /// Is it as long as was said?
    pub fn check_size(&self, part: &Part) -> Result<(), ImageError> {
        match self.len == part.size {
            true => Ok(()),
            false => Err(fault(&part.digest, BlobFault::Size(self.len, part.size))),
        }
    }

    pub fn digest(&self) -> Result<Digest, ImageError> {
        let read = Digesting::new(self.reader()).drain();
        let (digest, _) = read.map_err(|error| ImageError::io("read", &self.path, error))?;
        Ok(digest)
    }

    /// All of a short one.
    pub fn document(&self) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        self.reader()
            .take(MAX_DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| ImageError::io("read", &self.path, error))?;
        Ok(bytes)
    }
}

/// Reads a blob from its start, whatever other readers of the file do.
pub struct BlobReader {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let len = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}

/// The document `digest` names, which it has.
pub fn document(source: &dyn Source, digest: &Digest) -> Result<Vec<u8>, ImageError> {
    let bytes = source.blob(digest)?.document()?;
    match Digest::of(&bytes) == *digest {
        true => Ok(bytes),
        false => Err(fault(digest, BlobFault::Digest)),
    }
}

pub fn fault(digest: &Digest, problem: BlobFault) -> ImageError {
    ImageError::Blob {
        digest: *digest,
        problem,
    }
}
