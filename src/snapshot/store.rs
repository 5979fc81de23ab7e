// SPDX-License-Identifier: Apache-2.0
//! The folder of all snapshots of a user, each a folder under its name.
//!
//! A snapshot appears, and is replaced, by one rename; nothing in it changes afterwards but
//! what can be made again (stamps, the working set). Who gives or takes a name holds the
//! store's lock meanwhile; who opens a snapshot holds it shared, so that a chain of them is of
//! one moment. Open files outlive their names.

use super::chain;
use super::draft::Draft;
use super::error::{Fault, SnapshotError, failed};
use super::format::{
    Entry, FormatFault, MAX_MANIFEST, MAX_PAGES, MEMORY, Manifest, PAGES, Parent, STATE, Shape,
    is_name, is_sparse,
};
use super::pages::{self, Layer, PAGE};
use super::verify::{self, Stamp, all_of, replace};
use crate::image::Digest;
use crate::machine::MachineState;
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const DIGEST: &str = "digest";
pub(super) const SEAL: &str = "seal.json";
/// Pages that a machine touched soon after it went on from here: advice, nothing more.
/// Says that a snapshot came from elsewhere: what it asks of this host, nobody here asked for.
pub(super) const IMPORTED: &str = "imported";
const LOCK: &str = ".lock";
/// Snapshots that are being made or removed; no name looks like it.
const DRAFT: &str = ".draft-";
/// Longest digest file and seal. Stops either from being read for ever.
const MAX_SMALL: u64 = 64 << 10;

/// Where snapshots are kept.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A snapshot whose files are what they were when it was made.
#[derive(Debug)]
pub struct Snapshot {
    pub name: String,
    pub path: PathBuf,
    pub digest: Digest,
    pub manifest: Manifest,
    /// For `MachineState::read`, from its beginning.
    pub state: File,
    /// The first one holds all of the memory, each later one what changed since.
    pub memory: Vec<Layer>,
    /// In the order of their numbers.
    pub disks: Vec<File>,
    /// It was made elsewhere, by who knows whom.
    pub imported: bool,
}

impl Snapshot {
    /// As those that build on it name it.
    #[must_use]
    pub fn as_parent(&self) -> Parent {
        Parent {
            name: self.name.clone(),
            digest: self.digest,
        }
    }
}

/// A snapshot as it is listed.
#[derive(Debug)]
pub struct Listed {
    pub name: String,
    pub path: PathBuf,
    /// Bytes of disk it takes.
    pub disk: u64,
    /// Or what is wrong with it, as far as its manifest tells.
    pub manifest: Result<(Manifest, Digest), Fault>,
}

/// Stamps of a snapshot's files, as they were when their digests were known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seal {
    pub files: BTreeMap<String, Stamp>,
}

impl Seal {
    pub fn write(&self) -> Vec<u8> {
        // A map of numbers: it can be written.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What is taken for granted of a large file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// That nobody wrote to it since its stamp was taken.
    Stamps,
    Nothing,
}

/// What a new snapshot may take the place of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Publish {
    /// Whatever has its name.
    Over,
    /// Nothing.
    New,
    /// This one.
    This(Digest),
}

impl Store {
    /// `data` is husk's data folder; nothing is made in it before it is needed.
    #[must_use]
    pub fn open(data: &Path) -> Self {
        Self {
            root: data.join("snapshots"),
        }
    }

    /// Begins a snapshot, after whatever killed processes left of theirs is removed.
    pub fn draft(&self, name: &str) -> Result<Draft, SnapshotError> {
        if !is_name(name) {
            return Err(SnapshotError::Name(name.to_owned()));
        }
        let mut folder = DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder
            .create(&self.root)
            .map_err(failed("make", &self.root))?;
        let lock = self.lock(FlockArg::LockExclusive)?;
        let left = self.left_behind();
        let path = self.hidden()?;
        let folder = File::open(&path).map_err(failed("open", &path))?;
        flock(&folder, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| failed("lock", &path)(errno.into()))?;
        drop(lock);
        for path in left {
            let _ = fs::remove_dir_all(path);
        }
        Ok(Draft::new(self, name, path, folder))
    }

    /// The snapshot, if every byte of it that matters is what was saved.
    pub fn get(&self, name: &str) -> Result<Snapshot, SnapshotError> {
        let _lock = self.shared(name)?;
        chain::open(self, name, Trust::Stamps)
    }

    /// The same, with every byte of it read again, and of all it builds on.
    pub fn verify(&self, name: &str) -> Result<Snapshot, SnapshotError> {
        let _lock = self.shared(name)?;
        chain::open(self, name, Trust::Nothing)
    }

    /// Whether there is one of this name, in whatever state.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        is_name(name) && self.root.join(name).is_dir()
    }

    /// All of them, by name.
    pub fn list(&self) -> Result<Vec<Listed>, SnapshotError> {
        let mut found = Vec::new();
        for name in self.names()? {
            let listed = self.look(&name);
            // Removed since.
            found.extend(listed.ok());
        }
        Ok(found)
    }

    /// One of them, as far as its manifest tells.
    pub fn look(&self, name: &str) -> Result<Listed, SnapshotError> {
        let path = self.folder(name)?;
        let mut disk = 0;
        for entry in fs::read_dir(&path)
            .map_err(failed("read", &path))?
            .flatten()
        {
            disk += entry.metadata().map_or(0, |meta| meta.blocks() * 512);
        }
        Ok(Listed {
            name: name.to_owned(),
            manifest: self.manifest(name).map(|(m, digest, _)| (m, digest)),
            path,
            disk,
        })
    }

    /// Removes one that no other builds on; machines that began with it keep what they have.
    pub fn remove(&self, name: &str) -> Result<(), SnapshotError> {
        self.folder(name)?;
        let lock = self.lock(FlockArg::LockExclusive)?;
        let path = self.folder(name)?;
        self.childless(name, "removed")?;
        let gone = self.hidden()?;
        // Out of sight at once, then piece by piece.
        fs::rename(&path, &gone).map_err(failed("remove", &path))?;
        self.sync()?;
        drop(lock);
        fs::remove_dir_all(&gone).map_err(failed("remove", &gone))
    }

    /// The snapshots whose memory builds on this one's.
    pub fn children(&self, name: &str) -> Result<Vec<String>, SnapshotError> {
        chain::children(self, name)
    }

    pub(super) fn names(&self) -> Result<Vec<String>, SnapshotError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed("read", &self.root))?,
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let names = names.filter_map(|name| name.into_string().ok());
        let mut names: Vec<String> = names.filter(|name| self.has(name)).collect();
        names.sort();
        Ok(names)
    }

    /// Its folder, if there is one.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, SnapshotError> {
        match (is_name(name), self.has(name)) {
            (false, _) => Err(SnapshotError::Name(name.to_owned())),
            (true, false) => Err(SnapshotError::Missing(name.to_owned())),
            (true, true) => Ok(self.root.join(name)),
        }
    }

    /// What it says of itself, the digest of that, and its very bytes.
    pub(super) fn manifest(&self, name: &str) -> Result<(Manifest, Digest, Vec<u8>), Fault> {
        let path = self.root.join(name);
        let file = open(&path, MANIFEST)?;
        let bytes = all_of(&file, MAX_MANIFEST).map_err(Fault::Read)?;
        let bytes = bytes.ok_or(FormatFault::Long)?;
        let digest = Digest::of(&bytes);
        let sealed = open(&path, DIGEST).and_then(|file| {
            let text = all_of(&file, MAX_SMALL).map_err(Fault::Read)?;
            Ok(text.as_deref() == Some(format!("{digest}\n").as_bytes()))
        });
        match sealed {
            Ok(true) => {}
            Ok(false) => return Err(Fault::Digest(MANIFEST.to_owned())),
            // Other formats may do without.
            Err(fault) => return Err(Manifest::read(&bytes).map_or_else(Fault::from, |_| fault)),
        }
        Ok((Manifest::read(&bytes)?, digest, bytes))
    }

    /// Opens files of a snapshot, each of which is what its entry says.
    pub(super) fn open_files(
        &self,
        name: &str,
        manifest: &Manifest,
        trust: Trust,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, File>, Fault> {
        let path = self.root.join(name);
        let sealed =
            open(&path, SEAL).and_then(|file| all_of(&file, MAX_SMALL).map_err(Fault::Read));
        let sealed = sealed.ok().flatten();
        let sealed: Seal = sealed
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let mut seal = sealed.clone();
        let mut files = BTreeMap::new();
        for entry in manifest.files.iter().filter(|entry| wanted(&entry.name)) {
            let file = open(&path, &entry.name)?;
            let stamp = sealed.files.get(&entry.name);
            let stamp = stamp.filter(|_| trust == Trust::Stamps);
            let stamp = check(&file, entry, stamp)?;
            seal.files.insert(entry.name.clone(), stamp);
            files.insert(entry.name.clone(), file);
        }
        if seal != sealed {
            // Or it is read again the next time.
            let _ = replace(&path.join(SEAL), &seal.write());
        }
        Ok(files)
    }

    /// Nothing while others build on it.
    pub(super) fn childless(&self, name: &str, done: &'static str) -> Result<(), SnapshotError> {
        let children = self.children(name)?;
        match children.is_empty() {
            true => Ok(()),
            false => Err(SnapshotError::Children {
                name: name.to_owned(),
                done,
                children,
            }),
        }
    }

    /// Gives a draft its name.
    pub(super) fn publish(
        &self,
        name: &str,
        draft: &Path,
        parent: Option<&Parent>,
        how: &Publish,
    ) -> Result<(), SnapshotError> {
        let _lock = self.lock(FlockArg::LockExclusive)?;
        if let Some(parent) = parent {
            let room = chain::depth(self, parent).and_then(chain::room);
            room.map_err(|fault| SnapshotError::fault(name, fault))?;
        }
        let path = self.root.join(name);
        let flags = match (path.exists(), how) {
            (false, Publish::Over | Publish::New) => RenameFlags::NOREPLACE,
            (false, Publish::This(_)) => return Err(SnapshotError::Missing(name.to_owned())),
            (true, Publish::New) => return Err(SnapshotError::Exists(name.to_owned())),
            (true, _) => RenameFlags::EXCHANGE,
        };
        if let Publish::This(digest) = how
            && !self
                .manifest(name)
                .is_ok_and(|(_, found, _)| found == *digest)
        {
            // Another one by now, which nobody asked to lose.
            return Err(SnapshotError::Exists(name.to_owned()));
        }
        if flags == RenameFlags::EXCHANGE {
            self.childless(name, "replaced")?;
        }
        renameat_with(CWD, draft, CWD, &path, flags).map_err(|errno| match errno {
            Errno::EXIST => SnapshotError::Exists(name.to_owned()),
            other => failed("replace", &path)(other.into()),
        })?;
        self.sync()
    }

    /// An empty folder that no name looks like.
    fn hidden(&self) -> Result<PathBuf, SnapshotError> {
        let owners = fs::Permissions::from_mode(0o700);
        let mut builder = tempfile::Builder::new();
        let made = builder.prefix(DRAFT).permissions(owners);
        let made = made.tempdir_in(&self.root);
        let made = made.map_err(failed("make a folder in", &self.root))?;
        Ok(made.keep())
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        let synced = File::open(&self.root).and_then(|root| root.sync_all());
        synced.map_err(failed("write", &self.root))
    }

    fn lock(&self, how: FlockArg) -> Result<Flock<File>, SnapshotError> {
        let path = self.root.join(LOCK);
        let mut options = File::options();
        options.create(true).append(true).mode(0o600);
        let file = options.open(&path).map_err(failed("open", &path))?;
        Flock::lock(file, how).map_err(|(_, errno)| failed("lock", &path)(errno.into()))
    }

    /// Held by who opens a snapshot, which must be there.
    pub(super) fn shared(&self, name: &str) -> Result<Flock<File>, SnapshotError> {
        self.folder(name)?;
        let lock = self.lock(FlockArg::LockShared)?;
        self.folder(name)?;
        Ok(lock)
    }

    /// Folders nobody is at any more. Under the lock.
    fn left_behind(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let drafts = entries.filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().starts_with(DRAFT.as_bytes())
        });
        let free = |path: &PathBuf| {
            let folder = File::open(path);
            folder.is_ok_and(|f| flock(&f, FlockOperation::NonBlockingLockExclusive).is_ok())
        };
        drafts.map(|entry| entry.path()).filter(free).collect()
    }
}

/// Whether a file is what its entry says; what its stamp is now.
fn check(file: &File, entry: &Entry, sealed: Option<&Stamp>) -> Result<Stamp, Fault> {
    let length = file.metadata().map_err(Fault::Read)?.len();
    if length != entry.length {
        return Err(Fault::Length {
            file: entry.name.clone(),
            found: length,
            expected: entry.length,
        });
    }
    let stamp = Stamp::of(file).map_err(Fault::Read)?;
    // The small ones are read in any case.
    let large = is_sparse(&entry.name);
    if large && sealed == Some(&stamp) {
        return Ok(stamp);
    }
    let (digest, stamp) = match large {
        true => verify::seal(&entry.name, file).map_err(Fault::Read)?,
        false => (verify::plain(file).map_err(Fault::Read)?, stamp),
    };
    match digest == entry.digest {
        true => Ok(stamp),
        false => Err(Fault::Digest(entry.name.clone())),
    }
}

/// The state, which must be of the machine the manifest is of.
pub(super) fn state_of(file: &File, manifest: &Manifest) -> Result<(), Fault> {
    let state = MachineState::read(file).map_err(Fault::State)?;
    let needs = super::cpu::matches(&state, &manifest.needs);
    if Shape::of(&state).as_ref() != Some(&manifest.machine) || !needs {
        return Err(Fault::Other);
    }
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))
        .map(drop)
        .map_err(|errno| Fault::Read(errno.into()))
}

/// Whether the files of a folder that has no name yet fit each other: their digests are known
/// to.
pub(super) fn check_alone(folder: &Path, manifest: &Manifest) -> Result<(), Fault> {
    state_of(&open(folder, STATE)?, manifest)?;
    if manifest.parent.is_some() {
        let pages = manifest.machine.memory / PAGE;
        pages::read(open(folder, PAGES)?, MAX_PAGES, pages).map_err(Fault::Pages)?;
    }
    Ok(())
}

/// A file of a folder, which is one and no link.
fn open(folder: &Path, name: &str) -> Result<File, Fault> {
    let mut options = File::options();
    // A FIFO in its place would be waited for.
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Fault::NoFile(name.to_owned()));
        }
        other => other.map_err(Fault::Read)?,
    };
    match file.metadata().map_err(Fault::Read)?.is_file() {
        true => Ok(file),
        false => Err(Fault::NoFile(name.to_owned())),
    }
}

/// The names of files that are opened of a snapshot that others build on.
pub(super) fn is_of_memory(name: &str) -> bool {
    [MEMORY, PAGES].contains(&name)
}

/// What belongs to a layer of memory.
pub(super) fn layer(
    files: &mut BTreeMap<String, File>,
    manifest: &Manifest,
) -> Result<Layer, Fault> {
    let missing = |name: &str| Fault::NoFile(name.to_owned());
    let runs = match manifest.parent {
        None => None,
        Some(_) => {
            let list = files.remove(PAGES).ok_or_else(|| missing(PAGES))?;
            let pages = manifest.machine.memory / PAGE;
            Some(pages::read(list, MAX_PAGES, pages).map_err(Fault::Pages)?)
        }
    };
    let file = files.remove(MEMORY).ok_or_else(|| missing(MEMORY))?;
    Ok(Layer { file, runs })
}

/// The state's file, out of those that were opened.
pub(super) fn take_state(files: &mut BTreeMap<String, File>) -> Result<File, Fault> {
    let file = files.remove(STATE);
    file.ok_or_else(|| Fault::NoFile(STATE.to_owned()))
}

/// Writes a new file, and waits for the disk.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
