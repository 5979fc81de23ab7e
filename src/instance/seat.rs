// SPDX-License-Identifier: Apache-2.0
//! A machine's seat on a private network: a number in the network's folder, whose file is
//! locked by the process that carries the machine's network for as long as that lives, and a
//! datagram socket. Tool side, any thread.
//!
//! Started by root, the folder is that of processes which are nobody's and speak with hostile
//! guests: what lies in it is believed of no name. No link there is followed, nothing there is
//! waited for.

use crate::config::net::Membership;
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, fchown,
    lchown,
};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Who a process started by root becomes (`sys::namespaces`).
const NOBODY: u32 = 65534;

/// How files in the folder are opened.
const PLAIN: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;
/// Longest name of a member that is read: host names have 64 bytes.
const MAX_NAME: u64 = 256;

/// A number on a private network. Dropping it gives the number back and tidies up; a process
/// that was given the descriptors must be gone by then.
#[derive(Debug)]
pub struct Seat {
    pub number: u8,
    pub folder: PathBuf,
}

/// What makes a seat the carrier's: it is held while either is open in any process.
#[derive(Debug)]
pub struct Held {
    /// The locked file that makes the number this machine's.
    pub claim: OwnedFd,
    /// The datagram socket bound there under the number.
    pub socket: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    #[error("the private network's folder {path} cannot be used")]
    Folder { path: PathBuf, source: io::Error },
    #[error("another machine on the private network is called {0}")]
    Name(String),
    #[error("the private network is full: it has 253 machines")]
    Full,
}

impl Seat {
    /// Takes a free number on the network in `folder`, for a machine called `name`.
    pub fn take(folder: &Path, name: &str) -> Result<(Self, Held), SeatError> {
        let broken = |source| SeatError::Folder {
            path: folder.to_owned(),
            source,
        };
        // One at a time, so that no name is taken twice.
        let _lock = enter(folder).map_err(broken)?;
        let mut free = None;
        for number in 2..=254u8 {
            let path = folder.join(number.to_string());
            let mut options = File::options();
            match options
                .read(true)
                .write(true)
                .custom_flags(PLAIN)
                .open(path)
            {
                Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    // Whoever had it is gone, and could not tidy up.
                    Ok(_) => {
                        remove(folder, number);
                        free = free.or(Some(number));
                    }
                    Err((file, _)) => {
                        let mut other = String::new();
                        let _ = file.take(MAX_NAME).read_to_string(&mut other);
                        if other.eq_ignore_ascii_case(name) {
                            return Err(SeatError::Name(name.to_owned()));
                        }
                    }
                },
                Err(_) => free = free.or(Some(number)),
            }
        }
        let number = free.ok_or(SeatError::Full)?;
        Self::occupy(folder, number, name).map_err(broken)
    }

    fn occupy(folder: &Path, number: u8, name: &str) -> io::Result<(Self, Held)> {
        let (path, socket) = (
            folder.join(number.to_string()),
            folder.join(format!("{number}.sock")),
        );
        for old in [&path, &socket] {
            match fs::remove_file(old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.write_all(name.as_bytes())?;
        // Inherited descriptors share the lock: it lasts as long as any of them.
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let datagrams = UnixDatagram::bind(&socket)?;
        if nix::unistd::geteuid().is_root() {
            fchown(&file, Some(NOBODY), Some(NOBODY))?;
            // By its name, which leads to itself whatever has it by now.
            lchown(&socket, Some(NOBODY), Some(NOBODY))?;
        }
        let seat = Self {
            number,
            folder: folder.to_owned(),
        };
        let held = Held {
            claim: file.into(),
            socket: datagrams.into(),
        };
        Ok((seat, held))
    }

    /// That of a process that handed it over.
    #[must_use]
    pub fn inherited(membership: &Membership) -> Self {
        Self {
            number: membership.number,
            folder: membership.folder.clone(),
        }
    }

    /// Another process gives it back.
    pub fn hand_over(self) {
        std::mem::forget(self);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        remove(&self.folder, self.number);
        // The last one turns off the light, while nobody else can come in.
        let lock = enter(&self.folder);
        let others = fs::read_dir(&self.folder).map(|list| list.flatten().count());
        if lock.is_ok() && others.is_ok_and(|count| count == 1) {
            let _ = fs::remove_file(self.folder.join("lock"));
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// Makes the folder if it is not there, and keeps everybody else out of it.
fn enter(folder: &Path) -> io::Result<Flock<File>> {
    /// Each try is lost to a member that left at that very moment.
    const TRIES: usize = 100;
    let path = folder.join("lock");
    for _ in 0..TRIES {
        match make(folder) {
            Err(error) if vanished(&error, folder) => continue,
            other => other?,
        }
        let mut options = File::options();
        let options = options.create(true).append(true).custom_flags(PLAIN);
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        // Whoever left last took the file along, and with it what it locked.
        let same = fs::metadata(&path).and_then(|now| Ok(now.ino() == lock.metadata()?.ino()));
        if same.unwrap_or(false) {
            return Ok(lock);
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Whether a folder could not be made because the last member took it away meanwhile.
fn vanished(error: &io::Error, folder: &Path) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound => true,
        // It was there when it was to be made, and no longer when it was looked at.
        io::ErrorKind::AlreadyExists => !folder.exists(),
        _ => false,
    }
}

fn remove(folder: &Path, number: u8) {
    for name in [format!("{number}.sock"), number.to_string()] {
        let _ = fs::remove_file(folder.join(name));
    }
}

/// A folder only its owner enters. Started by root, the processes in it are nobody's: the
/// folder is theirs, below one that is root's alone.
fn make(folder: &Path) -> io::Result<()> {
    let parent = folder.parent().unwrap_or(folder);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)?;
    fs::set_permissions(parent, Permissions::from_mode(0o700))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    if nix::unistd::geteuid().is_root() {
        chown(folder, Some(NOBODY), Some(NOBODY))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_once_numbers_are_free_again_and_nothing_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let net = folder.path().join("husk/net/blue");
        let one = Seat::take(&net, "one").expect("room");
        let two = Seat::take(&net, "two").expect("room");
        assert_eq!((one.0.number, two.0.number), (2, 3));
        let error = Seat::take(&net, "ONE").expect_err("taken");
        assert!(matches!(error, SeatError::Name(_)), "{error}");
        drop(one);
        assert_eq!(Seat::take(&net, "one").expect("free again").0.number, 2);
        drop(two);
        assert!(!net.exists(), "the last one turned off the light");
    }

    #[test]
    fn members_that_come_and_go_at_once_are_not_in_each_others_way() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let net = folder.path().join("husk/net/blue");
        std::thread::scope(|scope| {
            for member in 0..4 {
                let net = &net;
                scope.spawn(move || {
                    for _ in 0..200 {
                        drop(Seat::take(net, &format!("m{member}")).expect("room"));
                    }
                });
            }
        });
        assert!(!net.exists());
    }

    #[test]
    fn no_link_a_member_left_is_followed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let net = folder.path().join("husk/net/blue");
        let held = Seat::take(&net, "held").expect("room");
        let outside = folder.path().join("outside");
        let link = |name: &str| {
            let _ = fs::remove_file(net.join(name));
            std::os::unix::fs::symlink(&outside, net.join(name)).expect("a link");
        };
        link("lock");
        assert!(matches!(
            Seat::take(&net, "one"),
            Err(SeatError::Folder { .. })
        ));
        assert!(!outside.exists(), "a link made a file elsewhere");
        fs::remove_file(net.join("lock")).expect("a link");
        // A file of somebody's that is locked, and called as this member.
        fs::write(&outside, "two").expect("a file");
        let file = File::open(&outside).expect("a file");
        flock(&file, FlockOperation::LockExclusive).expect("a lock");
        link("3");
        let two = Seat::take(&net, "two").expect("nobody has it");
        assert_eq!(two.0.number, 3);
        assert_eq!(fs::read_to_string(&outside).expect("a file"), "two");
        drop((held, two));
    }

    #[test]
    fn what_a_killed_member_left_is_tidied_up() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let net = folder.path().join("husk/net/blue");
        let lost = Seat::take(&net, "lost").expect("room");
        // As a killed process leaves it: nobody holds the lock, the files stay.
        let path = net.join("7");
        fs::write(&path, "stale").expect("a file");
        fs::write(net.join("7.sock"), "").expect("a file");
        let next = Seat::take(&net, "stale").expect("nobody has it");
        assert!(!path.exists());
        assert_eq!((lost.0.number, next.0.number), (2, 3));
    }
}
