// SPDX-License-Identifier: Apache-2.0
//! The agent's own small programs, which work in any image: each is a process beside the
//! agent, of the same file, so it may wait for what it does. Standard output is data,
//! standard error one line for each thing that went wrong.

mod archive;
mod extract;
mod processes;
mod reach;

use crate::sys::{self, Errno, Fd, c_string};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::mem::ManuallyDrop;

/// Runs the program of this name and returns its exit code.
pub fn run(program: &CStr, arguments: &[CString]) -> u8 {
    let result = match (program.to_bytes(), arguments) {
        (b"archive", [path]) => archive::run(path.to_bytes()),
        (b"extract", [path]) => extract::run(path.to_bytes(), false),
        (b"extract", [path, word]) if word.to_bytes() == b"contents" => {
            extract::run(path.to_bytes(), true)
        }
        (b"processes", []) => processes::run(),
        (b"reach", [limit, port]) => reach::run(limit.to_bytes(), port.to_bytes(), None),
        (b"reach", [limit, port, path]) => {
            reach::run(limit.to_bytes(), port.to_bytes(), Some(path.to_bytes()))
        }
        _ => Err(Trouble::new("there is no such program", Errno(0))),
    };
    match result {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(trouble) => {
            trouble.tell();
            1
        }
    }
}

/// What cannot be gone on from.
#[derive(Debug)]
pub struct Trouble(String);

impl Trouble {
    pub fn new(what: &str, errno: Errno) -> Self {
        Self(match errno.0 {
            0 => what.into(),
            number => match words(errno) {
                Some(words) => format!("{what}: {words}"),
                None => format!("{what}: errno {number}"),
            },
        })
    }

    /// About a path.
    pub fn at(path: &[u8], errno: Errno) -> Self {
        let what = String::from_utf8_lossy(path);
        match errno.0 {
            // No call failed: it was not tried.
            0 => Self(format!("{what}: it cannot be copied")),
            _ => Self::new(&what, errno),
        }
    }

    pub fn tell(&self) {
        let line = format!("husk: in the guest: {}\n", self.0);
        let _ = sys::write(&standard(2), line.as_bytes());
    }
}

/// What people know the likely reasons by.
fn words(errno: Errno) -> Option<&'static str> {
    const WORDS: [(i32, &str); 9] = [
        (libc::ENOENT, "no such file or directory"),
        (libc::EACCES, "permission denied"),
        (libc::EEXIST, "is there already"),
        (libc::ENOTDIR, "not a directory"),
        (libc::EISDIR, "is a directory"),
        (libc::ENOSPC, "no space left"),
        (libc::EROFS, "read-only file system"),
        (libc::ENAMETOOLONG, "name too long"),
        (libc::ELOOP, "too many symbolic links"),
    ];
    let known = WORDS.into_iter().find(|(code, _)| errno.is(*code));
    known.map(|(_, words)| words)
}

/// A standard stream, which stays open when dropped.
pub fn standard(number: i32) -> ManuallyDrop<Fd> {
    ManuallyDrop::new(Fd::inherited(number))
}

pub fn write_all(bytes: &[u8]) -> Result<(), Trouble> {
    let out = standard(1);
    let mut rest = bytes;
    while !rest.is_empty() {
        match sys::write(&out, rest) {
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(errno) if errno.is(libc::EINTR) => {}
            Err(errno) => return Err(Trouble::new("standard output", errno)),
        }
    }
    Ok(())
}

/// Fills `buffer`; false at an end before its first byte.
pub fn read_exact(buffer: &mut [u8]) -> Result<bool, Trouble> {
    let input = standard(0);
    let mut filled = 0;
    while let Some(space) = buffer.get_mut(filled..).filter(|space| !space.is_empty()) {
        match sys::read(&input, space) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(Trouble::new("the stream ends too early", Errno(0))),
            Ok(n) => filled += n,
            Err(errno) if errno.is(libc::EINTR) => {}
            Err(errno) => return Err(Trouble::new("standard input", errno)),
        }
    }
    Ok(true)
}

/// `directory/name` as the kernel takes it.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.into(),
        _ if name.is_empty() => directory.into(),
        _ if directory.ends_with(b"/") => [directory, name].concat(),
        _ => [directory, b"/", name].concat(),
    }
}

pub fn path(bytes: &[u8]) -> CString {
    c_string(bytes)
}
