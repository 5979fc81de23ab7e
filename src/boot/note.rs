// SPDX-License-Identifier: Apache-2.0
//! The ELF note by which a guest kernel says which ring it lives in. Pure; runs inside the
//! jail. The notes are a hostile file's: what makes no sense ends the search, never husk.

use crate::units::Variant;

/// Owner of our notes, with the NUL an ELF note's name ends in.
const OWNER: &[u8] = b"Husk\0";
/// Type of the note whose descriptor is the ring, 32 bits.
const GUEST_RING: u32 = 1;
const HEADER: usize = 12;

/// A kernel that wants something we do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRing(pub u32);

/// The variant that a segment of notes names, if any of them does. `align` is the segment's:
/// names and descriptors are padded to 4 bytes, or 8 (ELF gABI, "Note Section").
pub fn variant(notes: &[u8], align: u64) -> Result<Option<Variant>, UnknownRing> {
    let align = if align == 8 { 8 } else { 4 };
    let mut rest = notes;
    while let Some(note) = Note::first(rest, align) {
        if note.name == OWNER && note.kind == GUEST_RING {
            return match word(note.descriptor, 0) {
                Some(0) => Ok(Some(Variant::Ring0)),
                Some(3) => Ok(Some(Variant::Ring3)),
                other => Err(UnknownRing(other.unwrap_or(u32::MAX))),
            };
        }
        rest = note.rest;
    }
    Ok(None)
}

struct Note<'a> {
    kind: u32,
    name: &'a [u8],
    descriptor: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Note<'a> {
    /// Nothing where no whole note is left.
    fn first(bytes: &'a [u8], align: usize) -> Option<Self> {
        let size = |at| usize::try_from(word(bytes, at)?).ok();
        let name_end = HEADER.checked_add(size(0)?)?;
        let start = name_end.checked_next_multiple_of(align)?;
        let end = start.checked_add(size(4)?)?;
        let next = end.checked_next_multiple_of(align)?;
        Some(Self {
            kind: word(bytes, 8)?,
            name: bytes.get(HEADER..name_end)?,
            descriptor: bytes.get(start..end)?,
            // The last note of a segment need not be padded.
            rest: bytes.get(next..).unwrap_or_default(),
        })
    }
}

/// Four bytes, little-endian.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, descriptor: &[u8], align: usize) -> Vec<u8> {
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_le_bytes();
        let mut bytes = [size(name), size(descriptor), kind.to_le_bytes()].concat();
        bytes.extend_from_slice(name);
        bytes.resize(bytes.len().next_multiple_of(align), 0);
        bytes.extend_from_slice(descriptor);
        bytes.resize(bytes.len().next_multiple_of(align), 0);
        bytes
    }

    #[test]
    fn the_ring_is_found_among_others_notes() {
        for align in [4, 8] {
            let others = [
                note(b"GNU\0", 3, &[7; 20], align),
                note(b"Linux\0", 0x100, &[1], align),
                note(b"Husk\0", 2, &3u32.to_le_bytes(), align),
                note(b"Xen\0", GUEST_RING, &3u32.to_le_bytes(), align),
            ]
            .concat();
            let align = u64::try_from(align).expect("small");
            assert_eq!(variant(&others, align), Ok(None));
            for (ring, expected) in [(0, Variant::Ring0), (3, Variant::Ring3)] {
                let ours = note(OWNER, GUEST_RING, &u32::to_le_bytes(ring), 4);
                let ours = match align {
                    8 => note(OWNER, GUEST_RING, &u32::to_le_bytes(ring), 8),
                    _ => ours,
                };
                let all = [others.clone(), ours].concat();
                assert_eq!(variant(&all, align), Ok(Some(expected)));
            }
        }
        // Unpadded at the end, as a linker may leave it.
        let mut last = note(OWNER, GUEST_RING, &3u32.to_le_bytes(), 8);
        last.truncate(28);
        assert_eq!(variant(&last, 8), Ok(Some(Variant::Ring3)));
    }

    #[test]
    fn a_ring_nobody_knows_is_told() {
        let of = |bytes: &[u8]| variant(&note(OWNER, GUEST_RING, bytes, 4), 4);
        assert_eq!(of(&1u32.to_le_bytes()), Err(UnknownRing(1)));
        assert_eq!(of(&[3, 0]), Err(UnknownRing(u32::MAX)));
    }

    #[test]
    fn notes_that_lie_about_their_size_end_the_search() {
        let ours = note(OWNER, GUEST_RING, &3u32.to_le_bytes(), 4);
        for cut in 0..ours.len() {
            assert_eq!(variant(&ours[..cut], 4), Ok(None), "{cut}");
        }
        for at in [0, 4] {
            for size in [u32::MAX, u32::MAX - 12, 0x1000] {
                let mut liar = note(b"GNU\0", 3, &[0; 4], 4);
                liar[at..at + 4].copy_from_slice(&size.to_le_bytes());
                assert_eq!(variant(&[liar, ours.clone()].concat(), 4), Ok(None));
            }
        }
        let empty = [vec![0; 12], ours].concat();
        assert_eq!(variant(&empty, 0), Ok(Some(Variant::Ring3)));
    }
}
