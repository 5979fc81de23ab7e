// SPDX-License-Identifier: Apache-2.0
//! Virtio 1.2 as every device shares it: what a device is, how queues are read and
//! written, how a guest's driver finds and drives it, and what a misbehaving one costs.

pub mod device;
pub mod fault;
pub mod queue;
pub mod state;
#[cfg(test)]
pub mod testing;
pub mod transport;
