// SPDX-License-Identifier: Apache-2.0
//! Named volumes: each one file, `NAME.img` in the data folder, holding an ext4 file system
//! that outlives the machines it is given to. And disks that end with theirs.
//!
//! Runs on the command's main thread, in any number of processes at once. A volume's state
//! is its file and the lock on it, which the machine's process holds with the descriptor it
//! inherits: so no volume has two writers, and none stays locked by something that died. A
//! file gets its name only when it is whole.

use crate::sys::duplicate::duplicate;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The smallest disk mke2fs makes an ext4 file system with a journal on that is of use.
pub const MIN_SIZE: u64 = 16 << 20;
/// The largest file of an ext4 host, and the largest ext4 with blocks of 4 KiB.
pub const MAX_SIZE: u64 = 16 << 40;
/// What a volume made on first use may hold. The file has holes: it takes what is written.
pub const DEFAULT_SIZE: u64 = 8 << 30;
/// Longest name: a file's, less the ending.
const MAX_NAME: usize = 128;
/// How long a machine that has ended may keep its volumes.
const LETTING_GO: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(10);
const ENDING: &str = ".img";

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("there is no volume '{0}'")]
    Missing(String),
    #[error("there is a volume '{0}' already")]
    Exists(String),
    #[error("volume '{0}' is in use by another machine")]
    Busy(String),
    #[error("cannot {what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("mke2fs cannot be started")]
    NoTool(#[source] io::Error),
    #[error("mke2fs cannot make a file system: {0}")]
    Tool(String),
}

impl VolumeError {
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing(_) => Some("`husk volume ls` lists those there are"),
            Self::Busy(_) => Some("any number of machines may share it with :ro"),
            Self::NoTool(_) => Some("install it: the Debian package is e2fsprogs"),
            _ => None,
        }
    }
}

/// What is to be said of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub path: PathBuf,
    /// Bytes it may hold.
    pub size: u64,
    /// Bytes of the host's disk it takes.
    pub used: u64,
    pub created: Option<SystemTime>,
    /// A machine has it.
    pub in_use: bool,
}

/// Where volumes are kept.
pub struct Store {
    folder: PathBuf,
}

/// Whether a volume can be called so: what a file name can hold without surprises.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let first = text.bytes().next();
    text.len() <= MAX_NAME
        && first.is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

impl Store {
    /// `data` is husk's data folder; nothing is made in it before it is needed.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self {
            folder: data.join("volumes"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{ENDING}"))
    }

    /// Makes a volume of `size` bytes.
    pub fn create(&self, name: &str, size: u64) -> Result<(), VolumeError> {
        let path = self.path(name);
        if path.exists() {
            return Err(VolumeError::Exists(name.to_owned()));
        }
        fs::create_dir_all(&self.folder).map_err(failed("make", &self.folder))?;
        let file = unnamed(&self.folder, size)?;
        format(&file, true)?;
        file.sync_all().map_err(failed("write", &path))?;
        let from = format!("/proc/self/fd/{}", file.as_raw_fd());
        match rustix::fs::linkat(CWD, &from, CWD, &path, AtFlags::SYMLINK_FOLLOW) {
            // What a guest brings to its disk is worth nothing in a file whose name is lost.
            Ok(()) => File::open(&self.folder)
                .and_then(|folder| folder.sync_all())
                .map_err(failed("write", &self.folder)),
            Err(Errno::EXIST) => Err(VolumeError::Exists(name.to_owned())),
            Err(errno) => Err(failed("make", &path)(errno.into())),
        }
    }

    /// The volume's file, locked: for one writer, or for any number that read. It is made if
    /// there is none and somebody is going to write.
    pub fn open(&self, name: &str, read_only: bool) -> Result<(File, PathBuf), VolumeError> {
        let path = self.path(name);
        loop {
            let file = File::options().read(true).write(!read_only).open(&path);
            let file = match file {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if read_only {
                        return Err(VolumeError::Missing(name.to_owned()));
                    }
                    match self.create(name, DEFAULT_SIZE) {
                        Ok(()) | Err(VolumeError::Exists(_)) => continue,
                        Err(error) => return Err(error),
                    }
                }
                other => other.map_err(failed("open", &path))?,
            };
            let how = match read_only {
                true => FlockOperation::NonBlockingLockShared,
                false => FlockOperation::NonBlockingLockExclusive,
            };
            lock(&file, how, name, &path)?;
            // Removed between the two steps: it is a file without a name now.
            if file.metadata().map_err(failed("read", &path))?.nlink() > 0 {
                return Ok((file, path));
            }
        }
    }

    /// Every volume, by name.
    pub fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed("read", &self.folder))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("read", &self.folder))?;
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(ENDING));
            match name.filter(|name| is_name(name)).map(|name| self.get(name)) {
                // Removed since.
                None | Some(Err(VolumeError::Missing(_))) => {}
                Some(volume) => found.push(volume?),
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    pub fn get(&self, name: &str) -> Result<Volume, VolumeError> {
        let path = self.path(name);
        let (file, meta) = self.look(name, &path)?;
        let in_use = flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
        Ok(Volume {
            name: name.to_owned(),
            size: meta.len(),
            used: meta.blocks() * 512,
            created: meta.created().ok(),
            in_use,
            path,
        })
    }

    /// Removes a volume no machine has, and what is in it.
    pub fn remove(&self, name: &str) -> Result<(), VolumeError> {
        let path = self.path(name);
        let (file, _) = self.look(name, &path)?;
        let how = FlockOperation::NonBlockingLockExclusive;
        lock(&file, how, name, &path)?;
        // Removed by another husk between the two steps: what has the name now is another
        // volume, perhaps with a machine that writes to it.
        if file.metadata().map_err(failed("read", &path))?.nlink() == 0 {
            return Err(VolumeError::Missing(name.to_owned()));
        }
        fs::remove_file(&path).map_err(failed("remove", &path))
    }

    fn look(&self, name: &str, path: &Path) -> Result<(File, fs::Metadata), VolumeError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(VolumeError::Missing(name.to_owned()));
            }
            other => other.map_err(failed("open", path))?,
        };
        let meta = file.metadata().map_err(failed("read", path))?;
        Ok((file, meta))
    }
}

/// Takes a volume, or says that it is taken. Whoever saw a machine end may be quicker than
/// the kernel, which takes its process apart and then lets go of the lock.
fn lock(file: &File, how: FlockOperation, name: &str, path: &Path) -> Result<(), VolumeError> {
    let end = Instant::now() + LETTING_GO;
    loop {
        match flock(file, how) {
            Err(Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(GLANCE),
            Err(Errno::WOULDBLOCK) => return Err(VolumeError::Busy(name.to_owned())),
            other => return other.map_err(|errno| failed("lock", path)(errno.into())),
        }
    }
}

/// A disk of `size` bytes with an empty file system, in `folder` and without a name: it is
/// gone with the machine that has it, however that ends.
pub fn scratch(folder: &Path, size: u64) -> Result<File, VolumeError> {
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    let file = unnamed(folder, size)?;
    format(&file, false)?;
    Ok(file)
}

/// A disk as it was when this file was saved, gone with its machine.
pub fn copied(folder: &Path, saved: &File) -> Result<File, VolumeError> {
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    let length = saved
        .metadata()
        .map_err(failed("read a disk for", folder))?
        .len();
    let file = unnamed(folder, 0)?;
    duplicate(saved, &file, length).map_err(failed("make a disk in", folder))?;
    Ok(file)
}

fn unnamed(folder: &Path, size: u64) -> Result<File, VolumeError> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(folder, flags, mode).map_err(Into::into);
    let file = File::from(file.map_err(failed("make a file in", folder))?);
    file.set_len(size)
        .map_err(failed("make a disk in", folder))?;
    Ok(file)
}

/// Makes an ext4 file system that takes a few MiB of the host's disk, whatever its size:
/// what mke2fs would clear is a hole already.
fn format(file: &File, journal: bool) -> Result<(), VolumeError> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("mke2fs");
    // Not every user's PATH has the folder it is in.
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-E"]);
    command.arg("lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0");
    if !journal {
        command.args(["-O", "^has_journal"]);
    }
    // The path is this process's: the descriptor is closed in mke2fs itself.
    command.arg(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        file.as_raw_fd()
    ));
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(VolumeError::NoTool)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    Err(VolumeError::Tool(
        line.unwrap_or("it does not say why").trim().to_owned(),
    ))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    move |source| VolumeError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_one_writer_and_goes_when_nobody_has_it() {
        let data = tempfile::tempdir().expect("a folder");
        let store = Store::new(data.path());
        assert_eq!(store.list().expect("none"), []);
        let missing = store.open("data", true).map(|_| ());
        assert!(matches!(missing, Err(VolumeError::Missing(_))));
        assert!(
            !data.path().join("volumes").exists(),
            "looking makes nothing"
        );

        let (file, path) = store.open("data", false).expect("made on first use");
        let volume = store.get("data").expect("it is there");
        assert_eq!((volume.size, volume.path), (DEFAULT_SIZE, path));
        assert!(volume.in_use && volume.used < 32 << 20, "{}", volume.used);
        assert!(matches!(
            store.open("data", false),
            Err(VolumeError::Busy(_))
        ));
        assert!(matches!(
            store.open("data", true),
            Err(VolumeError::Busy(_))
        ));
        assert!(matches!(store.remove("data"), Err(VolumeError::Busy(_))));
        assert!(matches!(
            store.create("data", MIN_SIZE),
            Err(VolumeError::Exists(_))
        ));
        drop(file);

        let one = store.open("data", true).expect("nobody writes");
        let two = store.open("data", true).expect("nobody writes");
        assert!(matches!(
            store.open("data", false),
            Err(VolumeError::Busy(_))
        ));
        drop((one, two));
        store.create("other", MIN_SIZE).expect("made");
        let names: Vec<_> = store
            .list()
            .expect("two")
            .into_iter()
            .map(|v| v.name)
            .collect();
        assert_eq!(names, ["data", "other"]);
        store.remove("data").expect("nobody has it");
        assert!(matches!(store.get("data"), Err(VolumeError::Missing(_))));
        let left = fs::read_dir(data.path().join("volumes")).expect("a folder");
        assert_eq!(left.count(), 1, "nothing is left of making and removing");
    }

    #[test]
    fn a_volume_that_was_made_anew_meanwhile_is_not_removed() {
        let data = tempfile::tempdir().expect("a folder");
        let store = Store::new(data.path());
        let (file, path) = store.open("data", false).expect("made");
        store.create("other", MIN_SIZE).expect("made");
        let inode = file.metadata().expect("a file").ino();
        // How many descriptors of this process are of that file.
        let held = || {
            let list = fs::read_dir("/proc/self/fd")
                .expect("descriptors")
                .flatten();
            let meta = list.filter_map(|entry| fs::metadata(entry.path()).ok());
            meta.filter(|meta| meta.ino() == inode && meta.is_file())
                .count()
        };
        thread::scope(|scope| {
            let removing = scope.spawn(|| store.remove("data"));
            // It has the file open, and waits for the lock.
            while held() < 2 {
                assert!(!removing.is_finished(), "nobody was waited for");
                thread::yield_now();
            }
            fs::rename(store.path("other"), &path).expect("another of that name");
            drop(file);
            let result = removing.join().expect("no panic");
            assert!(matches!(result, Err(VolumeError::Missing(_))), "{result:?}");
        });
        assert_eq!(store.get("data").expect("it is there").size, MIN_SIZE);
    }

    #[test]
    fn names_are_those_of_files_without_surprises() {
        for name in ["a", "pg-data", "A.b_c", "0"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            ".a",
            "-a",
            "a/b",
            "..",
            "a b",
            "ä",
            "a\n",
            &"x".repeat(200),
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_scratch_disk_has_no_name() {
        let data = tempfile::tempdir().expect("a folder");
        let file = scratch(data.path(), MIN_SIZE).expect("made");
        assert_eq!(file.metadata().expect("a file").len(), MIN_SIZE);
        assert_eq!(fs::read_dir(data.path()).expect("a folder").count(), 0);
    }
}
