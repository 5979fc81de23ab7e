// SPDX-License-Identifier: Apache-2.0
//! Output in known bytes: the same sequence the tests make on their side.

use std::io::{self, Write};

/// Byte `index` of a stream: every value occurs, and no short period hides a lost block.
pub fn byte(index: usize) -> u8 {
    (index ^ (index >> 8) ^ (index >> 16)).to_le_bytes()[0]
}

/// Writes both streams in turn, a block each, so that a reader of one never waits for all
/// of the other.
pub fn flood(out: usize, err: usize) -> Result<(), String> {
    const BLOCK: usize = 4096;
    let (mut stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
    let mut done = 0;
    while done < out.max(err) {
        write(&mut stdout, done, BLOCK.min(out.saturating_sub(done)))?;
        write(&mut stderr, done, BLOCK.min(err.saturating_sub(done)))?;
        done += BLOCK;
    }
    stdout.flush().map_err(|error| error.to_string())
}

fn write(stream: &mut impl Write, start: usize, length: usize) -> Result<(), String> {
    let block: Vec<u8> = (start..start + length).map(byte).collect();
    stream.write_all(&block).map_err(|error| error.to_string())
}
