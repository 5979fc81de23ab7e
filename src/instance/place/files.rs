// SPDX-License-Identifier: Apache-2.0
//! Files in the place: locks, which say who lives, and documents, which are there whole or not
//! at all. Any thread; only `lock_file` waits, for whoever holds the lock.

use super::LOCK;
use crate::instance::record::{ID_DIGITS, MAX_RECORD};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Waits for the lock on a file, which is made if it is missing.
pub fn lock_file(path: &Path) -> io::Result<Flock<File>> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// Whether a machine's owner lives; none if there is no such folder. A shared lock is asked
/// for, so that two that look at once do not take each other for the owner.
pub fn is_locked(dir: &Path) -> io::Result<Option<bool>> {
    let file = match File::open(dir.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(dir.is_dir().then_some(false));
        }
        Err(error) => return Err(error),
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(Some(false)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(Some(true)),
        Err((_, errno)) => Err(errno.into()),
    }
}

pub fn new_id() -> io::Result<String> {
    let mut bytes = [0; ID_DIGITS / 2];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MAX_RECORD).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

pub fn write_json<T: serde::Serialize>(dir: &Path, name: &str, value: &T) -> io::Result<()> {
    write(dir, name, &serde_json::to_vec(value)?)
}

/// Whole or not at all.
pub fn write(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text)?;
    fs::rename(new, dir.join(name))
}
