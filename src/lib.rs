// SPDX-License-Identifier: Apache-2.0
//! The map of the house, in reading order: each module may use only what stands above it
//! or in its row of the layer table (`tests/tidy.rs`).

pub mod config;
pub mod control;

pub mod bus;
pub mod events;
pub mod irq;
pub mod kernel;
pub mod memory;
