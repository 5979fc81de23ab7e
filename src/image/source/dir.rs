// SPDX-License-Identifier: Apache-2.0
//! A directory of the host as a tree.
//!
//! Runs on the thread that opens an image. Everything is reached from one descriptor of
//! the root with openat2, which follows no symbolic link and leaves neither the root nor
//! its mount, so whoever writes there meanwhile cannot lead the walk elsewhere. It never
//! changes anything there, access times included where the kernel lets it.

use super::{Moment, stamp, wants_xattr};
use crate::image::erofs::{Contents, Opened};
use crate::image::error::{ImageError, Misread};
use crate::image::tree::{
    Data, Extent, Kind, MAX_PATH, MAX_XATTRS, Meta, Node, NodeId, Refused, Tree, Xattr,
};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
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

const SOCKET: &str = "a socket means nothing without the process that listens";
const MOUNT: &str = "another file system is mounted there";

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

    fn open_below(
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

    fn full(&self, below: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(below))
    }

    /// What was there a moment ago is not, or is something else.
    fn moved(&self, below: &[u8], errno: Errno) -> ImageError {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => ImageError::Changing {
                path: self.full(below),
            },
            errno => ImageError::io("read", &self.full(below), errno),
        }
    }
}

struct Walk<'a> {
    source: &'a Directory,
    xattrs: bool,
    digest: Sha256,
    /// Files with several names, by device and inode.
    links: HashMap<(u64, u64), NodeId>,
    pending: Vec<(NodeId, Vec<u8>)>,
    scan: Scan,
}

impl Walk<'_> {
    fn directory(&mut self, id: NodeId, path: &[u8]) -> Result<(), ImageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = match self.source.open_below(path, flags, ResolveFlags::NO_XDEV) {
            Ok(directory) => directory,
            Err(Errno::XDEV) => {
                self.scan.skipped.push((self.source.full(path), MOUNT));
                return Ok(());
            }
            Err(errno) => return Err(self.source.moved(path, errno)),
        };
        if id == NodeId::ROOT {
            self.read_xattrs(id, &directory, c".", path)?;
        }
        let mut names = self.names(&directory, path)?;
        // The order of readdir is the file system's affair; the digest's must be ours.
        names.sort_unstable();
        for name in names {
            self.entry(id, &directory, path, name)?;
        }
        Ok(())
    }

    fn names(&self, directory: &OwnedFd, path: &[u8]) -> Result<Vec<CString>, ImageError> {
        let failed = |errno| ImageError::io("read", &self.source.full(path), errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name.to_owned());
            }
            if names.len() > crate::image::tree::MAX_ENTRIES {
                return Err(self.refused(path, Refused::Entries));
            }
        }
        Ok(names)
    }

    fn entry(
        &mut self,
        parent: NodeId,
        directory: &OwnedFd,
        above: &[u8],
        name: CString,
    ) -> Result<(), ImageError> {
        let path = join(above, name.to_bytes());
        if path.len() > MAX_PATH {
            return Err(ImageError::io(
                "read",
                &self.source.full(&path),
                Errno::NAMETOOLONG,
            ));
        }
        let stat = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.source.moved(&path, errno))?;
        let changed = Moment::changed(&stat);
        self.scan.newest = self.scan.newest.max(changed);
        self.digest.update((path.len() as u64).to_le_bytes());
        self.digest.update(&path);
        self.digest.update(stamp(&stat));

        let identity = (stat.st_dev, stat.st_ino);
        if let Some(&known) = self.links.get(&identity) {
            let linked = self.scan.tree.link(parent, name.to_bytes(), known);
            return linked.map_err(|refused| self.refused(&path, refused));
        }
        let Some(kind) = self.kind(directory, &name, &path, &stat)? else {
            self.scan.skipped.push((self.source.full(&path), SOCKET));
            return Ok(());
        };
        let is_directory = matches!(kind, Kind::Directory { .. });
        let node = Node {
            meta: meta(&stat),
            xattrs: Box::default(),
            kind,
        };
        let added = self.scan.tree.add(parent, name.to_bytes(), node);
        let id = added.map_err(|refused| self.refused(&path, refused))?;
        self.read_xattrs(id, directory, &name, &path)?;
        if is_directory {
            self.pending.push((id, path));
        } else if stat.st_nlink > 1 {
            self.links.insert(identity, id);
        }
        Ok(())
    }

    /// Nothing for a socket.
    fn kind(
        &mut self,
        directory: &OwnedFd,
        name: &CString,
        path: &[u8],
        stat: &Stat,
    ) -> Result<Option<Kind>, ImageError> {
        let (major, minor) = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::directory(),
            FileType::RegularFile => Kind::File {
                len: stat.st_size.cast_unsigned(),
                data: Data::Host {
                    path: path.into(),
                    dev: stat.st_dev,
                    ino: stat.st_ino,
                },
            },
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())
                    .map_err(|errno| self.source.moved(path, errno))?;
                self.digest
                    .update((target.to_bytes().len() as u64).to_le_bytes());
                self.digest.update(target.to_bytes());
                Kind::Symlink(target.into_bytes().into())
            }
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket | FileType::Unknown => return Ok(None),
        }))
    }

    /// By way of /proc, because no call takes a directory's descriptor and a name, and a
    /// device or a link cannot be opened for it. The last component is not followed.
    fn read_xattrs(
        &mut self,
        id: NodeId,
        directory: &OwnedFd,
        name: &std::ffi::CStr,
        path: &[u8],
    ) -> Result<(), ImageError> {
        if !self.xattrs {
            return Ok(());
        }
        let here = format!("/proc/self/fd/{}/", directory.as_raw_fd());
        let place = [here.as_bytes(), name.to_bytes()].concat();
        let xattrs = xattrs(&place).map_err(|errno| {
            ImageError::io("read the attributes of", &self.source.full(path), errno)
        })?;
        if xattrs.is_empty() {
            return Ok(());
        }
        let set = self.scan.tree.set_xattrs(id, xattrs.into());
        set.map_err(|refused| self.refused(path, refused))
    }

    fn refused(&self, path: &[u8], source: Refused) -> ImageError {
        ImageError::Entry {
            path: self.source.full(path),
            source,
        }
    }
}

fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() {
        return name.to_vec();
    }
    [above, b"/", name].concat()
}

fn meta(stat: &Stat) -> Meta {
    let modified = Moment::modified(stat);
    let mode = stat.st_mode & 0o7777;
    Meta {
        mode: u16::try_from(mode).expect("twelve bits"),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: modified.seconds,
        mtime_nsec: modified.nanoseconds,
    }
}

fn xattrs(place: &[u8]) -> Result<Vec<Xattr>, Errno> {
    let mut list = [0; 1024];
    let names = match rustix::fs::llistxattr(place, &mut list) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(len) => list[..len].to_vec(),
        Err(Errno::RANGE) => {
            let mut list = vec![0; MAX_XATTRS];
            let len = rustix::fs::llistxattr(place, &mut list)?;
            list.truncate(len);
            list
        }
        Err(errno) => return Err(errno),
    };
    let mut found = Vec::new();
    let mut value = vec![0; MAX_XATTRS];
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| wants_xattr(name))
    {
        match rustix::fs::lgetxattr(place, name, &mut value) {
            Ok(len) => found.push(Xattr {
                name: name.into(),
                value: value[..len].into(),
            }),
            // Removed since: the next walk sees that the entry changed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
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
