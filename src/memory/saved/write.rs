// SPDX-License-Identifier: Apache-2.0
//! Runs of guest memory into a file. Runs in a process that fork(2) made of one with threads:
//! it allocates nothing, takes no lock, and calls nothing but the kernel.
#![expect(
    unsafe_code,
    reason = "guest memory is looked at and written where it lies"
)]

use super::{PAGE, Run};
use crate::memory::GuestRam;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress};

/// Bytes of one write: less than the kernel takes in a call.
const MOST: usize = 64 << 20;
const PAGE_BYTES: usize = 4096;

/// Writes the runs to an empty file, which becomes as long as the memory. Pages of zeros stay
/// holes. No vCPU and no device may write to this memory meanwhile.
pub fn write(ram: &GuestRam, file: &File, runs: &[Run]) -> io::Result<()> {
    let total: u64 = ram.iter().map(|region| region.len()).sum();
    file.set_len(total)?;
    let mut base = 0;
    for region in ram.iter() {
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let (first, last) = (base / PAGE, (base + region.len()) / PAGE);
        for run in runs {
            let (start, end) = (run.start.max(first), run.end().min(last));
            if start < end {
                // SAFETY: the pages lie inside this region, which `ram` keeps mapped.
                unsafe { write_run(file, host, start - first..end - first, base)? };
            }
        }
        base += region.len();
    }
    Ok(())
}

/// Pages of the mapping at `host`, which lies at `base` in the file.
///
/// # Safety
/// All of them are mapped and can be read.
unsafe fn write_run(
    file: &File,
    host: *mut u8,
    pages: std::ops::Range<u64>,
    base: u64,
) -> io::Result<()> {
    let mut full: Option<u64> = None;
    for page in pages.clone() {
        // SAFETY: the caller's.
        let empty = unsafe { is_empty(at(host, page)?) };
        match (empty, full) {
            (false, None) => full = Some(page),
            (true, Some(start)) => {
                // SAFETY: as above.
                unsafe { write_bytes(file, at(host, start)?, start..page, base)? };
                full = None;
            }
            _ => {}
        }
    }
    match full {
        // SAFETY: as above.
        Some(start) => unsafe { write_bytes(file, at(host, start)?, start..pages.end, base) },
        None => Ok(()),
    }
}

fn at(host: *mut u8, page: u64) -> io::Result<*const u8> {
    let offset = usize::try_from(page * PAGE).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(host.wrapping_add(offset).cast_const())
}

/// # Safety
/// A page can be read there.
unsafe fn is_empty(page: *const u8) -> bool {
    const WORDS: usize = PAGE_BYTES / 8;
    // Eight at a time: most pages that hold anything say so in the first line.
    (0..WORDS).step_by(8).all(|word| {
        let line = page.cast::<u64>().wrapping_add(word);
        let any = (0..8).fold(0, |any, index| {
            // SAFETY: one of eight words of the page, which is aligned; volatile, because no
            // reference into guest memory may be.
            any | unsafe { line.wrapping_add(index).read_volatile() }
        });
        any == 0
    })
}

/// # Safety
/// The pages are mapped at `from` and can be read.
unsafe fn write_bytes(
    file: &File,
    mut from: *const u8,
    pages: std::ops::Range<u64>,
    base: u64,
) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut left = usize::try_from((pages.end - pages.start) * PAGE).map_err(|_| invalid())?;
    let mut offset = base + pages.start * PAGE;
    while left > 0 {
        let to = libc::off_t::try_from(offset).map_err(|_| invalid())?;
        // SAFETY: `left` bytes can be read from there; the kernel only reads them.
        let done = unsafe { libc::pwrite(file.as_raw_fd(), from.cast(), left.min(MOST), to) };
        let done = match usize::try_from(done) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(done) => done,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
        };
        from = from.wrapping_add(done);
        offset += done as u64;
        left -= done;
    }
    Ok(())
}
