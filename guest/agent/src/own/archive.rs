// SPDX-License-Identifier: Apache-2.0
//! `archive PATH`: a file or a directory with all below it, as a stream of files.

use super::{Trouble, join, path, write_all};
use crate::sys::{self, Facts};
use alloc::vec;
use alloc::vec::Vec;
use husk_protocol::archive::{Entry, Kind, MAX_PATH, end, padding};
use libc::{O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY};

/// True if nothing was left out.
pub fn run(what: &[u8]) -> Result<bool, Trouble> {
    let (from, name) = split(what);
    let mut archive = Archive {
        seen: Vec::new(),
        whole: true,
        buffer: vec![0; 64 * 1024],
    };
    // What is named is followed; links further down are copied as such.
    let facts = sys::facts_behind(&path(from)).map_err(|errno| Trouble::at(from, errno))?;
    archive.add(from.into(), name.into(), Some(facts))?;
    let mut tail = Vec::new();
    end(&mut tail);
    write_all(&tail)?;
    Ok(archive.whole)
}

/// The path, and what it is called in the stream: `.` for the content of a directory.
fn split(what: &[u8]) -> (&[u8], &[u8]) {
    let mut from = what;
    while let Some(shorter) = from.strip_suffix(b"/").filter(|rest| !rest.is_empty()) {
        from = shorter;
    }
    let name = from.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match name {
        b"" | b"." | b".." => (from, b"."),
        name => (from, name),
    }
}

struct Archive {
    /// Files of several names, and the one that was sent.
    seen: Vec<((u64, u64), Vec<u8>)>,
    whole: bool,
    buffer: Vec<u8>,
}

impl Archive {
    /// Adds what is at `from` and below. `top` has the facts of what was named.
    fn add(&mut self, from: Vec<u8>, name: Vec<u8>, top: Option<Facts>) -> Result<(), Trouble> {
        let mut stack = vec![(from, name, top)];
        while let Some((from, name, top)) = stack.pop() {
            let facts = top.map_or_else(|| sys::facts(&path(&from)), Ok);
            let below = match facts {
                Ok(_) if name.len() > MAX_PATH => Err(sys::Errno(0)),
                Ok(facts) => self.one(&from, &name, facts, top.is_some())?,
                Err(errno) => Err(errno),
            };
            match below {
                Ok(mut names) => {
                    // The last is taken first.
                    names.sort_unstable_by(|a, b| b.cmp(a));
                    let child = |child: Vec<u8>| (join(&from, &child), join(&name, &child), None);
                    stack.extend(names.into_iter().map(child));
                }
                Err(errno) => {
                    Trouble::at(&from, errno).tell();
                    self.whole = false;
                }
            }
        }
        Ok(())
    }

    /// Sends one entry; returns the names below it. What cannot be read is the inner error.
    fn one(
        &mut self,
        from: &[u8],
        name: &[u8],
        facts: Facts,
        top: bool,
    ) -> Result<sys::Result<Vec<Vec<u8>>>, Trouble> {
        let mut entry = Entry {
            name: name.into(),
            kind: Kind::File,
            mode: facts.mode & 0o7777,
            size: facts.size,
            mtime: facts.mtime,
            link: Vec::new(),
        };
        let follow = if top { 0 } else { O_NOFOLLOW };
        match facts.mode & libc::S_IFMT {
            libc::S_IFDIR => {
                entry.kind = Kind::Directory;
                let names = sys::open(&path(from), O_RDONLY | O_DIRECTORY | follow, 0)
                    .and_then(|directory| sys::names(&directory));
                send(&entry)?;
                Ok(names)
            }
            libc::S_IFLNK => match sys::read_link(&path(from)) {
                Ok(link) => {
                    entry.kind = Kind::Symlink;
                    entry.link = link;
                    send(&entry).map(|()| Ok(Vec::new()))
                }
                Err(errno) => Ok(Err(errno)),
            },
            libc::S_IFREG => self.file(from, entry, facts, follow),
            // Devices, pipes and sockets mean something only where they are.
            _ => Ok(Err(sys::Errno(0))),
        }
    }

    fn file(
        &mut self,
        from: &[u8],
        mut entry: Entry,
        facts: Facts,
        follow: i32,
    ) -> Result<sys::Result<Vec<Vec<u8>>>, Trouble> {
        if let Some((_, first)) = self.seen.iter().find(|seen| seen.0 == facts.identity) {
            entry.kind = Kind::HardLink;
            entry.link.clone_from(first);
            return send(&entry).map(|()| Ok(Vec::new()));
        }
        let file = match sys::open(&path(from), O_RDONLY | O_NONBLOCK | follow, 0) {
            Ok(file) => file,
            Err(errno) => return Ok(Err(errno)),
        };
        if facts.links > 1 {
            self.seen.push((facts.identity, entry.name.clone()));
        }
        send(&entry)?;
        // The size that was announced is sent, whatever becomes of the file meanwhile.
        let mut left = entry.size;
        let mut result = Ok(Vec::new());
        while left > 0 {
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            let buffer = self.buffer.get_mut(..most).unwrap_or_default();
            let n = match sys::read(&file, buffer) {
                Ok(n @ 1..) => n,
                other => {
                    if let Err(errno) = other {
                        result = Err(errno);
                    }
                    buffer.fill(0);
                    most
                }
            };
            write_all(buffer.get(..n).unwrap_or_default())?;
            left = left.saturating_sub(n as u64);
        }
        let zeroes = vec![0; padding(entry.size)];
        write_all(&zeroes)?;
        Ok(result)
    }
}

fn send(entry: &Entry) -> Result<(), Trouble> {
    let mut bytes = Vec::new();
    entry.encode(&mut bytes);
    write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_has_a_name() {
        assert_eq!(split(b"/a/b"), (&b"/a/b"[..], &b"b"[..]));
        assert_eq!(split(b"/a/b//"), (&b"/a/b"[..], &b"b"[..]));
        assert_eq!(split(b"/a/."), (&b"/a/."[..], &b"."[..]));
        assert_eq!(split(b"/"), (&b"/"[..], &b"."[..]));
        assert_eq!(split(b"x"), (&b"x"[..], &b"x"[..]));
    }
}
