// SPDX-License-Identifier: Apache-2.0
//! The program around the library: its entry point is `_start` in `sys/start.rs`, the
//! boot sequence is `husk_agent::boot`.
#![no_std]
#![no_main]

use husk_agent as _;
