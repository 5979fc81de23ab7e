// SPDX-License-Identifier: Apache-2.0
//! virtio-entropy, section 5.4: the host kernel's random bytes.
//!
//! Event thread. The bytes go from the kernel straight into the guest's buffers; husk never
//! sees them.

use crate::memory::vectored;
use crate::virtio::device::{Io, Kind, Verdict, VirtioDevice};
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::Chain;

/// Bytes a request yields at most, however much it asks for: stops a guest from spending the
/// event thread's time on one huge buffer. Drivers cope with less than they asked for.
const MAX_REQUEST: usize = 4096;

/// A source of entropy.
#[derive(Default)]
pub struct Rng;

fn fill(chain: &mut Chain<'_>) -> Result<Verdict, GuestFault> {
    let wanted = chain.writable.len().min(MAX_REQUEST);
    if wanted == 0 {
        return Err(GuestFault::TooShort);
    }
    let mut part = chain.writable.split(wanted)?;
    // After boot getrandom(2) fails only where it is forbidden; the guest gets less then.
    while let Some(Ok(count)) = part.slices().first().map(vectored::random) {
        part.advance(count)?;
    }
    Ok(Verdict::Done(
        u32::try_from(wanted - part.len()).unwrap_or(0),
    ))
}

impl VirtioDevice for Rng {
    fn kind(&self) -> Kind {
        Kind {
            id: 4,
            name: "virtio-rng",
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, _features: u64, _io: &mut Io<'_>) {}

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), GuestFault> {
        io.serve(index, fill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::Driver;

    #[test]
    fn every_buffer_is_filled_and_no_byte_beyond() {
        let mut driver = Driver::started(Box::new(Rng), 0);
        let (one, two) = (driver.place(&[0; 64]), driver.place(&[0; 64]));
        assert_eq!(driver.request(0, &[], &[(one, 40), (two, 50)]), 90);
        let (first, second) = (driver.fetch(one, 64), driver.fetch(two, 64));
        assert_ne!(first[32..40], [0; 8]);
        assert_eq!(first[40..], [0; 24]);
        assert_ne!(second[42..50], [0; 8]);
        assert_eq!(second[50..], [0; 14]);
    }

    #[test]
    fn a_request_yields_a_bounded_amount() {
        let mut driver = Driver::started(Box::new(Rng), 0);
        let at = driver.allocate(1 << 20);
        assert_eq!(driver.request(0, &[], &[(at, 1 << 20)]), 4096);
        assert_eq!(driver.fetch(at + 4096, 64), [0; 64]);
    }

    #[test]
    fn a_request_without_room_is_a_fault() {
        let mut driver = Driver::started(Box::new(Rng), 0);
        let at = driver.place(b"not random");
        assert_eq!(driver.request(0, &[(at, 10)], &[]), 0);
        assert_eq!(driver.mmio.fault_count(), 1);
        assert_eq!(driver.fetch(at, 10), b"not random");
    }

    #[test]
    fn a_restored_device_fills_what_was_offered_before_and_with_other_bytes() {
        let mut driver = Driver::started(Box::new(Rng), 0);
        let at = driver.place(&[0; 64]);
        assert_eq!(driver.request(0, &[], &[(at, 64)]), 64);
        let head = driver.offer(0, &[], &[(at, 64)]);
        let mut copies = [(); 2].map(|()| driver.restored(Box::new(Rng)));
        let drawn = copies.each_mut().map(|copy| {
            assert_eq!(copy.used(0), Some((head, 64)));
            copy.fetch(at, 64)
        });
        assert_ne!(drawn[0], drawn[1]);
        assert_eq!(copies[0].request(0, &[], &[(at, 64)]), 64);
    }
}
