// SPDX-License-Identifier: Apache-2.0
//! What the guest may do to the directory, one function an operation.
//!
//! A name of the guest's is one component and is looked up from the place it holds, without
//! following any link: what a symbolic link means is for the guest to find out, in its own
//! tree. An open file is reached from its place by our own descriptor's number, never by a
//! path. Ids are those of this process's user namespace (docs/disks.md).

use super::table::{ROOT, Table, stat};
use super::wire::{Fields, OUT_HEADER, Reply, Request, op};
use rustix::fs::{
    self, AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags,
    SeekFrom, Stat, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

type Result<T> = std::result::Result<T, Errno>;

/// Bytes of one read or write, in pages of the guest: what both sides agree on at INIT.
const MAX_PAGES: u16 = 128;
const MAX_IO: u32 = MAX_PAGES as u32 * 4096;
/// How long the guest may believe what it was told, in seconds: changes made on the host
/// are seen after that at the latest, and a file's contents when it is next opened.
const VALID: u64 = 1;
/// Longest name of a file (NAME_MAX).
const MAX_NAME: usize = 255;
/// Bytes of directory taken in at a time.
const DIRECTORY_BUFFER: usize = 16 << 10;
/// Set-user-ID and set-group-ID: a guest plants no such program on the host.
const PRIVILEGED: u32 = 0o6000;

/// Flags of INIT (linux/fuse.h): asynchronous reads, O_TRUNC in OPEN, writes beyond a page,
/// caches dropped when a file changed, parallel look-ups, more than 32 pages a request.
const WANTED: u32 = 1 | 1 << 3 | 1 << 5 | 1 << 12 | 1 << 18 | 1 << 22;
const MAJOR: u32 = 7;
const MINOR: u32 = 31;

pub struct Server {
    table: Table,
    own_descriptors: OwnedFd,
    read_only: bool,
    /// Every id of the guest's means the same on the host: root started husk.
    all_ids: bool,
}

impl Server {
    pub fn new(table: Table, own_descriptors: OwnedFd, read_only: bool, all_ids: bool) -> Self {
        Self {
            table,
            own_descriptors,
            read_only,
            all_ids,
        }
    }

    /// Does what is asked and appends the answer to `out`, at most `room` bytes of it;
    /// nothing for what has no answer.
    pub fn answer(&mut self, request: &Request<'_>, room: usize, out: &mut Vec<u8>) {
        if let op::FORGET | op::BATCH_FORGET = request.opcode {
            self.forget(request);
            return;
        }
        let start = out.len();
        if room < OUT_HEADER {
            return;
        }
        out.resize(start + OUT_HEADER, 0);
        let body = out.len();
        let space = room - OUT_HEADER;
        let result = self.perform(request, space, &mut Reply(out));
        let result = match result {
            Ok(()) if out.len() - body > space => Err(Errno::RANGE),
            other => other,
        };
        let error = result.err().map_or(0, |errno| -errno.raw_os_error());
        if error != 0 {
            out.truncate(body);
        }
        let length = u32::try_from(out.len() - start).unwrap_or(0);
        if let Some(header) = out.get_mut(start..body) {
            header[..4].copy_from_slice(&length.to_le_bytes());
            header[4..8].copy_from_slice(&error.to_le_bytes());
            header[8..].copy_from_slice(&request.unique.to_le_bytes());
        }
    }

    fn perform(&mut self, request: &Request<'_>, space: usize, out: &mut Reply<'_>) -> Result<()> {
        let mut body = request.body;
        let (node, body) = (request.node, &mut body);
        if self.read_only && changes(request.opcode) {
            return Err(Errno::ROFS);
        }
        match request.opcode {
            op::INIT => self.init(body, out),
            op::DESTROY => {
                self.table.clear();
                Ok(())
            }
            op::LOOKUP => self.lookup(node, body, out),
            op::GETATTR => self.getattr(node, body, out),
            op::SETATTR => self.setattr(node, body, out),
            op::READLINK => self.readlink(node, out),
            op::SYMLINK | op::MKNOD | op::MKDIR => self.make(request, body, out),
            op::UNLINK => self.unlink(node, body, AtFlags::empty()),
            op::RMDIR => self.unlink(node, body, AtFlags::REMOVEDIR),
            op::RENAME | op::RENAME2 => self.rename(request.opcode, node, body),
            op::LINK => self.link(node, body, out),
            op::OPEN => self.open(node, body, out),
            op::OPENDIR => self.opendir(node, out),
            op::CREATE => self.create(request, body, out),
            op::READ => self.read(body, space, out),
            op::WRITE => self.write(body, out),
            op::READDIR => self.readdir(body, space, out),
            op::RELEASE | op::RELEASEDIR => {
                self.table.close(body.u64().ok_or(Errno::INVAL)?);
                Ok(())
            }
            // Nothing is kept back here, so a close has nothing to bring forth.
            op::FLUSH => Ok(()),
            op::FSYNC | op::FSYNCDIR => self.fsync(body),
            op::SYNCFS => self.syncfs(),
            op::STATFS => self.statfs(node, out),
            op::FALLOCATE => self.fallocate(body),
            op::LSEEK => self.lseek(body, out),
            op::COPY_FILE_RANGE => self.copy(body, out),
            // Locks and extended attributes among them: the guest does not ask twice.
            _ => Err(Errno::NOSYS),
        }
    }

    fn init(&mut self, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
        let (major, _minor) = (field(body)?, field(body)?);
        if major != MAJOR {
            return Err(Errno::PROTO);
        }
        let (readahead, flags) = (field(body)?, field(body)?);
        // A guest that begins anew: it holds nothing.
        self.table.clear();
        out.u32(MAJOR).u32(MINOR);
        out.u32(readahead.min(MAX_IO)).u32(flags & WANTED);
        // Requests in the background, and when the guest calls them many.
        out.u16(64).u16(48);
        out.u32(MAX_IO).u32(1).u16(MAX_PAGES).u16(0).zeros(32);
        Ok(())
    }

    fn forget(&mut self, request: &Request<'_>) {
        let mut body = request.body;
        if request.opcode == op::FORGET {
            self.table.forget(request.node, body.u64().unwrap_or(0));
            return;
        }
        let count = body.u32().unwrap_or(0);
        let _ = body.u32();
        for _ in 0..count {
            let (Some(node), Some(lookups)) = (body.u64(), body.u64()) else {
                return;
            };
            self.table.forget(node, lookups);
        }
    }

    /// The place `name` in the directory `parent`; no link is followed on the way to it.
    fn place(&self, parent: u64, name: &OsStr) -> Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = &self.table.node(parent)?.fd;
        fs::openat2(parent, name, flags, Mode::empty(), resolve)
    }

    /// A file or directory to read and write, from its place.
    fn reopen(&self, node: u64, flags: OFlags) -> Result<File> {
        let node = self.table.node(node)?;
        // Pipes would make us wait, and devices are none of the guest's business.
        if !matches!(node.kind, FileType::RegularFile | FileType::Directory) {
            return Err(Errno::OPNOTSUPP);
        }
        let name = node.fd.as_raw_fd().to_string();
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        Ok(fs::openat(&self.own_descriptors, name, flags, Mode::empty())?.into())
    }

    fn tell(&mut self, parent: u64, name: &OsStr, out: &mut Reply<'_>) -> Result<()> {
        let fd = self.place(parent, name)?;
        let stat = stat(&fd)?;
        let number = self.table.keep(fd, &stat)?;
        out.u64(number).u64(0).u64(VALID).u64(VALID).u64(0);
        attributes(&stat, out);
        Ok(())
    }

    fn lookup(&mut self, node: u64, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
        let name = name(body)?;
        self.tell(node, name, out)
    }

    fn getattr(&mut self, node: u64, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
        let (flags, _) = (field(body)?, field(body)?);
        let handle = body.u64().ok_or(Errno::INVAL)?;
        let stat = match flags & 1 {
            0 => stat(&self.table.node(node)?.fd)?,
            _ => fs::fstat(self.table.handle(handle)?)?,
        };
        out.u64(VALID).u64(0);
        attributes(&stat, out);
        Ok(())
    }

    fn setattr(&mut self, node: u64, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
        let (valid, _) = (field(body)?, field(body)?);
        let handle = wide(body)?;
        let (size, _owner) = (wide(body)?, wide(body)?);
        let (atime, mtime, _ctime) = (wide(body)?, wide(body)?, wide(body)?);
        let (anano, mnano, _cnano) = (field(body)?, field(body)?, field(body)?);
        let (mode, _, uid, gid) = (field(body)?, field(body)?, field(body)?, field(body)?);
        let place = &self.table.node(node)?.fd;
        if valid & 1 != 0 {
            let plain = self.table.node(node)?.kind == FileType::Directory;
            let mode = if plain { mode } else { mode & !PRIVILEGED };
            let name = place.as_raw_fd().to_string();
            let mode = Mode::from_raw_mode(mode & 0o7777);
            fs::chmodat(&self.own_descriptors, name, mode, AtFlags::empty())?;
        }
        if valid & 6 != 0 {
            let uid = (valid & 2 != 0 && uid != u32::MAX).then(|| Uid::from_raw(uid));
            let gid = (valid & 4 != 0 && gid != u32::MAX).then(|| Gid::from_raw(gid));
            let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
            // An id that means nothing on the host cannot own anything there.
            fs::chownat(place, "", uid, gid, flags).map_err(|errno| match errno {
                Errno::INVAL => Errno::PERM,
                other => other,
            })?;
        }
        if valid & 8 != 0 {
            match valid & 64 {
                0 => fs::ftruncate(self.reopen(node, OFlags::WRONLY)?, size)?,
                _ => fs::ftruncate(self.table.handle(handle)?, size)?,
            }
        }
        if valid & (16 | 32) != 0 {
            let times = Timestamps {
                last_access: time(valid, 16, 128, atime, anano),
                last_modification: time(valid, 32, 256, mtime, mnano),
            };
            fs::utimensat(place, "", &times, AtFlags::EMPTY_PATH)?;
        }
        out.u64(VALID).u64(0);
        attributes(&stat(&self.table.node(node)?.fd)?, out);
        Ok(())
    }

    fn readlink(&mut self, node: u64, out: &mut Reply<'_>) -> Result<()> {
        let place = &self.table.node(node)?.fd;
        let target = fs::readlinkat(place, "", Vec::new())?;
        out.bytes(target.as_bytes());
        Ok(())
    }

    fn make(
        &mut self,
        request: &Request<'_>,
        body: &mut Fields<'_>,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let parent = request.node;
        let name = match request.opcode {
            op::SYMLINK => {
                let name = name(body)?;
                let target = OsStr::from_bytes(body.text().ok_or(Errno::INVAL)?);
                fs::symlinkat(target, &self.table.node(parent)?.fd, name)?;
                name
            }
            op::MKDIR => {
                let (mode, _umask) = (field(body)?, field(body)?);
                let name = name(body)?;
                let mode = Mode::from_raw_mode(mode & 0o7777);
                fs::mkdirat(&self.table.node(parent)?.fd, name, mode)?;
                name
            }
            _ => {
                let (mode, _device, _umask, _) =
                    (field(body)?, field(body)?, field(body)?, field(body)?);
                let name = name(body)?;
                let kind = FileType::from_raw_mode(mode);
                // Never a device, whoever asks.
                if !matches!(
                    kind,
                    FileType::RegularFile | FileType::Fifo | FileType::Socket
                ) {
                    return Err(Errno::PERM);
                }
                let mode = Mode::from_raw_mode(mode & 0o7777 & !PRIVILEGED);
                fs::mknodat(&self.table.node(parent)?.fd, name, kind, mode, 0)?;
                name
            }
        };
        self.own(request, name)?;
        self.tell(parent, name, out)
    }

    /// What was just made belongs to whoever asked for it, where that can be said.
    fn own(&self, request: &Request<'_>, name: &OsStr) -> Result<()> {
        if !self.all_ids || (request.uid, request.gid) == (0, 0) {
            return Ok(());
        }
        let parent = &self.table.node(request.node)?.fd;
        let (uid, gid) = (Uid::from_raw(request.uid), Gid::from_raw(request.gid));
        fs::chownat(
            parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }

    fn unlink(&mut self, node: u64, body: &mut Fields<'_>, flags: AtFlags) -> Result<()> {
        fs::unlinkat(&self.table.node(node)?.fd, name(body)?, flags)
    }

    fn rename(&mut self, opcode: u32, node: u64, body: &mut Fields<'_>) -> Result<()> {
        let to = wide(body)?;
        let mut flags = 0;
        if opcode == op::RENAME2 {
            flags = field(body)?;
            let _ = field(body)?;
        }
        // Not RENAME_WHITEOUT, which makes a device.
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        if flags.intersects(!(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE)) {
            return Err(Errno::INVAL);
        }
        let (old, new) = (name(body)?, name(body)?);
        let (from, to) = (&self.table.node(node)?.fd, &self.table.node(to)?.fd);
        fs::renameat_with(from, old, to, new, flags)
    }

    fn link(&mut self, node: u64, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
        let old = self.table.node(wide(body)?)?.fd.as_raw_fd().to_string();
        let name = name(body)?;
        let to = &self.table.node(node)?.fd;
        let flags = AtFlags::SYMLINK_FOLLOW;
        fs::linkat(&self.own_descriptors, old, to, name, flags)?;
        self.tell(node, name, out)
    }

    fn open(&mut self, node: u64, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
        let flags = self.access(field(body)?)?;
        let file = self.reopen(node, flags)?;
        out.u64(self.table.open(file)?).u64(0);
        Ok(())
    }

    fn opendir(&mut self, node: u64, out: &mut Reply<'_>) -> Result<()> {
        let file = self.reopen(node, OFlags::RDONLY | OFlags::DIRECTORY)?;
        out.u64(self.table.open(file)?).u64(0);
        Ok(())
    }

    fn create(
        &mut self,
        request: &Request<'_>,
        body: &mut Fields<'_>,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let asked = field(body)?;
        let (mode, _umask, _) = (field(body)?, field(body)?, field(body)?);
        let name = name(body)?;
        let mode = Mode::from_raw_mode(mode & 0o7777 & !PRIVILEGED);
        let parent = &self.table.node(request.node)?.fd;
        // To find out whether it is new; a file that was there keeps its owner. O_NOFOLLOW:
        // a link that somebody put there meanwhile is not followed.
        let flags = self.access(asked)? | OFlags::CREATE | OFlags::EXCL;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match fs::openat(parent, name, flags, mode) {
            Ok(fd) => {
                self.own(request, name)?;
                Some(File::from(fd))
            }
            Err(Errno::EXIST) if asked & OFlags::EXCL.bits() == 0 => None,
            Err(errno) => return Err(errno),
        };
        let at = out.0.len();
        self.tell(request.node, name, out)?;
        let number = out.0.get(at..at + 8).and_then(|bytes| bytes.first_chunk());
        let number = number.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let file = match file {
            Some(file) => Ok(file),
            None => self
                .access(asked)
                .and_then(|flags| self.reopen(number, flags)),
        };
        match file.and_then(|file| self.table.open(file)) {
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
    fn access(&self, flags: u32) -> Result<OFlags> {
        let kept = OFlags::ACCMODE | OFlags::TRUNC;
        let flags = OFlags::from_bits_retain(flags) & kept;
        match self.read_only && !flags.is_empty() {
            true => Err(Errno::ROFS),
            false => Ok(flags),
        }
    }

    fn read(&mut self, body: &mut Fields<'_>, space: usize, out: &mut Reply<'_>) -> Result<()> {
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

    fn write(&mut self, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
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

    fn readdir(&mut self, body: &mut Fields<'_>, space: usize, out: &mut Reply<'_>) -> Result<()> {
        let (handle, offset, size) = (wide(body)?, wide(body)?, field(body)?);
        let file = self.table.handle(handle)?;
        let space = (size.min(MAX_IO) as usize).min(space);
        let start = out.0.len();
        fs::seek(file, SeekFrom::Start(offset))?;
        let mut buffer = [MaybeUninit::uninit(); DIRECTORY_BUFFER];
        let mut entries = RawDir::new(file.as_fd(), &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let length = (24 + name.len()).next_multiple_of(8);
            if out.0.len() - start + length > space {
                break;
            }
            let kind = entry.file_type().as_raw_mode() >> 12;
            out.u64(entry.ino()).u64(entry.next_entry_cookie());
            out.u32(u32::try_from(name.len()).unwrap_or(0)).u32(kind);
            out.bytes(name).zeros(length - 24 - name.len());
        }
        Ok(())
    }

    fn fsync(&mut self, body: &mut Fields<'_>) -> Result<()> {
        let (handle, flags) = (wide(body)?, field(body)?);
        let file = self.table.handle(handle)?;
        match flags & 1 {
            0 => fs::fsync(file),
            _ => fs::fdatasync(file),
        }
    }

    fn syncfs(&mut self) -> Result<()> {
        let root = self.reopen(ROOT, OFlags::RDONLY | OFlags::DIRECTORY)?;
        fs::syncfs(root)
    }

    fn statfs(&mut self, node: u64, out: &mut Reply<'_>) -> Result<()> {
        let stat = fs::fstatvfs(&self.table.node(node)?.fd)?;
        out.u64(stat.f_blocks).u64(stat.f_bfree).u64(stat.f_bavail);
        out.u64(stat.f_files).u64(stat.f_ffree);
        let small = |value| u32::try_from(value).unwrap_or(u32::MAX);
        out.u32(small(stat.f_bsize)).u32(small(stat.f_namemax));
        out.u32(small(stat.f_frsize)).zeros(28);
        Ok(())
    }

    fn fallocate(&mut self, body: &mut Fields<'_>) -> Result<()> {
        let (handle, offset, length) = (wide(body)?, wide(body)?, wide(body)?);
        let flags = FallocateFlags::from_bits(field(body)?).ok_or(Errno::OPNOTSUPP)?;
        fs::fallocate(self.table.handle(handle)?, flags, offset, length)
    }

    fn lseek(&mut self, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
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

    fn copy(&mut self, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
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

fn changes(opcode: u32) -> bool {
    matches!(
        opcode,
        op::SETATTR
            | op::SYMLINK
            | op::MKNOD
            | op::MKDIR
            | op::UNLINK
            | op::RMDIR
            | op::RENAME
            | op::RENAME2
            | op::LINK
            | op::WRITE
            | op::CREATE
            | op::FALLOCATE
            | op::COPY_FILE_RANGE
    )
}

/// One component of a path, which leads nowhere but down.
fn name<'a>(body: &mut Fields<'a>) -> Result<&'a OsStr> {
    let name = body.text().ok_or(Errno::INVAL)?;
    if name.len() > MAX_NAME {
        return Err(Errno::NAMETOOLONG);
    }
    match name {
        b"" | b"." | b".." => Err(Errno::INVAL),
        name if name.contains(&b'/') => Err(Errno::INVAL),
        name => Ok(OsStr::from_bytes(name)),
    }
}

fn field(body: &mut Fields<'_>) -> Result<u32> {
    body.u32().ok_or(Errno::INVAL)
}

fn wide(body: &mut Fields<'_>) -> Result<u64> {
    body.u64().ok_or(Errno::INVAL)
}

fn time(valid: u32, set: u32, now: u32, seconds: u64, nanoseconds: u32) -> Timespec {
    let special = match (valid & set, valid & now) {
        (0, _) => Some(fs::UTIME_OMIT),
        (_, 0) => None,
        _ => Some(fs::UTIME_NOW),
    };
    Timespec {
        tv_sec: seconds.cast_signed(),
        tv_nsec: special.unwrap_or_else(|| i64::from(nanoseconds.min(999_999_999))),
    }
}

/// `struct fuse_attr`.
fn attributes(stat: &Stat, out: &mut Reply<'_>) {
    let seconds = |value: i64| value.cast_unsigned();
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    out.u64(stat.st_ino)
        .u64(stat.st_size.cast_unsigned())
        .u64(stat.st_blocks.cast_unsigned());
    out.u64(seconds(stat.st_atime))
        .u64(seconds(stat.st_mtime))
        .u64(seconds(stat.st_ctime));
    out.u32(small(stat.st_atime_nsec))
        .u32(small(stat.st_mtime_nsec))
        .u32(small(stat.st_ctime_nsec));
    out.u32(stat.st_mode).u32(small(stat.st_nlink));
    out.u32(stat.st_uid).u32(stat.st_gid);
    // A device of the host's is none in the guest.
    out.u32(0)
        .u32(small(stat.st_blksize.cast_unsigned()))
        .u32(0);
}
