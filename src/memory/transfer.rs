// SPDX-License-Identifier: Apache-2.0
//! One piece of work between guest memory and a file, done at once by whoever calls. Any
//! thread that may wait for the file; the event thread may not.
#![expect(
    unsafe_code,
    reason = "preadv and pwritev take addresses of guest memory"
)]

use super::Pinned;
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// The kernel takes no more vectors in one call (UIO_MAXIOV).
pub(super) const MAX_VECTORS: usize = 1024;

/// What is to be done to a file.
pub enum Transfer {
    /// Bytes of the file at `at` go to the guest.
    Read { into: Pinned, at: u64 },
    /// Bytes of the guest go to the file at `at`.
    Write { from: Pinned, at: u64 },
    /// What was written before is made durable.
    Flush,
    /// A range is given back to the host's file system, and reads zero if it can.
    Discard { at: u64, length: u64 },
    /// A range reads zero afterwards, and keeps its room unless `release`.
    Zero { at: u64, length: u64, release: bool },
}

impl Transfer {
    /// Bytes of the guest's that are still to be moved.
    pub fn left(&self) -> usize {
        match self {
            Self::Read { into: bytes, .. } | Self::Write { from: bytes, .. } => bytes.len(),
            Self::Flush | Self::Discard { .. } | Self::Zero { .. } => 0,
        }
    }

    /// Notes that `count` bytes were moved; true if that was all.
    pub(super) fn moved(&mut self, count: usize) -> bool {
        let (bytes, offset) = match self {
            Self::Read { into, at } => (into, at),
            Self::Write { from, at } => (from, at),
            _ => return true,
        };
        bytes.advance(count);
        *offset += count as u64;
        bytes.is_empty()
    }

    pub(super) fn hole(&self) -> Option<(FallocateFlags, u64, u64)> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match *self {
            Self::Discard { at, length } => Some((punch, at, length)),
            Self::Zero {
                at,
                length,
                release: true,
            } => Some((punch, at, length)),
            Self::Zero { at, length, .. } => {
                let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                Some((zero, at, length))
            }
            _ => None,
        }
    }

    /// Does it, all of it or an error.
    pub fn perform(&mut self, file: &File) -> io::Result<()> {
        if let Some((flags, at, length)) = self.hole() {
            return Ok(rustix::fs::fallocate(file, flags, at, length)?);
        }
        if matches!(self, Self::Flush) {
            return file.sync_data();
        }
        while self.left() > 0 {
            match self.step(file) {
                // Someone shortened the file under us.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.moved(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn step(&self, file: &File) -> io::Result<usize> {
        let (bytes, at) = match self {
            Self::Read { into, at } => (into, *at),
            Self::Write { from, at } => (from, *at),
            _ => return Ok(0),
        };
        let offset = libc::off_t::try_from(at).map_err(io::Error::other)?;
        let vectors = bytes.vectors();
        let count = libc::c_int::try_from(vectors.len().min(MAX_VECTORS)).unwrap_or(0);
        let (fd, start) = (file.as_raw_fd(), vectors.as_ptr());
        // SAFETY: the first `count` vectors describe guest memory that `Pinned` keeps mapped;
        // nothing in this process holds a reference into it.
        let done = unsafe {
            match self {
                Self::Write { .. } => libc::pwritev(fd, start, count, offset),
                _ => libc::preadv(fd, start, count, offset),
            }
        };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }
}
