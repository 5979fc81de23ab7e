// SPDX-License-Identifier: Apache-2.0
//! A snapshot that is being made: a hidden folder of the store, locked by who fills it, that
//! gets its name when all of it is on the disk. Any thread of the tool.
//!
//! A process may be killed at any instant. Until the rename there is no such snapshot, or the
//! old one; after it there is the new one; what remains of the other is swept.

use super::cpu;
use super::error::{Fault, SnapshotError, failed};
use super::format::{
    About, Entry, FORMAT, MAX_DISKS, MEMORY, Manifest, PAGES, STATE, Shape, disk, is_file, is_name,
};
use super::pages::{self, Run};
use super::store::{IMPORTED, Publish, Seal, Snapshot, Store, write_synced};
use super::verify;
use crate::image::Digest;
use crate::machine::MachineState;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub struct Draft {
    store: Store,
    name: String,
    path: PathBuf,
    how: Publish,
    /// Holds the lock that says that somebody is at it.
    folder: File,
    published: bool,
}

impl Draft {
    pub(super) fn new(store: &Store, name: &str, path: PathBuf, folder: File) -> Self {
        Self {
            store: store.clone(),
            name: name.to_owned(),
            path,
            how: Publish::Over,
            folder,
            published: false,
        }
    }

    /// Refuses to replace a snapshot of this name: a last look, at the instant it gets it.
    #[must_use]
    pub fn only_new(mut self) -> Self {
        self.how = Publish::New;
        self
    }

    pub(super) fn only_over(mut self, digest: Digest) -> Self {
        self.how = Publish::This(digest);
        self
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes one of the files a snapshot has: `STATE`, `MEMORY`, `PAGES` or `disk(n)`.
    pub fn create(&self, file: &str) -> Result<File, SnapshotError> {
        let path = self.path.join(file);
        if !is_file(file) {
            return Err(failed("make", &path)(io::ErrorKind::InvalidInput.into()));
        }
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(&path).map_err(failed("make", &path))
    }

    /// Notes that it was not made here.
    pub(super) fn came_from_elsewhere(&self) -> Result<(), SnapshotError> {
        let path = self.path.join(IMPORTED);
        write_synced(&path, b"").map_err(failed("write", &path))
    }

    /// Says which pages its memory holds, where that is not all of them.
    pub fn pages(&self, runs: &[Run]) -> Result<(), SnapshotError> {
        let file = self.create(PAGES)?;
        pages::write(&file, runs).map_err(failed("write", &self.path.join(PAGES)))
    }

    /// Gives the files their name, once they are all on the disk, in place of what had it.
    /// With a parent, the memory holds what `PAGES` says, and the parent's all else.
    pub fn commit(
        self,
        about: About,
        parent: Option<&Snapshot>,
        blueprint: serde_json::Value,
    ) -> Result<Snapshot, SnapshotError> {
        let state = self.open(STATE)?;
        let state = MachineState::read(&state).map_err(|fault| self.fault(Fault::State(fault)))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let created = since.map_or(0, |s| u64::try_from(s.as_nanos()).unwrap_or(u64::MAX));
        let machine = Shape::of(&state).ok_or_else(|| self.fault(Fault::Other))?;
        let needs = cpu::needs(&state).map_err(failed("read", Path::new(cpu::BOOT_ID)))?;
        let parent = parent.map(Snapshot::as_parent);
        let (files, seal) = self.seal(parent.is_some())?;
        let manifest = Manifest {
            format: FORMAT,
            husk: env!("CARGO_PKG_VERSION").to_owned(),
            created,
            about,
            machine,
            needs,
            parent,
            files,
            blueprint,
        };
        self.publish(&manifest, &seal)
    }

    /// Brings every file to the disk, and takes its digest and stamp.
    pub(super) fn seal(&self, child: bool) -> Result<(Vec<Entry>, Seal), SnapshotError> {
        let disks = (0..MAX_DISKS).map(disk);
        let disks = disks.take_while(|name| self.path.join(name).exists());
        let names = [STATE, MEMORY].map(str::to_owned).into_iter();
        let names = names.chain(child.then(|| PAGES.to_owned())).chain(disks);
        let (mut entries, mut seal) = (Vec::new(), Seal::default());
        for name in names {
            let file = self.open(&name)?;
            let path = self.path.join(&name);
            file.sync_all().map_err(failed("write", &path))?;
            let (digest, stamp) = verify::seal(&name, &file).map_err(failed("read", &path))?;
            let length = file.metadata().map_err(failed("read", &path))?.len();
            entries.push(Entry {
                name: name.clone(),
                length,
                digest,
            });
            seal.files.insert(name, stamp);
        }
        Ok((entries, seal))
    }

    /// Gives it its name.
    pub(super) fn publish(
        mut self,
        manifest: &Manifest,
        seal: &Seal,
    ) -> Result<Snapshot, SnapshotError> {
        let bytes = manifest.write();
        let bytes = bytes.map_err(|fault| self.fault(Fault::Format(fault)))?;
        self.publish_bytes(manifest, &bytes, seal)?;
        self.store.get(&self.name)
    }

    /// The manifest as it came, byte for byte: its digest is what children call it by.
    pub(super) fn publish_bytes(
        &mut self,
        manifest: &Manifest,
        bytes: &[u8],
        seal: &Seal,
    ) -> Result<(), SnapshotError> {
        if !is_name(&self.name) {
            return Err(SnapshotError::Name(self.name.clone()));
        }
        let digest = Digest::of(bytes);
        let write = |name: &str, bytes: &[u8]| {
            let path = self.path.join(name);
            write_synced(&path, bytes).map_err(failed("write", &path))
        };
        write(super::store::MANIFEST, bytes)?;
        write(super::store::DIGEST, format!("{digest}\n").as_bytes())?;
        write(super::store::SEAL, &seal.write())?;
        let synced = self.folder.sync_all();
        synced.map_err(failed("write", &self.path))?;
        self.store
            .publish(&self.name, &self.path, manifest.parent.as_ref(), &self.how)?;
        // What has this path now is the old one, if anything.
        self.published = true;
        let _ = fs::remove_dir_all(&self.path);
        Ok(())
    }

    fn open(&self, file: &str) -> Result<File, SnapshotError> {
        let path = self.path.join(file);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(self.fault(Fault::NoFile(file.to_owned())))
            }
            other => other.map_err(failed("open", &path)),
        }
    }

    fn fault(&self, fault: Fault) -> SnapshotError {
        SnapshotError::fault(&self.name, fault)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
