// SPDX-License-Identifier: Apache-2.0
//! `extract PATH`: a stream of files into a directory, or as the path itself if that is not
//! there. With a further word, `contents`, what comes is what a directory holds, and goes into
//! the path, which is made. The stream is the host's; what it does to the guest is the operator's wish.

use super::{Trouble, join, path, read_exact};
use crate::sys::{self, Errno};
use alloc::vec;
use alloc::vec::Vec;
use husk_protocol::archive::{BLOCK, Entry, Kind, Parser, Step, padding};
use libc::{O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY};

/// Where entries go.
struct Target {
    directory: Vec<u8>,
    /// What the first part of each name becomes; None leaves it.
    name: Option<Vec<u8>>,
}

pub fn run(to: &[u8], contents: bool) -> Result<bool, Trouble> {
    if contents && sys::facts_behind(&path(to)).is_err() {
        sys::make_directory(&path(to), 0o755).map_err(|errno| Trouble::at(to, errno))?;
    }
    let target = target(to)?;
    let mut parser = Parser::new();
    let mut block = [0; BLOCK];
    let mut whole = true;
    let mut directories = Vec::new();
    while read_exact(&mut block)? {
        let bad = |_| Trouble::new("this is no stream of files", Errno(0));
        match parser.header(&block).map_err(bad)? {
            Step::End => break,
            Step::Skip(size) => pass(size)?,
            Step::Long(size) => {
                let mut bytes = vec![0; size + padding(size as u64)];
                read_exact(&mut bytes)?;
                parser.long(bytes.get(..size).unwrap_or_default());
            }
            Step::Entry(entry) => {
                let place = target.place(&entry.name);
                if let Err(errno) = make(&target, &place, &entry)? {
                    Trouble::at(&place, errno).tell();
                    whole = false;
                } else if entry.kind == Kind::Directory {
                    directories.push((place, entry.mode, entry.mtime));
                }
            }
        }
    }
    // Only now, since what is made in a directory needs its permission and changes its time.
    for (place, mode, mtime) in directories.iter().rev() {
        let _ = sys::change_mode(&path(place), *mode);
        let _ = sys::set_time(&path(place), *mtime);
    }
    Ok(whole)
}

fn target(to: &[u8]) -> Result<Target, Trouble> {
    let is_directory = |at: &[u8]| match sys::facts_behind(&path(at)) {
        Ok(facts) => Some(facts.mode & libc::S_IFMT == libc::S_IFDIR),
        Err(_) => None,
    };
    if is_directory(to) == Some(true) {
        return Ok(Target {
            directory: to.into(),
            name: None,
        });
    }
    if to.ends_with(b"/") {
        return Err(Trouble::at(
            to,
            Errno(u16::try_from(libc::ENOTDIR).unwrap_or(0)),
        ));
    }
    let cut = to.iter().rposition(|byte| *byte == b'/');
    let (directory, name) = match cut {
        Some(at) => (to.get(..=at).unwrap_or_default(), to.get(at + 1..)),
        None => (&b"."[..], Some(to)),
    };
    if is_directory(directory) != Some(true) {
        return Err(Trouble::at(
            directory,
            Errno(u16::try_from(libc::ENOENT).unwrap_or(0)),
        ));
    }
    Ok(Target {
        directory: directory.into(),
        name: name.map(Into::into),
    })
}

impl Target {
    fn place(&self, name: &[u8]) -> Vec<u8> {
        let mut parts = name.splitn(2, |byte| *byte == b'/');
        let first = parts.next().unwrap_or_default();
        let first = match &self.name {
            Some(name) => name,
            None if first == b"." => &b""[..],
            None => first,
        };
        let top = join(&self.directory, first);
        match parts.next().filter(|rest| !rest.is_empty()) {
            Some(rest) => join(&top, rest),
            None => top,
        }
    }
}

/// Makes one entry; the content of a file is read whatever happens. What cannot be made is
/// the inner error.
fn make(target: &Target, place: &[u8], entry: &Entry) -> Result<sys::Result<()>, Trouble> {
    let at = path(place);
    if entry.kind != Kind::Directory {
        let _ = sys::unlink(&at);
    }
    let made = match entry.kind {
        Kind::File => return file(place, entry),
        Kind::Directory => match sys::make_directory(&at, 0o700 | entry.mode) {
            Err(errno) if errno.is(libc::EEXIST) => Ok(()),
            other => other,
        },
        Kind::Symlink => sys::link_symbolic(&path(&entry.link), &at),
        Kind::HardLink => sys::link_hard(&path(&target.place(&entry.link)), &at),
        Kind::Other => Err(Errno(0)),
    };
    if entry.kind == Kind::Symlink {
        let _ = sys::set_time(&at, entry.mtime);
    }
    Ok(made)
}

fn file(place: &[u8], entry: &Entry) -> Result<sys::Result<()>, Trouble> {
    let at = path(place);
    let flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
    let mut file = sys::open(&at, flags, 0o600);
    let mut buffer = vec![0; 64 * 1024];
    let mut left = entry.size;
    while left > 0 {
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let piece = buffer.get_mut(..most).unwrap_or_default();
        if !read_exact(piece)? {
            return Err(Trouble::new("the stream ends too early", Errno(0)));
        }
        left -= most as u64;
        let mut rest = &*piece;
        while let (Ok(open), false) = (&file, rest.is_empty()) {
            match sys::write(open, rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(errno) if errno.is(libc::EINTR) => {}
                // A full disk: the rest is read and dropped.
                Err(errno) => file = Err(errno),
            }
        }
    }
    pass(padding(entry.size) as u64)?;
    Ok(file.and_then(|file| {
        sys::set_mode(&file, entry.mode)?;
        drop(file);
        sys::set_time(&at, entry.mtime)
    }))
}

/// Reads and drops so many bytes, padded ones with them.
fn pass(size: u64) -> Result<(), Trouble> {
    let mut left = size;
    let mut buffer = [0; BLOCK];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        read_exact(buffer.get_mut(..most).unwrap_or_default())?;
        left -= most as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_below_the_target_or_take_its_name() {
        let into = Target {
            directory: b"/d".into(),
            name: None,
        };
        assert_eq!(into.place(b"a/b"), b"/d/a/b");
        assert_eq!(into.place(b"./b"), b"/d/b");
        assert_eq!(into.place(b"."), b"/d");
        let renamed = Target {
            directory: b"/d".into(),
            name: Some(b"new".into()),
        };
        assert_eq!(renamed.place(b"a"), b"/d/new");
        assert_eq!(renamed.place(b"a/b/c"), b"/d/new/b/c");
        assert_eq!(renamed.place(b"./b"), b"/d/new/b");
    }
}
