// SPDX-License-Identifier: Apache-2.0
//! The devices.

pub mod blk;
pub mod console;
pub mod console_log;
pub mod reset;
pub mod rng;
pub mod serial;
mod stdio;
pub mod vsock;
