// SPDX-License-Identifier: Apache-2.0
//! The server asked by a guest that keeps to no rule. Without its jail: what is shown here
//! holds by the server alone.

use super::table::Table;
use super::wire::{OUT_HEADER, op};
use super::{Server, serve};
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;

const ROOT: u64 = 1;

/// A share with a file outside of it that nobody may reach.
struct Share {
    folder: tempfile::TempDir,
    stream: UnixStream,
    server: Option<JoinHandle<()>>,
    unique: u64,
}

impl Share {
    fn new(read_only: bool) -> Self {
        Self::with(read_only, 1024)
    }

    fn with(read_only: bool, descriptors: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let share = folder.path().join("share");
        fs::create_dir_all(share.join("sub")).expect("a folder");
        fs::write(share.join("file"), "inside").expect("a file");
        fs::write(folder.path().join("secret"), "outside").expect("a file");
        symlink("../secret", share.join("near")).expect("a link");
        symlink(folder.path().join("secret"), share.join("far")).expect("a link");
        symlink("..", share.join("up")).expect("a link");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty()).expect("a folder");
        let table = Table::new(open(&share), descriptors).expect("a table");
        let own = open(Path::new("/proc/self/fd"));
        let mut server = Server::new(table, own, read_only, false);
        let (stream, mut theirs) = UnixStream::pair().expect("a pair");
        let server = std::thread::spawn(move || drop(serve(&mut theirs, &mut server)));
        let mut share = Self {
            folder,
            stream,
            server: Some(server),
            unique: 0,
        };
        let hello = share
            .ask(op::INIT, 0, &words(&[7, 38, 1 << 20, u32::MAX]))
            .expect("INIT");
        assert_eq!(hello.len(), 64, "fuse_init_out");
        share
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("share").join(name)
    }

    /// Sends any bytes and takes what comes back.
    fn send(&mut self, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("small");
        self.stream.write_all(&length.to_le_bytes()).expect("sent");
        self.stream
            .write_all(&(1u32 << 20).to_le_bytes())
            .expect("sent");
        self.stream.write_all(message).expect("sent");
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix).expect("an answer");
        let mut answer = vec![0; u32::from_le_bytes(prefix) as usize];
        self.stream.read_exact(&mut answer).expect("an answer");
        answer
    }

    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        self.unique += 1;
        let mut message = words(&[0, opcode]);
        message.extend(self.unique.to_le_bytes());
        message.extend(node.to_le_bytes());
        message.extend(words(&[0, 0, 0, 0]));
        message.extend(body);
        let answer = self.send(&message);
        let word = |at: usize| i32::from_le_bytes(answer[at..at + 4].try_into().expect("four"));
        assert_eq!(word(0), i32::try_from(answer.len()).expect("small"));
        assert_eq!(answer[8..16], self.unique.to_le_bytes());
        match word(4) {
            0 => Ok(answer[OUT_HEADER..].to_vec()),
            error => Err(-error),
        }
    }

    fn lookup(&mut self, node: u64, name: &str) -> Result<u64, i32> {
        let body = [name.as_bytes(), b"\0"].concat();
        self.ask(op::LOOKUP, node, &body)
            .map(|answer| wide(&answer))
    }

    fn read(&mut self, handle: u64) -> Result<Vec<u8>, i32> {
        let body = [
            &handle.to_le_bytes()[..],
            &[0; 8],
            &words(&[4096, 0, 0, 0, 0, 0]),
        ]
        .concat();
        self.ask(op::READ, 0, &body)
    }

    #[track_caller]
    fn unharmed(&self) {
        let secret = self.folder.path().join("secret");
        assert_eq!(fs::read(&secret).expect("it is there"), b"outside");
        assert_eq!(secret.metadata().expect("it is there").nlink(), 1);
        let names = fs::read_dir(self.folder.path()).expect("a folder").count();
        assert_eq!(names, 2, "the share, the secret, and nothing new");
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let ended = self.server.take().map(JoinHandle::join);
        assert!(
            ended.is_some_and(|end| end.is_ok()),
            "the server never panics"
        );
    }
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn wide(answer: &[u8]) -> u64 {
    u64::from_le_bytes(*answer.first_chunk().expect("eight bytes"))
}

fn texts(head: &[u8], names: &[&str]) -> Vec<u8> {
    let mut body = head.to_vec();
    for name in names {
        body.extend(name.as_bytes());
        body.push(0);
    }
    body
}

#[test]
fn files_are_made_written_read_renamed_and_removed() {
    let mut share = Share::new(false);
    let body = texts(&words(&[0o2, 0o106644, 0, 0]), &["new"]);
    let made = share.ask(op::CREATE, ROOT, &body).expect("made");
    let (node, handle) = (wide(&made), wide(&made[128..]));
    let head = [
        &handle.to_le_bytes()[..],
        &[0; 8],
        &words(&[5, 0, 0, 0, 0, 0]),
    ]
    .concat();
    let written = share.ask(op::WRITE, node, &[&head[..], b"hello"].concat());
    assert_eq!(written, Ok(words(&[5, 0])));
    assert_eq!(share.read(handle), Ok(b"hello".to_vec()));
    let mode = share.path("new").metadata().expect("it is there").mode();
    assert_eq!(mode & 0o7777, 0o644, "no set-user-ID on the host");
    let sub = share.lookup(ROOT, "sub").expect("a folder");
    let body = texts(&sub.to_le_bytes(), &["new", "old"]);
    share.ask(op::RENAME, ROOT, &body).expect("renamed");
    assert_eq!(fs::read(share.path("sub/old")).expect("there"), b"hello");
    let open = share.ask(op::OPENDIR, sub, &[0; 8]).expect("opened");
    let body = [&wide(&open).to_le_bytes()[..], &[0; 8], &words(&[4096; 6])].concat();
    let list = share.ask(op::READDIR, sub, &body).expect("a list");
    assert!(list.windows(3).any(|name| name == b"old"));
    share.ask(op::UNLINK, sub, b"old\0").expect("removed");
    share.ask(op::RMDIR, ROOT, b"sub\0").expect("removed");
    assert!(!share.path("sub").exists());
}

#[test]
fn no_name_leads_out() {
    let mut share = Share::new(false);
    for name in [
        "",
        ".",
        "..",
        "../secret",
        "sub/../../secret",
        "/etc/passwd",
        "up/secret",
    ] {
        assert_eq!(share.lookup(ROOT, name), Err(libc::EINVAL), "{name}");
        for (opcode, head) in [
            (op::MKDIR, words(&[0o755, 0])),
            (op::MKNOD, words(&[0o100644, 0, 0, 0])),
            (op::CREATE, words(&[2, 0o100644, 0, 0])),
            (
                op::LINK,
                share
                    .lookup(ROOT, "file")
                    .expect("there")
                    .to_le_bytes()
                    .to_vec(),
            ),
            (op::UNLINK, Vec::new()),
            (op::RMDIR, Vec::new()),
        ] {
            let body = texts(&head, &[name]);
            assert_eq!(
                share.ask(opcode, ROOT, &body),
                Err(libc::EINVAL),
                "{opcode} {name}"
            );
        }
        let there = texts(&ROOT.to_le_bytes(), &["file", name]);
        assert_eq!(share.ask(op::RENAME, ROOT, &there), Err(libc::EINVAL));
        let back = texts(&ROOT.to_le_bytes(), &[name, "mine"]);
        assert_eq!(share.ask(op::RENAME, ROOT, &back), Err(libc::EINVAL));
    }
    assert_eq!(
        share.lookup(ROOT, &"x".repeat(300)),
        Err(libc::ENAMETOOLONG)
    );
    assert_eq!(share.ask(op::LOOKUP, ROOT, b"no end"), Err(libc::EINVAL));
    share.unharmed();
}

#[test]
fn no_link_leads_out() {
    let mut share = Share::new(false);
    for name in ["near", "far", "up"] {
        let link = share.lookup(ROOT, name).expect("the link itself");
        assert_eq!(
            share.ask(op::OPEN, link, &words(&[2, 0])),
            Err(libc::EOPNOTSUPP)
        );
        assert_eq!(
            share.ask(op::OPENDIR, link, &words(&[0, 0])),
            Err(libc::EOPNOTSUPP)
        );
        assert_eq!(share.lookup(link, "secret"), Err(libc::ENOTDIR));
        let body = texts(&words(&[0o1002, 0o100644, 0, 0]), &[name]);
        assert_eq!(share.ask(op::CREATE, ROOT, &body), Err(libc::EOPNOTSUPP));
        // Size, then mode, by SETATTR.
        for valid in [8, 1] {
            let mut body = vec![0; 88];
            body[0] = valid;
            assert!(share.ask(op::SETATTR, link, &body).is_err(), "{name}");
        }
        // Another name for the link is a link.
        let twin = format!("twin-{name}");
        let body = texts(&link.to_le_bytes(), &[&twin]);
        share.ask(op::LINK, ROOT, &body).expect("linked");
        assert!(
            share
                .path(&twin)
                .symlink_metadata()
                .expect("there")
                .is_symlink()
        );
    }
    share.unharmed();
    // A guest's own link, and a folder of its own that the host swaps for a link meanwhile.
    share
        .ask(op::SYMLINK, ROOT, b"mine\0../secret\0")
        .expect("made");
    let mine = share.lookup(ROOT, "mine").expect("there");
    assert_eq!(
        share.ask(op::OPEN, mine, &words(&[0, 0])),
        Err(libc::EOPNOTSUPP)
    );
    let sub = share.lookup(ROOT, "sub").expect("there");
    fs::remove_dir(share.path("sub")).expect("empty");
    symlink("..", share.path("sub")).expect("a link");
    assert_eq!(share.lookup(sub, "secret"), Err(libc::ENOENT));
    let body = texts(&words(&[2, 0o100644, 0, 0]), &["secret"]);
    assert!(share.ask(op::CREATE, sub, &body).is_err());
    share.unharmed();
}

#[test]
fn devices_and_pipes_are_not_for_guests() {
    let mut share = Share::new(false);
    for mode in [0o020666, 0o060666] {
        let body = texts(&words(&[mode, 0x0103, 0, 0]), &["dev"]);
        assert_eq!(share.ask(op::MKNOD, ROOT, &body), Err(libc::EPERM));
    }
    let body = texts(&words(&[0o010666, 0, 0, 0]), &["pipe"]);
    let pipe = wide(&share.ask(op::MKNOD, ROOT, &body).expect("made"));
    assert_eq!(
        share.ask(op::OPEN, pipe, &words(&[0, 0])),
        Err(libc::EOPNOTSUPP)
    );
}

#[test]
fn what_is_read_only_stays_as_it_is() {
    let mut share = Share::new(true);
    let file = share.lookup(ROOT, "file").expect("there");
    let open = share.ask(op::OPEN, file, &words(&[0, 0])).expect("opened");
    assert_eq!(share.read(wide(&open)), Ok(b"inside".to_vec()));
    for flags in [1, 2, 0o1000] {
        assert_eq!(
            share.ask(op::OPEN, file, &words(&[flags, 0])),
            Err(libc::EROFS)
        );
    }
    for opcode in [3 + 1, 6, 8, 9, 10, 11, 12, 13, 16, 35, 43, 45, 47] {
        assert_eq!(
            share.ask(opcode, file, &[0; 128]),
            Err(libc::EROFS),
            "{opcode}"
        );
    }
}

#[test]
fn numbers_nobody_was_given_mean_nothing_and_tables_have_an_end() {
    let mut share = Share::with(false, 64 + 20);
    for node in [0, 2, 77, u64::MAX] {
        assert_eq!(share.lookup(node, "file"), Err(libc::ESTALE));
    }
    assert_eq!(share.read(12345), Err(libc::EBADF));
    let file = share.lookup(ROOT, "file").expect("there");
    let mut handles = 0;
    let full = loop {
        match share.ask(op::OPEN, file, &words(&[0, 0])) {
            Ok(_) => handles += 1,
            Err(errno) => break errno,
        }
    };
    assert_eq!((handles, full), (10, libc::ENFILE));
    for index in 0..20 {
        fs::write(share.path(&format!("f{index}")), "").expect("a file");
    }
    let results: Vec<_> = (0..20)
        .map(|n| share.lookup(ROOT, &format!("f{n}")))
        .collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 8);
    assert!(results.contains(&Err(libc::ENFILE)));
    // What is forgotten makes room; the root is not forgotten.
    for result in results.into_iter().flatten() {
        let mut message = words(&[0, op::FORGET, 0, 0]);
        message.extend(result.to_le_bytes());
        message.extend([0; 16]);
        message.extend(u64::MAX.to_le_bytes());
        assert!(share.send(&message).is_empty(), "no answer to this");
    }
    share.lookup(ROOT, "f19").expect("there is room again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_bytes_whatever_harm_more_than_the_share(
        messages in proptest::collection::vec(
            (0..55u32, 0..6u64, proptest::collection::vec(any::<u8>(), 0..120), any::<bool>()),
            1..40,
        ),
    ) {
        let mut share = Share::new(false);
        for (opcode, node, mut body, whole) in messages {
            if whole && matches!(opcode, op::RENAME | op::LINK) {
                body.extend(b"near\0..\0");
            }
            let mut message = words(&[0, opcode, 1, 0]);
            message.extend(node.to_le_bytes());
            message.extend([0; 16]);
            message.extend(body);
            share.send(&message);
        }
        share.unharmed();
    }
}
