// SPDX-License-Identifier: Apache-2.0
//! Benchmarks of isolation: the same root file system and the same command in machines of
//! husk, in containers, in other machine monitors and in plain processes, each cut at the same
//! named points, in turns. On the main thread unless a module says otherwise.

pub mod model;
pub mod stats;

pub mod analysis;
pub mod compare;
pub mod figure;
pub mod file;
pub mod report;
pub mod sentences;

#[cfg(test)]
pub mod testing;
