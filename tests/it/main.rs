// SPDX-License-Identifier: Apache-2.0
//! Tests of the built `husk` from outside, in one binary.
//!
//! `cli` needs no KVM. `boot` does, and is what the lab runs too; see docs/testing.md.
//! `bench` asks container tools where they are, and scripts in their place.
//! `image` runs real registries and tools of others on this host alone.
//! `snapshot` needs neither.
//! `support` holds what they share.

mod support;

mod bad_input;
mod bench;
mod boot;
mod cli;
mod image;
mod snapshot;
