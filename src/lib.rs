// SPDX-License-Identifier: Apache-2.0
//! The map of the house, in reading order: each module may use only what its row of the
//! layer table in docs/architecture.md lists (`tests/tidy.rs` holds it to that).

// Words both sides share.
pub mod units;

pub mod sys;
pub mod telemetry;

pub mod config;
pub mod control;

// The VMM side: everything that runs inside the jail.
pub mod bus;
pub mod events;
pub mod irq;
pub mod memory;

pub mod kvm;

pub mod jail;
pub mod net;
pub mod virtio;

pub mod arch;
pub mod devices;

pub mod boot;

pub mod machine;

pub mod vmm;

// The process beside it, which serves a directory.
pub mod share;

// What the tool side asks of KVM itself.
pub mod probe;

// The tool side: everything outside the jail.
pub mod image;
pub mod initramfs;
pub mod kernel;
pub mod snapshot;
pub mod volume;

pub mod instance;

pub mod bench;

pub mod cli;
