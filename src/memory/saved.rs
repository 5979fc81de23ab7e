// SPDX-License-Identifier: Apache-2.0
//! Guest RAM in files: which of its pages hold anything (`held`), written from a machine that
//! stands still or from the copy of one that fork made (`write`), and mapped copy-on-write
//! into those that go on from there (`map`), which share through the page cache what they do
//! not change. Pages of zeros are holes of the file.
//!
//! A file is as long as the memory, regions one behind the other, so that a page has one
//! number in the file, in `Run` and in every layer above.
//!
//! What a guest gave up, by free page reporting or the balloon, is not in memory any more
//! (`memory::release`). In a machine that began with nothing it is zero and in no file. In one
//! that was restored the file shows through again: what the guest itself, or the template all
//! began with, had there when it was saved. A guest must take such a page for one without
//! contents (virtio 1.2, 5.5.6.5 and 5.5.6.7), no other guest's bytes can be in it, and it
//! costs no memory of the machine's own; a page of zeros there would cost a mapping each, of
//! which a process has 65530. A full snapshot holds it as it shows; in a layer it is absent.
//!
//! Any thread. Never a reference into guest memory.

mod held;
mod layers;
mod working;
mod write;

pub use held::{Against, Pagemap, held};
pub use layers::{Layer, map};
pub use working::{Want, is_working_set, prefetch, working_set};
pub use write::write;

use crate::sys::contents::contents;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Pages one behind the other, by their number in a file of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub start: u64,
    pub count: u64,
}

impl Run {
    /// The page behind the last; the highest there can be for a run that is nonsense.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.count)
    }
}

/// Whether the runs are in order, do not touch each other's pages, hold at least one each, and
/// end within `pages`: what is read back from a file may be anything.
#[must_use]
pub fn in_order(runs: &[Run], pages: u64) -> bool {
    let mut least = 0;
    runs.iter().all(|run| {
        let fits = run.start >= least && run.count > 0 && run.end() <= pages;
        least = run.end();
        fits
    })
}

/// Longest list of runs that is read, far more than `map` takes.
const MAX_LIST: u64 = 1 << 20;
/// Bytes of one run in a list: its first page and their count, little-endian.
const RECORD: usize = 16;

/// The list of a layer's runs, as bytes.
#[must_use]
pub fn encode_runs(runs: &[Run]) -> Vec<u8> {
    let words = runs.iter().flat_map(|run| [run.start, run.count]);
    words.flat_map(u64::to_le_bytes).collect()
}

/// Reads such a list, which may be anything: `map` looks at the runs themselves.
pub fn read_runs(file: &File) -> io::Result<Vec<Run>> {
    let bytes = contents(file, MAX_LIST)?;
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let records = bytes.chunks_exact(RECORD);
    let run = |record: &[u8]| Run {
        start: word(&record[..8]),
        count: word(&record[8..]),
    };
    Ok(records.map(run).collect())
}

/// Adds a run behind the others, to the last one if they are no more than `gap` pages apart.
fn push(runs: &mut Vec<Run>, next: Run, gap: u64) {
    match runs.last_mut() {
        Some(last) if next.start <= last.end().saturating_add(gap) => {
            last.count = last.end().max(next.end()) - last.start;
        }
        _ => runs.push(next),
    }
}

#[cfg(test)]
mod tests;
