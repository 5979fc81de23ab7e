// SPDX-License-Identifier: Apache-2.0
//! Warm templates: machines saved when their kernel is up and their agent waits, before
//! anything of a service. A start restores one and goes on from there. Tool side, main thread.
//!
//! A template is a folder named by a digest over everything that went into it, so one that no
//! longer fits is never found. It appears by a rename, whole or not at all.

mod lock;
#[cfg(test)]
mod tests;

use super::spawn::{SpawnError, Spawned, spawn};
use crate::config::VmConfig;
use crate::control::{Report, Request};
use crate::image::Digest;
use crate::snapshot;
use crate::snapshot::verify::{self, Stamp};
use crate::snapshot::working;
use crate::sys::contents::contents;
use husk_protocol::{Decoder, Message};
use lock::{MAKING, Making, lock};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const STATE: &str = "state";
const MEMORY: &str = "memory";
/// What it is of, as `About`.
const ABOUT: &str = "about.json";
const SEAL: &str = "seal.json";
/// Digits of a key.
const KEY_DIGITS: usize = 12;
/// Disk that templates may take before one more is made: each holds what a kernel and an
/// agent have touched, some 20 MiB.
const LIMIT: u64 = 1 << 30;
/// Begins the name of one that is being made, under the lock of its key.
const NEW: &str = ".new-";
/// Begins the name of one that is being removed, under the lock of all.
const GONE: &str = ".gone-";
/// Longest state that is read; a machine takes none that is as long.
const MAX_STATE: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("cannot keep templates in {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("the guest's agent did not answer within {} s", .limit.as_secs_f32())]
    NoAgent { limit: Duration, console: String },
    #[error("the template's machine ended")]
    Ended,
    #[error("the template's machine cannot be saved: {0}")]
    Save(String),
    #[error("cannot speak to the template's machine")]
    Control(#[source] io::Error),
}

/// A template, open for machines to start from.
#[derive(Debug)]
pub struct Template {
    pub path: PathBuf,
    pub state: File,
    pub memory: File,
    /// What its machines write to first, once one has gone on from it.
    pub hot: Option<File>,
}

/// One particular template, whatever has its name later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    path: PathBuf,
    /// Device and inode of its state.
    state: (u64, u64),
}

impl Template {
    pub fn which(&self) -> io::Result<Which> {
        Ok(Which {
            path: self.path.clone(),
            state: inode(&self.state.metadata()?),
        })
    }
}

fn inode(meta: &fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// The machine a template is made of: its configuration, and the host's end of its agent's
/// connection.
pub struct Sitter {
    pub config: VmConfig,
    pub agent: UnixStream,
    pub about: About,
    /// Every descriptor the configuration names; closed once the machine has them, so that the
    /// agent's connection ends with it.
    pub opened: Vec<OwnedFd>,
}

/// What a template is of, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    pub kernel: PathBuf,
    pub ring: Option<u8>,
    pub cpus: u32,
    pub memory: u64,
}

/// What a template was when it was made: one that is not that any more is none. Its memory is
/// too much to be read at every start, and is while its stamp does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    state: Digest,
    memory: Digest,
    stamp: Stamp,
}

impl Seal {
    fn of(state: &[u8], memory: &File) -> io::Result<Self> {
        let (digest, stamp) = verify::seal(snapshot::MEMORY, memory)?;
        Ok(Self {
            state: Digest::of(state),
            memory: digest,
            stamp,
        })
    }

    /// Whether a template is what it was.
    fn holds(&self, path: &Path, state: &[u8], memory: &File) -> io::Result<bool> {
        if Digest::of(state) != self.state {
            return Ok(false);
        }
        if Stamp::of(memory)? == self.stamp {
            return Ok(true);
        }
        // Written to since, or copied: what is in it decides.
        let found = Self::of(state, memory)?;
        let same = found.memory == self.memory;
        if same {
            let _ = verify::replace(&path.join(SEAL), &serde_json::to_vec(&found)?);
        }
        Ok(same)
    }
}

/// A template as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub key: String,
    pub about: About,
    /// Bytes of disk it takes: what is empty of its memory takes none.
    pub disk: u64,
    /// When a machine last began with it.
    pub used: Option<SystemTime>,
}

/// The template of this key, if there is one that is whole.
#[must_use]
pub fn find(place: &Path, key: &str) -> Option<Template> {
    let path = place.join(key);
    let open = |name| File::open(path.join(name)).ok();
    let (state, memory) = (open(STATE)?, open(MEMORY)?);
    let seal: Seal = serde_json::from_slice(&fs::read(path.join(SEAL)).ok()?).ok()?;
    // Of the file that is open: another template may have this path by now.
    let bytes = contents(&state, MAX_STATE).ok()?;
    if !seal.holds(&path, &bytes, &memory).ok()? {
        return None;
    }
    // What was not used for the longest goes first when there are too many.
    let _ = state.set_modified(SystemTime::now());
    Some(Template {
        hot: working::open(&path),
        path,
        state,
        memory,
    })
}

/// The template of this key, made if there is none: whoever else wants it meanwhile waits.
pub fn make(
    place: &Path,
    key: &str,
    patience: Duration,
    sitter: Sitter,
) -> Result<Template, TemplateError> {
    let fail = |source| TemplateError::Folder {
        path: place.to_owned(),
        source,
    };
    let mut folder = DirBuilder::new();
    folder
        .recursive(true)
        .mode(0o700)
        .create(place)
        .map_err(fail)?;
    let _making = Making::wait(place, key).map_err(fail)?;
    if let Some(found) = find(place, key) {
        return Ok(found);
    }
    let new = place.join(format!("{NEW}{key}"));
    {
        let _lock = lock(place).map_err(fail)?;
        sweep(place);
        evict(place, LIMIT);
    }
    // Ours to remove, and not the sweep's: the lock of its key is held here.
    let _ = fs::remove_dir_all(&new);
    DirBuilder::new().mode(0o700).create(&new).map_err(fail)?;
    let made = save(sitter, &new, patience).and_then(|()| seal(&new).map_err(fail));
    let named = made.and_then(|()| name(place, key, &new).map_err(fail));
    if named.is_err() {
        let _ = fs::remove_dir_all(&new);
    }
    named
}

/// Gives one that was made its name, in the place of one that is not whole.
fn name(place: &Path, key: &str, new: &Path) -> io::Result<Template> {
    let _lock = lock(place)?;
    discard(place, key)?;
    fs::rename(new, place.join(key))?;
    // Before anybody can make room where it is.
    find(place, key).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// All of them, the one used last first.
pub fn list(place: &Path) -> Result<Vec<Kept>, TemplateError> {
    let mut list = Vec::new();
    let entries = match fs::read_dir(place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(list),
        Err(source) => {
            return Err(TemplateError::Folder {
                path: place.to_owned(),
                source,
            });
        }
    };
    for entry in entries.flatten() {
        let Ok(key) = entry.file_name().into_string() else {
            continue;
        };
        if is_key(&key) {
            list.extend(look(&entry.path(), key));
        }
    }
    list.sort_by_key(|kept| std::cmp::Reverse(kept.used));
    Ok(list)
}

/// Whether this is how a template is called.
#[must_use]
pub fn is_key(text: &str) -> bool {
    text.len() == KEY_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// None: there is no such template, or not all of it.
fn look(path: &Path, key: String) -> Option<Kept> {
    let state = fs::metadata(path.join(STATE)).ok()?;
    let memory = fs::metadata(path.join(MEMORY)).ok()?;
    let about = fs::read(path.join(ABOUT)).unwrap_or_default();
    Some(Kept {
        key,
        about: serde_json::from_slice(&about).unwrap_or_default(),
        disk: (state.blocks() + memory.blocks()) * 512,
        used: state.modified().ok(),
    })
}

/// Removes one; machines that began with it keep what they have. False: there is none.
pub fn remove(place: &Path, key: &str) -> Result<bool, TemplateError> {
    let fail = |source| TemplateError::Folder {
        path: place.to_owned(),
        source,
    };
    if !place.exists() {
        return Ok(false);
    }
    let _lock = lock(place).map_err(fail)?;
    discard(place, key).map_err(fail)
}

/// Removes one whose machine does not start, unless another has its name by now.
pub fn give_up(which: &Which) -> io::Result<()> {
    let place = which.path.parent();
    let key = which.path.file_name().and_then(|name| name.to_str());
    let (Some(place), Some(key)) = (place, key) else {
        return Ok(());
    };
    let _lock = lock(place)?;
    match fs::metadata(which.path.join(STATE)) {
        Ok(meta) if inode(&meta) == which.state => discard(place, key).map(drop),
        _ => Ok(()),
    }
}

/// First out of sight, at once, then piece by piece. Under the lock.
fn discard(place: &Path, key: &str) -> io::Result<bool> {
    let gone = place.join(format!("{GONE}{key}"));
    let _ = fs::remove_dir_all(&gone);
    match fs::rename(place.join(key), &gone) {
        Ok(()) => fs::remove_dir_all(gone).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what husks that were killed here left, of whatever template, and nothing that
/// somebody is filling. Under the lock.
fn sweep(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(GONE) {
            let _ = fs::remove_dir_all(entry.path());
        }
        let key = name.strip_prefix(NEW).or(name.strip_prefix(MAKING));
        let Some(key) = key.filter(|key| is_key(key)) else {
            continue;
        };
        // Its file goes with it.
        if let Ok(Some(_making)) = Making::attempt(place, key) {
            let _ = fs::remove_dir_all(place.join(format!("{NEW}{key}")));
        }
    }
}

/// Makes room for one more. Under the lock.
fn evict(place: &Path, limit: u64) {
    let mut left = limit;
    for kept in list(place).unwrap_or_default() {
        match left.checked_sub(kept.disk) {
            Some(rest) => left = rest,
            // One that stays costs disk and nothing else.
            None => drop(discard(place, &kept.key)),
        }
    }
}

/// Runs the machine until its agent waits, and saves it into the folder.
fn save(sitter: Sitter, folder: &Path, patience: Duration) -> Result<(), TemplateError> {
    let create = |name: &str| {
        let path = folder.join(name);
        let file = File::options().write(true).create_new(true).open(&path);
        file.map_err(|source| TemplateError::Folder { path, source })
    };
    let (state, memory) = (create(STATE)?, create(MEMORY)?);
    let about = create(ABOUT)?;
    serde_json::to_writer(about, &sitter.about).map_err(|error| TemplateError::Folder {
        path: folder.to_owned(),
        source: error.into(),
    })?;
    let machine = spawn(&sitter.config)?;
    drop(sitter.opened);
    let result = greeted(&sitter.agent, patience).and_then(|()| {
        let files = [state.as_fd(), memory.as_fd()];
        let sent = machine.control.send_with(
            &Request::Save {
                hold: true,
                changes: false,
            },
            &files,
        );
        sent.map_err(TemplateError::Control)?;
        loop {
            match machine.control.recv().map_err(TemplateError::Control)? {
                Some(Report::Saved { problem: None }) => return Ok(()),
                Some(Report::Saved {
                    problem: Some(problem),
                }) => return Err(TemplateError::Save(problem)),
                Some(Report::Ended(_)) | None => return Err(TemplateError::Ended),
                Some(_) => {}
            }
        }
    });
    let result = result.map_err(|error| match error {
        TemplateError::NoAgent { limit, .. } => TemplateError::NoAgent {
            limit,
            console: console(&machine),
        },
        other => other,
    });
    machine.kill();
    let _ = machine.wait();
    result
}

/// The last lines of a machine that is given up on; nothing, if it does not say.
fn console(machine: &Spawned) -> String {
    if machine.control.send(&Request::Console).is_err() {
        return String::new();
    }
    loop {
        match machine.control.recv() {
            Ok(Some(Report::Console { tail })) => return tail,
            Ok(Some(Report::Ended(_)) | None) | Err(_) => return String::new(),
            Ok(Some(_)) => {}
        }
    }
}

/// Written last, when all else is on the disk.
fn seal(folder: &Path) -> io::Result<()> {
    let memory = File::open(folder.join(MEMORY))?;
    for name in [STATE, ABOUT] {
        File::open(folder.join(name))?.sync_all()?;
    }
    memory.sync_all()?;
    let seal = Seal::of(&fs::read(folder.join(STATE))?, &memory)?;
    let file = File::create_new(folder.join(SEAL))?;
    serde_json::to_writer(&file, &seal)?;
    file.sync_all()
}

/// Waits for the agent to say that it is there.
fn greeted(mut agent: &UnixStream, patience: Duration) -> Result<(), TemplateError> {
    let until = Instant::now() + patience;
    let mut decoder = Decoder::new();
    loop {
        match decoder.take() {
            Ok(Some(Message::Hello(_))) => return Ok(()),
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return Err(TemplateError::Ended),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(TemplateError::NoAgent {
                limit: patience,
                console: String::new(),
            });
        }
        agent
            .set_read_timeout(Some(left))
            .map_err(TemplateError::Control)?;
        match agent.read(decoder.space()) {
            Ok(0) => return Err(TemplateError::Ended),
            Ok(count) => decoder.filled(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(TemplateError::Control(error)),
        }
    }
}
