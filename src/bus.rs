// SPDX-License-Identifier: Apache-2.0
//! The address bus: which device answers at an address.
//!
//! Built once, then frozen: devices neither move nor unplug, so a look-up on a
//! vCPU thread takes no lock. Two of these exist in a machine, one for port I/O
//! and one for memory-mapped I/O.

use std::ops::Range;
use std::sync::Arc;

/// A device seen from the bus.
///
/// Called on any vCPU thread, possibly on several at once. An access never fails
/// and never blocks on the host: whatever width and offset a guest chooses, an
/// unknown register reads zero and a write to one is dropped. `offset` counts
/// from the start of the device's range.
pub trait Device: Send + Sync {
    fn read(&self, offset: u64, data: &mut [u8]);
    fn write(&self, offset: u64, data: &[u8]);
}

/// Two devices claim one address: a fault of the machine's layout, not of a guest.
#[derive(Debug, thiserror::Error)]
#[error("bus ranges {0:#x?} and {1:#x?} overlap or are empty")]
pub struct Overlap(pub Range<u64>, pub Range<u64>);

struct Slot {
    range: Range<u64>,
    device: Arc<dyn Device>,
}

/// Collects devices until the machine is built.
#[derive(Default)]
pub struct BusBuilder {
    slots: Vec<Slot>,
}

impl BusBuilder {
    pub fn add(&mut self, range: Range<u64>, device: Arc<dyn Device>) -> Result<(), Overlap> {
        let clash = self
            .slots
            .iter()
            .find(|slot| range.start < slot.range.end && slot.range.start < range.end);
        if let Some(slot) = clash {
            return Err(Overlap(range, slot.range.clone()));
        }
        if range.is_empty() {
            return Err(Overlap(range.clone(), range));
        }
        self.slots.push(Slot { range, device });
        Ok(())
    }

    #[must_use]
    pub fn freeze(mut self) -> Bus {
        self.slots.sort_by_key(|slot| slot.range.start);
        Bus {
            slots: self.slots.into_boxed_slice(),
        }
    }
}

/// A frozen bus.
pub struct Bus {
    slots: Box<[Slot]>,
}

impl Bus {
    /// An address nobody claims reads as all ones, as on an ISA bus.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => {
                data.fill(0);
                device.read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// A write to an address nobody claims is dropped.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&dyn Device, u64)> {
        let after = self
            .slots
            .partition_point(|slot| slot.range.start <= address);
        let slot = self.slots[..after].last()?;
        slot.range
            .contains(&address)
            .then(|| (&*slot.device, address - slot.range.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl Device for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data[0] = u8::try_from(offset).unwrap_or(0xee);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            if let Ok(mut log) = self.0.lock() {
                log.push((offset, data.to_vec()));
            }
        }
    }

    #[test]
    fn an_access_reaches_the_device_that_claims_the_address() {
        let (low, high) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
        let mut builder = BusBuilder::default();
        builder
            .add(0x2000..0x3000, high.clone())
            .expect("free range");
        builder
            .add(0x1000..0x1008, low.clone())
            .expect("free range");
        let bus = builder.freeze();

        bus.write(0x1007, &[1]);
        bus.write(0x2fff, &[2, 3]);
        bus.write(0x1008, &[9]);
        assert_eq!(*low.0.lock().expect("no panic"), [(7, vec![1])]);
        assert_eq!(*high.0.lock().expect("no panic"), [(0xfff, vec![2, 3])]);

        let mut data = [7; 4];
        bus.read(0x2004, &mut data);
        assert_eq!(data, [4, 0, 0, 0]);
        bus.read(0x1008, &mut data);
        assert_eq!(data, [0xff; 4], "an absent device reads all ones");
        bus.read(0, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn overlapping_and_empty_ranges_are_refused() {
        let mut builder = BusBuilder::default();
        builder
            .add(0x1000..0x2000, Arc::new(Recorder::default()))
            .expect("free range");
        for range in [
            0x1fff..0x2001,
            0xfff..0x1001,
            0x1100..0x1200,
            0x5000..0x5000,
        ] {
            assert!(builder.add(range, Arc::new(Recorder::default())).is_err());
        }
    }
}
