// SPDX-License-Identifier: Apache-2.0
//! A stream of files out of a guest, into a directory of the host. On a thread of its own.
//!
//! The stream is hostile. Every directory is opened below the destination's own descriptor
//! by openat2(2), which refuses `..`, absolute names and symbolic links on the way; files
//! are always new ones; a link is made, never followed. No file gets a bit that would run it
//! as somebody else, or an owner.

use crate::cli::output::{Failure, Problem};
use anyhow::Context as _;
use husk_protocol::archive::{BLOCK, Entry, Kind, Parser, Step, padding};
use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

/// Most entries a guest may send: each costs the host an inode.
const MAX_ENTRIES: usize = 4 << 20;
/// Directories within directories: each costs a step of every name below it.
const MAX_DEPTH: usize = 256;
/// Bytes of the names of directories that are remembered until the end. Stops a guest that
/// sends millions of deep ones from filling the host's memory.
const MAX_REMEMBERED: usize = 64 << 20;
/// Complaints that are told; a guest could cause any number.
const MAX_COMPLAINTS: usize = 20;
/// No setuid, setgid or sticky bit comes out of a guest.
const PERMISSIONS: u32 = 0o777;

/// Where entries go.
#[derive(Debug)]
pub struct Target {
    directory: OwnedFd,
    /// What the first part of each name becomes; None leaves it.
    name: Option<OsString>,
}

impl Target {
    /// Into the directory of this path, or as the path itself if nothing is there or a file.
    /// `name` is what was asked for, and all that comes into being in a directory: a guest
    /// that sends other names has them changed to it. None is a directory's content.
    pub fn open(path: &Path, name: Option<&OsStr>) -> Result<Self, Failure> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let open = |path: &Path| fs::openat(CWD, path, flags, Mode::empty());
        let fail = |path: &Path, errno: Errno| {
            let error = io::Error::from(errno);
            Failure::from(
                Problem::new(format!("cannot copy to {}", path.display())).because(&error),
            )
        };
        match open(path) {
            Ok(directory) => Ok(Self {
                directory,
                name: name.map(OsStr::to_owned),
            }),
            Err(Errno::NOENT | Errno::NOTDIR) if !path.as_os_str().as_bytes().ends_with(b"/") => {
                let name = path.file_name().ok_or_else(|| fail(path, Errno::NOENT))?;
                let parent = match path.parent() {
                    Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                    Some(parent) => parent,
                    None => return Err(fail(path, Errno::NOENT)),
                };
                Ok(Self {
                    directory: open(parent).map_err(|errno| fail(parent, errno))?,
                    name: Some(name.to_owned()),
                })
            }
            Err(errno) => Err(fail(path, errno)),
        }
    }

    /// The parts of a name below the directory; none if it would leave it.
    fn parts(&self, name: &[u8]) -> Option<Vec<OsString>> {
        let path = PathBuf::from(OsString::from_vec(name.to_vec()));
        let mut parts = Vec::new();
        let mut components = path.components().peekable();
        // `.` is the content of a directory, and takes the target's place.
        let first = match components.next()? {
            Component::CurDir => None,
            Component::Normal(first) => Some(first.to_owned()),
            _ => return None,
        };
        parts.extend(self.name.clone().or(first));
        for component in components {
            match component {
                Component::Normal(part) => parts.push(part.to_owned()),
                _ => return None,
            }
        }
        (parts.len() <= MAX_DEPTH).then_some(parts)
    }

    /// The directory with these parts, and no link on the way to it.
    fn directory(&self, parts: &[OsString]) -> rustix::io::Result<OwnedFd> {
        self.open_below(&parts.iter().collect::<PathBuf>())
    }

    fn open_below(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NOFOLLOW;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        fs::openat2(&self.directory, path, flags, Mode::empty(), resolve)
    }
}

/// What was left out and why, in lines for people.
pub fn unpack(mut input: impl Read, target: &Target) -> Result<Vec<String>, Failure> {
    let mut parser = Parser::new();
    let mut block = [0; BLOCK];
    let mut complaints = Vec::new();
    let mut directories = Directories::default();
    let mut entries = 0;
    let lies = || Problem::new("the guest sends no stream of files");
    while fill(&mut input, &mut block)? {
        match parser.header(&block).map_err(|_| lies())? {
            Step::End => break,
            Step::Skip(size) => pass(&mut input, size)?,
            Step::Long(size) => {
                let mut bytes = vec![0; size + padding(size as u64)];
                fill(&mut input, &mut bytes)?;
                parser.long(bytes.get(..size).unwrap_or_default());
            }
            Step::Entry(entry) => {
                entries += 1;
                if entries > MAX_ENTRIES {
                    return Err(Problem::new(format!(
                        "the guest sends more than {MAX_ENTRIES} files"
                    ))
                    .into());
                }
                if let Err(why) = make(&mut input, target, &entry, &mut directories)?
                    && complaints.len() < MAX_COMPLAINTS
                {
                    let name = String::from_utf8_lossy(&entry.name).into_owned();
                    let line = format!("{name} was not copied: {why}");
                    complaints.push(crate::cli::output::visible(&line).replace('\n', " "));
                }
            }
        }
    }
    // Only now, since what is made in a directory needs its permission and changes its time.
    for (path, mode, mtime) in directories.list.iter().rev() {
        if let Ok(directory) = target.open_below(path) {
            let _ = fs::fchmod(&directory, Mode::from_raw_mode(*mode & PERMISSIONS));
            let _ = fs::futimens(&directory, &times(*mtime));
        }
    }
    // Its end has to be heard, or the guest is told that nobody reads.
    io::copy(&mut input, &mut io::sink()).context("cannot read what the guest sends")?;
    Ok(complaints)
}

/// Those that were made, with the mode and the time they are to have.
#[derive(Default)]
struct Directories {
    list: Vec<(PathBuf, u32, u64)>,
    bytes: usize,
}

impl Directories {
    fn remember(&mut self, parts: &[OsString], entry: &Entry) -> Result<(), Failure> {
        let path: PathBuf = parts.iter().collect();
        self.bytes += path.as_os_str().len() + size_of::<(PathBuf, u32, u64)>();
        if self.bytes > MAX_REMEMBERED {
            return Err(Problem::new("the guest sends more directories than husk takes").into());
        }
        self.list.push((path, entry.mode, entry.mtime));
        Ok(())
    }
}

/// Makes one entry. The content of a file is read whatever happens; why the entry could not
/// be made is the inner error.
fn make(
    input: &mut impl Read,
    target: &Target,
    entry: &Entry,
    directories: &mut Directories,
) -> Result<Result<(), String>, Failure> {
    let refused = |why: &str| Ok(Err(why.to_owned()));
    let Some(parts) = target.parts(&entry.name) else {
        pass(input, entry.size)?;
        return refused("its name leads elsewhere");
    };
    let Some((name, above)) = parts.split_last() else {
        // The content of a directory, as what is there already.
        return match entry.kind {
            Kind::Directory => Ok(Ok(())),
            _ => refused("it has no name"),
        };
    };
    let parent = match target.directory(above) {
        Ok(parent) => parent,
        Err(errno) => {
            pass(input, entry.size)?;
            return Ok(Err(reason(errno)));
        }
    };
    let made = match entry.kind {
        Kind::File => return file(input, &parent, name, entry),
        Kind::Directory => match fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => {
                directories.remember(&parts, entry)?;
                Ok(())
            }
            // Taken as it is, mode and all, if it is a directory and no link to one.
            Err(Errno::EXIST) => target.directory(&parts).map(drop),
            Err(errno) => Err(errno),
        },
        Kind::Symlink => {
            replace(&parent, name);
            fs::symlinkat(OsStr::from_bytes(&entry.link), &parent, name)
        }
        Kind::HardLink => match target.parts(&entry.link) {
            Some(existing) => link(target, &existing, &parent, name),
            None => return refused("it is a link to elsewhere"),
        },
        Kind::Other => return refused("it is no file, directory or link"),
    };
    Ok(made.map_err(reason))
}

fn reason(errno: Errno) -> String {
    match errno {
        Errno::LOOP => "its name leads through a symbolic link".into(),
        errno => nix::errno::Errno::from_raw(errno.raw_os_error())
            .desc()
            .into(),
    }
}

/// What is there under this name is not written to; a directory stays, and is in the way.
fn replace(parent: &OwnedFd, name: &OsStr) {
    let _ = fs::unlinkat(parent, name, AtFlags::empty());
}

/// Another name for what was sent before. A link is not followed but linked itself.
fn link(
    target: &Target,
    existing: &[OsString],
    parent: &OwnedFd,
    name: &OsStr,
) -> rustix::io::Result<()> {
    let (old, above) = existing.split_last().ok_or(Errno::NOENT)?;
    let directory = target.directory(above)?;
    replace(parent, name);
    fs::linkat(&directory, old.as_os_str(), parent, name, AtFlags::empty())
}

fn file(
    input: &mut impl Read,
    parent: &OwnedFd,
    name: &OsStr,
    entry: &Entry,
) -> Result<Result<(), String>, Failure> {
    replace(parent, name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
    let mut made = made.map(File::from).map_err(reason);
    let mut buffer = vec![0; 64 * 1024];
    let mut left = entry.size;
    while left > 0 {
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let piece = buffer.get_mut(..most).unwrap_or_default();
        if !fill(input, piece)? {
            return Err(Problem::new("the guest's files end too early").into());
        }
        left -= most as u64;
        if let Ok(file) = &mut made
            && let Err(error) = file.write_all(piece)
        {
            // A full disk is not the last file's affair alone.
            return Err(Problem::new("cannot write what was copied")
                .because(&error)
                .into());
        }
    }
    pass_exact(input, padding(entry.size) as u64)?;
    Ok(made.map(|file| {
        let _ = fs::fchmod(&file, Mode::from_raw_mode(entry.mode & PERMISSIONS));
        let _ = fs::futimens(&file, &times(entry.mtime));
    }))
}

fn times(seconds: u64) -> Timestamps {
    let time = Timespec {
        tv_sec: i64::try_from(seconds).unwrap_or(0),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// False at an end before the first byte.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<bool, Failure> {
    let mut filled = 0;
    while let Some(space) = buffer.get_mut(filled..).filter(|space| !space.is_empty()) {
        match input.read(space) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(Problem::new("the guest's files end too early").into()),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(anyhow::Error::new(error)
                    .context("cannot read what the guest sends")
                    .into());
            }
        }
    }
    Ok(true)
}

/// Reads and drops content, and the padding after it.
fn pass(input: &mut impl Read, size: u64) -> Result<(), Failure> {
    pass_exact(input, size.saturating_add(padding(size) as u64))
}

fn pass_exact(input: &mut impl Read, size: u64) -> Result<(), Failure> {
    let passed = io::copy(&mut input.take(size), &mut io::sink());
    match passed.context("cannot read what the guest sends")? == size {
        true => Ok(()),
        false => Err(Problem::new("the guest's files end too early").into()),
    }
}

#[cfg(test)]
mod tests;
