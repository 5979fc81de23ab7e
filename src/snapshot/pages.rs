// SPDX-License-Identifier: Apache-2.0
//! Runs of pages: which parts of a memory a file holds. Any thread of the tool; pure but for
//! the file.

pub use crate::memory::saved::{Layer, PAGE, Run, encode_runs as encode};

use crate::memory::saved::in_order;
use std::fs::File;
use std::io::{self, Read as _, Write as _};

/// Bytes of one run: its first page and their count, little-endian.
const RECORD: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum PagesFault {
    #[error("its list of pages cannot be read")]
    Read(#[source] io::Error),
    #[error("its list of pages is longer than {0} bytes")]
    Long(u64),
    #[error("its list of pages does not make sense")]
    Malformed,
}

/// Writes a list to an empty file.
pub fn write(mut file: &File, runs: &[Run]) -> io::Result<()> {
    file.write_all(&encode(runs))
}

/// Reads a list of at most `most` bytes, for a memory of `pages`.
pub fn read(file: impl io::Read, most: u64, pages: u64) -> Result<Vec<Run>, PagesFault> {
    let mut bytes = Vec::new();
    let mut limited = file.take(most.saturating_add(1));
    limited.read_to_end(&mut bytes).map_err(PagesFault::Read)?;
    if bytes.len() as u64 > most {
        return Err(PagesFault::Long(most));
    }
    decode(&bytes, pages).ok_or(PagesFault::Malformed)
}

/// None unless they are in order, apart from each other, and within the memory.
#[must_use]
pub fn decode(bytes: &[u8], pages: u64) -> Option<Vec<Run>> {
    let (words, rest) = bytes.as_chunks::<8>();
    if !bytes.len().is_multiple_of(RECORD) || !rest.is_empty() {
        return None;
    }
    let pairs = words.as_chunks::<2>().0.iter();
    let runs = pairs.map(|pair| {
        let [start, count] = pair.map(u64::from_le_bytes);
        Run { start, count }
    });
    let runs: Vec<Run> = runs.collect();
    in_order(&runs, pages).then_some(runs)
}
