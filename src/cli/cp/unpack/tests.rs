// SPDX-License-Identifier: Apache-2.0
//! Streams a hostile guest might send, and what must not come of them.

use super::*;
use husk_protocol::archive::end;
use std::os::unix::fs::{MetadataExt as _, symlink};

struct Stream(Vec<u8>);

impl Stream {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn entry(mut self, name: &str, kind: Kind, link: &str, mode: u32, content: &[u8]) -> Self {
        Entry {
            name: name.into(),
            kind,
            mode,
            size: content.len() as u64,
            mtime: 1_000_000,
            link: link.into(),
        }
        .encode(&mut self.0);
        if kind == Kind::File {
            self.0.extend_from_slice(content);
            let padded = self.0.len() + padding(content.len() as u64);
            self.0.resize(padded, 0);
        }
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, Kind::File, "", 0o644, content.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(name, Kind::Directory, "", 0o755, b"")
    }

    fn link(self, name: &str, to: &str) -> Self {
        self.entry(name, Kind::Symlink, to, 0o777, b"")
    }

    /// As the content of a directory, which has the most freedom.
    fn into(self, to: &Path) -> Result<Vec<String>, Failure> {
        self.named(to, None)
    }

    fn named(mut self, to: &Path, name: Option<&str>) -> Result<Vec<String>, Failure> {
        end(&mut self.0);
        let target = Target::open(to, name.map(OsStr::new));
        unpack(&self.0[..], &target.expect("a target"))
    }
}

/// A folder with a destination in it and something beside it that must stay as it is.
fn world() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let (to, beside) = (folder.path().join("to"), folder.path().join("beside"));
    std::fs::create_dir(&to).expect("a folder");
    std::fs::create_dir(&beside).expect("a folder");
    std::fs::write(beside.join("file"), "mine").expect("a file");
    (folder, to, beside)
}

#[track_caller]
fn untouched(beside: &Path) {
    let names: Vec<_> = std::fs::read_dir(beside)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["file"]);
    let file = beside.join("file");
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "mine");
    assert_eq!(file.metadata().expect("a file").nlink(), 1);
}

#[test]
fn a_tree_arrives_with_its_modes_and_times() {
    let (_folder, to, _) = world();
    let skipped = Stream::new()
        .dir("d")
        .entry("d/ro", Kind::Directory, "", 0o500, b"")
        .entry("d/ro/f", Kind::File, "", 0o6755, b"content")
        .entry("d/hard", Kind::HardLink, "d/ro/f", 0, b"")
        .link("d/soft", "/etc/passwd")
        .into(&to)
        .expect("unpacked");
    assert!(skipped.is_empty(), "{skipped:?}");
    let meta = to.join("d/ro/f").metadata().expect("a file");
    assert_eq!(
        (meta.mode() & 0o7777, meta.mtime(), meta.nlink()),
        (0o755, 1_000_000, 2)
    );
    let dir = to.join("d/ro").metadata().expect("a directory");
    assert_eq!((dir.mode() & 0o7777, dir.mtime()), (0o500, 1_000_000));
    let soft = std::fs::read_link(to.join("d/soft")).expect("a link");
    assert_eq!(soft, Path::new("/etc/passwd"));
}

#[test]
fn the_destination_may_be_a_new_name() {
    let (_folder, to, _) = world();
    let name = to.join("new");
    Stream::new()
        .dir("d")
        .file("d/f", "x")
        .into(&name)
        .expect("unpacked");
    assert_eq!(
        std::fs::read_to_string(name.join("f")).expect("a file"),
        "x"
    );
    let name = to.join("other");
    Stream::new().file("f", "y").into(&name).expect("unpacked");
    assert_eq!(std::fs::read_to_string(&name).expect("a file"), "y");
    assert!(Target::open(&to.join("no/such"), None).is_err());
    assert!(Target::open(&to.join("slash/"), None).is_err());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let (_folder, to, beside) = world();
    let absolute = beside.join("abs").display().to_string();
    let skipped = Stream::new()
        .file("../beside/up", "x")
        .file(&absolute, "x")
        .dir("d")
        .file("d/../../beside/up", "x")
        .file("d/../x", "x")
        .dir("..")
        .dir("../beside/dir")
        .into(&to)
        .expect("unpacked");
    assert_eq!(skipped.len(), 6, "{skipped:?}");
    untouched(&beside);
    assert!(!to.join("x").exists());
}

#[test]
fn links_are_made_and_never_followed() {
    let (_folder, to, beside) = world();
    let skipped = Stream::new()
        .link("out", "../beside")
        .file("out/up", "x")
        .dir("out/dir")
        .dir("out")
        .link("file", "../beside/file")
        .file("file", "through")
        .entry("hard", Kind::HardLink, "out/file", 0, b"")
        .entry("hard2", Kind::HardLink, "../beside/file", 0, b"")
        .entry("hard3", Kind::HardLink, "/etc/passwd", 0, b"")
        .into(&to)
        .expect("unpacked");
    assert_eq!(skipped.len(), 6, "{skipped:?}");
    untouched(&beside);
    let file = to.join("file").symlink_metadata().expect("a file");
    assert!(file.is_file(), "it took the link's place");
}

/// Somebody who copies `log` into their home gets `log` there, and no `.profile`.
#[test]
fn a_guest_does_not_choose_what_it_is_called() {
    let (_folder, to, _) = world();
    std::fs::create_dir(to.join(".ssh")).expect("a folder");
    std::fs::write(to.join(".profile"), "mine").expect("a file");
    Stream::new()
        .dir("log")
        .file("log/ok", "x")
        .entry(".ssh", Kind::Directory, "", 0o777, b"")
        .file(".ssh/authorized_keys", "x")
        .named(&to, Some("log"))
        .expect("unpacked");
    let _ = Stream::new()
        .file(".profile", "x")
        .named(&to, Some("other"));
    assert!(!to.join(".ssh/authorized_keys").exists());
    assert_eq!(
        std::fs::read_to_string(to.join(".profile")).expect("a file"),
        "mine"
    );
    assert!(to.join("log/ok").exists() && to.join("other").is_file());
}

/// A directory that was there keeps its mode: a guest opens nobody's to all.
#[test]
fn directories_that_were_there_stay_as_they_are() {
    let (_folder, to, _) = world();
    let mine = to.join("mine");
    std::fs::create_dir(&mine).expect("a folder");
    let before = mine.metadata().expect("a folder").mode();
    Stream::new()
        .entry("mine", Kind::Directory, "", 0o777, b"")
        .file("mine/x", "x")
        .into(&to)
        .expect("unpacked");
    assert_eq!(mine.metadata().expect("a folder").mode(), before);
}

/// A link of the operator's own within the destination is no way out for the guest either.
#[test]
fn what_is_already_there_is_no_way_out() {
    let (_folder, to, beside) = world();
    symlink(&beside, to.join("out")).expect("a link");
    std::fs::hard_link(beside.join("file"), to.join("same")).expect("a link");
    let skipped = Stream::new()
        .file("out/up", "x")
        .file("same", "new")
        .into(&to)
        .expect("unpacked");
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    untouched(&beside);
    assert_eq!(
        std::fs::read_to_string(to.join("same")).expect("a file"),
        "new"
    );
}

#[test]
fn devices_are_left_out_and_streams_that_break_off_told() {
    let (_folder, to, _) = world();
    // A fifo as tar has it, which `encode` does not make.
    let mut stream = Stream::new().file("pipe", "");
    stream.0[156] = b'6';
    let sum: u64 = stream.0[..BLOCK]
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            u64::from(if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            })
        })
        .sum();
    stream.0[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
    let skipped = stream.file("after", "x").into(&to).expect("unpacked");
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert!(to.join("after").exists() && !to.join("pipe").exists());

    let target = Target::open(&to, None).expect("a target");
    let cut = Stream::new().file("long", &"x".repeat(5000)).0;
    for at in [1, 511, 513, 4000] {
        assert!(unpack(&cut[..at], &target).is_err(), "{at}");
    }
    assert!(unpack(&[0xff; 4096][..], &target).is_err());
}

#[test]
fn what_is_remembered_of_directories_is_bounded() {
    let entry = Entry {
        name: Vec::new(),
        kind: Kind::Directory,
        mode: 0o755,
        size: 0,
        mtime: 0,
        link: Vec::new(),
    };
    // The deepest a name can be, with the shortest parts.
    let parts = vec![OsString::from("d"); MAX_DEPTH];
    let mut directories = Directories::default();
    let fits = (0..MAX_ENTRIES).find(|_| directories.remember(&parts, &entry).is_err());
    let fits = fits.expect("there is an end");
    assert!(fits > 50_000, "{fits}");
    let held: usize = directories
        .list
        .iter()
        .map(|(path, ..)| path.capacity())
        .sum();
    assert!(held < 2 * MAX_REMEMBERED, "{held}");
}
