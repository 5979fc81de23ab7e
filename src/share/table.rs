// SPDX-License-Identifier: Apache-2.0
//! What the guest holds: places in the tree, by node number, and open files, by handle. Both
//! are numbers of the guest's, so both are looked up and never trusted; both are bounded.
//!
//! A guest may hold more places than this process may have descriptors. Those beyond are
//! remembered by directory and name, and found again when they are asked for: what is found
//! must be the same file, or the place is stale. The share's one thread.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags};
use rustix::fs::{openat2, statat, statx};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

pub const ROOT: u64 = 1;
/// Open files and directories of one guest. What is beyond would be descriptors of the
/// host's kernel that a guest makes it keep.
const MAX_HANDLES: usize = 4096;
/// Places of one guest, open or not: some 200 bytes each, which a guest makes us keep.
const MAX_NODES: usize = 1 << 19;
/// Descriptors for all else.
const RESERVED: usize = 64;
/// Directories on the way to a place that is to be found again. A longer way is one that a
/// guest made of directories which the host moves about, and may have no end.
const MAX_DEPTH: usize = 4096;

pub(super) type Result<T> = std::result::Result<T, Errno>;
/// Device and inode number: what makes two names one file.
pub(super) type Key = (u64, u64);

pub(super) struct Node {
    /// Opened with O_PATH: a place, and no way to its bytes. None: to be found again by name.
    pub(super) fd: Option<Arc<OwnedFd>>,
    pub(super) kind: FileType,
    pub(super) key: Key,
    /// When the file was made, of a place that a saved machine held and this one has not
    /// found yet: numbers of files that are gone are given again.
    pub(super) born: Option<Born>,
    /// The directory it was last seen in, and as what. None: its name was removed, so that
    /// the descriptor is all there is of it.
    pub(super) name: Option<(u64, OsString)>,
    /// How often the guest was told of it, and has not forgotten it yet.
    pub(super) lookups: u64,
}

/// An open file or directory.
pub(super) struct Handle {
    /// None: what a saved machine had open is gone, or another file now.
    pub(super) file: Option<Arc<File>>,
    /// Its place, and how it was opened.
    pub(super) node: u64,
    pub(super) access: OFlags,
}

pub struct Table {
    pub(super) nodes: HashMap<u64, Node>,
    pub(super) by_key: HashMap<Key, u64>,
    pub(super) handles: HashMap<u64, Handle>,
    pub(super) next: u64,
    /// Nodes with a descriptor now, and how many may be.
    open: usize,
    most_open: usize,
    pub(super) most_nodes: usize,
    pub(super) most_handles: usize,
}

/// Seconds and nanoseconds.
pub(super) type Born = (i64, u32);

/// When a file was made, where its file system knows.
pub(super) fn born(fd: impl AsFd) -> Option<Born> {
    let stat = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    told.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
}

pub fn stat(fd: impl AsFd) -> Result<Stat> {
    statat(fd, "", AtFlags::EMPTY_PATH)
}

/// The place `name` in the directory `parent`; no link is followed on the way to it.
pub fn below(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(parent, name, flags, Mode::empty(), resolve)
}

fn key(stat: &Stat) -> Key {
    (stat.st_dev, stat.st_ino)
}

impl Node {
    /// Whether what was found is this file, and no other that has its number.
    fn is(&self, found: impl AsFd, stat: &Stat) -> bool {
        self.key == key(stat)
            && self.kind == FileType::from_raw_mode(stat.st_mode)
            && self.born.is_none_or(|known| born(found) == Some(known))
    }
}

impl Table {
    /// `descriptors` is how many this process may have.
    pub fn new(root: OwnedFd, descriptors: u64) -> io::Result<Self> {
        Self::bounded(root, descriptors, MAX_NODES)
    }

    pub fn bounded(root: OwnedFd, descriptors: u64, most_nodes: usize) -> io::Result<Self> {
        let all = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let all = all.saturating_sub(RESERVED);
        let most_handles = MAX_HANDLES.min(all / 2);
        let stat = stat(&root)?;
        let node = Node {
            fd: Some(Arc::new(root)),
            kind: FileType::Directory,
            key: key(&stat),
            born: None,
            name: None,
            lookups: 1,
        };
        Ok(Self {
            by_key: HashMap::from([(node.key, ROOT)]),
            nodes: HashMap::from([(ROOT, node)]),
            handles: HashMap::new(),
            next: ROOT + 1,
            open: 1,
            most_open: (all - most_handles).max(2),
            most_nodes,
            most_handles,
        })
    }

    pub fn kind(&self, number: u64) -> Result<FileType> {
        self.nodes
            .get(&number)
            .map_or(Err(Errno::STALE), |node| Ok(node.kind))
    }

    /// A node's place.
    pub fn place(&mut self, number: u64) -> Result<Arc<OwnedFd>> {
        // Up to the first that is open, and down again.
        let mut way = Vec::new();
        let mut at = number;
        let mut fd = loop {
            let node = self.nodes.get(&at).ok_or(Errno::STALE)?;
            if let Some(fd) = &node.fd {
                break Arc::clone(fd);
            }
            let (parent, name) = node.name.as_ref().ok_or(Errno::STALE)?;
            if way.len() >= MAX_DEPTH {
                return Err(Errno::STALE);
            }
            way.push((at, name.clone()));
            at = *parent;
        };
        for (number, name) in way.into_iter().rev() {
            let found = below(&fd, &name).map_err(|errno| match errno {
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Errno::STALE,
                other => other,
            })?;
            let stat = stat(&found)?;
            fd = Arc::new(found);
            self.make_room()?;
            let node = self.nodes.get_mut(&number).ok_or(Errno::STALE)?;
            if !node.is(&fd, &stat) {
                return Err(Errno::STALE);
            }
            node.born = None;
            node.fd = Some(Arc::clone(&fd));
            self.open += 1;
        }
        Ok(fd)
    }

    /// The number the guest knows a place by, from now on once more.
    pub fn keep(&mut self, parent: u64, name: &OsStr, fd: OwnedFd, stat: &Stat) -> Result<u64> {
        let key = key(stat);
        let seen = Some((parent, name.to_owned()));
        let kind = FileType::from_raw_mode(stat.st_mode);
        // Else it is a new file with the number of one that is gone.
        if let Some(&number) = self.by_key.get(&key)
            && let Some(node) = self.nodes.get_mut(&number)
            && node.is(&fd, stat)
        {
            node.lookups = node.lookups.saturating_add(1);
            if number != ROOT {
                node.name = seen;
            }
            return Ok(number);
        }
        if self.nodes.len() >= self.most_nodes {
            return Err(Errno::NFILE);
        }
        self.make_room()?;
        let number = self.fresh();
        let node = Node {
            fd: Some(Arc::new(fd)),
            kind,
            key,
            born: None,
            name: seen,
            lookups: 1,
        };
        self.nodes.insert(number, node);
        self.by_key.insert(key, number);
        self.open += 1;
        Ok(number)
    }

    /// Closes half of the places that can be found again, if there is room for no more. What
    /// is asked for next is as likely among these as among others.
    fn make_room(&mut self) -> Result<()> {
        if self.open < self.most_open {
            return Ok(());
        }
        let mut spare = self.open.div_ceil(2);
        for node in self.nodes.values_mut() {
            if spare == 0 {
                break;
            }
            if node.name.is_some() && node.fd.take().is_some() {
                self.open -= 1;
                spare -= 1;
            }
        }
        match self.open < self.most_open {
            true => Ok(()),
            false => Err(Errno::NFILE),
        }
    }

    /// `name` in the directory `parent` is now what the guest knows already, if it does.
    pub fn moved(&mut self, parent: u64, name: &OsStr, to: &Stat) {
        if let Some(number) = self.by_key.get(&key(to)).filter(|number| **number != ROOT)
            && let Some(node) = self.nodes.get_mut(number)
        {
            node.name = Some((parent, name.to_owned()));
        }
    }

    /// The name is about to go: a place that was known by it stays open from now on.
    pub fn unnamed(&mut self, parent: u64, name: &OsStr) {
        let Ok(directory) = self.place(parent) else {
            return;
        };
        let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let known = stat.ok().and_then(|stat| self.by_key.get(&key(&stat)));
        let Some(&number) = known.filter(|number| **number != ROOT) else {
            return;
        };
        let place = self.place(number);
        if let (Ok(_), Some(node)) = (place, self.nodes.get_mut(&number)) {
            let same =
                |(at, known): &mut (u64, OsString)| (*at, known.as_os_str()) == (parent, name);
            node.name.take_if(same);
        }
    }

    pub fn forget(&mut self, number: u64, count: u64) {
        let Some(node) = self.nodes.get_mut(&number) else {
            return;
        };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0 && number != ROOT {
            let key = node.key;
            self.open -= usize::from(node.fd.is_some());
            self.nodes.remove(&number);
            if self.by_key.get(&key) == Some(&number) {
                self.by_key.remove(&key);
            }
        }
    }

    /// `file` was opened from `node`, with flags of which the access is remembered.
    pub fn open(&mut self, file: File, node: u64, flags: OFlags) -> Result<u64> {
        if self.handles.len() >= self.most_handles {
            return Err(Errno::NFILE);
        }
        let number = self.fresh();
        let handle = Handle {
            file: Some(Arc::new(file)),
            node,
            access: flags & (OFlags::ACCMODE | OFlags::DIRECTORY),
        };
        self.handles.insert(number, handle);
        Ok(number)
    }

    pub fn handle(&self, number: u64) -> Result<&Arc<File>> {
        let handle = self.handles.get(&number).ok_or(Errno::BADF)?;
        handle.file.as_ref().ok_or(Errno::STALE)
    }

    pub fn close(&mut self, number: u64) {
        self.handles.remove(&number);
    }

    /// The guest starts over: all but the root is forgotten.
    pub fn clear(&mut self) {
        self.handles.clear();
        self.nodes.retain(|&number, _| number == ROOT);
        self.by_key.retain(|_, number| *number == ROOT);
        self.open = 1;
    }

    /// Never given before: a number of a guest that is gone means nothing. At one a
    /// nanosecond it would end in five centuries.
    fn fresh(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }
}
