// SPDX-License-Identifier: Apache-2.0
//! The pages a restored guest needs first, brought in before it asks for them: a call for many
//! in place of a fault for each. Any thread.
#![expect(unsafe_code, reason = "madvise takes an address")]

use super::held::written;
use super::{PAGE, Pagemap, Run, in_order};
use crate::memory::GuestRam;
use std::io;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress};

/// How pages are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// As they are in the file, shared with all who mapped it.
    Read,
    /// As copies of this machine's own.
    Write,
}

/// Brings pages in. What a host will not do, faults do later.
pub fn prefetch(ram: &GuestRam, runs: &[Run], want: Want) {
    let advice = match want {
        Want::Read => libc::MADV_POPULATE_READ,
        Want::Write => libc::MADV_POPULATE_WRITE,
    };
    let mut base = 0;
    for region in ram.iter() {
        let Ok(host) = region.get_host_address(MemoryRegionAddress(0)) else {
            return;
        };
        let (first, last) = (base / PAGE, (base + region.len()) / PAGE);
        for run in runs {
            let (start, end) = (run.start.max(first), run.end().min(last));
            if start >= end {
                continue;
            }
            let offset = usize::try_from((start - first) * PAGE);
            let length = usize::try_from((end - start) * PAGE);
            let (Ok(offset), Ok(length)) = (offset, length) else {
                continue;
            };
            // SAFETY: the pages lie inside this region, which `ram` keeps mapped; this advice
            // changes nothing that can be read there.
            unsafe { libc::madvise(host.wrapping_add(offset).cast(), length, advice) };
        }
        base += region.len();
    }
}

/// Most pages and runs of a working set. A guest that writes more in its first moments would
/// pay for them at every start, and the list has to be read.
const MOST_PAGES: u64 = 1024;
const MOST_RUNS: usize = 512;

/// The pages a restored guest has written so far, in order, as far as they are worth
/// remembering; while it runs.
pub fn working_set(ram: &GuestRam, pagemap: &Pagemap) -> io::Result<Vec<Run>> {
    let mut left = MOST_PAGES;
    let mut runs = written(ram, pagemap)?;
    for run in &mut runs {
        run.count = run.count.min(left);
        left -= run.count;
    }
    runs.retain(|run| run.count > 0);
    runs.truncate(MOST_RUNS);
    Ok(runs)
}

/// Whether a list may be a working set of this memory: it comes from a file.
#[must_use]
pub fn is_working_set(runs: &[Run], ram: &GuestRam) -> bool {
    let pages: u64 = ram.iter().map(|region| region.len() / PAGE).sum();
    let wanted: u64 = runs.iter().map(|run| run.count.min(MOST_PAGES + 1)).sum();
    runs.len() <= MOST_RUNS && in_order(runs, pages) && wanted <= MOST_PAGES
}
