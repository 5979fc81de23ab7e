// SPDX-License-Identifier: Apache-2.0
//! Who may make, rename and remove templates: one lock for each key, held by whoever makes that
//! template, for as long as its machine boots; and one for all, held for moments. Who needs both
//! takes the key's first, or does not wait for it. Tool side, main thread.

use super::inode;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
/// Begins the name of the lock of one key.
pub const MAKING: &str = "lock-";

/// For whoever renames or removes.
pub fn lock(place: &Path) -> io::Result<Flock<File>> {
    let file = lock_file(&place.join(LOCK))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).append(true).mode(0o600).open(path)
}

/// The lock of a key. Its file is there while somebody wants it.
pub struct Making {
    path: PathBuf,
    lock: Flock<File>,
}

impl Making {
    pub fn wait(place: &Path, key: &str) -> io::Result<Self> {
        loop {
            if let Some(making) = Self::take(place, key, FlockArg::LockExclusive)? {
                return Ok(making);
            }
        }
    }

    /// None: somebody has it.
    pub fn attempt(place: &Path, key: &str) -> io::Result<Option<Self>> {
        match Self::take(place, key, FlockArg::LockExclusiveNonblock) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            taken => taken,
        }
    }

    /// None: whoever had it took its file away, and another may be there.
    fn take(place: &Path, key: &str, how: FlockArg) -> io::Result<Option<Self>> {
        let path = place.join(format!("{MAKING}{key}"));
        let lock = Flock::lock(lock_file(&path)?, how);
        let lock = lock.map_err(|(_, errno)| io::Error::from(errno))?;
        let making = Self { path, lock };
        Ok(making.is_named()?.then_some(making))
    }

    /// Whether its file still is what has its name.
    fn is_named(&self) -> io::Result<bool> {
        match fs::metadata(&self.path) {
            Ok(meta) => Ok(inode(&meta) == inode(&self.lock.metadata()?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Another's, where ours was taken away.
        if self.is_named().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
