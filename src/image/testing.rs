// SPDX-License-Identifier: Apache-2.0
//! For tests: a reader of EROFS images that shares no line with the writer, and the tools
//! of others that judge an image.
//!
//! It never repairs or skips: whatever is not as the format says panics.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests: a panic is the failure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

const BLOCK: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub nid: u64,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub links: u32,
    pub size: u64,
    pub rdev: u32,
    pub compact: bool,
    pub inline: bool,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub body: Body,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Body {
    #[default]
    None,
    /// Of files up to `MAX_BYTES`, and of symbolic links.
    Bytes(Vec<u8>),
    Large,
}

pub const MAX_BYTES: u64 = 1 << 20;

pub struct Image<'a> {
    file: &'a File,
    epoch: (i64, u32),
    blocks: u64,
    used: BTreeSet<u64>,
}

fn le(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u64::from(byte))
}

fn le32(bytes: &[u8]) -> u32 {
    u32::try_from(le(&bytes[..4])).unwrap()
}

fn le16(bytes: &[u8]) -> u16 {
    u16::try_from(le(&bytes[..2])).unwrap()
}

/// All entries by path, the root by the empty one.
pub fn read_image(file: &File) -> BTreeMap<Vec<u8>, Entry> {
    let mut first = vec![0; BLOCK];
    file.read_exact_at(&mut first, 0).unwrap();
    let sb = &first[1024..];
    assert_eq!(le32(sb), 0xe0f5_e1e2, "magic");
    assert_eq!((sb[12], sb[13]), (12, 0), "block size, no slots");
    assert_eq!(le32(&sb[80..]), 0, "no incompatible feature");
    assert_eq!(le32(&sb[4..]), checksum(&first), "checksum");
    let mut image = Image {
        file,
        epoch: (le(&sb[24..32]).cast_signed(), le32(&sb[32..])),
        blocks: u64::from(le32(&sb[36..])),
        used: BTreeSet::new(),
    };
    assert_eq!(file.metadata().unwrap().len(), image.blocks * 4096);
    let root = u64::from(le16(&sb[14..]));
    let mut found = BTreeMap::new();
    let mut pending = vec![(Vec::new(), root, root)];
    let mut nids = BTreeSet::new();
    while let Some((path, nid, parent)) = pending.pop() {
        let mut entry = image.inode(nid);
        let new = nids.insert(nid);
        let kind = entry.mode >> 12;
        if kind == 4 {
            assert!(new, "a directory has one name");
            let content = image.content(&entry, usize::MAX);
            let names = directory(&content, nid, parent);
            let below = names.iter().filter(|(_, _, kind)| *kind == 2).count();
            assert_eq!(entry.links as usize, below, "links of a directory");
            for (name, child, kind) in names {
                if name == b"." || name == b".." {
                    continue;
                }
                let path = if path.is_empty() {
                    name
                } else {
                    [&path[..], b"/", &name].concat()
                };
                let child_mode = image.inode(child).mode >> 12;
                let expected = [0, 8, 4, 2, 6, 1, 12, 10][usize::from(kind)];
                assert_eq!(child_mode, expected, "type of a directory entry");
                pending.push((path, child, nid));
            }
        } else if kind == 8 || kind == 10 {
            entry.body = if entry.size > MAX_BYTES {
                Body::Large
            } else {
                Body::Bytes(image.content(&entry, usize::MAX))
            };
        }
        if new {
            image.claim(&entry);
        }
        found.insert(path, entry);
    }
    assert_eq!(le(&sb[16..24]), nids.len() as u64, "inode count");
    found
}

fn checksum(first: &[u8]) -> u32 {
    let mut bytes = first[1024..].to_vec();
    bytes[4..8].fill(0);
    // A table for a change: the reader shall not fail as the writer does.
    let table: Vec<u32> = (0..256u32)
        .map(|n| {
            (0..8).fold(n, |c, _| {
                if c & 1 == 1 {
                    c >> 1 ^ 0x82f6_3b78
                } else {
                    c >> 1
                }
            })
        })
        .collect();
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        table[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8)
    })
}

impl Image<'_> {
    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn inode(&self, nid: u64) -> Entry {
        let at = nid * 32;
        let head = self.bytes(at, 32);
        let format = le16(&head);
        let layout = format >> 1;
        assert!(layout == 0 || layout == 2, "layout {layout}");
        let compact = format & 1 == 0;
        let size = if compact { 32 } else { 64 };
        assert!(at % 4096 + size <= 4096, "an inode crosses a block");
        let (xattrs, _) = self.xattrs(at + size, le16(&head[2..]));
        let mut entry = Entry {
            nid,
            mode: le16(&head[4..]),
            compact,
            inline: layout == 2,
            xattrs,
            rdev: le32(&head[16..]),
            ..Entry::default()
        };
        if compact {
            entry.links = le16(&head[6..]).into();
            entry.size = le32(&head[8..]).into();
            entry.uid = le16(&head[24..]).into();
            entry.gid = le16(&head[26..]).into();
            entry.mtime = self.epoch;
        } else {
            let rest = self.bytes(at, 64);
            entry.size = le(&rest[8..16]);
            entry.uid = le32(&rest[24..]);
            entry.gid = le32(&rest[28..]);
            entry.mtime = (le(&rest[32..40]).cast_signed(), le32(&rest[40..]));
            entry.links = le32(&rest[44..]);
        }
        entry
    }

    fn xattrs(&self, at: u64, count: u16) -> (BTreeMap<Vec<u8>, Vec<u8>>, u64) {
        let mut found = BTreeMap::new();
        if count == 0 {
            return (found, 0);
        }
        let len = 12 + 4 * (usize::from(count) - 1);
        let area = self.bytes(at, len);
        assert_eq!(area[..12], [0; 12], "filter, shared count, reserved");
        let mut rest = &area[12..];
        while !rest.is_empty() {
            let (name, index, value) =
                (usize::from(rest[0]), rest[1], usize::from(le16(&rest[2..])));
            let prefix: &[u8] = match index {
                1 => b"user.",
                2 => b"system.posix_acl_access",
                3 => b"system.posix_acl_default",
                4 => b"trusted.",
                6 => b"security.",
                other => panic!("name index {other}"),
            };
            let full = [prefix, &rest[4..4 + name]].concat();
            found.insert(full, rest[4 + name..4 + name + value].to_vec());
            rest = &rest[(4 + name + value).next_multiple_of(4)..];
        }
        (found, len as u64)
    }

    fn tail_at(&self, entry: &Entry) -> u64 {
        let at = entry.nid * 32;
        let count = le16(&self.bytes(at + 2, 2));
        let inode = if entry.compact { 32 } else { 64 };
        at + inode + self.xattrs(at + inode, count).1
    }

    fn content(&self, entry: &Entry, most: usize) -> Vec<u8> {
        let size = usize::try_from(entry.size).unwrap().min(most);
        let block = u64::from(entry.rdev);
        if !entry.inline {
            return self.bytes(block * 4096, size);
        }
        let tail = size % BLOCK;
        let at = self.tail_at(entry);
        assert!(
            tail > 0 && at as usize % BLOCK + tail <= BLOCK,
            "inline data crosses a block"
        );
        let mut content = self.bytes(block * 4096, size - tail);
        content.extend(self.bytes(at, tail));
        content
    }

    /// No block belongs to two inodes or lies outside.
    fn claim(&mut self, entry: &Entry) {
        if !matches!(entry.mode >> 12, 4 | 8 | 10) || entry.size > 1 << 30 {
            return;
        }
        let blocks = if entry.inline {
            entry.size / 4096
        } else {
            entry.size.div_ceil(4096)
        };
        for block in u64::from(entry.rdev)..u64::from(entry.rdev) + blocks {
            assert!(
                block < self.blocks && self.used.insert(block),
                "block {block} is taken"
            );
        }
    }
}

fn directory(content: &[u8], own: u64, parent: u64) -> Vec<(Vec<u8>, u64, u8)> {
    let mut names: Vec<(Vec<u8>, u64, u8)> = Vec::new();
    for block in content.chunks(BLOCK) {
        let first = usize::from(le16(&block[8..]));
        let count = first / 12;
        assert!(count > 0 && first % 12 == 0);
        for n in 0..count {
            let entry = &block[n * 12..];
            let start = usize::from(le16(&entry[8..]));
            let end = if n + 1 < count {
                usize::from(le16(&block[(n + 1) * 12 + 8..]))
            } else {
                let rest = &block[start..];
                start + rest.iter().position(|&b| b == 0).unwrap_or(rest.len())
            };
            let name = block[start..end].to_vec();
            assert!(!name.is_empty() && name.len() <= 255);
            names.push((name, le(&entry[..8]), entry[10]));
        }
    }
    assert!(
        names.is_sorted_by(|a, b| a.0 < b.0),
        "names in the order of bytes"
    );
    let nid_of = |wanted: &[u8]| names.iter().find(|(name, ..)| name == wanted).unwrap().1;
    assert_eq!((nid_of(b"."), nid_of(b"..")), (own, parent));
    names
}

/// Says what a test leaves out, past the capture of the test harness; where everything
/// must be tested, fails instead.
pub fn skip(what: &str) {
    assert!(std::env::var_os("HUSK_REQUIRE_TOOLS").is_none(), "{what}");
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("SKIPPED: {what}\n").as_bytes(),
    );
}

/// Runs a tool of erofs-utils; false, and aloud, if this host has none.
pub fn run_tool(tool: &str, arguments: &[&std::ffi::OsStr]) -> bool {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{tool}: {said}");
            true
        }
        Err(error) => {
            skip(&format!("{tool} did not judge the image: {error}"));
            false
        }
    }
}

pub fn fsck(path: &Path) {
    run_tool("fsck.erofs", &[path.as_os_str()]);
}
