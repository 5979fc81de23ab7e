// SPDX-License-Identifier: Apache-2.0
//! Images of trees nobody thought of, judged by a reader of our own and by erofs-utils.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests: a panic is the failure"
)]

use super::testing::{Step, any_step, check, extent, file, grow, image, node, pool};
use super::{Output, write};
use crate::image::error::ImageError;
use crate::image::testing::{Body, fsck, read_image};
use crate::image::tree::{Kind, MAX_DEPTH, Meta, NodeId, Tree};
use proptest::collection::vec;
use proptest::prelude::*;

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
