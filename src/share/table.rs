// SPDX-License-Identifier: Apache-2.0
//! What the guest holds: places in the tree, by node number, and open files, by handle. Both
//! are numbers of the guest's, so both are looked up and never trusted; both are bounded.

use rustix::fs::{AtFlags, FileType, Stat, statat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

pub const ROOT: u64 = 1;
/// Open files and directories of one guest. What is beyond would be descriptors of the
/// host's kernel that a guest makes it keep.
const MAX_HANDLES: usize = 4096;
/// Places of one guest, however many descriptors this process may have.
const MAX_NODES: usize = 1 << 19;
/// Descriptors for all else.
const RESERVED: usize = 64;

type Result<T> = std::result::Result<T, Errno>;
/// Device and inode number: what makes two names one file.
type Key = (u64, u64);

pub struct Node {
    /// Opened with O_PATH: a place, and no way to its bytes.
    pub fd: OwnedFd,
    pub kind: FileType,
    key: Key,
    /// How often the guest was told of it, and has not forgotten it yet.
    lookups: u64,
}

pub struct Table {
    nodes: HashMap<u64, Node>,
    by_key: HashMap<Key, u64>,
    handles: HashMap<u64, File>,
    next: u64,
    most_nodes: usize,
    most_handles: usize,
}

pub fn stat(fd: &OwnedFd) -> Result<Stat> {
    statat(fd, "", AtFlags::EMPTY_PATH)
}

impl Table {
    /// `descriptors` is how many this process may have.
    pub fn new(root: OwnedFd, descriptors: u64) -> io::Result<Self> {
        let all = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let all = all.saturating_sub(RESERVED);
        let most_handles = MAX_HANDLES.min(all / 2);
        let mut table = Self {
            nodes: HashMap::new(),
            by_key: HashMap::new(),
            handles: HashMap::new(),
            next: ROOT,
            most_nodes: MAX_NODES.min(all - most_handles),
            most_handles,
        };
        let stat = stat(&root)?;
        table.keep(root, &stat)?;
        Ok(table)
    }

    pub fn node(&self, number: u64) -> Result<&Node> {
        self.nodes.get(&number).ok_or(Errno::STALE)
    }

    /// The number the guest knows a place by, from now on once more.
    pub fn keep(&mut self, fd: OwnedFd, stat: &Stat) -> Result<u64> {
        let key = (stat.st_dev, stat.st_ino);
        if let Some(&number) = self.by_key.get(&key)
            && let Some(node) = self.nodes.get_mut(&number)
        {
            node.lookups = node.lookups.saturating_add(1);
            return Ok(number);
        }
        if self.nodes.len() >= self.most_nodes {
            return Err(Errno::NFILE);
        }
        let number = self.fresh();
        let node = Node {
            fd,
            kind: FileType::from_raw_mode(stat.st_mode),
            key,
            lookups: 1,
        };
        self.nodes.insert(number, node);
        self.by_key.insert(key, number);
        Ok(number)
    }

    pub fn forget(&mut self, number: u64, count: u64) {
        let Some(node) = self.nodes.get_mut(&number) else {
            return;
        };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0 && number != ROOT {
            let key = node.key;
            self.nodes.remove(&number);
            self.by_key.remove(&key);
        }
    }

    pub fn open(&mut self, file: File) -> Result<u64> {
        if self.handles.len() >= self.most_handles {
            return Err(Errno::NFILE);
        }
        let handle = self.fresh();
        self.handles.insert(handle, file);
        Ok(handle)
    }

    pub fn handle(&self, number: u64) -> Result<&File> {
        self.handles.get(&number).ok_or(Errno::BADF)
    }

    pub fn close(&mut self, number: u64) {
        self.handles.remove(&number);
    }

    /// The guest starts over: all but the root is forgotten.
    pub fn clear(&mut self) {
        self.handles.clear();
        self.nodes.retain(|&number, _| number == ROOT);
        self.by_key.retain(|_, number| *number == ROOT);
    }

    /// Never given before: a number of a guest that is gone means nothing. At one a
    /// nanosecond it would end in five centuries.
    fn fresh(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }
}
