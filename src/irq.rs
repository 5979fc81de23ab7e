// SPDX-License-Identifier: Apache-2.0
//! An interrupt line as a device sees it: something one may trigger.

use std::io;
use vmm_sys_util::eventfd::EventFd;

/// An edge-triggered line. The machine binds the eventfd to a GSI with KVM_IRQFD;
/// a test binds it to nothing and counts. Triggering never blocks and may happen on
/// any thread.
#[derive(Debug)]
pub struct IrqLine(EventFd);

impl IrqLine {
    pub fn new() -> io::Result<Self> {
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Self)
    }

    /// Two triggers before the guest looks may become one interrupt.
    pub fn trigger(&self) {
        // The only failure is a counter at 2^64 - 2: the interrupt is pending then anyway.
        let _ = self.0.write(1);
    }

    /// The descriptor the machine hands to KVM_IRQFD.
    pub fn eventfd(&self) -> &EventFd {
        &self.0
    }

    /// For tests that play the interrupt controller: triggers since the last call.
    pub fn take(&self) -> u64 {
        self.0.read().unwrap_or(0)
    }
}
