// SPDX-License-Identifier: Apache-2.0
//! Guest RAM: where it lies in guest-physical space and what backs it on the host.

pub mod aside;
pub mod atomic;
mod file;
mod pages;
mod pinned;
pub mod saved;
mod transfer;
mod uring;
pub mod vectored;

pub use file::place;
pub use pages::{allow_huge, keep_small, release};
pub use pinned::Pinned;
pub use transfer::Transfer;
pub use uring::Uring;

use std::ops::Range;
use vm_memory::GuestAddress;

/// Guest RAM as devices and boot code see it: every access is checked against the layout.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;

#[derive(Debug, thiserror::Error)]
#[error("the host cannot map {bytes} bytes of guest memory")]
pub struct MapError {
    bytes: u64,
    source: vm_memory::mmap::FromRangesError,
}

/// Maps `size` bytes of zeroed RAM around `hole`, the addresses devices live at: what does
/// not fit below it continues above it. Nothing is committed before it is touched.
pub fn anonymous(size: u64, hole: &Range<u64>) -> Result<GuestRam, MapError> {
    GuestRam::from_ranges(&ranges(size, hole)).map_err(|source| MapError {
        bytes: size,
        source,
    })
}

/// Where `size` bytes lie around `hole`.
fn ranges(size: u64, hole: &Range<u64>) -> Vec<(GuestAddress, usize)> {
    let below = size.min(hole.start);
    let above = size - below;
    [(0, below), (hole.end, above)]
        .into_iter()
        .filter(|(_, length)| *length > 0)
        .map(|(start, length)| {
            (
                GuestAddress(start),
                usize::try_from(length).unwrap_or(usize::MAX),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes as _, GuestMemoryBackend as _};

    #[test]
    fn memory_goes_on_above_the_hole() {
        let hole = 0x40_0000..0x80_0000;
        let ram = anonymous(0x60_0000, &hole).expect("6 MiB");
        assert_eq!(ram.last_addr(), GuestAddress(0x9f_ffff));
        assert!(ram.write_obj(1u8, GuestAddress(0x3f_ffff)).is_ok());
        assert!(ram.write_obj(1u8, GuestAddress(0x40_0000)).is_err());
        assert!(ram.write_obj(1u8, GuestAddress(0x80_0000)).is_ok());
        assert_eq!(anonymous(0x1000, &hole).expect("one page").num_regions(), 1);
    }
}
