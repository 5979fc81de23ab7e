// SPDX-License-Identifier: Apache-2.0
//! What a machine's command finds besides its image: `--disk-size`, `-v`, `--tmpfs`, and
//! how fast its disks may be. Main thread.

use crate::cli::host::{cache_dir, data_dir};
use crate::cli::launch::Opened;
use crate::cli::output::Problem;
use crate::config::{Drive, HostFile, Served, Share};
use crate::units::ByteSize;
use crate::volume::{self, Store, VolumeError};
use husk_protocol::{Mount, MountKind};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Volumes and shares of one machine: each takes an interrupt line, and there are few.
const MAX_DEVICES: usize = 12;
/// Longest path Linux takes (PATH_MAX, with its end).
pub(super) const MAX_PATH: usize = 4095;

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Disks and files")]
pub struct StorageArgs {
    /// Keep what the command writes on a disk of this size instead of in the guest's
    /// memory: 512m, 10g. A bare number is GiB; the disk is gone with the machine
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    disk_size: Option<String>,
    /// Mount a named volume, which is made on first use and kept, or a directory of the
    /// host (a path with a '/'), at PATH of the guest; once for each
    #[arg(short, long, value_name = "NAME|DIR:PATH[:ro]")]
    volume: Vec<String>,
    /// Mount an empty file system in memory at PATH of the guest; once for each
    #[arg(long, value_name = "PATH[:size=SIZE]")]
    tmpfs: Vec<String>,
    /// Most bytes each disk reads and writes in a second: 20m, 1g
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    disk_bps: Option<String>,
    /// Most requests each disk serves in a second
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    disk_iops: Option<String>,
}

/// The same, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Storage {
    pub disk_size: Option<u64>,
    pub mounts: Vec<Attach>,
    pub bps: Option<u64>,
    pub iops: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attach {
    pub what: What,
    /// Absolute, without `.` and `..`.
    pub target: String,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum What {
    Volume(String),
    Directory(PathBuf),
    /// Zero is half the memory.
    Memory(u64),
}

impl Storage {
    /// Adds what is wrong to `problems`.
    pub fn check(args: &StorageArgs, read_only: bool, problems: &mut Vec<Problem>) -> Self {
        let mut storage = Self::default();
        let mut keep = |result: Result<Option<u64>, Problem>| {
            result.map_err(|problem| problems.push(problem)).ok()?
        };
        storage.disk_size = keep(option(args.disk_size.as_deref(), disk_size));
        storage.bps = keep(option(args.disk_bps.as_deref(), rate));
        storage.iops = keep(option(args.disk_iops.as_deref(), count));
        if read_only && args.disk_size.is_some() {
            problems.push(Problem::new(
                "--disk-size and --read-only: a root that takes no writes needs no disk for them",
            ));
        }
        let volumes = args.volume.iter().map(|text| attach(text));
        let memory = args.tmpfs.iter().map(|text| tmpfs(text));
        for result in volumes.chain(memory) {
            match result {
                Ok(mount) => storage.mounts.push(mount),
                Err(problem) => problems.push(problem),
            }
        }
        storage.agree(problems);
        storage
    }

    pub(super) fn agree(&self, problems: &mut Vec<Problem>) {
        for (index, mount) in self.mounts.iter().enumerate() {
            let before = &self.mounts[..index];
            if before.iter().any(|other| other.target == mount.target) {
                problems.push(Problem::new(format!(
                    "two things are to be mounted at {}",
                    mount.target
                )));
            }
            if let What::Volume(name) = &mount.what
                && before.iter().any(|other| other.what == mount.what)
            {
                problems.push(Problem::new(format!(
                    "volume '{name}' is to be mounted twice in one machine"
                )));
            }
        }
        let devices = self
            .mounts
            .iter()
            .filter(|m| !matches!(m.what, What::Memory(_)));
        if devices.count() > MAX_DEVICES {
            problems.push(Problem::new(format!(
                "--volume: a machine has at most {MAX_DEVICES} volumes and directories"
            )));
        }
    }
}

/// What the machine gets of it: disks after the root's, shares, and what the agent mounts.
#[derive(Default)]
pub struct Equipment {
    pub drives: Vec<Drive>,
    pub shares: Vec<Share>,
    /// Who answers them, in that order.
    pub served: Vec<Served>,
    pub mounts: Vec<Mount>,
    /// The disk that takes the root's writes, or nothing.
    pub upper: String,
}

/// Where the disks that can be written come from.
#[derive(Debug)]
pub enum Disks {
    /// They are made, or are volumes.
    Own,
    /// Each is a copy of the next of these, as a machine was saved with them.
    Saved(std::vec::IntoIter<File>),
}

impl Disks {
    /// What the next one is a copy of, if of anything.
    fn next(&mut self) -> Result<Option<File>, Problem> {
        match self {
            Self::Own => Ok(None),
            Self::Saved(list) => match list.next() {
                Some(file) => Ok(Some(file)),
                None => Err(Problem::new("the snapshot lacks a disk of its machine")),
            },
        }
    }
}

/// Opens and makes all of it. `first` is how many disks come before.
pub fn open(
    storage: &Storage,
    first: u8,
    mut disks: Disks,
    opened: &mut Opened,
) -> Result<Equipment, Problem> {
    let mut equipment = Equipment::default();
    let mut letters = (b'a'..=b'z').map(char::from).skip(first.into());
    let mut device = || format!("/dev/vd{}", letters.next().unwrap_or('z'));
    let drive = |file: File, path: PathBuf, read_only, opened: &mut Opened| Drive {
        file: HostFile {
            path,
            fd: opened.keep(file.into()),
        },
        read_only,
        bps: storage.bps,
        iops: storage.iops,
    };
    let folder = || Ok::<_, Problem>(cache_dir()?.join("scratch"));
    if let Some(size) = storage.disk_size {
        let file = match disks.next()? {
            Some(saved) => volume::copied(&folder()?, &saved),
            None => volume::scratch(&folder()?, size),
        };
        let file = file.map_err(problem)?;
        let drive = drive(file, "scratch".into(), false, opened);
        equipment.drives.push(drive);
        equipment.upper = device();
    }
    for attach in &storage.mounts {
        let (kind, source, size) = match &attach.what {
            What::Volume(name) => {
                let saved = match attach.read_only {
                    true => None,
                    false => disks.next()?,
                };
                let file = match saved {
                    Some(saved) => volume::copied(&folder()?, &saved),
                    None => {
                        let store = Store::new(&data_dir()?);
                        store.open(name, attach.read_only).map(|(file, _)| file)
                    }
                };
                let file = file.map_err(problem)?;
                let drive = drive(file, name.into(), attach.read_only, opened);
                equipment.drives.push(drive);
                (MountKind::Volume, device(), 0)
            }
            What::Directory(path) => {
                let tag = format!("share{}", equipment.shares.len());
                let path = directory(path)?;
                let (ours, theirs) = UnixStream::pair()
                    .map_err(|error| Problem::new("cannot make a socket pair").because(&error))?;
                equipment.served.push(Served {
                    directory: path.clone(),
                    read_only: attach.read_only,
                    all_ids: nix::unistd::geteuid().is_root(),
                    stream: opened.keep(theirs.into()),
                });
                equipment.shares.push(Share {
                    path,
                    tag: tag.clone(),
                    fd: opened.keep(ours.into()),
                    read_only: attach.read_only,
                });
                (MountKind::Share, tag, 0)
            }
            What::Memory(size) => (MountKind::Tmpfs, String::new(), *size),
        };
        equipment.mounts.push(Mount {
            kind,
            source,
            target: attach.target.clone().into_bytes(),
            read_only: attach.read_only,
            size,
        });
    }
    Ok(equipment)
}

/// The directory by a path without links.
fn directory(path: &Path) -> Result<PathBuf, Problem> {
    let about = || format!("cannot share the directory {}", path.display());
    let found = path
        .canonicalize()
        .and_then(|path| Ok((path.metadata()?, path)));
    let (meta, path) = found.map_err(|error| Problem::new(about()).because(&error))?;
    match meta.is_dir() {
        true if path.parent().is_none() => {
            Err(Problem::new(format!("{}: it is all of the host", about()))
                .hint("share a directory in it"))
        }
        true => Ok(path),
        false => Err(Problem::new(format!("{}: it is no directory", about()))
            .hint("share the directory it is in")),
    }
}

pub fn problem(error: VolumeError) -> Problem {
    let problem = Problem::of(&error);
    match error.hint() {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

fn option(
    text: Option<&str>,
    parse: fn(&str) -> Result<u64, Problem>,
) -> Result<Option<u64>, Problem> {
    text.map(parse).transpose()
}

/// The size of a disk, also for `husk volume create`.
pub fn size_of(option: &str, text: &str) -> Result<u64, Problem> {
    let size = ByteSize::parse_in(text, ByteSize::from_bytes(1 << 30));
    let size = size.map_err(|error| {
        Problem::new(format!("{option} {text}: {error}"))
            .hint("sizes look like 512m or 10g; a bare number is GiB")
    })?;
    let (least, most) = (volume::MIN_SIZE, volume::MAX_SIZE);
    match size.bytes() {
        // A file system is made of whole blocks.
        bytes if (least..=most).contains(&bytes) => Ok(bytes & !4095),
        _ => Err(Problem::new(format!(
            "{option} {text}: a disk has {} to {}",
            ByteSize::from_bytes(least),
            ByteSize::from_bytes(most)
        ))),
    }
}

fn disk_size(text: &str) -> Result<u64, Problem> {
    size_of("--disk-size", text)
}

fn rate(text: &str) -> Result<u64, Problem> {
    match ByteSize::parse_in(text, ByteSize::MIB) {
        Ok(size) if size.bytes() > 0 => Ok(size.bytes()),
        Ok(_) => Err(Problem::new(format!(
            "--disk-bps {text}: nothing would ever be done"
        ))),
        Err(error) => Err(Problem::new(format!("--disk-bps {text}: {error}"))
            .hint("rates look like 512k or 20m, in a second; a bare number is MiB")),
    }
}

fn count(text: &str) -> Result<u64, Problem> {
    match text.parse::<u32>() {
        Ok(count) if count > 0 => Ok(count.into()),
        Ok(_) => Err(Problem::new("--disk-iops 0: nothing would ever be done")),
        Err(_) => Err(Problem::new(format!(
            "--disk-iops {text}: not a number of requests"
        ))),
    }
}

fn attach(text: &str) -> Result<Attach, Problem> {
    let about = |what: &str| Problem::new(format!("--volume {text}: {what}"));
    let example = "as in data:/var/lib/data, or ./site:/srv:ro";
    let mut parts = text.split(':');
    let (Some(source), Some(path)) = (parts.next(), parts.next()) else {
        return Err(about("it does not say where to mount it").hint(example));
    };
    let read_only = match (parts.next(), parts.next()) {
        (None | Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err(about("all that may follow the path is ro or rw").hint(example)),
    };
    let what = if source.contains('/') || source == "." || source == ".." {
        let path = std::path::absolute(source).map_err(|error| about("no path").because(&error))?;
        What::Directory(path)
    } else if volume::is_name(source) {
        What::Volume(source.to_owned())
    } else {
        return Err(about("not a name for a volume")
            .hint("a name has letters, digits, '_', '-' and '.'; a directory's path has a '/'"));
    };
    Ok(Attach {
        what,
        target: target(path).map_err(about)?,
        read_only,
    })
}

fn tmpfs(text: &str) -> Result<Attach, Problem> {
    let about = |what: &str| Problem::new(format!("--tmpfs {text}: {what}"));
    let (path, options) = match text.split_once(':') {
        Some((path, options)) => (path, Some(options)),
        None => (text, None),
    };
    let size = match options.map(|options| options.strip_prefix("size=")) {
        None => 0,
        Some(None) => return Err(about("all that may follow the path is size=SIZE")),
        Some(Some(size)) => match ByteSize::parse_in(size, ByteSize::MIB) {
            Ok(size) if size.bytes() > 0 => size.bytes(),
            Ok(_) => return Err(about("no byte would fit")),
            Err(error) => {
                return Err(
                    about(&error.to_string()).hint("sizes look like 64m; a bare number is MiB")
                );
            }
        },
    };
    Ok(Attach {
        what: What::Memory(size),
        target: target(path).map_err(about)?,
        read_only: false,
    })
}

/// Where in the guest, spelt one way.
pub(super) fn target(path: &str) -> Result<String, &'static str> {
    if !path.starts_with('/') {
        return Err("a path of the guest starts with '/'");
    }
    if path.len() > MAX_PATH || path.contains('\0') {
        return Err("no path of Linux");
    }
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.contains(&"..") {
        return Err("'..' has no place in it");
    }
    match parts.is_empty() {
        true => Err("the root is the image's"),
        false => Ok(format!("/{}", parts.join("/"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_mounted_is_read_as_it_is_typed() {
        let volume = attach("data:/var//lib/./data/").expect("a volume");
        assert_eq!(volume.what, What::Volume("data".into()));
        assert_eq!(
            (&*volume.target, volume.read_only),
            ("/var/lib/data", false)
        );
        let share = attach("/srv/www:/www:ro").expect("a directory");
        assert_eq!(share.what, What::Directory("/srv/www".into()));
        assert!(share.read_only);
        let here = attach(".:/src:rw").expect("a directory");
        assert!(matches!(here.what, What::Directory(path) if path.is_absolute()));
        let memory = tmpfs("/tmp:size=64m").expect("memory");
        assert_eq!(memory.what, What::Memory(64 << 20));
        assert_eq!(tmpfs("/run").expect("memory").what, What::Memory(0));
    }

    #[test]
    fn every_mistake_has_a_name() {
        for text in [
            "",
            "data",
            "data:",
            ":/x",
            "data:x",
            "data:/",
            "data:/..",
            "data:/a/../b",
            "data:/a:rx",
            "data:/a:ro:rw",
            "-d:/a",
            "d a:/a",
        ] {
            assert!(attach(text).is_err(), "{text}");
        }
        for text in [
            "",
            "tmp",
            "/",
            "/tmp:",
            "/tmp:64m",
            "/tmp:size=",
            "/tmp:size=0",
        ] {
            assert!(tmpfs(text).is_err(), "{text}");
        }
        for text in ["", "0", "-1", "1m", "99999t", "ten"] {
            assert!(disk_size(text).is_err(), "{text}");
        }
        assert_eq!(disk_size("10"), Ok(10 << 30));
        assert_eq!(disk_size("20000k"), Ok(20000 << 10));
    }
}
