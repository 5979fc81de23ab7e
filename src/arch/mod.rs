// SPDX-License-Identifier: Apache-2.0
//! What differs between processor architectures. Everything above this module uses the
//! names exported here and no others; `cfg(target_arch)` has its only home here.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    acpi, assist, boot, completion, cpuid, host, layout, mptable, ring3, state, vcpu,
};
