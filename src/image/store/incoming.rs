// SPDX-License-Identifier: Apache-2.0
//! One blob on its way into the store.
//!
//! Runs on whatever thread brings it. The file in `partial` is this process's while it is
//! locked; it becomes the blob when it is as long as was said and has the digest, and it
//! stays, for the next attempt, when the way is cut short.

use super::{Store, sync_folder, too_long};
use crate::image::blob::fault;
use crate::image::cache::{create, lock, same_file, try_lock};
use crate::image::error::{BlobFault, ImageError};
use crate::image::manifest::Part;
use crate::image::unpack::{LOOK, room};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

pub struct Incoming<'a> {
    store: &'a Store,
    part: Part,
    file: File,
    path: PathBuf,
    digest: Sha256,
    have: u64,
}

impl<'a> Incoming<'a> {
    pub fn open(
        store: &'a Store,
        part: &Part,
        waiting: &mut dyn FnMut(),
    ) -> Result<Option<Self>, ImageError> {
        let path = store.root.join("partial").join(part.digest.hex());
        let failed = |error| ImageError::io("write", &path, error);
        loop {
            if store.has(part) {
                return Ok(None);
            }
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let file = create(options, &path).map_err(failed)?;
            if !try_lock(&file).map_err(failed)? {
                waiting();
                lock(&file).map_err(failed)?;
            }
            // Whoever had it may have made a blob of it.
            if !same_file(&file, &path) {
                continue;
            }
            if store.has(part) {
                fs::remove_file(&path).map_err(failed)?;
                return Ok(None);
            }
            let mut incoming = Self {
                store,
                part: *part,
                file,
                path,
                digest: Sha256::new(),
                have: 0,
            };
            incoming.take_up()?;
            return Ok(Some(incoming));
        }
    }

    /// Digests what an earlier attempt left.
    fn take_up(&mut self) -> Result<(), ImageError> {
        let len = self.file.metadata().map_err(|e| self.failed(e))?.len();
        if len > self.part.size {
            return self.restart();
        }
        let mut buffer = vec![0; super::BUFFER];
        while self.have < len {
            let read = self.file.read_at(&mut buffer, self.have);
            match read.map_err(|error| self.failed(error))? {
                0 => break,
                read => {
                    self.digest.update(&buffer[..read]);
                    self.have += read as u64;
                }
            }
        }
        Ok(())
    }

    /// Bytes that are here already.
    pub fn have(&self) -> u64 {
        self.have
    }

    pub fn restart(&mut self) -> Result<(), ImageError> {
        self.file.set_len(0).map_err(|error| self.failed(error))?;
        self.digest = Sha256::new();
        self.have = 0;
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let end = self.have.saturating_add(bytes.len() as u64);
        if end > self.part.size {
            // What is too long is not what was asked for, from its first byte on.
            self.abandon();
            return Err(too_long(&self.part, end));
        }
        if let Err(error) = self.write_here(bytes) {
            // A host without disk needs what is here more than the next attempt does.
            if matches!(error.kind(), io::ErrorKind::StorageFull) {
                self.abandon();
            }
            return Err(self.failed(error));
        }
        self.digest.update(bytes);
        self.have = end;
        Ok(())
    }

    fn write_here(&self, bytes: &[u8]) -> io::Result<()> {
        let end = self.have + bytes.len() as u64;
        if self.have == 0 || self.have / LOOK != end / LOOK {
            room(&self.file)?;
        }
        self.file.write_all_at(bytes, self.have)
    }

    /// Makes the blob of it.
    pub fn finish(self) -> Result<(), ImageError> {
        if self.have < self.part.size {
            return Err(too_long(&self.part, self.have));
        }
        let found: [u8; 32] = self.digest.clone().finalize().into();
        if found != *self.part.digest.bytes() {
            self.abandon();
            return Err(fault(&self.part.digest, BlobFault::Digest));
        }
        let path = self.store.blob_path(&self.part.digest);
        // The bytes are on the disk before their name is.
        let synced = self.file.sync_all();
        synced
            .and_then(|()| fs::rename(&self.path, &path))
            .map_err(|error| self.failed(error))?;
        sync_folder(&path)
    }

    /// What is there is of no use to a next attempt.
    fn abandon(&self) {
        // Best effort: the next attempt, or the collection, removes it too.
        let _ = fs::remove_file(&self.path);
    }

    fn failed(&self, error: io::Error) -> ImageError {
        ImageError::io("write", &self.path, error)
    }
}
