// SPDX-License-Identifier: Apache-2.0
//! Which pages the host backs guest RAM with (madvise(2), Documentation/admin-guide/mm/
//! transhuge.rst). Any thread; a host that will not be advised changes nothing.
#![expect(unsafe_code, reason = "madvise takes an address")]

use super::GuestRam;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress};

/// Small ones only: a guest that starts touches little here and there, and of a huge page
/// all 2 MiB are cleared first, and held.
pub fn keep_small(ram: &GuestRam) {
    advise(ram, libc::MADV_NOHUGEPAGE);
}

/// Huge ones where the host sees fit: a guest that stays pays less for each walk of two page
/// tables.
pub fn allow_huge(ram: &GuestRam) {
    advise(ram, libc::MADV_HUGEPAGE);
}

fn advise(ram: &GuestRam, advice: libc::c_int) {
    for region in ram.iter() {
        let (Ok(start), Ok(length)) = (
            region.get_host_address(MemoryRegionAddress(0)),
            usize::try_from(region.len()),
        ) else {
            continue;
        };
        // SAFETY: the region is one mapping of `length` bytes that `ram` owns; this advice
        // changes no contents and unmaps nothing.
        unsafe { libc::madvise(start.cast(), length, advice) };
    }
}
