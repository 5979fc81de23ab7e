// SPDX-License-Identifier: Apache-2.0
//! Images made before, by the digest of what they were made from.
//!
//! Runs on the thread that opens an image, in any number of processes at once. What has
//! the name of an image is whole: it is written as `KEY.part`, brought to the disk, and
//! then renamed. The lock on `KEY.part` is what keeps two processes from writing one image
//! twice, and its absence what marks a file some process left when it was killed.

use super::erofs::{SUPER_OFFSET, SUPER_SIZE, image_bytes};
use super::error::ImageError;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Most bytes of disk the images take together; beyond, those longest unused go.
pub const DEFAULT_LIMIT: u64 = 4 << 30;

/// The digest of a source.
pub type Key = [u8; 32];

pub struct Cache {
    directory: PathBuf,
    limit: u64,
}

/// An image of the cache, open for reading: it stays usable when the cache lets go of it.
pub struct Cached {
    pub file: File,
    pub path: PathBuf,
    /// It was there before.
    pub hit: bool,
}

/// What the cache is doing that may take long.
pub enum Wait<'a> {
    /// Another process is writing the image.
    Other,
    /// Write it into this file; the path is for messages.
    Write(&'a Part),
}

/// A file being written, locked by this process.
pub struct Part {
    pub file: File,
    pub path: PathBuf,
    directory: PathBuf,
}

impl Part {
    /// An empty file without a name on the cache's file system, for what is unpacked
    /// meanwhile: it goes with the process.
    pub fn spool(&self) -> Result<File, ImageError> {
        tempfile::tempfile_in(&self.directory)
            .map_err(|error| ImageError::io("write", &self.directory, error))
    }
}

pub fn create(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.mode(0o600).open(path)
}

impl Cache {
    pub fn open(cache: &Path, limit: u64) -> Result<Self, ImageError> {
        let directory = cache.join("images");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| ImageError::io("create", &directory, error))?;
        Ok(Self { directory, limit })
    }

    /// The image of `key`. If there is none, `work` writes it: nothing it leaves behind
    /// when it fails is taken for an image.
    pub fn image(
        &self,
        key: &Key,
        work: &mut dyn FnMut(Wait) -> Result<(), ImageError>,
    ) -> Result<Cached, ImageError> {
        let mut hit = true;
        loop {
            if let Some((file, path)) = self.lookup(key)? {
                if !hit {
                    self.evict(&path);
                }
                return Ok(Cached { file, path, hit });
            }
            let part = self.lock(key, work)?;
            // Whoever had the lock before may have finished the image.
            if self.path(key, "erofs").exists() {
                remove(&part.path)?;
                continue;
            }
            hit = false;
            let written = work(Wait::Write(&part)).and_then(|()| self.publish(key, &part));
            if let Err(error) = written {
                // Best effort: the next run removes it too.
                let _ = fs::remove_file(&part.path);
                return Err(error);
            }
        }
    }

    fn path(&self, key: &Key, extension: &str) -> PathBuf {
        use std::fmt::Write as _;
        let mut name = String::with_capacity(key.len() * 2 + 8);
        for byte in key {
            // Writing to a String does not fail.
            let _ = write!(name, "{byte:02x}");
        }
        self.directory.join(name).with_extension(extension)
    }

    /// Lets go of an image: whoever runs from it keeps it. Returns the disk it took.
    pub fn forget(&self, key: &Key) -> u64 {
        let path = self.path(key, "erofs");
        let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.blocks() * 512);
        match fs::remove_file(&path) {
            Ok(()) => bytes,
            Err(_) => 0,
        }
    }

    /// The disk the image of `key` takes, if it is made.
    pub fn size(&self, key: &Key) -> Option<u64> {
        let metadata = fs::metadata(self.path(key, "erofs")).ok()?;
        Some(metadata.blocks() * 512)
    }

    fn lookup(&self, key: &Key) -> Result<Option<(File, PathBuf)>, ImageError> {
        let path = self.path(key, "erofs");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ImageError::io("read", &path, error)),
        };
        if !is_whole(&file) {
            // Somebody's hand, or a disk that lies. Made anew.
            remove(&path)?;
            return Ok(None);
        }
        // The use the order of eviction goes by; without it the order is that of making.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some((file, path)))
    }

    fn lock(
        &self,
        key: &Key,
        work: &mut dyn FnMut(Wait) -> Result<(), ImageError>,
    ) -> Result<Part, ImageError> {
        let path = self.path(key, "part");
        let failed = |errno: io::Error| ImageError::io("write", &path, errno);
        loop {
            let file = create(
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false),
                &path,
            )
            .map_err(failed)?;
            if !try_lock(&file).map_err(failed)? {
                work(Wait::Other)?;
                lock(&file).map_err(failed)?;
            }
            // The file locked may no longer be the one of that name: published or removed.
            if same_file(&file, &path) {
                file.set_len(0).map_err(failed)?;
                let directory = self.directory.clone();
                return Ok(Part {
                    file,
                    path,
                    directory,
                });
            }
        }
    }

    fn publish(&self, key: &Key, part: &Part) -> Result<(), ImageError> {
        let path = self.path(key, "erofs");
        let failed = |error| ImageError::io("write", &part.path, error);
        // Without this, a host that loses power soon after may find the name on its disk
        // and zeros behind it, and every later run would start from them. It is paid once
        // for an image, never on a hit.
        part.file.sync_data().map_err(failed)?;
        fs::rename(&part.path, &path).map_err(failed)
    }

    /// Removes what killed processes left and what is beyond the limit. Best effort: an
    /// image that cannot be removed takes nothing from the one just made. Whoever runs
    /// from an image holds it open, and its bytes stay until they close it.
    fn evict(&self, keep: &Path) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        let mut images = Vec::new();
        let mut total = 0u64;
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("erofs") => {
                    let bytes = metadata.blocks() * 512;
                    total = total.saturating_add(bytes);
                    images.push((metadata.modified().ok(), bytes, path));
                }
                Some("part") => remove_abandoned(&path),
                _ => {}
            }
        }
        images.sort();
        for (_, bytes, path) in images {
            if total <= self.limit {
                break;
            }
            if path != keep && fs::remove_file(&path).is_ok() {
                total = total.saturating_sub(bytes);
            }
        }
    }
}

pub fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

pub fn lock(file: &File) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| {
        rustix::fs::flock(file, FlockOperation::LockExclusive)
    })?)
}

pub fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn remove(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ImageError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Removes a part nobody holds the lock of.
pub fn remove_abandoned(part: &Path) {
    let Ok(file) = create(
        OpenOptions::new().write(true).create(true).truncate(false),
        part,
    ) else {
        return;
    };
    if try_lock(&file).unwrap_or(false) && same_file(&file, part) {
        let _ = fs::remove_file(part);
    }
}

/// Has it a super block, and the length that says? What fails here was never published.
fn is_whole(file: &File) -> bool {
    let mut block = [0; SUPER_SIZE];
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    file.read_exact_at(&mut block, SUPER_OFFSET as u64).is_ok() && image_bytes(&block) == Some(len)
}
