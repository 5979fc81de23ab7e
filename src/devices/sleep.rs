// SPDX-License-Identifier: Apache-2.0
//! ACPI's sleep control and status registers of a hardware-reduced machine (ACPI 6.5, section
//! 4.8.3.7): the one sleep there is is to switch off. vCPU threads.

use crate::bus::Device;

const CONTROL: u64 = 0;
const ENABLE: u8 = 1 << 5;
const TYPE_SHIFT: u32 = 2;
const TYPE_MASK: u8 = 7;

/// Calls its hook, on the vCPU that asked, when the guest switches itself off.
pub struct Sleep {
    /// The sleep type that means off; others are no sleep this machine has.
    off: u8,
    hook: Box<dyn Fn() + Send + Sync>,
}

impl Sleep {
    #[must_use]
    pub fn new(off: u8, hook: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { off, hook }
    }
}

impl Device for Sleep {
    /// Nothing woke this machine: it never slept.
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, offset: u64, data: &[u8]) {
        if let (CONTROL, [value, ..]) = (offset, data)
            && value & ENABLE != 0
            && (value >> TYPE_SHIFT) & TYPE_MASK == self.off
        {
            (self.hook)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn only_the_enabled_off_sleep_switches_off() {
        let count = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&count);
        let sleep = Sleep::new(
            5,
            Box::new(move || {
                seen.fetch_add(1, Ordering::Relaxed);
            }),
        );
        for (offset, data) in [
            (0, &[5 << 2][..]),
            (0, &[1 << 5 | 3 << 2]),
            (1, &[1 << 5 | 5 << 2]),
            (0, &[]),
        ] {
            sleep.write(offset, data);
        }
        assert_eq!(count.load(Ordering::Relaxed), 0);
        sleep.write(0, &[1 << 5 | 5 << 2]);
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }
}
