// SPDX-License-Identifier: Apache-2.0
//! Each handler against the processor this test runs on: the instruction is executed natively
//! on the same registers, flags, memory and extended state, and every bit must agree.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

mod control;
mod fuzz;
mod guest;
mod integer;
mod native;
mod paging;
mod vectors;
mod world;
mod xsave;
