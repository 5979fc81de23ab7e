// SPDX-License-Identifier: Apache-2.0
//! Hostile images unpacked on the host: the tree holds what the image says and nothing that
//! another user of the host could use, and nothing beside it was touched.

use super::Place;
use super::made::{Made, base};
use super::tar::Tar;
use crate::image::{ImageError, RootFs, extract};
use std::fs::Permissions;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A tree in a folder of its own; beside it a directory that nothing may change.
struct Unpacked {
    folder: TempDir,
    made: Result<(), ImageError>,
}

impl Unpacked {
    fn of(image: &RootFs) -> Self {
        let folder = private();
        std::fs::create_dir(folder.path().join("beside")).unwrap();
        std::fs::write(folder.path().join("beside/file"), b"ours").unwrap();
        let made = extract(image, &folder.path().join("tree"));
        let beside = std::fs::read_dir(folder.path().join("beside")).unwrap();
        assert_eq!(beside.count(), 1);
        let file = std::fs::symlink_metadata(folder.path().join("beside/file")).unwrap();
        assert_eq!((file.nlink(), file.len()), (1, 4));
        assert_eq!(file.uid(), rustix::process::geteuid().as_raw());
        let entries = std::fs::read_dir(folder.path()).unwrap();
        assert!(entries.count() <= 2, "something lies beside the tree");
        Self { folder, made }
    }

    fn layers(layers: impl IntoIterator<Item = Tar>) -> Self {
        let unpacked = Self::of(&Made::of(layers).open().unwrap());
        unpacked.made.as_ref().unwrap();
        unpacked
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("tree").join(name)
    }

    fn mode(&self, name: &str) -> u32 {
        std::fs::symlink_metadata(self.path(name)).unwrap().mode() & 0o7777
    }

    fn names(&self) -> Vec<String> {
        fn look(root: &Path, folder: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap();
                found.push(name.to_str().unwrap().to_owned());
                if path.symlink_metadata().unwrap().is_dir() {
                    look(root, &path, found);
                }
            }
        }
        let mut found = Vec::new();
        look(&self.path(""), &self.path(""), &mut found);
        found.sort();
        found
    }
}

fn private() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    folder
}

#[test]
fn setuid_files_are_made_where_nobody_else_may_enter() {
    let program = Tar::default()
        .raw(b'0', b"su", 3, |header| header.set_mode(0o6755))
        .data(b"#!x");
    let image = Made::of([program]).open().unwrap();
    let unpacked = Unpacked::of(&image);
    assert_eq!(unpacked.mode("su"), 0o6755);
    for mode in [0o755, 0o701, 0o770] {
        let folder = TempDir::new().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        let refused = extract(&image, &folder.path().join("tree")).unwrap_err();
        let ImageError::Io { source, .. } = refused else {
            panic!("{refused}");
        };
        assert!(source.to_string().contains("other users"), "{source}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn no_device_of_an_image_is_a_device_of_the_host() {
    let node = |kind, name: &str| {
        Tar::default().raw(kind, name.as_bytes(), 0, |header| header.set_mode(0o666))
    };
    let mut layer = node(b'3', "null");
    layer.0.extend(node(b'4', "disk").0);
    layer = layer.link(b'1', "again", "null");
    layer.0.extend(node(b'6', "pipe").0);
    let unpacked = Unpacked::layers([layer.file("file", b"")]);
    assert_eq!(unpacked.names(), ["file", "pipe"]);
    let pipe = std::fs::symlink_metadata(unpacked.path("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo());
}

#[test]
fn capabilities_of_files_stay_in_the_image() {
    // Of a version 2, CAP_SYS_ADMIN permitted (linux/capability.h).
    let value = b"\x01\0\0\x02\0\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut record = b"SCHILY.xattr.security.capability=".to_vec();
    record.extend(value);
    record.push(b'\n');
    let len = record.len() + 3;
    let record = [format!("{len} ").as_bytes(), &record].concat();
    assert_eq!(record.len(), len);
    let layer = Tar::default().long(b'x', &record).file("program", b"x");
    let made = Made::of([layer]);
    let entries = made.entries();
    let kept = &entries[&b"program"[..]].xattrs;
    assert!(!kept.is_empty(), "the image itself keeps them");
    let unpacked = Unpacked::of(&made.open().unwrap());
    unpacked.made.as_ref().unwrap();
    let mut names = [0; 256];
    let len = rustix::fs::llistxattr(unpacked.path("program"), &mut names[..]).unwrap();
    let names = String::from_utf8_lossy(&names[..len]).into_owned();
    assert!(!names.contains("capability"), "{names}");
}

#[test]
fn links_lead_out_of_the_tree_and_nothing_goes_that_way() {
    let beside = "../beside";
    let layers = [
        Tar::default()
            .link(b'2', "out", beside)
            .link(b'2', "root", "/")
            .link(b'2', "up/down", "../../beside/file"),
        // Through the links: into the tree, as in a machine whose root it is.
        Tar::default()
            .file("out/file", b"theirs")
            .file("root/etc/passwd", b"theirs")
            .link(b'1', "again", "up/down")
            .link(b'1', "third", "out"),
        Tar::default().file("out/.wh.nothing", b""),
    ];
    let unpacked = Unpacked::layers(layers);
    let read = |name: &str| std::fs::read(unpacked.path(name)).unwrap();
    assert_eq!(read("etc/passwd"), b"theirs");
    assert_eq!(read("beside/file"), b"theirs");
    let target = |name: &str| std::fs::read_link(unpacked.path(name)).unwrap();
    assert_eq!(target("out"), Path::new(beside));
    assert_eq!(target("third"), Path::new(beside));
    assert_eq!(target("again"), Path::new("../../beside/file"));
    let inode = |name: &str| {
        let meta = std::fs::symlink_metadata(unpacked.path(name)).unwrap();
        (meta.ino(), meta.nlink(), meta.mode() & 0o170_000)
    };
    assert_eq!(inode("again"), inode("up/down"));
    assert_eq!(inode("again").1, 2);
}

#[test]
fn names_that_lead_up_are_refused_before_anything_is_unpacked() {
    for name in ["../beside/new", "a/../../beside/new", ".."] {
        let made = Made::of([Tar::default().file(name, b"x")]);
        assert!(made.open().is_err(), "{name}");
    }
    for target in ["../beside/file", "/beside/../../beside/file"] {
        let made = Made::of([Tar::default().link(b'1', "again", target)]);
        assert!(made.open().is_err(), "{target}");
    }
}

#[test]
fn what_a_layer_takes_away_is_not_unpacked() {
    let layers = [
        base(),
        Tar::default()
            .file("d/.wh.a", b"")
            .file("d/new", b"n")
            .file(".wh.f", b""),
        Tar::default().file("d/sub/.wh..wh..opq", b""),
    ];
    let unpacked = Unpacked::layers(layers);
    assert_eq!(unpacked.names(), ["d", "d/b", "d/new", "d/sub", "link"]);
}

#[test]
fn terabytes_of_nothing_cost_nothing() {
    let place = Place::new();
    let path = place.source.path().join("holes");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"middle", 3 << 30).unwrap();
    file.write_all_at(b"end", (1 << 40) - 3).unwrap();
    let image = place.directory().unwrap();
    let began = Instant::now();
    let unpacked = Unpacked::of(&image);
    unpacked.made.as_ref().unwrap();
    assert!(began.elapsed() < Duration::from_secs(60));
    let file = std::fs::File::open(unpacked.path("holes")).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 40);
    assert!(meta.blocks() * 512 < 8 << 20, "{} blocks", meta.blocks());
    let mut found = [0; 6];
    file.read_exact_at(&mut found, 3 << 30).unwrap();
    assert_eq!(&found, b"middle");
    file.read_exact_at(&mut found[..3], (1 << 40) - 3).unwrap();
    assert_eq!(&found[..3], b"end");
}
