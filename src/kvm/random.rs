// SPDX-License-Identifier: Apache-2.0
//! The processor's own random numbers, for guests whose RDRAND and RDSEED are completed by
//! hand: inside the jail there is no device to read them from. Runs on the vCPU's thread.
#![expect(unsafe_code, reason = "instructions behind a CPU feature")]

use std::arch::is_x86_feature_detected;
use std::arch::x86_64::{_rdrand64_step, _rdseed64_step};

/// `None` when the processor has no number ready, or none at all; the guest is told the same.
pub fn number() -> Option<u64> {
    let mut value = 0;
    // SAFETY: the feature is there, checked on this line.
    let ready = is_x86_feature_detected!("rdrand") && unsafe { _rdrand64_step(&mut value) } == 1;
    ready.then_some(value)
}

/// The same for RDSEED.
pub fn seed() -> Option<u64> {
    let mut value = 0;
    // SAFETY: the feature is there, checked on this line.
    let ready = is_x86_feature_detected!("rdseed") && unsafe { _rdseed64_step(&mut value) } == 1;
    ready.then_some(value)
}
