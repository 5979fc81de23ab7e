// SPDX-License-Identifier: Apache-2.0
//! The folder of all machines of a user, and what the kernel says of each: a machine lives
//! as long as its owner holds the lock on its folder's `lock` file, which the kernel drops
//! when that process ends, however it ends. So nothing here can be stale.
//!
//! A folder of a machine appears under its id by a rename, its lock already held: whoever
//! finds one unlocked knows that its owner is gone, and clears up what that left (`sweep`).
//! Making and removing folders is done under the place's own lock, which nobody holds for
//! longer than that takes. Tool side, any thread.

mod files;
mod sockets;

use super::journal;
use super::record::{Ended, ID_DIGITS, MAX_RECORD, Record, State, is_id, now};
use files::{is_locked, lock_file, new_id, read_json, write, write_json};
use nix::fcntl::Flock;
use sockets::{connect, link, listen, unlink_vsock};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const RECORD: &str = "record.json";
const ENDED: &str = "ended.json";
/// Where the owner takes requests.
const DESK: &str = "control.sock";
/// Where the guest's vsock ports are reached.
const VSOCK: &str = "vsock.sock";
/// Folders that are being made or removed; no id looks like them.
const NEW: &str = ".new-";
const GONE: &str = ".gone-";
/// Tries at an id nobody has; the second is as good as certain.
const ATTEMPTS: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("cannot use {} for the records of machines", .path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("{} belongs to another user", .0.display())]
    Stranger(PathBuf),
    #[error("the name '{name}' is taken by machine {id}")]
    Taken { name: String, id: String },
    #[error("what is to be written down of the machine is longer than {} MiB", MAX_RECORD >> 20)]
    Long,
    #[error("there is no machine '{0}'")]
    Unknown(String),
    #[error("'{word}' is the beginning of several ids: {}", .ids.join(", "))]
    Ambiguous { word: String, ids: Vec<String> },
}

/// The folder of all machines.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
}

/// A machine that is, or was.
#[derive(Clone, Debug)]
pub struct Found {
    pub record: Record,
    pub state: State,
    pub dir: PathBuf,
}

/// A machine that is this process's own, for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    pub record: Record,
    dir: PathBuf,
    place: Place,
    _lock: Flock<File>,
}

impl Place {
    /// Makes the folder if it is missing.
    pub fn open(path: &Path) -> Result<Self, PlaceError> {
        let fail = |source| PlaceError::Folder {
            path: path.to_owned(),
            source,
        };
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(fail)?;
        let meta = fs::symlink_metadata(path).map_err(fail)?;
        // In a folder all may write to, anyone may have been here first.
        if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(PlaceError::Stranger(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn fail(&self) -> impl FnOnce(io::Error) -> PlaceError {
        let path = self.path.clone();
        move |source| PlaceError::Folder { path, source }
    }

    fn lock(&self) -> Result<Flock<File>, PlaceError> {
        lock_file(&self.path.join(LOCK)).map_err(self.fail())
    }

    /// Every machine, oldest first. Clears up after owners that could not.
    pub fn list(&self) -> Result<Vec<Found>, PlaceError> {
        let mut list = Vec::new();
        let mut litter = false;
        for entry in fs::read_dir(&self.path).map_err(self.fail())? {
            let Ok(name) = entry.map_err(self.fail())?.file_name().into_string() else {
                continue;
            };
            litter |= name.starts_with(NEW) || name.starts_with(GONE);
            if name.len() == ID_DIGITS && is_id(&name) {
                list.extend(self.look(&name)?);
            }
        }
        if litter {
            self.clear_litter()?;
        }
        list.sort_by(|a, b| {
            let key = |found: &Found| (found.record.created, found.record.id.clone());
            key(a).cmp(&key(b))
        });
        Ok(list)
    }

    /// The machine a person means: its name, its id, or the beginning of its id.
    pub fn find(&self, word: &str) -> Result<Found, PlaceError> {
        let list = self.list()?;
        let named = |found: &&Found| found.record.name.as_deref() == Some(word);
        if let Some(found) = list.iter().find(named) {
            return Ok(found.clone());
        }
        let begins = |found: &&Found| is_id(word) && found.record.id.starts_with(word);
        let mut matching: Vec<&Found> = list.iter().filter(begins).collect();
        match (matching.pop(), matching.is_empty()) {
            (Some(found), true) => Ok(found.clone()),
            (None, _) => Err(PlaceError::Unknown(word.to_owned())),
            (Some(last), false) => {
                matching.push(last);
                Err(PlaceError::Ambiguous {
                    word: word.to_owned(),
                    ids: matching.iter().map(|f| f.record.id.clone()).collect(),
                })
            }
        }
    }

    /// What there is of this id, if anything.
    fn look(&self, id: &str) -> Result<Option<Found>, PlaceError> {
        let dir = self.path.join(id);
        let Some(alive) = is_locked(&dir).map_err(self.fail())? else {
            return Ok(None);
        };
        let Some(record) = read_json::<Record>(&dir.join(RECORD)) else {
            // Damaged by a hand or a full disk: nobody can use it.
            if !alive {
                self.sweep(&dir, id)?;
            }
            return Ok(None);
        };
        if alive {
            let state = State::Running;
            return Ok(Some(Found { record, state, dir }));
        }
        let ended = read_json::<Ended>(&dir.join(ENDED));
        let clean = ended.is_some() && !dir.join(DESK).exists() && !dir.join(VSOCK).exists();
        if clean && !record.remove {
            let state = ended.map_or(State::Running, State::Exited);
            return Ok(Some(Found { record, state, dir }));
        }
        let state = self.sweep(&dir, id)?;
        Ok(state.map(|ended| Found {
            record,
            state: State::Exited(ended),
            dir,
        }))
    }

    /// Clears up after an owner that is gone. None: nothing of it is to be kept.
    fn sweep(&self, dir: &Path, id: &str) -> Result<Option<Ended>, PlaceError> {
        let _lock = self.lock()?;
        // Another husk may have done it, or removed the machine.
        if is_locked(dir).map_err(self.fail())? != Some(false) {
            return Ok(None);
        }
        let record = read_json::<Record>(&dir.join(RECORD));
        let told = read_json::<Ended>(&dir.join(ENDED));
        let ended = told.clone().unwrap_or_else(|| Ended::vanished(now()));
        if let (Some(record), None) = (&record, &told) {
            journal::note(&self.path, "die", record, Some(ended.code));
        }
        if let Some(record) = &record {
            unlink_vsock(record, dir);
        }
        if record.as_ref().is_none_or(|record| record.remove) {
            self.discard(dir, id).map_err(self.fail())?;
            if let Some(record) = &record {
                journal::note(&self.path, "remove", record, None);
            }
            return Ok(None);
        }
        for socket in [DESK, VSOCK] {
            let _ = fs::remove_file(dir.join(socket));
        }
        let _ = fs::remove_file(dir.join(format!("{ENDED}.new")));
        if told.is_none() {
            write_json(dir, ENDED, &ended).map_err(self.fail())?;
        }
        Ok(Some(ended))
    }

    /// What a husk left that was killed while it made or removed a folder.
    fn clear_litter(&self) -> Result<(), PlaceError> {
        let _lock = self.lock()?;
        for entry in fs::read_dir(&self.path).map_err(self.fail())?.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with(NEW) || name.starts_with(GONE) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    /// Under the place's lock: first out of sight, at once, then piece by piece.
    fn discard(&self, dir: &Path, id: &str) -> io::Result<()> {
        let gone = self.path.join(format!("{GONE}{id}"));
        // Of a husk that was killed here before.
        let _ = fs::remove_dir_all(&gone);
        match fs::rename(dir, &gone) {
            Ok(()) => fs::remove_dir_all(gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what is kept of a machine that ended. False: it runs.
    pub fn remove(&self, found: &Found) -> Result<bool, PlaceError> {
        let _lock = self.lock()?;
        if is_locked(&found.dir).map_err(self.fail())? == Some(true) {
            return Ok(false);
        }
        self.discard(&found.dir, &found.record.id)
            .map_err(self.fail())?;
        journal::note(&self.path, "remove", &found.record, None);
        Ok(true)
    }

    /// Writes a machine down as this process's own. Its id, creation time and owner are
    /// filled in; a name must be nobody else's.
    pub fn claim(&self, mut record: Record) -> Result<Claim, PlaceError> {
        if record.name.is_some() {
            // The name of a machine of which nothing is kept is free once that is cleared up.
            self.list()?;
        }
        let _lock = self.lock()?;
        if let Some(name) = &record.name
            && let Some(id) = self.holder(name)?
        {
            let name = name.clone();
            return Err(PlaceError::Taken { name, id });
        }
        record.created = now();
        record.protocol = husk_protocol::VERSION;
        record.pid = nix::unistd::getpid().as_raw();
        for _ in 0..ATTEMPTS {
            record.id = new_id().map_err(self.fail())?;
            if !self.path.join(&record.id).exists() {
                break;
            }
        }
        // What could not be read back would be a machine that nobody sees.
        let text = serde_json::to_vec(&record).map_err(|error| self.fail()(error.into()))?;
        if text.len() as u64 > MAX_RECORD {
            return Err(PlaceError::Long);
        }
        self.make(record, &text).map_err(self.fail())
    }

    /// Who has this name, alive or not.
    fn holder(&self, name: &str) -> Result<Option<String>, PlaceError> {
        for entry in fs::read_dir(&self.path).map_err(self.fail())?.flatten() {
            let record = read_json::<Record>(&entry.path().join(RECORD));
            if let Some(record) = record.filter(|r| r.name.as_deref() == Some(name)) {
                return Ok(Some(record.id));
            }
        }
        Ok(None)
    }

    fn make(&self, record: Record, text: &[u8]) -> io::Result<Claim> {
        let new = self.path.join(format!("{NEW}{}", record.id));
        DirBuilder::new().mode(0o700).create(&new)?;
        let lock = lock_file(&new.join(LOCK))?;
        write(&new, RECORD, text)?;
        let dir = self.path.join(&record.id);
        // Onto nothing: an id that was taken meanwhile is a folder that is not empty.
        fs::rename(&new, &dir).inspect_err(|_| {
            let _ = fs::remove_dir_all(&new);
        })?;
        Ok(Claim {
            record,
            dir,
            place: self.clone(),
            _lock: lock,
        })
    }
}

impl Found {
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// A connection to the owner.
    pub fn call(&self) -> io::Result<UnixStream> {
        connect(&self.dir, DESK)
    }

    /// A connection to the guest's vsock ports.
    pub fn call_vsock(&self) -> io::Result<UnixStream> {
        connect(&self.dir, VSOCK)
    }

    /// The owner's process as a descriptor, which says when it ends. None: it is gone.
    pub fn owner(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = rustix::process::Pid::from_raw(self.record.pid) else {
            return Ok(None);
        };
        let flags = rustix::process::PidfdFlags::empty();
        let Ok(pidfd) = rustix::process::pidfd_open(pid, flags) else {
            return Ok(None);
        };
        // Held still, after the descriptor was made: so it is the owner's, and no later
        // process's of the same number.
        Ok((is_locked(&self.dir)? == Some(true)).then_some(pidfd))
    }

    /// What is known of it now.
    pub fn look_again(&self, place: &Place) -> Result<Option<Self>, PlaceError> {
        place.look(&self.record.id)
    }
}

impl Claim {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The socket its requests come to.
    pub fn desk(&self) -> io::Result<UnixListener> {
        listen(&self.dir, DESK)
    }

    /// The socket through which the guest's vsock ports are reached.
    pub fn vsock(&self) -> io::Result<UnixListener> {
        let listener = listen(&self.dir, VSOCK)?;
        if let Some(path) = &self.record.vsock {
            link(&self.dir.join(VSOCK), path)?;
        }
        Ok(listener)
    }

    /// Writes down how it ended, and takes everything else away; all, if nothing is kept.
    pub fn conclude(&self, ended: &Ended) -> Result<(), PlaceError> {
        journal::note(&self.place.path, "die", &self.record, Some(ended.code));
        unlink_vsock(&self.record, &self.dir);
        if self.record.remove {
            return self.forget();
        }
        write_json(&self.dir, ENDED, ended).map_err(self.place.fail())?;
        for socket in [DESK, VSOCK] {
            let _ = fs::remove_file(self.dir.join(socket));
        }
        Ok(())
    }

    /// Takes all of it away, as if it had never been.
    pub fn forget(&self) -> Result<(), PlaceError> {
        unlink_vsock(&self.record, &self.dir);
        let _lock = self.place.lock()?;
        self.place
            .discard(&self.dir, &self.record.id)
            .map_err(self.place.fail())?;
        journal::note(&self.place.path, "remove", &self.record, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
