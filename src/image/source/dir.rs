// SPDX-License-Identifier: Apache-2.0
//! A directory of the host as a tree.
//!
//! Runs on the thread that opens an image. Everything is reached from one descriptor of
//! the root with openat2, which follows no symbolic link and leaves neither the root nor
//! its mount, so whoever writes there meanwhile cannot lead the walk elsewhere. It never
//! changes anything there, access times included where the kernel lets it.

use super::walk::{Walk, meta};
use super::{Moment, stamp};
use crate::image::erofs::{Contents, Opened};
use crate::image::error::{ImageError, Misread};
use crate::image::tree::{Data, Extent, NodeId, Tree};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Directory {
    root: OwnedFd,
    path: PathBuf,
}

/// What a walk found.
pub struct Scan {
    pub tree: Tree,
    /// Over the stamp, name and link target of every entry.
    pub digest: [u8; 32],
    /// When the last change of any entry was.
    pub newest: Moment,
    /// Left out, and why.
    pub skipped: Vec<(PathBuf, &'static str)>,
}

pub const SOCKET: &str = "a socket means nothing without the process that listens";
pub const MOUNT: &str = "another file system is mounted there";

impl Directory {
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let misread = |problem| ImageError::Reference {
            reference: path.to_owned(),
            problem,
        };
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => misread(Misread::Absent),
            Errno::NOTDIR => misread(Misread::NotDirectory),
            errno => ImageError::io("read", path, errno),
        })?;
        Ok(Self {
            root,
            path: path.to_owned(),
        })
    }

    /// Walks the directory. Attributes cost a call for each entry and are only read for
    /// an image that is going to be written; a change of theirs changes the digest anyway.
    pub fn scan(&self, xattrs: bool) -> Result<Scan, ImageError> {
        let stat = rustix::fs::fstat(&self.root)
            .map_err(|errno| ImageError::io("read", &self.path, errno))?;
        let mut walk = Walk {
            source: self,
            xattrs,
            digest: Sha256::new(),
            links: HashMap::new(),
            pending: vec![(NodeId::ROOT, Vec::new())],
            scan: Scan {
                tree: Tree::new(meta(&stat)),
                digest: [0; 32],
                newest: Moment::changed(&stat),
                skipped: Vec::new(),
            },
        };
        walk.digest.update(stamp(&stat));
        while let Some((id, path)) = walk.pending.pop() {
            walk.directory(id, &path)?;
        }
        walk.scan.digest = walk.digest.finalize().into();
        Ok(walk.scan)
    }

    pub(super) fn open_below(
        &self,
        path: &[u8],
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let mut flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME;
        let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // A rename somewhere disturbed the walk of the path: the kernel asks to retry.
                Err(Errno::AGAIN) => {}
                // Only an owner may leave the access time alone.
                Err(Errno::PERM) if flags.contains(OFlags::NOATIME) => {
                    flags.remove(OFlags::NOATIME);
                }
                other => return other,
            }
        }
    }

    pub(super) fn full(&self, below: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(below))
    }

    /// What was there a moment ago is not, or is something else.
    pub(super) fn moved(&self, below: &[u8], errno: Errno) -> ImageError {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => ImageError::Changing {
                path: self.full(below),
            },
            errno => ImageError::io("read", &self.full(below), errno),
        }
    }
}

impl Contents for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, data: &Data, len: u64) -> Result<Opened, ImageError> {
        let Data::Host { path, dev, ino } = data else {
            unreachable!("a directory's tree holds files of the host only");
        };
        // NONBLOCK: what has become a FIFO meanwhile must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self
            .open_below(path, flags, ResolveFlags::empty())
            .map_err(|errno| self.moved(path, errno))?;
        let failed = |errno| ImageError::io("read", &self.full(path), errno);
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        let same = (stat.st_dev, stat.st_ino, stat.st_size.cast_unsigned()) == (*dev, *ino, len)
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !same {
            return Err(ImageError::Changing {
                path: self.full(path),
            });
        }
        let allocated = u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512);
        let extents = if allocated < len {
            data_extents(&file, len).map_err(failed)?
        } else {
            vec![whole(len)]
        };
        Ok(Opened {
            file: Arc::new(File::from(file)),
            extents,
            path: self.full(path),
        })
    }
}

fn whole(len: u64) -> Extent {
    Extent {
        at: 0,
        from: 0,
        len,
    }
}

/// Most pieces a file of the host is read in; a file with more holes is read as one, its
/// holes as zeros. Keeps a file of alternate blocks from filling the memory.
const MAX_PIECES: usize = 1 << 16;

fn data_extents(file: &OwnedFd, len: u64) -> Result<Vec<Extent>, Errno> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < len {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(Errno::INVAL) => return Ok(vec![whole(len)]),
            Err(errno) => return Err(errno),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(len);
        if start >= end {
            break;
        }
        extents.push(Extent {
            at: start,
            from: start,
            len: end - start,
        });
        if extents.len() > MAX_PIECES {
            return Ok(vec![whole(len)]);
        }
        at = end;
    }
    Ok(extents)
}
