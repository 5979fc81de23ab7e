// SPDX-License-Identifier: Apache-2.0
//! Locked operations on guest RAM, atomic against the guest's other vCPUs and against device
//! code. Runs on any thread; never touches memory outside a RAM region.
#![expect(
    unsafe_code,
    reason = "a 16-byte compare-and-exchange has no safe form in vm-memory"
)]

use super::GuestRam;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileMemory};

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AtomicError {
    #[error("{0:#x} is not in guest RAM")]
    Unbacked(u64),
    #[error("{0:#x} is not aligned to the size of a locked access")]
    Misaligned(u64),
    #[error("this processor has no locked access of {0} bytes")]
    Width(usize),
}

/// Replaces the `width` bytes at `address` by `new` if they equal `current`, in one step.
/// Gives what was there; the exchange happened if that equals `current`. Width is 1, 2, 4, 8
/// or 16, `address` a multiple of it.
pub fn compare_exchange(
    ram: &GuestRam,
    address: u64,
    width: usize,
    current: u128,
    new: u128,
) -> Result<u128, AtomicError> {
    let misaligned = AtomicError::Misaligned(address);
    let slice = ram
        .get_slice(GuestAddress(address), width)
        .map_err(|_| AtomicError::Unbacked(address))?;
    let (c, n) = (current.to_le_bytes(), new.to_le_bytes());
    macro_rules! narrow {
        ($atomic:ty, $int:ty) => {{
            let cell = slice.get_atomic_ref::<$atomic>(0).map_err(|_| misaligned)?;
            let (mut old, mut wanted) = ([0; size_of::<$int>()], [0; size_of::<$int>()]);
            old.copy_from_slice(&c[..size_of::<$int>()]);
            wanted.copy_from_slice(&n[..size_of::<$int>()]);
            let (old, wanted) = (<$int>::from_le_bytes(old), <$int>::from_le_bytes(wanted));
            match cell.compare_exchange(old, wanted, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(seen) | Err(seen) => Ok(u128::from(seen)),
            }
        }};
    }
    match width {
        1 => narrow!(AtomicU8, u8),
        2 => narrow!(AtomicU16, u16),
        4 => narrow!(AtomicU32, u32),
        8 => narrow!(AtomicU64, u64),
        16 => wide(slice.ptr_guard_mut().as_ptr(), address, current, new),
        _ => Err(AtomicError::Width(width)),
    }
}

/// `place` points at 16 bytes of mapped guest RAM.
#[cfg(target_arch = "x86_64")]
fn wide(place: *mut u8, address: u64, current: u128, new: u128) -> Result<u128, AtomicError> {
    if !std::arch::is_x86_feature_detected!("cmpxchg16b") {
        return Err(AtomicError::Width(16));
    }
    let cell = place.cast::<u128>();
    if !cell.is_aligned() {
        return Err(AtomicError::Misaligned(address));
    }
    // SAFETY: the caller's slice proves sixteen mapped, writable bytes that live as long as the
    // RAM does; alignment and the CPU feature were checked above. The guest may change the bytes
    // at any time, and a locked instruction is the access that is defined for that.
    Ok(unsafe { locked(cell, current, new) })
}

/// In assembly because the intrinsic of the same name may be compiled to a call into libatomic,
/// which is not there.
///
/// # Safety
/// `cell` is aligned and good for reads and writes, and the processor has CMPXCHG16B.
#[cfg(target_arch = "x86_64")]
unsafe fn locked(cell: *mut u128, current: u128, new: u128) -> u128 {
    let half = |value: u128, by: u32| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&(value >> by).to_le_bytes()[..8]);
        u64::from_le_bytes(bytes)
    };
    let (mut low, mut high) = (half(current, 0), half(current, 64));
    // SAFETY: sixteen bytes at `cell` are read and written, as the caller allows; RBX, which the
    // compiler keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {new_low}",
            "lock cmpxchg16b [{cell}]",
            "mov rbx, {new_low}",
            new_low = inout(reg) half(new, 0) => _,
            cell = in(reg) cell,
            in("rcx") half(new, 64),
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(not(target_arch = "x86_64"))]
fn wide(_: *mut u8, _: u64, _: u128, _: u128) -> Result<u128, AtomicError> {
    Err(AtomicError::Width(16))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;
    use vm_memory::Bytes;

    fn ram() -> GuestRam {
        GuestRam::from_ranges(&[(GuestAddress(0x1000), 0x1000)]).unwrap()
    }

    #[test]
    fn every_width_exchanges_on_a_match_only() {
        for width in [1usize, 2, 4, 8, 16] {
            let ram = ram();
            ram.write_slice(&[0x5a; 32], GuestAddress(0x1000)).unwrap();
            let mask = u128::MAX >> (128 - 8 * width);
            let old = u128::from_le_bytes([0x5a; 16]) & mask;
            assert_eq!(compare_exchange(&ram, 0x1010 - 0x10, width, 1, 2), Ok(old));
            assert_eq!(compare_exchange(&ram, 0x1000, width, old, 7), Ok(old));
            assert_eq!(compare_exchange(&ram, 0x1000, width, 0, 0), Ok(7));
            let mut after = [0; 17];
            ram.read_slice(&mut after, GuestAddress(0x1000)).unwrap();
            assert_eq!(after[width], 0x5a, "width {width} reaches past its end");
        }
    }

    #[test]
    fn misaligned_and_unbacked_addresses_are_refused() {
        let ram = ram();
        for width in [2usize, 4, 8, 16] {
            let answer = compare_exchange(&ram, 0x1001, width, 0, 0);
            assert_eq!(answer, Err(AtomicError::Misaligned(0x1001)));
        }
        let end = compare_exchange(&ram, 0x1ff8, 16, 0, 0);
        assert_eq!(end, Err(AtomicError::Unbacked(0x1ff8)));
        let top = compare_exchange(&ram, u64::MAX, 16, 0, 0);
        assert_eq!(top, Err(AtomicError::Unbacked(u64::MAX)));
        assert_eq!(
            compare_exchange(&ram, 0x1000, 3, 0, 0),
            Err(AtomicError::Width(3))
        );
    }

    #[test]
    fn sixteen_bytes_change_as_one() {
        const ROUNDS: u128 = 200_000;
        let ram = ram();
        let start = Barrier::new(2);
        let count = || {
            start.wait();
            for _ in 0..ROUNDS {
                let mut seen = 0;
                loop {
                    let next = seen + (1 | 1 << 64);
                    let found = compare_exchange(&ram, 0x1000, 16, seen, next).unwrap();
                    if found == seen {
                        break;
                    }
                    seen = found;
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(count);
            scope.spawn(count);
        });
        let total = compare_exchange(&ram, 0x1000, 16, 0, 0).unwrap();
        assert_eq!(total, 2 * ROUNDS * (1 | 1 << 64));
    }
}
