// SPDX-License-Identifier: Apache-2.0
//! The tree: looking names up, making, moving and removing them. The share's one thread.

use super::{PRIVILEGED, Result, Server, VALID, attributes, field, name, wide};
use crate::share::table::stat;
use crate::share::wire::{Fields, Reply, Request, op};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

impl Server {
    /// The place `name` in the directory `parent`; no link is followed on the way to it.
    pub(super) fn place(&self, parent: u64, name: &OsStr) -> Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = &self.table.node(parent)?.fd;
        fs::openat2(parent, name, flags, Mode::empty(), resolve)
    }

    pub(super) fn tell(&mut self, parent: u64, name: &OsStr, out: &mut Reply<'_>) -> Result<()> {
        let fd = self.place(parent, name)?;
        let stat = stat(&fd)?;
        let number = self.table.keep(fd, &stat)?;
        out.u64(number).u64(0).u64(VALID).u64(VALID).u64(0);
        attributes(&stat, out);
        Ok(())
    }

    pub(super) fn lookup(
        &mut self,
        node: u64,
        body: &mut Fields<'_>,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let name = name(body)?;
        self.tell(node, name, out)
    }

    pub(super) fn readlink(&mut self, node: u64, out: &mut Reply<'_>) -> Result<()> {
        let place = &self.table.node(node)?.fd;
        let target = fs::readlinkat(place, "", Vec::new())?;
        out.bytes(target.as_bytes());
        Ok(())
    }

    pub(super) fn make(
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
    pub(super) fn own(&self, request: &Request<'_>, name: &OsStr) -> Result<()> {
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

    pub(super) fn unlink(
        &mut self,
        node: u64,
        body: &mut Fields<'_>,
        flags: AtFlags,
    ) -> Result<()> {
        fs::unlinkat(&self.table.node(node)?.fd, name(body)?, flags)
    }

    pub(super) fn rename(&mut self, opcode: u32, node: u64, body: &mut Fields<'_>) -> Result<()> {
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

    pub(super) fn link(
        &mut self,
        node: u64,
        body: &mut Fields<'_>,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let old = self.table.node(wide(body)?)?.fd.as_raw_fd().to_string();
        let name = name(body)?;
        let to = &self.table.node(node)?.fd;
        let flags = AtFlags::SYMLINK_FOLLOW;
        fs::linkat(&self.own_descriptors, old, to, name, flags)?;
        self.tell(node, name, out)
    }
}
