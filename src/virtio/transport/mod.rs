// SPDX-License-Identifier: Apache-2.0
//! How a driver finds and drives a device: the rules every transport shares (`core`) and
//! the one transport there is (`mmio`).

mod core;
mod mmio;

pub use core::{DRIVER_OK, NEEDS_RESET};
pub use mmio::{Milestone, Mmio, Observer, QUEUE_NOTIFY, SIZE, Vacant};

#[cfg(test)]
mod saved;
#[cfg(test)]
mod tests;
