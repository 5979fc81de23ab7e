// SPDX-License-Identifier: Apache-2.0
//! Which pages the host backs guest RAM with (madvise(2), Documentation/admin-guide/mm/
//! transhuge.rst). Any thread; a host that will not be advised changes nothing.
#![expect(unsafe_code, reason = "madvise takes an address")]

use super::GuestRam;
use vm_memory::{
    GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress, VolatileSlice,
};

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

/// Gives the whole pages of a slice back to the host; what the guest finds there afterwards
/// is nothing. Only for pages whose contents it has said it does not need.
pub fn release(slice: &VolatileSlice<'_>) {
    const PAGE: usize = 4096;
    let start = slice.ptr_guard_mut().as_ptr();
    let skip = start.addr().next_multiple_of(PAGE) - start.addr();
    let Some(length) = slice.len().checked_sub(skip).map(|rest| rest & !(PAGE - 1)) else {
        return;
    };
    if length == 0 {
        return;
    }
    // SAFETY: the range lies inside one mapping of guest RAM, which stays mapped: its pages
    // are replaced by fresh ones. Nothing in this process holds a reference into it.
    unsafe {
        libc::madvise(start.wrapping_add(skip).cast(), length, libc::MADV_DONTNEED);
    }
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
