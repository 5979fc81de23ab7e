// SPDX-License-Identifier: Apache-2.0
//! The tree: looking names up, making, moving and removing them. The share's one thread.

use super::{PRIVILEGED, Result, Server, VALID, attributes, field, name, wide};
use crate::share::table::{below, stat};
use crate::share::wire::{Fields, Reply, Request, op};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, RenameFlags, Uid};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;

impl Server {
    /// Tells the guest of a place, `struct fuse_entry_out`.
    pub(super) fn tell(&mut self, parent: u64, name: &OsStr, out: &mut Reply<'_>) -> Result<u64> {
        let fd = below(self.table.place(parent)?, name)?;
        let stat = stat(&fd)?;
        let number = self.table.keep(parent, name, fd, &stat)?;
        out.u64(number).u64(0).u64(VALID).u64(VALID).u64(0);
        attributes(&stat, out);
        Ok(number)
    }

    pub(super) fn lookup(
        &mut self,
        node: u64,
        body: &mut Fields<'_>,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let name = name(body)?;
        self.tell(node, name, out).map(drop)
    }

    pub(super) fn readlink(&mut self, node: u64, out: &mut Reply<'_>) -> Result<()> {
        let place = self.table.place(node)?;
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
        let place = self.table.place(parent)?;
        let name = match request.opcode {
            op::SYMLINK => {
                let name = name(body)?;
                let target = OsStr::from_bytes(body.text().ok_or(Errno::INVAL)?);
                fs::symlinkat(target, &place, name)?;
                name
            }
            op::MKDIR => {
                let (mode, _umask) = (field(body)?, field(body)?);
                let name = name(body)?;
                let mode = Mode::from_raw_mode(mode & 0o7777);
                fs::mkdirat(&place, name, mode)?;
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
                fs::mknodat(&place, name, kind, mode, 0)?;
                name
            }
        };
        self.own(request, name)?;
        self.tell(parent, name, out).map(drop)
    }

    /// What was just made belongs to whoever asked for it, where that can be said.
    pub(super) fn own(&mut self, request: &Request<'_>, name: &OsStr) -> Result<()> {
        if !self.all_ids || (request.uid, request.gid) == (0, 0) {
            return Ok(());
        }
        let parent = self.table.place(request.node)?;
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
        let name = name(body)?;
        self.table.unnamed(node, name);
        fs::unlinkat(self.table.place(node)?, name, flags)
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
        let (from, into) = (self.table.place(node)?, self.table.place(to)?);
        if !flags.contains(RenameFlags::EXCHANGE) {
            self.table.unnamed(to, new);
        }
        fs::renameat_with(&from, old, &into, new, flags)?;
        for (directory, place, name) in [(node, from, old), (to, into, new)] {
            // Of an exchange both are there, else the second.
            if let Ok(stat) = fs::statat(place, name, AtFlags::SYMLINK_NOFOLLOW) {
                self.table.moved(directory, name, &stat);
            }
        }
        Ok(())
    }

    pub(super) fn link(
        &mut self,
        node: u64,
        body: &mut Fields<'_>,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let old = self.table.place(wide(body)?)?;
        let name = name(body)?;
        let to = self.table.place(node)?;
        let flags = AtFlags::SYMLINK_FOLLOW;
        let number = old.as_raw_fd().to_string();
        fs::linkat(&self.own_descriptors, number, to, name, flags)?;
        self.tell(node, name, out).map(drop)
    }
}
