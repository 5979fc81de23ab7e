// SPDX-License-Identifier: Apache-2.0
//! Images of trees nobody thought of, judged by a reader of our own and by erofs-utils.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests: a panic is the failure"
)]

use super::{Contents, Opened, Output, write};
use crate::image::error::ImageError;
use crate::image::testing::{Body, Entry, fsck, read_image};
use crate::image::tree::{Data, Extent, Kind, MAX_DEPTH, Meta, Node, NodeId, Tree, Xattr};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

/// Files whose data is in one file of the host.
struct Pool(Arc<File>);

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

const POOL: u64 = 1 << 20;

fn pool_byte(at: u64) -> u8 {
    (at % 251) as u8 + 1
}

fn pool() -> Pool {
    let mut file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..POOL).map(pool_byte).collect();
    file.write_all(&bytes).unwrap();
    Pool(Arc::new(file))
}

fn image(tree: &Tree) -> tempfile::NamedTempFile {
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

fn extent(at: u64, len: u64) -> Extent {
    Extent {
        at,
        from: at % 4093,
        len,
    }
}

fn file(len: u64, extents: Vec<Extent>) -> Kind {
    let extents = extents.into_iter().filter(|e| e.len > 0).collect();
    Kind::File {
        len,
        data: Data::Archive { layer: 0, extents },
    }
}

fn node(kind: Kind) -> Node {
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
enum Step {
    Add(Vec<u8>, Node),
    Link(Vec<u8>, usize),
    Up,
}

fn any_meta() -> impl Strategy<Value = Meta> {
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

fn any_xattrs() -> impl Strategy<Value = Vec<Xattr>> {
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

fn any_kind() -> impl Strategy<Value = Kind> {
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

fn any_step() -> impl Strategy<Value = Step> {
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
fn grow(steps: &[Step]) -> Tree {
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

fn content(len: u64, extents: &[Extent]) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    for extent in extents {
        for n in 0..extent.len {
            bytes[(extent.at + n) as usize] = pool_byte(extent.from + n);
        }
    }
    bytes
}

/// What a reader should find, but for where it is.
fn expected(tree: &Tree) -> BTreeMap<Vec<u8>, (NodeId, Entry)> {
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

fn check(tree: &Tree) {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_reads_back(steps in vec(any_step(), 0..60)) {
        check(&grow(&steps));
    }
}

#[test]
fn ten_thousand_names_in_one_directory() {
    let mut tree = Tree::new(Meta::default());
    for n in 0..10_000 {
        let name = format!("{n:0width$}", width = 5 + n % 250);
        tree.add(NodeId::ROOT, name.as_bytes(), node(Kind::Fifo))
            .unwrap();
    }
    check(&tree);
}

fn deep(directories: usize) -> Tree {
    let mut tree = Tree::new(Meta::default());
    let mut here = NodeId::ROOT;
    for _ in 0..directories {
        here = tree.add(here, b"d", node(Kind::directory())).unwrap();
    }
    let five = file(5, vec![extent(0, 5)]);
    tree.add(here, b"f", node(five)).unwrap();
    tree
}

#[test]
fn a_hundred_directories_deep() {
    check(&deep(100));
}

#[test]
fn as_deep_as_a_tree_may_be() {
    // For our own reader only: fsck.erofs 1.5 overflows its stack at a thousand, also on
    // the images of its own mkfs.erofs.
    let tree = deep(usize::from(MAX_DEPTH) - 1);
    let file = image(&tree);
    assert_eq!(read_image(file.as_file()).len(), usize::from(MAX_DEPTH) + 1);
}

#[test]
fn names_before_the_dot_come_before_it() {
    let mut tree = Tree::new(Meta::default());
    for name in [
        &b"!"[..],
        b"+",
        b"-x",
        b".",
        b"..",
        b"...",
        b".a",
        b"/",
        b"0",
    ] {
        let _ = tree.add(NodeId::ROOT, name, node(Kind::Fifo));
    }
    assert_eq!(tree.names(NodeId::ROOT).unwrap().len(), 6);
    check(&tree);
}

#[test]
fn sixty_five_thousand_links_need_a_wide_count() {
    let mut tree = Tree::new(Meta::default());
    let id = tree.add(NodeId::ROOT, b"f", node(Kind::Fifo)).unwrap();
    for n in 0..65_536 {
        tree.link(NodeId::ROOT, format!("l{n}").as_bytes(), id)
            .unwrap();
    }
    let file = image(&tree);
    assert_eq!(read_image(file.as_file())[&b"f"[..]].links, 65_537);
    fsck(file.path());
}

#[test]
fn one_time_for_all_makes_small_inodes() {
    let mut tree = Tree::new(Meta {
        mtime: 9,
        ..Meta::default()
    });
    tree.add(NodeId::ROOT, b"f", node(file(5, vec![extent(0, 5)])))
        .unwrap();
    tree.add(NodeId::ROOT, b"g", node(Kind::Fifo)).unwrap();
    let file = image(&tree);
    let found = read_image(file.as_file());
    assert!(found[&b"f"[..]].compact && found[&b"g"[..]].compact && !found[&b""[..]].compact);
}

#[test]
fn a_terabyte_of_holes_takes_no_room() {
    use std::os::unix::fs::MetadataExt as _;
    let mut tree = Tree::new(Meta::default());
    let len = 1 << 40;
    tree.add(
        NodeId::ROOT,
        b"f",
        node(file(len, vec![extent(len - 5, 5)])),
    )
    .unwrap();
    let made = image(&tree);
    let metadata = made.as_file().metadata().unwrap();
    assert!(metadata.len() > len && metadata.blocks() * 512 < 1 << 20);
    let entry = &read_image(made.as_file())[&b"f"[..]];
    assert_eq!((entry.size, &entry.body), (len, &Body::Large));

    let mut tree = Tree::new(Meta::default());
    for n in 0..5 {
        tree.add(NodeId::ROOT, &[b'a' + n], node(file(len, vec![])))
            .unwrap();
    }
    let output = Output {
        file: made.as_file(),
        path: made.path(),
    };
    let error = write(&tree, &pool(), &output, &mut |_, _| {}).unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::TooLarge {
                limit: super::MAX_IMAGE,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let steps: Vec<_> = (0..50u8)
        .map(|n| {
            Step::Add(
                vec![b'a', n + 1],
                node(file(
                    u64::from(n) * 999,
                    vec![extent(0, u64::from(n) * 999)],
                )),
            )
        })
        .filter(|step| !matches!(step, Step::Add(name, _) if name[1] == b'/'))
        .collect();
    let read = |file: tempfile::NamedTempFile| std::fs::read(file.path()).unwrap();
    let (one, two) = (read(image(&grow(&steps))), read(image(&grow(&steps))));
    assert!(one == two);
    let other = read(image(&grow(&steps[1..])));
    assert_ne!(
        one[1024 + 48..1024 + 64],
        other[1024 + 48..1024 + 64],
        "another volume id"
    );
}
