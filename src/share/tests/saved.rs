// SPDX-License-Identifier: Apache-2.0
//! What a guest holds, carried from one server to another: the same files, or stale.

use super::*;
use crate::share::{EXPORT, IMPORT, MAX_TABLE};

impl Share {
    fn carry(&mut self, way: u32, room: usize, bytes: &[u8]) -> Vec<u8> {
        let room = u32::try_from(room).expect("small");
        self.stream.write_all(&way.to_le_bytes()).expect("sent");
        self.stream.write_all(&room.to_le_bytes()).expect("sent");
        self.stream.write_all(bytes).expect("sent");
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix).expect("an answer");
        let mut answer = vec![0; u32::from_le_bytes(prefix) as usize];
        self.stream.read_exact(&mut answer).expect("an answer");
        answer
    }

    fn export(&mut self) -> Vec<u8> {
        self.carry(EXPORT, MAX_TABLE, &[])
    }

    /// Another server of the same folder, which has heard the table.
    fn successor(&self, read_only: bool, table: &[u8]) -> Self {
        let mut next = Self::over(Arc::clone(&self.folder), read_only, 1024, 1 << 16);
        assert_eq!(next.carry(IMPORT, table.len(), table), b"");
        next
    }

    fn open(&mut self, node: u64, flags: u32) -> u64 {
        wide(
            &self
                .ask(op::OPEN, node, &words(&[flags, 0]))
                .expect("opened"),
        )
    }

    fn attributes(&mut self, node: u64) -> Result<Vec<u8>, i32> {
        self.ask(op::GETATTR, node, &[0; 16])
    }

    fn write(&mut self, handle: u64, text: &[u8]) -> Result<Vec<u8>, i32> {
        let length = u32::try_from(text.len()).expect("short");
        let head = [
            &handle.to_le_bytes()[..],
            &[0; 8],
            &words(&[length, 0, 0, 0, 0, 0]),
        ];
        self.ask(op::WRITE, 0, &[&head.concat(), text].concat())
    }
}

#[test]
fn places_open_files_and_numbers_go_on_in_another_server() {
    let mut share = Share::new(false);
    fs::create_dir_all(share.path("sub/deep/er")).expect("a folder");
    fs::write(share.path("sub/deep/er/text"), "far down").expect("a file");
    let sub = share.lookup(ROOT, "sub").expect("there");
    let deep = share.lookup(sub, "deep").expect("there");
    let deeper = share.lookup(deep, "er").expect("there");
    let text = share.lookup(deeper, "text").expect("there");
    let near = share.lookup(ROOT, "near").expect("there");
    let reading = share.open(text, 0);
    let writing = share.open(text, 2);
    let listing = wide(&share.ask(op::OPENDIR, deep, &[0; 8]).expect("opened"));
    let shut = share.open(text, 0);
    share
        .ask(op::RELEASE, 0, &texts(&shut.to_le_bytes(), &[]))
        .expect("closed");
    let before = share.attributes(text).expect("there");
    let table = share.export();
    assert_eq!(share.export(), table, "it says the same twice");

    let mut next = share.successor(false, &table);
    assert_eq!(next.attributes(text).expect("there"), before);
    assert_eq!(next.read(reading), Ok(b"far down".to_vec()));
    next.write(writing, b"FAR").expect("written");
    assert_eq!(next.read(reading), Ok(b"FAR down".to_vec()));
    assert_eq!(next.read(shut), Err(libc::EBADF));
    assert_eq!(
        next.write(reading, b"x"),
        Err(libc::EBADF),
        "it was opened to be read"
    );
    let body = [&listing.to_le_bytes()[..], &[0; 8], &words(&[4096; 6])].concat();
    let list = next.ask(op::READDIR, deep, &body).expect("a list");
    assert!(list.windows(2).any(|name| name == b"er"));
    assert_eq!(next.ask(op::READLINK, near, &[]), Ok(b"../secret".to_vec()));
    // The same place has the number it had, and new ones have new numbers.
    assert_eq!(next.lookup(deeper, "text"), Ok(text));
    let file = next.lookup(ROOT, "file").expect("there");
    assert!(file > shut, "never given before: {file} after {shut}");
    // As often as the guest was told of it, it must forget it; then it is forgotten.
    let twice = texts(&2u64.to_le_bytes(), &[]);
    let forget = |share: &mut Share, node: u64, body: &[u8]| {
        let mut message = words(&[0, op::FORGET]);
        message.extend(7u64.to_le_bytes());
        message.extend(node.to_le_bytes());
        message.extend(words(&[0; 4]));
        message.extend(body);
        assert_eq!(share.send(&message), b"");
    };
    forget(&mut next, text, &twice);
    assert_eq!(next.attributes(text), Err(libc::ESTALE));
    // A third server, of what the second holds; and the first, which never noticed.
    let table = next.export();
    let mut third = next.successor(false, &table);
    assert!(third.attributes(deeper).is_ok());
    assert_eq!(
        third.read(reading),
        Err(libc::ESTALE),
        "its place is forgotten"
    );
    assert!(share.attributes(text).is_ok());
    share.unharmed();
}

#[test]
fn what_is_gone_or_another_file_is_stale_and_never_another_file() {
    let mut share = Share::new(false);
    for name in ["kept", "gone", "replaced", "retyped", "moved", "unlinked"] {
        fs::write(share.path(name), name).expect("a file");
    }
    fs::write(share.path("sub/below"), "below").expect("a file");
    let find = |share: &mut Share, name: &str| {
        let node = share.lookup(ROOT, name).expect("there");
        (node, share.open(node, 0))
    };
    let [kept, gone, replaced, retyped, moved, unlinked] =
        ["kept", "gone", "replaced", "retyped", "moved", "unlinked"]
            .map(|name| find(&mut share, name));
    let sub = share.lookup(ROOT, "sub").expect("there");
    let below = share.lookup(sub, "below").expect("there");
    share.ask(op::UNLINK, ROOT, b"unlinked\0").expect("removed");
    assert_eq!(share.read(unlinked.1), Ok(b"unlinked".to_vec()));
    let table = share.export();

    fs::remove_file(share.path("gone")).expect("there");
    fs::remove_file(share.path("retyped")).expect("there");
    symlink("../secret", share.path("retyped")).expect("a link");
    // Whatever number the file system gives the new one.
    fs::remove_file(share.path("replaced")).expect("there");
    fs::write(share.path("replaced"), "another").expect("a file");
    fs::rename(share.path("moved"), share.path("elsewhere")).expect("there");
    fs::rename(share.path("sub"), share.path("old")).expect("there");
    symlink("..", share.path("sub")).expect("a link");

    let mut next = share.successor(false, &table);
    assert!(next.attributes(kept.0).is_ok());
    assert_eq!(next.read(kept.1), Ok(b"kept".to_vec()));
    for (name, (node, handle)) in [
        ("gone", gone),
        ("replaced", replaced),
        ("retyped", retyped),
        ("moved", moved),
        ("unlinked", unlinked),
    ] {
        assert_eq!(next.attributes(node), Err(libc::ESTALE), "{name}");
        assert_eq!(next.read(handle), Err(libc::ESTALE), "{name}");
        assert_eq!(
            next.ask(op::OPEN, node, &words(&[0, 0])),
            Err(libc::ESTALE),
            "{name}"
        );
    }
    assert_eq!(next.attributes(sub), Err(libc::ESTALE));
    assert_eq!(next.attributes(below), Err(libc::ESTALE));
    assert_eq!(next.lookup(sub, "secret"), Err(libc::ESTALE));
    // Looked up anew they are what they are now, under numbers of their own.
    let now = next.lookup(ROOT, "replaced").expect("there");
    assert_ne!(now, replaced.0);
    let open = next.open(now, 0);
    assert_eq!(next.read(open), Ok(b"another".to_vec()));
    share.unharmed();
}

#[test]
fn a_successor_that_may_only_read_writes_to_nothing_that_was_open() {
    let mut share = Share::new(false);
    let file = share.lookup(ROOT, "file").expect("there");
    let (reading, writing) = (share.open(file, 0), share.open(file, 0o1002));
    fs::write(share.path("file"), "not cut off").expect("a file");
    let table = share.export();
    let mut next = share.successor(false, &table);
    assert_eq!(next.read(writing), Ok(b"not cut off".to_vec()));
    let mut next = share.successor(true, &table);
    assert_eq!(next.read(reading), Ok(b"not cut off".to_vec()));
    assert_eq!(next.read(writing), Err(libc::ESTALE));
    assert_eq!(next.write(writing, b"x"), Err(libc::EROFS));
}

#[test]
fn a_table_is_cut_where_the_room_ends_and_open_files_go_first() {
    let mut share = Share::new(false);
    fs::create_dir_all(share.path("sub/deep")).expect("a folder");
    fs::write(share.path("sub/deep/last"), "last").expect("a file");
    for nth in 0..500 {
        fs::write(share.path(&format!("filler-{nth}")), "").expect("a file");
        share.lookup(ROOT, &format!("filler-{nth}")).expect("there");
    }
    let sub = share.lookup(ROOT, "sub").expect("there");
    let deep = share.lookup(sub, "deep").expect("there");
    let last = share.lookup(deep, "last").expect("there");
    let handle = share.open(last, 0);
    for room in [0, 1, 10, 100, 200, 1000, 5000] {
        let table = share.carry(EXPORT, room, &[]);
        // The head is there always; nobody asks for less.
        assert!(table.len() <= room.max(20), "{} of {room}", table.len());
        let mut next = share.successor(false, &table);
        if room >= 200 {
            assert_eq!(next.read(handle), Ok(b"last".to_vec()), "{room}");
        }
        // How many bytes a file's stamp takes is the file system's affair.
        let known = next.lookup(ROOT, "sub").map(|now| now == sub);
        match room {
            100 => assert!(known.is_ok()),
            _ => assert_eq!(known, Ok(room >= 200), "{room}"),
        }
    }
}

/// Records of one's own making, in the words of the real ones.
fn forged(next: u64, records: &[(u64, u64, &[u8], u64)]) -> Vec<u8> {
    let mut out = postcard::to_stdvec(&(1u32, next)).expect("data");
    for (number, parent, name, lookups) in records {
        let stamp: Option<(i64, u32)> = None;
        let place = (
            *number,
            *parent,
            name,
            0o100_000u32,
            (0u64, 0u64),
            stamp,
            *lookups,
        );
        out.push(0);
        out.extend(postcard::to_stdvec(&place).expect("data"));
    }
    out
}

#[test]
fn tables_that_lie_are_refused_whole_and_lead_nowhere() {
    let mut share = Share::new(false);
    let file = share.lookup(ROOT, "file").expect("there");
    let long = [b'x'; 256];
    let mut open = forged(99, &[]);
    open.extend([1, 50, 51, 0]);
    open.extend([1, 50, 51, 0]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("of another format", vec![2, 50]),
        (
            "no number left",
            postcard::to_stdvec(&(1u32, u64::MAX)).expect("data"),
        ),
        ("numbers given before", vec![1, 1]),
        ("the root again", forged(99, &[(1, 1, b"file", 1)])),
        ("a number not given yet", forged(99, &[(99, 1, b"file", 1)])),
        (
            "a number twice",
            forged(99, &[(5, 1, b"file", 1), (5, 1, b"sub", 1)]),
        ),
        ("an empty name", forged(99, &[(5, 1, b"", 1)])),
        ("the folder above", forged(99, &[(5, 1, b"..", 1)])),
        ("the folder itself", forged(99, &[(5, 1, b".", 1)])),
        ("a path", forged(99, &[(5, 1, b"../secret", 1)])),
        (
            "a path from the top",
            forged(99, &[(5, 1, b"/etc/passwd", 1)]),
        ),
        (
            "a name with an end within",
            forged(99, &[(5, 1, b"file\0x", 1)]),
        ),
        ("too long a name", forged(99, &[(5, 1, &long, 1)])),
        ("never told of", forged(99, &[(5, 1, b"file", 0)])),
        ("a handle twice", open),
        ("of no kind", [forged(99, &[]), vec![7, 7, 7]].concat()),
    ];
    for (name, table) in cases {
        let mut next = share.successor(false, &table);
        for node in [2, 5, 50, 99, file] {
            assert_eq!(next.attributes(node), Err(libc::ESTALE), "{name}");
            assert_eq!(next.read(node), Err(libc::EBADF), "{name}");
        }
        assert!(next.lookup(ROOT, "file").is_ok(), "{name}: and it serves");
    }
    // Places that hang in themselves, or by nothing, or lead through a link.
    let table = forged(
        99,
        &[
            (5, 6, b"a", 1),
            (6, 5, b"b", 1),
            (7, 80, b"file", 1),
            (8, 1, b"up", 1),
            (9, 8, b"secret", 1),
        ],
    );
    let mut next = share.successor(false, &table);
    for node in 5..10 {
        assert_eq!(next.attributes(node), Err(libc::ESTALE), "{node}");
    }
    share.unharmed();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn no_bytes_in_the_place_of_a_table_harm_anything(
        noise in prop::collection::vec(any::<u8>(), 0..400),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut share = Share::new(false);
        let file = share.lookup(ROOT, "file").expect("there");
        share.lookup(ROOT, "far").expect("there");
        share.open(file, 2);
        let mut table = share.export();
        for (place, value) in flips {
            let at = place.index(table.len());
            table[at] ^= value;
        }
        table.truncate(cut.index(table.len() + 1));
        table.extend_from_slice(&noise[..noise.len() / 8]);
        for bytes in [&table, &noise] {
            let mut next = share.successor(false, bytes);
            for node in 0..8 {
                let _ = (next.attributes(node), next.read(node), next.lookup(node, "secret"));
                let _ = next.ask(op::OPEN, node, &words(&[0, 0]));
            }
            next.export();
        }
        share.unharmed();
    }
}
