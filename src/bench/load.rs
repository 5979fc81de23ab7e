// SPDX-License-Identifier: Apache-2.0
//! The small static program that a benchmark starts where no image was named, and the init of
//! machines of other monitors; see `guest/agent/src/load.rs` for what it does. Data only.

/// The program, built by build.rs.
pub const PROGRAM: &[u8] = include_bytes!(env!("HUSK_LOAD"));

/// Where it lies in the benchmark's own root file system.
pub const PATH: &str = "/load";
/// What it answers requests at, where nothing else is said.
pub const PORT: u16 = 80;
/// What it says.
pub const SAYS: &str = "ready\n";
/// What it answers by 32 MiB.
pub const STREAM: &str = "/stream";
