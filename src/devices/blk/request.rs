// SPDX-License-Identifier: Apache-2.0
//! What a driver asks of a disk, section 5.2.6: read once from its buffers, checked, and
//! turned into a transfer. Event thread; touches no file.

use super::{F_DISCARD, F_WRITE_ZEROES};
use crate::memory::{GuestRam, Pinned, Transfer};
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::{Buffers, Chain};

pub const SECTOR: u64 = 512;
/// Data segments of a request; with header and status it just fits into the queue.
pub const SEGMENTS: u32 = 126;
/// Bytes of a data segment. With `SEGMENTS` this bounds a request, and so what a guest makes
/// the host's kernel move at a time, to just under 8 MiB.
pub const SEGMENT_BYTES: u32 = 64 << 10;
pub const MAX_REQUEST: usize = SEGMENTS as usize * SEGMENT_BYTES as usize;
/// Sectors of a discard or of zeroes: 1 GiB, so that no one request of a guest keeps the
/// host's file system busy for long.
pub const MAX_HOLE: u32 = 1 << 21;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

pub const S_OK: u8 = 0;
pub const S_IOERR: u8 = 1;
pub const S_UNSUPP: u8 = 2;

/// A request with what answers it.
pub struct Request {
    /// Where the status byte goes.
    pub status: Pinned,
    /// Bytes of data the driver has room for.
    pub room: usize,
    pub asks: Asks,
}

pub enum Asks {
    For(Transfer),
    /// The disk's name, to be put here.
    Id(Pinned),
    /// Nothing that can be done; the status that says so.
    Nothing(u8),
}

/// The disk, as far as it decides what can be asked of it.
pub struct Rules {
    pub length: u64,
    pub read_only: bool,
    pub features: u64,
}

impl Rules {
    /// A fault is a chain that cannot even be answered.
    pub fn read(&self, chain: &mut Chain<'_>, ram: &GuestRam) -> Result<Request, GuestFault> {
        let mut header = [0; 16];
        chain.readable.read(&mut header)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([t0, t1, t2, t3]);
        let sector = u64::from_le_bytes(sector);
        // The status is the last byte the driver lets us write.
        let room = chain.writable.len().checked_sub(1);
        let room = room.ok_or(GuestFault::TooShort)?;
        let mut data = chain.writable.split(room)?;
        let status = pin(ram, &mut chain.writable)?;
        let asks = match kind {
            T_IN => match self.range(sector, data.len()) {
                Some(at) => Asks::For(Transfer::Read {
                    into: pin(ram, &mut data)?,
                    at,
                }),
                None => Asks::Nothing(S_IOERR),
            },
            T_OUT => match self.range(sector, chain.readable.len()) {
                Some(at) if !self.read_only => Asks::For(Transfer::Write {
                    from: pin(ram, &mut chain.readable)?,
                    at,
                }),
                _ => Asks::Nothing(S_IOERR),
            },
            T_FLUSH => Asks::For(Transfer::Flush),
            T_GET_ID => Asks::Id(pin(ram, &mut data)?),
            T_DISCARD if self.features & F_DISCARD != 0 => self.hole(&mut chain.readable, true),
            T_WRITE_ZEROES if self.features & F_WRITE_ZEROES != 0 => {
                self.hole(&mut chain.readable, false)
            }
            _ => Asks::Nothing(S_UNSUPP),
        };
        Ok(Request { status, room, asks })
    }

    fn range(&self, sector: u64, length: usize) -> Option<u64> {
        if length > MAX_REQUEST || !(length as u64).is_multiple_of(SECTOR) {
            return None;
        }
        self.inside(sector, length as u64)
    }

    /// Where in the file, if all of it is on the disk. A tail that fills no sector is out of
    /// reach, since every length is a multiple of the sector.
    fn inside(&self, sector: u64, length: u64) -> Option<u64> {
        let start = sector.checked_mul(SECTOR)?;
        (start.checked_add(length)? <= self.length).then_some(start)
    }

    /// One `virtio_blk_discard_write_zeroes`, which is as many as configuration space allows.
    fn hole(&self, data: &mut Buffers<'_>, discard: bool) -> Asks {
        let mut segment = [0; 16];
        if data.len() != segment.len() || data.read(&mut segment).is_err() {
            return Asks::Nothing(S_IOERR);
        }
        let [a, b, c, d, e, f, g, h, n0, n1, n2, n3, f0, f1, f2, f3] = segment;
        let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        // Unmapping is a matter of zeroes only (section 5.2.6.2).
        let known = if discard { 0 } else { 1 };
        if flags & !known != 0 {
            return Asks::Nothing(S_UNSUPP);
        }
        let length = u64::from(sectors) * SECTOR;
        let at = match self.inside(sector, length) {
            Some(at) if !self.read_only && sectors > 0 && sectors <= MAX_HOLE => at,
            _ => return Asks::Nothing(S_IOERR),
        };
        Asks::For(match discard {
            true => Transfer::Discard { at, length },
            false => Transfer::Zero {
                at,
                length,
                release: flags & 1 != 0,
            },
        })
    }
}

fn pin(ram: &GuestRam, data: &mut Buffers<'_>) -> Result<Pinned, GuestFault> {
    // The slices are of the guest's own memory, so this is never none.
    Pinned::new(ram, data.slices()).ok_or(GuestFault::TooShort)
}
