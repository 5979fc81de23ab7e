// SPDX-License-Identifier: Apache-2.0
//! Benchmarks of isolation: the same root file system and the same command in machines of
//! husk, in containers, in other machine monitors and in plain processes, each cut at the same
//! named points, in turns. On the main thread unless a module says otherwise.

pub mod analysis;
pub mod ask;
pub mod churn;
pub mod compare;
pub mod contestant;
pub mod density;
pub mod evict;
pub mod field;
pub mod figure;
pub mod file;
pub mod ground;
pub mod lab;
pub mod load;
pub mod model;
pub mod report;
pub mod rounds;
pub mod sentences;
pub mod session;
pub mod start;
pub mod stats;
pub mod supervise;
pub mod surroundings;
#[cfg(test)]
pub mod testing;
pub mod timing;
pub mod work;
