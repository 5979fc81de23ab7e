// SPDX-License-Identifier: Apache-2.0
//! The keyboard controller's one use in a machine without a keyboard: to reset it.
//!
//! vCPU threads. Linux resets by writing 0xfe to port 0x64 (arch/x86/kernel/reboot.c), once
//! the status there says that the controller takes input.

use crate::bus::Device;
use std::ops::Range;

/// The ports, on the port I/O bus.
pub const PORTS: Range<u64> = 0x60..0x65;

const SYSTEM_CONTROL: u64 = 1;
const COMMAND: u64 = 4;
const PULSE_RESET: u8 = 0xfe;
/// Output buffer full, input buffer empty. The first makes drivers/input/serio/i8042.c give
/// up after 17 reads, where an idle controller costs it several timeouts of half a second;
/// the second is what a reset waits for.
const STATUS: u8 = 0x01;
/// Port 0x61: the timer's output is high, so nothing that polls it for calibration waits.
const TIMER_OUTPUT: u8 = 0x20;

/// Calls its hook, on the vCPU that asked, each time the guest asks for a reset.
pub struct Reset(Box<dyn Fn() + Send + Sync>);

impl Reset {
    #[must_use]
    pub fn new(hook: Box<dyn Fn() + Send + Sync>) -> Self {
        Self(hook)
    }
}

impl Device for Reset {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(byte) = data.first_mut() {
            *byte = match offset {
                SYSTEM_CONTROL => TIMER_OUTPUT,
                COMMAND => STATUS,
                _ => 0,
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == COMMAND && data.first() == Some(&PULSE_RESET) {
            (self.0)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::BusBuilder;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn only_the_reset_command_resets() {
        let count = Arc::new(AtomicU32::new(0));
        let hook = count.clone();
        let reset = Reset::new(Box::new(move || {
            hook.fetch_add(1, Ordering::Relaxed);
        }));
        let mut bus = BusBuilder::default();
        bus.add(PORTS, Arc::new(reset)).expect("free ports");
        let bus = bus.freeze();

        bus.write(0x64, &[0xfd]);
        bus.write(0x64, &[]);
        bus.write(0x60, &[0xfe]);
        assert_eq!(count.load(Ordering::Relaxed), 0);
        bus.write(0x64, &[0xfe]);
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn linux_waits_for_nothing() {
        let reset = Reset::new(Box::new(|| ()));
        let read = |offset| {
            let mut data = [0];
            reset.read(offset, &mut data);
            data[0]
        };
        assert_eq!(read(4) & 2, 0, "kb_wait() before a reset");
        assert_eq!(
            read(4) & 1,
            1,
            "i8042_flush() never sees the end and gives up"
        );
        assert_eq!(read(1) & 0x20, 0x20);
        assert_eq!(read(0), 0);
        reset.read(4, &mut []);
    }
}
