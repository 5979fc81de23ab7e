// SPDX-License-Identifier: Apache-2.0
//! Guest RAM: where it lies in guest-physical space and what backs it on the host.

/// Guest RAM as devices and boot code see it: every access is checked against the layout.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;

pub mod atomic;
