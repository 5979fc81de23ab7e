// SPDX-License-Identifier: Apache-2.0
//! Open files and directories, by handle. The share's one thread, which waits for the file.

use super::{MAX_IO, PRIVILEGED, Result, Server, field, name, wide};
use crate::share::wire::{Fields, Reply, Request};
use rustix::fs::{self, FallocateFlags, FileType, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Bytes of directory taken in at a time.
const DIRECTORY_BUFFER: usize = 16 << 10;
/// Bytes of `struct fuse_entry_out`.
const ENTRY: usize = 128;

impl Server {
    /// A file or directory to read and write, from its place.
    pub(in crate::share) fn reopen(&mut self, node: u64, flags: OFlags) -> Result<File> {
        let kind = self.table.kind(node)?;
        // Pipes would make us wait, and devices are none of the guest's business.
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Err(Errno::OPNOTSUPP);
        }
        let place = self.table.place(node)?;
        let name = place.as_raw_fd().to_string();
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        Ok(fs::openat(&self.own_descriptors, name, flags, Mode::empty())?.into())
    }

    pub(super) fn open(
        &mut self,
        node: u64,
        body: &mut Fields<'_>,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let flags = self.access(field(body)?)?;
        let file = self.reopen(node, flags)?;
        out.u64(self.table.open(file, node, flags)?).u64(0);
        Ok(())
    }

    pub(super) fn opendir(&mut self, node: u64, out: &mut Reply<'_>) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let file = self.reopen(node, flags)?;
        out.u64(self.table.open(file, node, flags)?).u64(0);
        Ok(())
    }

    pub(super) fn create(
        &mut self,
        request: &Request<'_>,
        body: &mut Fields<'_>,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let asked = field(body)?;
        let (mode, _umask, _) = (field(body)?, field(body)?, field(body)?);
        let name = name(body)?;
        let mode = Mode::from_raw_mode(mode & 0o7777 & !PRIVILEGED);
        let parent = self.table.place(request.node)?;
        // To find out whether it is new; a file that was there keeps its owner. O_NOFOLLOW:
        // a link that somebody put there meanwhile is not followed.
        let flags = self.access(asked)? | OFlags::CREATE | OFlags::EXCL;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match fs::openat(&parent, name, flags, mode) {
            Ok(fd) => {
                self.own(request, name)?;
                Some(File::from(fd))
            }
            Err(Errno::EXIST) if asked & OFlags::EXCL.bits() == 0 => None,
            Err(errno) => return Err(errno),
        };
        let number = self.tell(request.node, name, out)?;
        let file = match file {
            Some(file) => Ok(file),
            None => self
                .access(asked)
                .and_then(|flags| self.reopen(number, flags)),
        };
        match file.and_then(|file| self.table.open(file, number, flags)) {
            Ok(handle) => {
                out.u64(handle).u64(0);
                Ok(())
            }
            Err(errno) => {
                // The guest hears an error, and so of no place.
                self.table.forget(number, 1);
                Err(errno)
            }
        }
    }

    /// Of the guest's flags those that mean something here. It appends by itself.
    pub(in crate::share) fn access(&self, flags: u32) -> Result<OFlags> {
        let kept = OFlags::ACCMODE | OFlags::TRUNC;
        let flags = OFlags::from_bits_retain(flags) & kept;
        match self.read_only && !flags.is_empty() {
            true => Err(Errno::ROFS),
            false => Ok(flags),
        }
    }

    pub(super) fn read(
        &mut self,
        body: &mut Fields<'_>,
        space: usize,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let (handle, offset, size) = (wide(body)?, wide(body)?, field(body)?);
        let file = self.table.handle(handle)?;
        let size = (size.min(MAX_IO) as usize).min(space);
        let at = out.0.len();
        out.zeros(size);
        let mut done = 0;
        while let Some(room) = out.0.get_mut(at + done..).filter(|room| !room.is_empty()) {
            match file.read_at(room, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
        out.0.truncate(at + done);
        Ok(())
    }

    pub(super) fn write(&mut self, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
        let (handle, offset, size) = (wide(body)?, wide(body)?, field(body)?);
        let _ = (field(body)?, wide(body)?, wide(body)?);
        let data = body.bytes(size as usize).ok_or(Errno::INVAL)?;
        let file = self.table.handle(handle)?;
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match file.write_at(rest, offset.saturating_add(done as u64)) {
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // What was written before was written.
                Err(_) if done > 0 => break,
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
        out.u32(u32::try_from(done).unwrap_or(0)).u32(0);
        Ok(())
    }

    pub(super) fn readdir(
        &mut self,
        node: u64,
        body: &mut Fields<'_>,
        space: usize,
        plus: bool,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let (handle, offset, size) = (wide(body)?, wide(body)?, field(body)?);
        // Of our own: telling of entries needs the table.
        let file = Arc::clone(self.table.handle(handle)?);
        let space = (size.min(MAX_IO) as usize).min(space);
        let start = out.0.len();
        let before = if plus { ENTRY } else { 0 };
        fs::seek(&file, SeekFrom::Start(offset))?;
        let mut buffer = [MaybeUninit::uninit(); DIRECTORY_BUFFER];
        let mut entries = RawDir::new(file.as_fd(), &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let length = before + (24 + name.len()).next_multiple_of(8);
            if out.0.len() - start + length > space {
                break;
            }
            let kind = entry.file_type().as_raw_mode() >> 12;
            if plus {
                let at = out.0.len();
                let told = match name {
                    b"." | b".." => Err(Errno::NOENT),
                    name => self.tell(node, OsStr::from_bytes(name), out),
                };
                // Node number 0: the guest has to ask, if it wants to know.
                if told.is_err() {
                    out.0.truncate(at);
                    out.zeros(ENTRY);
                }
            }
            out.u64(entry.ino()).u64(entry.next_entry_cookie());
            out.u32(u32::try_from(name.len()).unwrap_or(0)).u32(kind);
            out.bytes(name).zeros(length - before - 24 - name.len());
        }
        Ok(())
    }

    pub(super) fn fsync(&mut self, body: &mut Fields<'_>) -> Result<()> {
        let (handle, flags) = (wide(body)?, field(body)?);
        let file = self.table.handle(handle)?;
        match flags & 1 {
            0 => fs::fsync(file),
            _ => fs::fdatasync(file),
        }
    }

    pub(super) fn fallocate(&mut self, body: &mut Fields<'_>) -> Result<()> {
        let (handle, offset, length) = (wide(body)?, wide(body)?, wide(body)?);
        let flags = FallocateFlags::from_bits(field(body)?).ok_or(Errno::OPNOTSUPP)?;
        fs::fallocate(self.table.handle(handle)?, flags, offset, length)
    }

    pub(super) fn lseek(&mut self, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
        let (handle, offset, whence) = (wide(body)?, wide(body)?, field(body)?);
        // SEEK_DATA and SEEK_HOLE; the guest knows all other places itself.
        let to = match whence {
            3 => SeekFrom::Data(offset),
            4 => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        out.u64(fs::seek(self.table.handle(handle)?, to)?);
        Ok(())
    }

    pub(super) fn copy(&mut self, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
        let (from, mut at) = (wide(body)?, wide(body)?);
        let (_node, to, mut into) = (wide(body)?, wide(body)?, wide(body)?);
        /// What a guest makes this process copy before it hears the next request.
        const MOST: u64 = 16 << 20;
        let length = usize::try_from(wide(body)?.min(MOST)).unwrap_or(0);
        let (from, to) = (self.table.handle(from)?, self.table.handle(to)?);
        let done = fs::copy_file_range(from, Some(&mut at), to, Some(&mut into), length)?;
        out.u32(u32::try_from(done).unwrap_or(0)).u32(0);
        Ok(())
    }
}
