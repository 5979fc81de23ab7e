// SPDX-License-Identifier: Apache-2.0
//! What the guest may do to the directory, one function an operation.
//!
//! A name of the guest's is one component and is looked up from the place it holds, without
//! following any link: what a symbolic link means is for the guest to find out, in its own
//! tree. An open file is reached from its place by our own descriptor's number, never by a
//! path. Ids are those of this process's user namespace (docs/disks.md).

mod attributes;
mod files;
mod names;

use super::table::{ROOT, Table, stat};
use super::wire::{Fields, OUT_HEADER, Reply, Request, op};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

type Result<T> = std::result::Result<T, Errno>;

/// Bytes of one read or write, in pages of the guest: what both sides agree on at INIT.
const MAX_PAGES: u16 = 128;
const MAX_IO: u32 = MAX_PAGES as u32 * 4096;
/// How long the guest may believe what it was told, in seconds: changes made on the host
/// are seen after that at the latest, and a file's contents when it is next opened.
const VALID: u64 = 1;
/// Longest name of a file (NAME_MAX).
const MAX_NAME: usize = 255;
/// Set-user-ID and set-group-ID: a guest plants no such program on the host.
const PRIVILEGED: u32 = 0o6000;

/// Flags of INIT (linux/fuse.h): asynchronous reads, O_TRUNC in OPEN, writes beyond a page,
/// caches dropped when a file changed, directories with what look-ups of their entries would
/// tell, where these are likely to come; parallel look-ups, more than 32 pages a request,
/// targets of links kept (a link never gets another), and that privileges of a file which is
/// written to are taken away here: the host's kernel does it for every writer without
/// CAP_FSETID, and a guest that did it itself would ask for attributes before each write.
const WANTED: u32 =
    1 | 1 << 3 | 1 << 5 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 18 | 1 << 22 | 1 << 23 | 1 << 28;
const MAJOR: u32 = 7;
const MINOR: u32 = 31;

pub struct Server {
    pub(super) table: Table,
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
            op::READDIR => self.readdir(node, body, space, false, out),
            op::READDIRPLUS => self.readdir(node, body, space, true, out),
            op::RELEASE | op::RELEASEDIR => {
                self.table.close(body.u64().ok_or(Errno::INVAL)?);
                Ok(())
            }
            op::FSYNC | op::FSYNCDIR => self.fsync(body),
            op::SYNCFS => self.syncfs(),
            op::STATFS => self.statfs(node, out),
            op::FALLOCATE => self.fallocate(body),
            op::SETXATTR => self.set_attribute(node, body),
            op::GETXATTR => self.get_attribute(node, body, out),
            op::LISTXATTR => self.list_attributes(node, body, out),
            op::REMOVEXATTR => self.remove_attribute(node, body),
            op::LSEEK => self.lseek(body, out),
            op::COPY_FILE_RANGE => self.copy(body, out),
            // FLUSH among them: nothing is kept back here, so a close has nothing to bring
            // forth. And locks. The guest does not ask twice.
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

    fn getattr(&mut self, node: u64, body: &mut Fields<'_>, out: &mut Reply<'_>) -> Result<()> {
        let (flags, _) = (field(body)?, field(body)?);
        let handle = body.u64().ok_or(Errno::INVAL)?;
        let stat = match flags & 1 {
            0 => stat(self.table.place(node)?)?,
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
        let place = self.table.place(node)?;
        if valid & 1 != 0 {
            let plain = self.table.kind(node)? == FileType::Directory;
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
            fs::chownat(&place, "", uid, gid, flags).map_err(|errno| match errno {
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
            fs::utimensat(&place, "", &times, AtFlags::EMPTY_PATH)?;
        }
        out.u64(VALID).u64(0);
        attributes(&stat(&place)?, out);
        Ok(())
    }

    fn syncfs(&mut self) -> Result<()> {
        let root = self.reopen(ROOT, OFlags::RDONLY | OFlags::DIRECTORY)?;
        fs::syncfs(root)
    }

    fn statfs(&mut self, node: u64, out: &mut Reply<'_>) -> Result<()> {
        let stat = fs::fstatvfs(self.table.place(node)?)?;
        out.u64(stat.f_blocks).u64(stat.f_bfree).u64(stat.f_bavail);
        out.u64(stat.f_files).u64(stat.f_ffree);
        let small = |value| u32::try_from(value).unwrap_or(u32::MAX);
        out.u32(small(stat.f_bsize)).u32(small(stat.f_namemax));
        out.u32(small(stat.f_frsize)).zeros(28);
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
            | op::SETXATTR
            | op::REMOVEXATTR
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
