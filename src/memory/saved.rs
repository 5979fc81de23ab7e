// SPDX-License-Identifier: Apache-2.0
//! Guest RAM in a file: written from a machine that stands still, and mapped copy-on-write
//! into those that go on from there, which share through the page cache what they do not
//! change. Pages of zeros are holes of the file.

use super::{GuestRam, MapError, ranges};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use vm_memory::mmap::{FromRangesError, MmapRegionError};
use vm_memory::{
    Bytes as _, FileOffset, GuestMemoryBackend as _, GuestMemoryRegion as _, GuestRegionMmap,
    MemoryRegionAddress, MmapRegion,
};

const PAGE: usize = 4096;
/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// Writes all of it to an empty file, regions one behind the other. No vCPU may run.
pub fn write(ram: &GuestRam, file: &File) -> io::Result<()> {
    let total: u64 = ram.iter().map(|region| region.len()).sum();
    file.set_len(total)?;
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    for region in ram.iter() {
        let mut at = 0;
        while at < region.len() {
            let left = usize::try_from(region.len() - at).unwrap_or(usize::MAX);
            let bytes = &mut piece[..left.min(PIECE)];
            region
                .read_slice(bytes, MemoryRegionAddress(at))
                .map_err(io::Error::other)?;
            write_pages(file, bytes, offset + at)?;
            at += bytes.len() as u64;
        }
        offset += region.len();
    }
    Ok(())
}

/// Runs of pages that hold anything.
fn write_pages(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut run: Option<usize> = None;
    let mut end = 0;
    for page in bytes.chunks(PAGE) {
        // Compared as words by the compiler.
        let empty = page.iter().all(|byte| *byte == 0);
        match (empty, run) {
            (false, None) => run = Some(end),
            (true, Some(start)) => {
                file.write_all_at(&bytes[start..end], offset + start as u64)?;
                run = None;
            }
            _ => {}
        }
        end += page.len();
    }
    match run {
        Some(start) => file.write_all_at(&bytes[start..], offset + start as u64),
        None => Ok(()),
    }
}

/// Maps `size` bytes around `hole` from a file that `write` made. The file must not be
/// written to, nor cut short, while the machine lives.
pub fn map(file: &File, size: u64, hole: &Range<u64>) -> Result<GuestRam, MapError> {
    let fail = |source| MapError {
        bytes: size,
        source,
    };
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, length) in ranges(size, hole) {
        let copy = file
            .try_clone()
            .map_err(|error| fail(MmapRegionError::Mmap(error).into()))?;
        let mapped = MmapRegion::build(
            Some(FileOffset::new(copy, offset)),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_NORESERVE,
        )
        .map_err(|error| fail(error.into()))?;
        let region = GuestRegionMmap::new(mapped, start)
            .ok_or_else(|| fail(FromRangesError::InvalidGuestRegion))?;
        regions.push(region);
        offset += length as u64;
    }
    GuestRam::from_regions(regions).map_err(|error| fail(error.into()))
}
