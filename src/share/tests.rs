// SPDX-License-Identifier: Apache-2.0
//! The server asked by a guest that keeps to no rule. Without its jail: what is shown here
//! holds by the server alone.

mod saved;

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
use std::sync::Arc;
use std::thread::JoinHandle;

const ROOT: u64 = 1;

/// A share with a file outside of it that nobody may reach.
struct Share {
    folder: Arc<tempfile::TempDir>,
    stream: UnixStream,
    server: Option<JoinHandle<()>>,
    unique: u64,
}

impl Share {
    fn new(read_only: bool) -> Self {
        Self::with(read_only, 1024, 1 << 16)
    }

    fn with(read_only: bool, descriptors: u64, nodes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let share = folder.path().join("share");
        fs::create_dir_all(share.join("sub")).expect("a folder");
        fs::write(share.join("file"), "inside").expect("a file");
        fs::write(folder.path().join("secret"), "outside").expect("a file");
        symlink("../secret", share.join("near")).expect("a link");
        symlink(folder.path().join("secret"), share.join("far")).expect("a link");
        symlink("..", share.join("up")).expect("a link");
        let mut share = Self::over(Arc::new(folder), read_only, descriptors, nodes);
        let hello = share
            .ask(op::INIT, 0, &words(&[7, 38, 1 << 20, u32::MAX]))
            .expect("INIT");
        assert_eq!(hello.len(), 64, "fuse_init_out");
        share
    }

    /// A server that nobody has greeted.
    fn over(
        folder: Arc<tempfile::TempDir>,
        read_only: bool,
        descriptors: u64,
        nodes: usize,
    ) -> Self {
        let share = folder.path().join("share");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty()).expect("a folder");
        let table = Table::bounded(open(&share), descriptors, nodes).expect("a table");
        let own = open(Path::new("/proc/self/fd"));
        let mut server = Server::new(table, own, read_only, false);
        let (stream, mut theirs) = UnixStream::pair().expect("a pair");
        let server = std::thread::spawn(move || drop(serve(&mut theirs, &mut server)));
        Self {
            folder,
            stream,
            server: Some(server),
            unique: 0,
        }
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
    for opcode in [3 + 1, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47] {
        assert_eq!(
            share.ask(opcode, file, &[0; 128]),
            Err(libc::EROFS),
            "{opcode}"
        );
    }
}

#[test]
fn numbers_nobody_was_given_mean_nothing_and_tables_have_an_end() {
    let mut share = Share::with(false, 64 + 20, 10);
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

/// More places than descriptors: each is found again, wherever it was moved meanwhile, and
/// none that is another file now is taken for it.
#[test]
fn places_beyond_the_descriptors_are_found_again() {
    let mut share = Share::with(false, 64 + 20, 1 << 16);
    let sub = share.lookup(ROOT, "sub").expect("there");
    let body = texts(&words(&[0o755, 0]), &["deep"]);
    let deep = wide(&share.ask(op::MKDIR, sub, &body).expect("made"));
    for index in 0..60 {
        fs::write(share.path(&format!("sub/deep/f{index}")), index.to_string()).expect("a file");
    }
    let all: Vec<u64> = (0..60)
        .map(|n| share.lookup(deep, &format!("f{n}")).expect("there"))
        .collect();
    let content = |share: &mut Share, node| {
        let open = share.ask(op::OPEN, node, &words(&[0, 0]))?;
        let text = share.read(wide(&open)).expect("read");
        let close = [&wide(&open).to_le_bytes()[..], &[0; 16]].concat();
        share.ask(op::RELEASE, node, &close).expect("closed");
        Ok::<_, i32>(String::from_utf8(text).expect("digits"))
    };
    for (index, node) in all.iter().enumerate() {
        assert_eq!(content(&mut share, *node), Ok(index.to_string()));
    }
    // By the guest: a file, and the directory all of them are in.
    let body = texts(&ROOT.to_le_bytes(), &["f7", "seven"]);
    share.ask(op::RENAME, deep, &body).expect("moved");
    let body = texts(&ROOT.to_le_bytes(), &["deep", "high"]);
    share.ask(op::RENAME, sub, &body).expect("moved");
    // One that is removed while the guest holds it is still there for it.
    let held = all[9];
    share.ask(op::UNLINK, deep, b"f9\0").expect("removed");
    // By the host: another file of the same name, and none.
    fs::write(share.path("new"), "another").expect("a file");
    for index in 0..60 {
        share
            .lookup(deep, &format!("f{}", index % 5))
            .expect("there");
    }
    for (index, node) in all.iter().enumerate() {
        assert_eq!(content(&mut share, *node), Ok(index.to_string()), "{index}");
    }
    assert_eq!(content(&mut share, held), Ok("9".into()));
    fs::rename(share.path("new"), share.path("high/f1")).expect("moved");
    symlink("../../secret", share.path("high/link")).expect("a link");
    fs::rename(share.path("high/link"), share.path("high/f2")).expect("moved");
    fs::remove_file(share.path("high/f3")).expect("removed");
    // What was closed to make room cannot be told from outside; both answers are right.
    let right: [&[Result<String, i32>]; 3] = [
        &[Ok("1".into()), Err(libc::ESTALE)],
        &[Ok("2".into()), Err(libc::ESTALE)],
        &[Ok("3".into()), Err(libc::ESTALE)],
    ];
    for round in 0..4 {
        for node in &all[10..] {
            content(&mut share, *node).expect("there");
        }
        for (index, right) in (1..).zip(right) {
            let text = content(&mut share, all[index]);
            assert!(right.contains(&text), "{round}: {index} {text:?}");
        }
    }
    share.unharmed();
}

#[test]
fn attributes_of_users_are_kept_and_no_others() {
    let mut share = Share::new(false);
    let file = share.lookup(ROOT, "file").expect("there");
    let set = |name: &str, value: &[u8], flags: u32| {
        let size = u32::try_from(value.len()).expect("small");
        [texts(&words(&[size, flags]), &[name]), value.to_vec()].concat()
    };
    let get = |name: &str, room: u32| texts(&words(&[room, 0]), &[name]);
    if let Err(errno) = share.ask(op::SETXATTR, file, &set("user.a", b"value", 0)) {
        // A file system that has none, as tmpfs was until Linux 6.6.
        assert_eq!(errno, libc::EOPNOTSUPP);
        return;
    }
    assert_eq!(
        share.ask(op::GETXATTR, file, &get("user.a", 100)),
        Ok(b"value".to_vec())
    );
    assert_eq!(
        share.ask(op::GETXATTR, file, &get("user.a", 0)),
        Ok(words(&[5, 0]))
    );
    assert_eq!(
        share.ask(op::GETXATTR, file, &get("user.a", 4)),
        Err(libc::ERANGE)
    );
    assert_eq!(
        share.ask(op::GETXATTR, file, &get("user.b", 4)),
        Err(libc::ENODATA)
    );
    assert_eq!(
        share.ask(op::LISTXATTR, file, &words(&[100, 0])),
        Ok(b"user.a\0".to_vec())
    );
    assert_eq!(
        share.ask(op::LISTXATTR, file, &words(&[0, 0])),
        Ok(words(&[7, 0]))
    );
    let again = share.ask(op::SETXATTR, file, &set("user.a", b"", 1));
    assert_eq!(again, Err(libc::EEXIST), "XATTR_CREATE");
    for name in [
        "security.capability",
        "trusted.x",
        "system.posix_acl_access",
        "user",
        "x",
    ] {
        let refused = share.ask(op::SETXATTR, file, &set(name, b"x", 0));
        assert_eq!(refused, Err(libc::EOPNOTSUPP), "{name}");
        assert_eq!(
            share.ask(op::REMOVEXATTR, file, &texts(&[], &[name])),
            Err(libc::EOPNOTSUPP)
        );
        assert_eq!(
            share.ask(op::GETXATTR, file, &get(name, 64)),
            Err(libc::ENODATA)
        );
    }
    let long = format!("user.{}", "x".repeat(300));
    assert_eq!(
        share.ask(op::SETXATTR, file, &set(&long, b"x", 0)),
        Err(libc::ERANGE)
    );
    let link = share.lookup(ROOT, "near").expect("the link");
    assert_eq!(
        share.ask(op::SETXATTR, link, &set("user.a", b"x", 0)),
        Err(libc::EOPNOTSUPP)
    );
    assert_eq!(
        share.ask(op::LISTXATTR, link, &words(&[100, 0])),
        Ok(Vec::new())
    );
    share
        .ask(op::REMOVEXATTR, file, b"user.a\0")
        .expect("removed");
    assert_eq!(
        share.ask(op::LISTXATTR, file, &words(&[100, 0])),
        Ok(Vec::new())
    );
    share.unharmed();
}

/// The host swaps what the guest walks through for a link that leads out, as fast as it can.
#[test]
fn no_race_leads_out() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut share = Share::new(false);
    fs::write(share.path("sub/secret"), "inside").expect("a file");
    symlink("..", share.path("way")).expect("a link");
    let (sub, way) = (share.path("sub"), share.path("way"));
    let over = AtomicBool::new(false);
    let (mut found, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !over.load(Ordering::Relaxed) {
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &sub, cwd, &way, flags).expect("swapped");
            }
        });
        for _ in 0..4000 {
            let opened = share.lookup(ROOT, "sub").and_then(|directory| {
                let body = texts(&words(&[2, 0o100644, 0, 0]), &["secret"]);
                share.ask(op::CREATE, directory, &body)
            });
            match opened {
                Ok(made) => {
                    let handle = wide(&made[128..]);
                    assert_eq!(share.read(handle), Ok(b"inside".to_vec()));
                    found += 1;
                    let close = [&handle.to_le_bytes()[..], &[0; 16]].concat();
                    share.ask(op::RELEASE, 0, &close).expect("closed");
                }
                Err(errno) => {
                    assert!([libc::ENOTDIR, libc::ESTALE].contains(&errno), "{errno}");
                    refused += 1;
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(found > 0 && refused > 0, "{found} found, {refused} refused");
    share.unharmed();
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
