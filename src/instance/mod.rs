// SPDX-License-Identifier: Apache-2.0
//! A running virtual machine seen from outside its jail.

pub mod call;
pub mod desk;
pub mod journal;
pub mod logs;
pub mod network;
mod place;
pub mod record;
pub mod session;
pub mod share;
mod spawn;

pub use place::{Claim, Found, Place, PlaceError};
pub use spawn::{Control, SpawnError, Spawned, descriptors, spawn, spawn_owner};
