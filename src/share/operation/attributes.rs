// SPDX-License-Identifier: Apache-2.0
//! Extended attributes: those of users (`user.`), which mean nothing to the host's kernel. Of
//! all others the guest hears that there are none, and may set none: `security.` and
//! `trusted.` ones would be words of the guest's to the host. The share's one thread.

use super::{MAX_IO, Result, Server, field};
use crate::share::wire::{Fields, Reply};
use rustix::fs::{self, FileType, OFlags, XattrFlags};
use rustix::io::Errno;
use std::fs::File;

/// The one kind that is served.
const PREFIX: &[u8] = b"user.";
/// Longest value, and longest list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const MAX_VALUE: usize = 64 << 10;
/// Longest name (XATTR_NAME_MAX).
const MAX_NAME: usize = 255;

impl Server {
    /// Attributes of users are for files and directories only (xattr(7)).
    fn bearer(&mut self, node: u64, flags: OFlags) -> Result<File> {
        match self.table.kind(node)? {
            FileType::RegularFile | FileType::Directory => self.reopen(node, flags),
            _ => Err(Errno::NOTSUP),
        }
    }

    pub(super) fn set_attribute(&mut self, node: u64, body: &mut Fields<'_>) -> Result<()> {
        let (size, flags) = (field(body)?, field(body)?);
        let name = served(body)?;
        let value = body.bytes(size as usize).ok_or(Errno::INVAL)?;
        if value.len() > MAX_VALUE {
            return Err(Errno::TOOBIG);
        }
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let file = self.bearer(node, OFlags::RDONLY)?;
        fs::fsetxattr(file, name, value, flags)
    }

    pub(super) fn remove_attribute(&mut self, node: u64, body: &mut Fields<'_>) -> Result<()> {
        let name = served(body)?;
        let file = self.bearer(node, OFlags::RDONLY)?;
        fs::fremovexattr(file, name)
    }

    pub(super) fn get_attribute(
        &mut self,
        node: u64,
        body: &mut Fields<'_>,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let (size, _) = (field(body)?, field(body)?);
        let name = served(body).map_err(|errno| match errno {
            // What the guest's kernel asks before an exec or a write: there is none.
            Errno::NOTSUP => Errno::NODATA,
            other => other,
        })?;
        let file = self.bearer(node, OFlags::RDONLY)?;
        let mut value = vec![0; MAX_VALUE];
        let length = fs::fgetxattr(file, name, &mut value[..])?;
        give(size, value.get(..length).unwrap_or_default(), out)
    }

    pub(super) fn list_attributes(
        &mut self,
        node: u64,
        body: &mut Fields<'_>,
        out: &mut Reply<'_>,
    ) -> Result<()> {
        let size = field(body)?;
        let mut all = vec![0; MAX_VALUE];
        let length = match self.bearer(node, OFlags::RDONLY) {
            Ok(file) => fs::flistxattr(file, &mut all[..])?,
            Err(Errno::NOTSUP) => 0,
            Err(errno) => return Err(errno),
        };
        let names = all.get(..length).unwrap_or_default();
        let names = names.split_inclusive(|byte| *byte == 0);
        let served = names.filter(|name| name.starts_with(PREFIX));
        give(size, &served.collect::<Vec<_>>().concat(), out)
    }
}

/// A name that is the guest's to use.
fn served<'a>(body: &mut Fields<'a>) -> Result<&'a [u8]> {
    let name = body.text().ok_or(Errno::INVAL)?;
    match name.strip_prefix(PREFIX) {
        _ if name.len() > MAX_NAME => Err(Errno::RANGE),
        Some(b"") => Err(Errno::INVAL),
        Some(_) => Ok(name),
        None => Err(Errno::NOTSUP),
    }
}

/// The value, or with room for nothing how long it is, `struct fuse_getxattr_out`.
fn give(room: u32, value: &[u8], out: &mut Reply<'_>) -> Result<()> {
    let length = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    match room.min(MAX_IO) {
        0 => out.u32(length).u32(0),
        room if length <= room => out.bytes(value),
        _ => return Err(Errno::RANGE),
    };
    Ok(())
}
