// SPDX-License-Identifier: Apache-2.0
//! The file under a disk. Moves bytes between it and guest buffers, all or an error.
//!
//! Event thread. The caller has checked the range against `len`.

use crate::memory::vectored;
use crate::virtio::queue::Buffers;
use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use vm_memory::VolatileSlice;

pub struct Backend {
    file: File,
    len: u64,
}

type Call = fn(BorrowedFd<'_>, &[VolatileSlice<'_>], i64) -> io::Result<usize>;

impl Backend {
    pub fn new(mut file: File) -> io::Result<Self> {
        // Not `metadata`: a block device has its length here only.
        let len = file.seek(io::SeekFrom::End(0))?;
        Ok(Self { file, len })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn read(&self, data: &mut Buffers<'_>, offset: u64) -> io::Result<()> {
        self.all(data, offset, vectored::read_at)
    }

    pub fn write(&self, data: &mut Buffers<'_>, offset: u64) -> io::Result<()> {
        self.all(data, offset, vectored::write_at)
    }

    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn all(&self, data: &mut Buffers<'_>, mut offset: u64, call: Call) -> io::Result<()> {
        while !data.is_empty() {
            let at = i64::try_from(offset).map_err(io::Error::other)?;
            let count = call(self.file.as_fd(), data.slices(), at)?;
            if count == 0 {
                // Someone shortened the file under us.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            data.advance(count).map_err(io::Error::other)?;
            offset += count as u64;
        }
        Ok(())
    }
}
