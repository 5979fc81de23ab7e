// SPDX-License-Identifier: Apache-2.0
//! virtio-blk, section 5.2: a disk that is a file of the host.
//!
//! Event thread, which waits for the file's reads and writes. The guest reaches no byte
//! outside the file, and none for writing if the disk is read-only, whatever it negotiated.

mod backend;
#[cfg(test)]
mod tests;

use crate::telemetry;
use crate::virtio::device::{Io, Kind, Verdict, VirtioDevice, read_config};
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::{Buffers, Chain};
use backend::Backend;
use std::fs::File;
use std::io;

const SECTOR: u64 = 512;
/// Data segments of a request; with header and status it just fits into the queue.
const SEGMENTS: u32 = 126;
/// Bytes of a data segment. With `SEGMENTS` this bounds a request, and so the time a guest
/// can keep the event thread in one system call, to just under 8 MiB.
const SEGMENT_BYTES: u32 = 64 << 10;
const MAX_REQUEST: usize = SEGMENTS as usize * SEGMENT_BYTES as usize;

const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;

const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;

const ID_BYTES: usize = 20;

/// A disk.
pub struct Blk {
    backend: Backend,
    read_only: bool,
    /// The driver knows no flush, so every write must be durable (section 5.2.6.2).
    write_through: bool,
    id: [u8; ID_BYTES],
    space: [u8; 24],
}

/// Why a request failed, as the guest may know it.
enum Failure {
    Io,
    Unsupported,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl Blk {
    /// `file` is open for reading, and for writing unless `read_only`; `id` is what the guest
    /// sees as the serial number, its first 20 bytes. A last part of the file that fills no
    /// sector is not on the disk.
    pub fn new(file: File, read_only: bool, id: &str) -> io::Result<Self> {
        let backend = Backend::new(file)?;
        let stray = backend.len() % SECTOR;
        if stray != 0 {
            telemetry::line(&format!(
                "disk {id}: the last {stray} bytes fill no 512-byte sector and stay hidden"
            ));
        }
        let mut name = [0; ID_BYTES];
        for (to, from) in name.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        let mut space = [0; 24];
        space[..8].copy_from_slice(&(backend.len() / SECTOR).to_le_bytes());
        space[8..12].copy_from_slice(&SEGMENT_BYTES.to_le_bytes());
        space[12..16].copy_from_slice(&SEGMENTS.to_le_bytes());
        space[20..24].copy_from_slice(&512u32.to_le_bytes());
        Ok(Self {
            backend,
            read_only,
            write_through: true,
            id: name,
            space,
        })
    }

    fn request(&self, chain: &mut Chain<'_>) -> Result<Verdict, GuestFault> {
        let mut header = [0; 16];
        chain.readable.read(&mut header)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([t0, t1, t2, t3]);
        let sector = u64::from_le_bytes(sector);

        // The status is the last byte the driver lets us write.
        let data_length = chain.writable.len().checked_sub(1);
        let mut data = chain
            .writable
            .split(data_length.ok_or(GuestFault::TooShort)?)?;
        let room = data.len();
        let result = match kind {
            T_IN => self.transfer(sector, &mut data, Backend::read),
            T_OUT => self.write(sector, &mut chain.readable),
            T_FLUSH => self.backend.flush().map_err(Failure::from),
            T_GET_ID => data.write(&self.id[..room.min(ID_BYTES)]).or(Ok(())),
            _ => Err(Failure::Unsupported),
        };
        let status = match result {
            Ok(()) => S_OK,
            Err(Failure::Io) => S_IOERR,
            Err(Failure::Unsupported) => S_UNSUPP,
        };
        let written = room - data.len() + 1;
        chain.writable.write(&[status])?;
        Ok(Verdict::Done(u32::try_from(written).unwrap_or(0)))
    }

    fn write(&self, sector: u64, data: &mut Buffers<'_>) -> Result<(), Failure> {
        if self.read_only {
            return Err(Failure::Io);
        }
        self.transfer(sector, data, Backend::write)?;
        if self.write_through {
            self.backend.flush()?;
        }
        Ok(())
    }

    fn transfer(
        &self,
        sector: u64,
        data: &mut Buffers<'_>,
        act: fn(&Backend, &mut Buffers<'_>, u64) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let length = data.len();
        if length > MAX_REQUEST || !(length as u64).is_multiple_of(SECTOR) {
            return Err(Failure::Io);
        }
        let capacity = self.backend.len() / SECTOR * SECTOR;
        let start = sector.checked_mul(SECTOR).ok_or(Failure::Io)?;
        let end = start.checked_add(length as u64).ok_or(Failure::Io)?;
        if end > capacity {
            return Err(Failure::Io);
        }
        Ok(act(&self.backend, data, start)?)
    }
}

impl VirtioDevice for Blk {
    fn kind(&self) -> Kind {
        Kind {
            id: 2,
            name: "virtio-blk",
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[128]
    }

    fn features(&self) -> u64 {
        let read_only = if self.read_only { F_RO } else { 0 };
        F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | read_only
    }

    fn config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.space, offset, data);
    }

    fn activate(&mut self, features: u64, _io: &mut Io<'_>) {
        self.write_through = features & F_FLUSH == 0;
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), GuestFault> {
        io.serve(index, |chain| self.request(chain))
    }
}
