// SPDX-License-Identifier: Apache-2.0
//! The maps of sparse files in tar archives: GNU's old headers and version 1.0.
//!
//! Runs on the thread that opens an image. A map is hostile: it is checked to be in order
//! and to account for exactly the bytes the archive holds.

use super::extension::number;
use crate::image::error::Malformed;
use crate::image::tree::Extent;
use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader};

pub const BLOCK: u64 = 512;
pub const BLOCK_BYTES: usize = 512;
/// Most pieces of one file. Stops a map from being larger than the file it maps.
pub const MAX_PIECES: usize = 1 << 18;

/// Reads blocks of the archive.
pub trait Blocks {
    fn block(&self, at: u64) -> Result<[u8; BLOCK_BYTES], Malformed>;
}

/// Offsets and lengths in turn.
pub type Map = Vec<u64>;

/// The map of GNU's own header and of those that follow at `at`; returns where they end.
pub fn old_gnu(
    blocks: &dyn Blocks,
    header: &GnuHeader,
    mut at: u64,
) -> Result<(Map, u64), Malformed> {
    let mut map = Map::new();
    push(&mut map, &header.sparse)?;
    let mut more = header.is_extended();
    while more {
        let mut extended = GnuExtSparseHeader::new();
        extended.as_mut_bytes().copy_from_slice(&blocks.block(at)?);
        push(&mut map, extended.sparse())?;
        more = extended.is_extended();
        at += BLOCK;
    }
    Ok((map, at))
}

fn push(map: &mut Map, pieces: &[GnuSparseHeader]) -> Result<(), Malformed> {
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        map.push(piece.offset().map_err(|_| Malformed::Sparse)?);
        map.push(piece.length().map_err(|_| Malformed::Sparse)?);
    }
    bounded(map.len())
}

fn bounded(numbers: usize) -> Result<(), Malformed> {
    if numbers / 2 > MAX_PIECES {
        return Err(Malformed::Sparse);
    }
    Ok(())
}

/// The map that stands as lines of decimal digits before the data, up to a whole block.
pub fn in_data(blocks: &dyn Blocks, mut at: u64) -> Result<(Map, u64), Malformed> {
    let mut map = Map::new();
    let mut wanted = None;
    let mut line = Vec::new();
    loop {
        for byte in blocks.block(at)? {
            if wanted.is_some_and(|wanted| map.len() == wanted) {
                break;
            }
            if byte != b'\n' {
                line.push(byte);
                if line.len() > 20 {
                    return Err(Malformed::Sparse);
                }
                continue;
            }
            let value = number(&line).map_err(|_| Malformed::Sparse)?;
            line.clear();
            if wanted.is_none() {
                let count = usize::try_from(value).map_err(|_| Malformed::Sparse)?;
                bounded(count.saturating_mul(2))?;
                wanted = Some(count * 2);
            } else {
                map.push(value);
            }
        }
        at += BLOCK;
        if wanted.is_some_and(|wanted| map.len() == wanted) {
            return Ok((map, at));
        }
    }
}

/// The map as extents of a file of `len` bytes whose `stored` bytes begin at `from`.
pub fn extents(map: &[u64], len: u64, from: u64, stored: u64) -> Result<Box<[Extent]>, Malformed> {
    bounded(map.len())?;
    let mut extents = Vec::new();
    let (mut end, mut taken) = (0, 0u64);
    let mut pairs = map.chunks_exact(2);
    for pair in &mut pairs {
        let (at, piece) = (pair[0], pair[1]);
        let piece_end = at.checked_add(piece).ok_or(Malformed::Sparse)?;
        let total = taken.checked_add(piece).ok_or(Malformed::Sparse)?;
        if at < end || piece_end > len || total > stored {
            return Err(Malformed::Sparse);
        }
        if piece > 0 {
            extents.push(Extent {
                at,
                from: from + taken,
                len: piece,
            });
        }
        (end, taken) = (piece_end, total);
    }
    if taken != stored || !pairs.remainder().is_empty() {
        return Err(Malformed::Sparse);
    }
    Ok(extents.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_lie_are_refused() {
        let bad: &[(&[u64], u64, u64)] = &[
            (&[0, 5, 4, 5], 100, 10),
            (&[10, 5, 0, 5], 100, 10),
            (&[98, 5], 100, 5),
            (&[0, 6], 100, 5),
            (&[0, 4], 100, 5),
            (&[0, 5, 7], 100, 5),
            (&[u64::MAX, 2], u64::MAX, 2),
            (&[0, u64::MAX, u64::MAX, 1], u64::MAX, 5),
        ];
        for &(map, len, stored) in bad {
            assert_eq!(
                extents(map, len, 512, stored),
                Err(Malformed::Sparse),
                "{map:?}"
            );
        }
        let good = extents(&[1, 2, 9, 1, 100, 0], 100, 512, 3).unwrap();
        assert_eq!(
            good.iter()
                .map(|e| (e.at, e.from, e.len))
                .collect::<Vec<_>>(),
            [(1, 512, 2), (9, 514, 1)]
        );
    }
}
