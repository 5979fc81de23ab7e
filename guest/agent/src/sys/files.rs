// SPDX-License-Identifier: Apache-2.0
//! Calls on files by path, for the agent's own programs.

use super::{Fd, Result, at, call, descriptor, plain, word};
use alloc::vec;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::mem::MaybeUninit;

/// What `lstat` says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub mode: u32,
    pub uid: u32,
    pub links: u64,
    pub size: u64,
    pub mtime: u64,
    /// Device and inode: two paths that share them are one file.
    pub identity: (u64, u64),
}

fn stat_by(number: core::ffi::c_long, path: &CStr) -> Result<Facts> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    let args = [at(path), stat.as_mut_ptr().expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the kernel reads a path and writes a struct stat.
    unsafe { call(number, args) }?;
    // SAFETY: all zeroes is a valid struct stat, and the kernel filled it since.
    let stat = unsafe { stat.assume_init() };
    Ok(Facts {
        mode: stat.st_mode,
        uid: stat.st_uid,
        links: stat.st_nlink,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: u64::try_from(stat.st_mtime).unwrap_or(0),
        identity: (stat.st_dev, stat.st_ino),
    })
}

/// Of the path itself, be it a link.
pub fn facts(path: &CStr) -> Result<Facts> {
    stat_by(libc::SYS_lstat, path)
}

/// Of what the path leads to.
pub fn facts_behind(path: &CStr) -> Result<Facts> {
    stat_by(libc::SYS_stat, path)
}

/// Where a symbolic link points.
pub fn read_link(path: &CStr) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let pointer = buffer.as_mut_ptr().expose_provenance();
    let args = [at(path), pointer, buffer.len(), 0, 0, 0];
    // SAFETY: the kernel reads a path and writes at most `len` bytes.
    let n = unsafe { call(libc::SYS_readlink, args) }?;
    buffer.truncate(n);
    Ok(buffer)
}

/// The names in an open directory, but for itself and the one above.
pub fn names(directory: &Fd) -> Result<Vec<Vec<u8>>> {
    /// Bytes before the name in a struct linux_dirent64, of which two tell its length.
    const HEAD: usize = 19;
    const LENGTH: usize = 16;
    let mut names = Vec::new();
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        let args = [
            word(directory.number()),
            buffer.as_mut_ptr().expose_provenance(),
            buffer.len(),
            0,
            0,
            0,
        ];
        // SAFETY: the kernel writes at most `len` bytes.
        let n = unsafe { call(libc::SYS_getdents64, args) }?;
        if n == 0 {
            return Ok(names);
        }
        let mut rest = buffer.get(..n).unwrap_or_default();
        while let Some(&[a, b]) = rest.get(LENGTH..LENGTH + 2) {
            let length = usize::from(u16::from_le_bytes([a, b]));
            let Some((record, after)) = rest.split_at_checked(length.max(HEAD)) else {
                break;
            };
            let name = record.get(HEAD..).unwrap_or_default();
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if name != b"." && name != b".." && !name.is_empty() {
                names.push(name.into());
            }
            rest = after;
        }
    }
}

pub fn link_hard(existing: &CStr, path: &CStr) -> Result<()> {
    // SAFETY: the kernel reads two NUL-terminated strings.
    unsafe { call(libc::SYS_link, [at(existing), at(path), 0, 0, 0, 0]) }.map(drop)
}

pub fn unlink(path: &CStr) -> Result<()> {
    // SAFETY: the kernel reads one path.
    unsafe { call(libc::SYS_unlink, [at(path), 0, 0, 0, 0, 0]) }.map(drop)
}

pub fn set_mode(file: &Fd, mode: u32) -> Result<()> {
    plain(libc::SYS_fchmod, [word(file.number()), mode as usize, 0]).map(drop)
}

/// When the path itself, be it a link, was changed: seconds since 1970.
pub fn set_time(path: &CStr, seconds: u64) -> Result<()> {
    let seconds = seconds.cast_signed();
    let times = [seconds, 0, seconds, 0];
    let args = [
        word(libc::AT_FDCWD),
        at(path),
        times.as_ptr().expose_provenance(),
        word(libc::AT_SYMLINK_NOFOLLOW),
        0,
        0,
    ];
    // SAFETY: the kernel reads a path and two struct timespec, four 64-bit words.
    unsafe { call(libc::SYS_utimensat, args) }.map(drop)
}

/// Opens a path below an open directory, without following it to anything else.
pub fn open_at(directory: &Fd, path: &CStr, flags: core::ffi::c_int) -> Result<Fd> {
    let flags = word(flags | libc::O_CLOEXEC | libc::O_NOFOLLOW);
    let args = [word(directory.number()), at(path), flags, 0, 0, 0];
    // SAFETY: the kernel reads one path.
    unsafe { call(libc::SYS_openat, args) }.map(descriptor)
}

pub fn make_directory_at(directory: &Fd, path: &CStr) -> Result<()> {
    let args = [word(directory.number()), at(path), 0o755, 0, 0, 0];
    // SAFETY: the kernel reads one path.
    unsafe { call(libc::SYS_mkdirat, args) }.map(drop)
}

/// Puts one file in the place of another, at once.
pub fn rename(from: &CStr, to: &CStr) -> Result<()> {
    // SAFETY: the kernel reads two NUL-terminated strings.
    unsafe { call(libc::SYS_rename, [at(from), at(to), 0, 0, 0, 0]) }.map(drop)
}

/// What a file of a control group, or another of the kernel's small ones, says.
pub fn read_small(file: &Fd) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let pointer = buffer.as_mut_ptr().expose_provenance();
    let args = [word(file.number()), pointer, buffer.len(), 0, 0, 0];
    // SAFETY: the kernel writes at most `len` bytes, from the file's beginning.
    let n = unsafe { call(libc::SYS_pread64, args) }?;
    buffer.truncate(n);
    Ok(buffer)
}
