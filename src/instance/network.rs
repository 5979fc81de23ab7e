// SPDX-License-Identifier: Apache-2.0
//! The process that carries a machine's network, `husk net`, from its start to its end; and
//! a machine's place on a private network.

use super::spawn::{SpawnError, start};
use crate::config::net::{Membership, UserNet};
use crate::sys::namespaces::Child;
use crate::sys::seqpacket::SeqPacket;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Longest complaint taken from the process.
const MAX_COMPLAINT: usize = 4096;
/// What it says when it works.
const READY: &[u8] = b"ready";
/// Who a process started by root becomes (`sys::namespaces`).
const NOBODY: u32 = 65534;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("the network's process does not start: {0}")]
    Refused(String),
}

/// The process. Dropping it ends it, and with it the sockets of published ports.
#[derive(Debug)]
pub struct Network {
    child: Child,
    control: SeqPacket,
}

impl Network {
    /// Starts it. Every descriptor `config` names must be open in this process, under that
    /// number, until this returns.
    pub fn start(config: &UserNet) -> Result<Self, NetworkError> {
        let mut keep = vec![config.link];
        keep.extend(config.published.iter().map(|published| published.fd));
        if let Some(member) = &config.private {
            keep.extend([member.socket, member.claim]);
        }
        let (control, child) = start("net", keep, config.jail, true)?;
        let network = Self { child, control };
        let text = serde_json::to_vec(config).map_err(|e| SpawnError::Process(e.into()))?;
        network
            .control
            .send(&text)
            .map_err(SpawnError::Configuration)?;
        Ok(network)
    }

    /// Waits until it works.
    pub fn ready(&self) -> Result<(), NetworkError> {
        match self.control.recv(MAX_COMPLAINT) {
            Ok(Some(word)) if word == READY => Ok(()),
            Ok(Some(why)) => Err(NetworkError::Refused(
                String::from_utf8_lossy(&why).into_owned(),
            )),
            Ok(None) => Err(NetworkError::Refused("it ended without a word".into())),
            Err(error) => Err(NetworkError::Refused(error.to_string())),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Nothing of it is worth a moment: its connections end with it.
        let pid = nix::unistd::Pid::from_raw(self.child.pid);
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        while waitid(Id::PIDFd(self.child.pidfd.as_fd()), WaitPidFlag::WEXITED) == Err(Errno::EINTR)
        {
        }
    }
}

/// A place on a private network, held while this lives or a process that was given its
/// descriptors does.
#[derive(Debug)]
pub struct Place {
    pub number: u8,
    pub folder: PathBuf,
    pub claim: OwnedFd,
    pub socket: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("the private network's folder {path} cannot be used")]
    Folder { path: PathBuf, source: io::Error },
    #[error("another machine on the private network is called {0}")]
    Name(String),
    #[error("the private network is full: it has 253 machines")]
    Full,
}

impl Place {
    /// Takes a free number on the network in `folder`, for a machine called `name`.
    pub fn take(folder: &Path, name: &str) -> Result<Self, PlaceError> {
        let broken = |source| PlaceError::Folder {
            path: folder.to_owned(),
            source,
        };
        // One at a time, so that no name is taken twice.
        let _lock = enter(folder).map_err(broken)?;
        let mut free = None;
        for number in 2..=254u8 {
            let path = folder.join(number.to_string());
            match File::options().read(true).write(true).open(&path) {
                Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    // Whoever had it is gone, and could not tidy up.
                    Ok(_) => {
                        remove(folder, number);
                        free = free.or(Some(number));
                    }
                    Err(_) => {
                        let other = fs::read_to_string(&path).unwrap_or_default();
                        if other.eq_ignore_ascii_case(name) {
                            return Err(PlaceError::Name(name.to_owned()));
                        }
                    }
                },
                Err(_) => free = free.or(Some(number)),
            }
        }
        let number = free.ok_or(PlaceError::Full)?;
        Self::occupy(folder, number, name).map_err(broken)
    }

    fn occupy(folder: &Path, number: u8, name: &str) -> io::Result<Self> {
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
            for mine in [&path, &socket] {
                chown(mine, Some(NOBODY), Some(NOBODY))?;
            }
        }
        Ok(Self {
            number,
            folder: folder.to_owned(),
            claim: file.into(),
            socket: datagrams.into(),
        })
    }

    /// As the process that carries it is told. The descriptors must be inherited under
    /// their present numbers.
    #[must_use]
    pub fn membership(&self) -> Membership {
        Membership {
            folder: self.folder.clone(),
            socket: self.socket.as_raw_fd(),
            claim: self.claim.as_raw_fd(),
            number: self.number,
        }
    }
}

impl Drop for Place {
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
        make(folder)?;
        let file = match File::options().create(true).append(true).open(&path) {
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
        let one = Place::take(&net, "one").expect("room");
        let two = Place::take(&net, "two").expect("room");
        assert_eq!((one.number, two.number), (2, 3));
        let error = Place::take(&net, "ONE").expect_err("taken");
        assert!(matches!(error, PlaceError::Name(_)), "{error}");
        drop(one);
        assert_eq!(Place::take(&net, "one").expect("free again").number, 2);
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
                    for _ in 0..50 {
                        drop(Place::take(net, &format!("m{member}")).expect("room"));
                    }
                });
            }
        });
        assert!(!net.exists());
    }

    #[test]
    fn what_a_killed_member_left_is_tidied_up() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let net = folder.path().join("husk/net/blue");
        let lost = Place::take(&net, "lost").expect("room");
        // As a killed process leaves it: nobody holds the lock, the files stay.
        let path = net.join("7");
        fs::write(&path, "stale").expect("a file");
        fs::write(net.join("7.sock"), "").expect("a file");
        let next = Place::take(&net, "stale").expect("nobody has it");
        assert!(!path.exists());
        assert_eq!((lost.number, next.number), (2, 3));
    }
}
