// SPDX-License-Identifier: Apache-2.0
//! One directory of the host after the other, put into a tree.
//!
//! Runs on the thread that opens an image. Each is opened from the root by
//! [`Directory::open_below`], and its entries are asked after by their names in it; nothing is
//! followed, and what was one thing a moment ago and is another now is an error that says so.

use super::dir::{Directory, MOUNT, SOCKET, Scan};
use super::{Moment, stamp, wants_xattr};
use crate::image::error::ImageError;
use crate::image::tree::{Data, Kind, MAX_PATH, MAX_XATTRS, Meta, Node, NodeId, Refused, Xattr};
use rustix::fs::{AtFlags, Dir, FileType, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};

pub struct Walk<'a> {
    pub source: &'a Directory,
    pub xattrs: bool,
    pub digest: Sha256,
    /// Files with several names, by device and inode.
    pub links: HashMap<(u64, u64), NodeId>,
    pub pending: Vec<(NodeId, Vec<u8>)>,
    pub scan: Scan,
}

impl Walk<'_> {
    pub fn directory(&mut self, id: NodeId, path: &[u8]) -> Result<(), ImageError> {
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

pub fn meta(stat: &Stat) -> Meta {
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
