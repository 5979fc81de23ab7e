// SPDX-License-Identifier: Apache-2.0
//! Snapshots: machines that stand still, kept under names (docs/snapshots.md). The folder of
//! each, what is checked of it when, chains of those that hold only what changed, and the one
//! stream in which a snapshot travels.
//!
//! Tool side, any thread, in any number of processes at once. Nothing here runs a machine,
//! and nothing that is read is believed: a snapshot may come from anywhere.

mod archive;
mod chain;
mod cpu;
mod draft;
mod error;
mod format;
mod pages;
mod store;
#[cfg(test)]
mod tests;
pub mod verify;
pub mod working;

pub use archive::Import;
pub use cpu::{HostCpu, Unfit};
pub use draft::Draft;
pub use error::{Fault, SnapshotError};
pub use format::{
    About, Bound, Entry, FORMAT, FormatFault, MAX_MEMORY, MEMORY, Manifest, Needs, PAGES, Parent,
    STATE, Shape, disk, is_name,
};
pub use pages::{Layer, PAGE, PagesFault, Run, encode};
pub use store::{Listed, Snapshot, Store};
