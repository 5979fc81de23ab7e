// SPDX-License-Identifier: Apache-2.0
//! Images of registries and layouts on this host: blobs under their digests, and names.
//!
//! Tool side, in any number of processes at once. The store is an OCI layout that other
//! tools can read, below husk's cache:
//!
//! ```text
//! store/oci-layout, index.json     names, and the manifest each stands for
//!       blobs/sha256/DIGITS        whole and verified, or not there
//!       partial/DIGITS             on the way in, locked by whoever brings it
//!       lock                       shared: blobs are used or brought; exclusive: some go
//!       index.lock                 whoever changes index.json
//! ```
//!
//! A blob gets its name once its bytes are on the disk and have the digest, and an image
//! its name once all its blobs have theirs. So the store is whole at every instant, after a
//! power failure too; what a killed process leaves in `partial` is taken up by the next.

mod incoming;
mod index;
mod sweep;

#[cfg(test)]
mod tests;

pub use index::Kept;
pub use sweep::Reclaimed;

use super::blob::{Blob, Source, fault};
use super::cache::{create, lock as lock_exclusive, try_lock};
use super::digest::Digest;
use super::error::{BlobFault, ImageError};
use super::layers::Described;
use super::manifest::Part;
use super::name::Name;
use super::source::layout::{Layout, blob_name};
use super::{Progress, blob};
pub use incoming::Incoming;
use rustix::fs::FlockOperation;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// What an OCI layout is known by (image-spec, image-layout.md).
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Bytes copied at once.
const BUFFER: usize = 1 << 20;

pub struct Store {
    root: PathBuf,
}

/// While it lives, no blob of the store goes.
pub struct Using(#[expect(dead_code, reason = "held for its lock")] File);

impl Store {
    pub fn open(cache: &Path) -> Result<Self, ImageError> {
        let root = cache.join("store");
        for folder in ["blobs/sha256", "partial"] {
            let path = root.join(folder);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|error| ImageError::io("create", &path, error))?;
        }
        let store = Self { root };
        let layout = store.root.join("oci-layout");
        if !layout.exists() {
            let _locked = store.index_lock()?;
            store.replace(&layout, LAYOUT)?;
        }
        Ok(store)
    }

    /// Keeps what is in the store there; `waiting` is called before a wait for another
    /// husk that is removing images.
    pub fn using(&self, waiting: &mut dyn FnMut()) -> Result<Using, ImageError> {
        let (path, file) = self.lock_file("lock")?;
        let shared = |operation| rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation));
        if shared(FlockOperation::NonBlockingLockShared).is_err() {
            waiting();
            shared(FlockOperation::LockShared)
                .map_err(|errno| ImageError::io("lock", &path, errno))?;
        }
        Ok(Using(file))
    }

    /// Nobody else uses the store while the file is open.
    fn alone(&self, waiting: &mut dyn FnMut()) -> Result<File, ImageError> {
        let (path, file) = self.lock_file("lock")?;
        let failed = |error| ImageError::io("lock", &path, error);
        if !try_lock(&file).map_err(failed)? {
            waiting();
            lock_exclusive(&file).map_err(failed)?;
        }
        Ok(file)
    }

    /// Whoever changes names.
    fn index_lock(&self) -> Result<File, ImageError> {
        let (path, file) = self.lock_file("index.lock")?;
        lock_exclusive(&file).map_err(|error| ImageError::io("lock", &path, error))?;
        Ok(file)
    }

    fn lock_file(&self, name: &str) -> Result<(PathBuf, File), ImageError> {
        let path = self.root.join(name);
        let mut options = OpenOptions::new();
        let file = create(options.write(true).create(true).truncate(false), &path)
            .map_err(|error| ImageError::io("lock", &path, error))?;
        Ok((path, file))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(blob_name(digest))
    }

    /// Is this blob here? Its bytes were checked when it came.
    pub fn has(&self, part: &Part) -> bool {
        fs::metadata(self.blob_path(&part.digest)).is_ok_and(|found| found.len() == part.size)
    }

    /// Removes a blob whose bytes were found to be wrong, so that it can come again.
    pub fn discard(&self, digest: &Digest) {
        // Best effort: what cannot be removed fails again where it is read.
        let _ = fs::remove_file(self.blob_path(digest));
    }

    /// The image of this manifest, whatever it is called.
    pub fn source(&self, digest: Digest) -> Stored {
        Stored {
            layout: Layout::new(&self.root, None),
            digest,
        }
    }

    /// Is everything of this image here?
    pub fn complete(&self, digest: &Digest) -> Result<bool, ImageError> {
        match Described::read(&self.source(*digest), &self.root) {
            Ok(image) => Ok(image.manifest.layers.iter().all(|layer| self.has(layer))),
            Err(ImageError::Blob { digest, problem }) => {
                if problem == BlobFault::Digest {
                    self.discard(&digest);
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Where a blob that is not here goes; none if it is, perhaps by now.
    pub fn incoming(
        &self,
        part: &Part,
        waiting: &mut dyn FnMut(),
    ) -> Result<Option<Incoming<'_>>, ImageError> {
        Incoming::open(self, part, waiting)
    }

    /// Stores a document, which is checked too.
    pub fn put(&self, bytes: &[u8]) -> Result<Part, ImageError> {
        let part = Part {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        if let Some(mut incoming) = self.incoming(&part, &mut || {})? {
            incoming.restart()?;
            incoming.write(bytes)?;
            incoming.finish()?;
        }
        Ok(part)
    }

    /// Copies an image here and gives it a name.
    pub fn import(
        &self,
        image: &Described,
        source: &dyn Source,
        name: &Name,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), ImageError> {
        let total = image.stored();
        let mut done = 0;
        for layer in &image.manifest.layers {
            let blob = source.blob(&layer.digest)?;
            blob.check_size(layer)?;
            self.copy(&blob, layer, &mut |bytes| {
                done += bytes;
                progress(Progress::Storing { done, total });
            })?;
        }
        self.put(&blob::document(source, &image.manifest.config.digest)?)?;
        let manifest = self.put(&image.document)?;
        self.name(name, &manifest)
    }

    fn copy(&self, blob: &Blob, part: &Part, told: &mut dyn FnMut(u64)) -> Result<(), ImageError> {
        let Some(mut incoming) = self.incoming(part, &mut || {})? else {
            told(part.size);
            return Ok(());
        };
        incoming.restart()?;
        let (mut reader, mut buffer) = (blob.reader(), vec![0; BUFFER]);
        loop {
            let len = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ImageError::io("read", &blob.path, error)),
            };
            incoming.write(&buffer[..len])?;
            told(len as u64);
        }
        incoming.finish()
    }

    /// Writes a small file so that it is the old one or the new at every instant. Under
    /// `index.lock`: what it is written to first has one name.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        use std::io::Write as _;
        let part = path.with_extension("part");
        let failed = |error| ImageError::io("write", &part, error);
        let mut options = OpenOptions::new();
        let mut file =
            create(options.write(true).create(true).truncate(true), &part).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&part, path).map_err(failed)?;
        sync_folder(path)
    }

    /// An empty file without a name, on the store's file system.
    pub fn spool(&self) -> Result<File, ImageError> {
        let path = self.root.join("partial");
        tempfile::tempfile_in(&path).map_err(|error| ImageError::io("write", &path, error))
    }
}

/// Brings the name of a file to the disk: that is its folder's content.
fn sync_folder(path: &Path) -> Result<(), ImageError> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| ImageError::io("write", folder, error))
}

/// One image of the store.
pub struct Stored {
    layout: Layout,
    digest: Digest,
}

impl Source for Stored {
    fn manifest(&self) -> Result<(Digest, Vec<u8>), ImageError> {
        Ok((self.digest, blob::document(self, &self.digest)?))
    }

    fn blob(&self, digest: &Digest) -> Result<Blob, ImageError> {
        self.layout.blob(digest)
    }
}

fn too_long(part: &Part, len: u64) -> ImageError {
    fault(&part.digest, BlobFault::Size(len, part.size))
}
