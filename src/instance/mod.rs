// SPDX-License-Identifier: Apache-2.0
//! A running virtual machine seen from outside its jail.

pub mod network;
pub mod session;
mod spawn;

pub use spawn::{Control, SpawnError, Spawned, spawn};
