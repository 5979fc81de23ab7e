// SPDX-License-Identifier: Apache-2.0
//! Trees nobody thought of, and what a reader must find of them in an image.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests: a panic is the failure"
)]

use super::{Contents, Opened, Output, write};
use crate::image::error::ImageError;
use crate::image::testing::{Body, Entry, fsck, read_image};
use crate::image::tree::{Data, Extent, Kind, Meta, Node, NodeId, Tree, Xattr};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

/// Files whose data is in one file of the host.
pub struct Pool(Arc<File>);

impl Contents for Pool {
    fn path(&self) -> &Path {
        Path::new("pool")
    }

    fn open(&self, data: &Data, _len: u64) -> Result<Opened, ImageError> {
        let Data::Archive { extents, .. } = data else {
            panic!("not of the pool");
        };
        Ok(Opened {
            file: Arc::clone(&self.0),
            extents: extents.to_vec(),
            path: "pool".into(),
        })
    }
}

pub const POOL: u64 = 1 << 20;

pub fn pool_byte(at: u64) -> u8 {
    (at % 251) as u8 + 1
}

pub fn pool() -> Pool {
    let mut file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..POOL).map(pool_byte).collect();
    file.write_all(&bytes).unwrap();
    Pool(Arc::new(file))
}

pub fn image(tree: &Tree) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = Output {
        file: file.as_file(),
        path: file.path(),
    };
    write(tree, &pool(), &output, &mut |done, total| {
        assert!(done <= total)
    })
    .unwrap();
    file
}

pub fn extent(at: u64, len: u64) -> Extent {
    Extent {
        at,
        from: at % 4093,
        len,
    }
}

pub fn file(len: u64, extents: Vec<Extent>) -> Kind {
    let extents = extents.into_iter().filter(|e| e.len > 0).collect();
    Kind::File {
        len,
        data: Data::Archive { layer: 0, extents },
    }
}

pub fn node(kind: Kind) -> Node {
    Node {
        meta: Meta {
            mode: 0o644,
            ..Meta::default()
        },
        xattrs: Box::default(),
        kind,
    }
}

#[derive(Clone, Debug)]
pub enum Step {
    Add(Vec<u8>, Node),
    Link(Vec<u8>, usize),
    Up,
}

pub fn any_meta() -> impl Strategy<Value = Meta> {
    let id = prop_oneof![0..=3u32, Just(65535), Just(65536), any::<u32>()];
    let times = prop_oneof![Just((7, 0)), (any::<i64>(), 0..1_000_000_000u32)];
    (0..=0o7777u16, id.clone(), id, times).prop_map(|(mode, uid, gid, (mtime, mtime_nsec))| Meta {
        mode,
        uid,
        gid,
        mtime,
        mtime_nsec,
    })
}

pub fn any_xattrs() -> impl Strategy<Value = Vec<Xattr>> {
    let name = prop_oneof![
        Just(b"security.capability".to_vec()),
        Just(b"system.posix_acl_access".to_vec()),
        Just(b"system.posix_acl_default".to_vec()),
        vec(b'a'..=b'z', 1..250).prop_map(|rest| [b"user.", &rest[..]].concat()),
        vec(b'a'..=b'z', 1..20).prop_map(|rest| [b"trusted.", &rest[..]].concat()),
    ];
    let value = prop_oneof![vec(any::<u8>(), 0..100), vec(any::<u8>(), 3000..9000)];
    let map = proptest::collection::btree_map(name, value, 0..4);
    let some = map.prop_map(|map| {
        let xattr = |(name, value): (Vec<u8>, Vec<u8>)| Xattr {
            name: name.into(),
            value: value.into(),
        };
        map.into_iter().map(xattr).collect()
    });
    prop_oneof![3 => Just(Vec::new()), 1 => some]
}

pub fn any_kind() -> impl Strategy<Value = Kind> {
    let len = prop_oneof![
        prop_oneof![
            Just(0u64),
            Just(1),
            Just(4031),
            Just(4032),
            Just(4033),
            Just(4064),
            Just(4065),
            Just(4095),
            Just(4096),
            Just(4097),
            Just(8192),
            Just(65536),
            Just(65537)
        ],
        0..10_000u64,
        60_000..600_000u64,
    ];
    let dense = len.clone().prop_map(|len| file(len, vec![extent(0, len)]));
    let holes = (len, vec((0..20_000u64, 0..90_000u64), 0..5)).prop_map(|(len, pieces)| {
        let (mut at, mut extents) = (0, Vec::new());
        for (gap, piece) in pieces {
            let start = (at + gap).min(len);
            let piece = piece.min(len - start);
            extents.push(extent(start, piece));
            at = start + piece;
        }
        file(len, extents)
    });
    prop_oneof![
        3 => Just(()).prop_map(|()| Kind::directory()),
        3 => dense,
        2 => holes,
        1 => vec(1..=255u8, 1..=4095).prop_map(|target| Kind::Symlink(target.into())),
        1 => vec(1..=255u8, 1..=40).prop_map(|target| Kind::Symlink(target.into())),
        1 => (0..4096u32, 0..1_048_576u32).prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
        1 => (0..4096u32, 0..1_048_576u32).prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
        1 => Just(Kind::Fifo),
    ]
}

pub fn any_step() -> impl Strategy<Value = Step> {
    let byte = any::<u8>().prop_map(|b| if b == 0 || b == b'/' { b'.' } else { b });
    let name = prop_oneof![4 => vec(byte.clone(), 1..12), 1 => vec(byte, 200..=255)]
        .prop_filter("a name", |name| name != b"." && name != b"..");
    let node = (any_meta(), any_xattrs(), any_kind()).prop_map(|(meta, xattrs, kind)| Node {
        meta,
        xattrs: xattrs.into(),
        kind,
    });
    prop_oneof![
        8 => (name.clone(), node).prop_map(|(name, node)| Step::Add(name, node)),
        1 => (name, any::<usize>()).prop_map(|(name, to)| Step::Link(name, to)),
        2 => Just(Step::Up),
    ]
}

/// A tree of the steps; directories are entered as they are made.
pub fn grow(steps: &[Step]) -> Tree {
    let mut tree = Tree::new(Meta {
        mode: 0o755,
        ..Meta::default()
    });
    let mut way = vec![NodeId::ROOT];
    let mut files = Vec::new();
    for step in steps {
        let here = *way.last().unwrap();
        match step {
            Step::Add(name, node) => {
                let id = tree.add(here, name, node.clone()).unwrap();
                match node.kind {
                    Kind::Directory { .. } => way.push(id),
                    _ => files.push(id),
                }
            }
            Step::Link(name, to) if !files.is_empty() => {
                tree.link(here, name, files[to % files.len()]).unwrap();
            }
            Step::Up if way.len() > 1 => {
                way.pop();
            }
            _ => {}
        }
    }
    tree
}

pub fn content(len: u64, extents: &[Extent]) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    for extent in extents {
        for n in 0..extent.len {
            bytes[(extent.at + n) as usize] = pool_byte(extent.from + n);
        }
    }
    bytes
}

/// What a reader should find, but for where it is.
pub fn expected(tree: &Tree) -> BTreeMap<Vec<u8>, (NodeId, Entry)> {
    let mut found = BTreeMap::new();
    let mut links: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut pending = vec![(Vec::new(), NodeId::ROOT)];
    while let Some((path, id)) = pending.pop() {
        *links.entry(id).or_default() += 1;
        let node = tree.node(id);
        let (kind, rdev, body) = match &node.kind {
            Kind::Directory { names, .. } => {
                for (name, &child) in names {
                    let path = if path.is_empty() {
                        name.to_vec()
                    } else {
                        [&path[..], b"/", name].concat()
                    };
                    pending.push((path, child));
                }
                (4, 0, Body::None)
            }
            Kind::File {
                len,
                data: Data::Archive { extents, .. },
            } => (8, 0, Body::Bytes(content(*len, extents))),
            Kind::File { .. } => panic!("not of the pool"),
            Kind::Symlink(target) => (10, 0, Body::Bytes(target.to_vec())),
            Kind::CharDevice { major, minor } => (2, libc::makedev(*major, *minor), Body::None),
            Kind::BlockDevice { major, minor } => (6, libc::makedev(*major, *minor), Body::None),
            Kind::Fifo => (1, 0, Body::None),
        };
        let entry = Entry {
            mode: kind << 12 | node.meta.mode,
            uid: node.meta.uid,
            gid: node.meta.gid,
            mtime: (node.meta.mtime, node.meta.mtime_nsec),
            rdev: rdev as u32,
            xattrs: node
                .xattrs
                .iter()
                .map(|x| (x.name.to_vec(), x.value.to_vec()))
                .collect(),
            body,
            ..Entry::default()
        };
        found.insert(path, (id, entry));
    }
    for (id, entry) in found.values_mut() {
        if entry.mode >> 12 != 4 {
            entry.links = links[id];
        }
    }
    found
}

pub fn check(tree: &Tree) {
    let file = image(tree);
    let mut found = read_image(file.as_file());
    let mut nids: BTreeMap<NodeId, u64> = BTreeMap::new();
    for (path, (id, wanted)) in expected(tree) {
        let mut entry = found.remove(&path).expect("every path is there");
        assert_eq!(
            *nids.entry(id).or_insert(entry.nid),
            entry.nid,
            "one inode per node"
        );
        let kind = entry.mode >> 12;
        // Of directories the reader itself checks the links; places are free.
        entry = Entry {
            nid: 0,
            size: 0,
            compact: false,
            inline: false,
            rdev: if matches!(kind, 2 | 6) { entry.rdev } else { 0 },
            links: if kind == 4 { 0 } else { entry.links },
            ..entry
        };
        assert_eq!(entry, wanted, "{path:?}");
    }
    assert!(found.is_empty(), "nothing else is there");
    fsck(file.path());
}
