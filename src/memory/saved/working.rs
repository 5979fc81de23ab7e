// SPDX-License-Identifier: Apache-2.0
//! The pages a restored guest needs first, brought in before it asks for them: a call for many
//! in place of a fault for each. Any thread.
#![expect(unsafe_code, reason = "madvise takes an address")]

use super::{PAGE, Run};
use crate::memory::GuestRam;
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
            let offset = usize::try_from((start.max(first) - first) * PAGE);
            let length = usize::try_from(end.saturating_sub(start) * PAGE);
            let (Ok(offset), Ok(length)) = (offset, length) else {
                continue;
            };
            if length > 0 {
                // SAFETY: the pages lie inside this region, which `ram` keeps mapped; this
                // advice changes nothing that can be read there.
                unsafe { libc::madvise(host.wrapping_add(offset).cast(), length, advice) };
            }
        }
        base += region.len();
    }
}
