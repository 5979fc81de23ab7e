// SPDX-License-Identifier: Apache-2.0
//! What differs between processor architectures; nothing else in the house asks which one it is.

#[cfg(target_arch = "x86_64")]
pub mod x86_64;
