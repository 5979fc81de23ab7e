// SPDX-License-Identifier: Apache-2.0
//! Memory mapped from files: one that is whole, and layers over it. On the thread that builds
//! a machine.
#![expect(unsafe_code, reason = "mmap over a part of guest RAM")]

use super::{PAGE, Run, in_order};
use crate::memory::{GuestRam, MapError, ranges};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use vm_memory::mmap::{FromRangesError, MmapRegionError};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend as _, GuestRegionMmap, MmapRegion};

/// Pieces of files in one machine's memory. A process has 65530 mappings (vm.max_map_count),
/// and each piece may split another in three: a chain that was made to have more is refused.
const MAX_PIECES: usize = 20_000;

/// One file of memory.
#[derive(Debug)]
pub struct Layer {
    pub file: File,
    /// The pages it speaks of, in order; none: all of them.
    pub runs: Option<Vec<Run>>,
}

/// Maps `size` bytes around `hole` from files that `write` made, the oldest first, which must
/// be whole. None may be written to, nor cut short, while the machine lives.
pub fn map(layers: &[Layer], size: u64, hole: &Range<u64>) -> Result<GuestRam, MapError> {
    let fail = |source: io::Error| MapError {
        bytes: size,
        source: MmapRegionError::Mmap(source).into(),
    };
    let pages = size / PAGE;
    for layer in layers {
        let length = layer.file.metadata().map_err(fail)?.len();
        let runs = layer.runs.as_deref().unwrap_or_default();
        if length != size || !in_order(runs, pages) {
            return Err(fail(io::Error::other(
                "a file of the snapshot's memory is of another machine",
            )));
        }
    }
    let Some((base, above)) = layers.split_first().filter(|(base, _)| base.runs.is_none()) else {
        return Err(fail(io::Error::other("the first layer is not whole")));
    };
    // A whole layer hides all below it.
    let whole = above.iter().rposition(|layer| layer.runs.is_none());
    let (base, above) = match whole {
        Some(index) => (&above[index], &above[index + 1..]),
        None => (base, above),
    };
    let ram = map_base(&base.file, size, hole)?;
    let pieces = visible(above);
    if pieces.len() > MAX_PIECES {
        return Err(fail(io::Error::other(
            "the snapshot's layers are in too many pieces; `husk snapshot flatten` makes them one",
        )));
    }
    for (run, index) in pieces {
        place(&ram, &above[index].file, run, hole.clone()).map_err(fail)?;
    }
    Ok(ram)
}

fn map_base(file: &File, size: u64, hole: &Range<u64>) -> Result<GuestRam, MapError> {
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

/// What is seen of each layer from above, by its index.
fn visible(layers: &[Layer]) -> Vec<(Run, usize)> {
    let mut seen: Vec<(Run, usize)> = Vec::new();
    for (index, layer) in layers.iter().enumerate().rev() {
        let runs = layer.runs.as_deref().unwrap_or_default();
        let above = std::mem::take(&mut seen);
        let mut above = above.into_iter().peekable();
        for run in runs {
            let mut at = run.start;
            while at < run.end() {
                // What lies above and before here is behind us.
                while let Some(taken) = above.next_if(|(taken, _)| taken.end() <= at) {
                    seen.push(taken);
                }
                let next = above.peek().map(|(taken, _)| *taken);
                let until = next.map_or(run.end(), |taken| taken.start.clamp(at, run.end()));
                if until > at {
                    let (start, count) = (at, until - at);
                    seen.push((Run { start, count }, index));
                }
                at = match next {
                    Some(taken) if taken.start < run.end() => taken.end(),
                    _ => run.end(),
                };
            }
        }
        seen.extend(above);
        seen.sort_by_key(|(run, _)| run.start);
    }
    seen
}

/// Maps the same pages of the file over those of the memory.
fn place(ram: &GuestRam, file: &File, run: Run, hole: Range<u64>) -> io::Result<()> {
    // A run may reach over the hole.
    let below = hole.start / PAGE;
    let split = run.end().min(below.max(run.start));
    for (start, end) in [(run.start, split), (split, run.end())] {
        if start == end {
            continue;
        }
        let address = match start < below {
            true => start * PAGE,
            false => hole.end + (start - below) * PAGE,
        };
        let bytes = usize::try_from((end - start) * PAGE).map_err(io::Error::other)?;
        let slice = ram
            .get_slice(GuestAddress(address), bytes)
            .map_err(io::Error::other)?;
        let offset = libc::off_t::try_from(start * PAGE).map_err(io::Error::other)?;
        // SAFETY: the range is inside one mapping that `ram` owns and later unmaps as a whole,
        // and page-aligned there; nothing holds a Rust reference into guest memory.
        let mapped = unsafe {
            libc::mmap(
                slice.ptr_guard_mut().as_ptr().cast(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
