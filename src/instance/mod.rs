// SPDX-License-Identifier: Apache-2.0
//! A running virtual machine seen from outside its jail.

pub mod beside;
pub mod call;
pub mod desk;
pub mod journal;
pub mod logs;
mod place;
pub mod record;
pub mod seat;
pub mod session;
mod spawn;
pub mod template;

pub use place::{Claim, Found, Place, PlaceError};
pub use spawn::{Ahead, Control, SpawnError, Spawned, spawn, spawn_owner};
