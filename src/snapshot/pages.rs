// SPDX-License-Identifier: Apache-2.0
//! Runs of pages: which parts of a memory a file holds. Any thread of the tool; pure but for
//! the file.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

pub const PAGE: u64 = 4096;
/// Bytes of one run: its first page and their count, little-endian.
const RECORD: usize = 16;

/// Pages one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the first page.
    pub start: u64,
    pub count: u64,
}

/// A file with some of a machine's memory, each page at its own place.
#[derive(Debug)]
pub struct Layer {
    pub file: File,
    /// None: all of it.
    pub runs: Option<Vec<Run>>,
}

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

#[must_use]
pub fn encode(runs: &[Run]) -> Vec<u8> {
    let words = runs.iter().flat_map(|run| [run.start, run.count]);
    words.flat_map(u64::to_le_bytes).collect()
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
    let mut runs = Vec::with_capacity(words.len() / 2);
    let mut free = 0;
    for pair in words.as_chunks::<2>().0 {
        let [start, count] = pair.map(u64::from_le_bytes);
        let end = start.checked_add(count)?;
        if start < free || count == 0 || end > pages {
            return None;
        }
        free = end;
        runs.push(Run { start, count });
    }
    Some(runs)
}
