// SPDX-License-Identifier: Apache-2.0
//! Files as a stream, the ustar format of POSIX with GNU's long names: what `husk cp` sends
//! through a session's standard streams. Pure, as the rest of this crate: either side may be
//! lied to by the other, so names and numbers are bounded here and what they mean is for
//! whoever acts on them.

use crate::wire::Malformed;
use alloc::vec::Vec;

pub const BLOCK: usize = 512;
/// Longest name or link taken: PATH_MAX of Linux. A longer one is a peer that wants memory.
pub const MAX_PATH: usize = 4096;
/// Longest header of another kind that is passed over.
const MAX_EXTENSION: u64 = 1 << 20;

const LONG_NAME: u8 = b'L';
const LONG_LINK: u8 = b'K';

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// A device, a pipe, or what this does not know.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    /// Of a file's content, which follows, padded to whole blocks.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: u64,
    /// Where a link points.
    pub link: Vec<u8>,
}

/// What a header block turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Entry(Entry),
    /// So many bytes, padded, follow for `Parser::long`.
    Long(usize),
    /// So many bytes, padded, are to be passed over.
    Skip(u64),
    End,
}

/// Bytes after `size` up to the next block.
pub fn padding(size: u64) -> usize {
    let block = BLOCK as u64;
    usize::try_from((block - size % block) % block).unwrap_or(0)
}

/// Ends a stream.
pub fn end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK, 0);
}

impl Entry {
    /// Appends the header; the content is the caller's to send.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (bytes, kind) in [(&self.name, LONG_NAME), (&self.link, LONG_LINK)] {
            if bytes.len() > 100 {
                let size = bytes.len() as u64 + 1;
                header(out, b"././@LongLink", kind, 0, size, 0, b"");
                out.extend_from_slice(bytes);
                out.push(0);
                out.resize(out.len() + padding(size), 0);
            }
        }
        let kind = match self.kind {
            Kind::File | Kind::Other => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Directory => b'5',
        };
        let size = if self.kind == Kind::File {
            self.size
        } else {
            0
        };
        header(
            out, &self.name, kind, self.mode, size, self.mtime, &self.link,
        );
    }
}

fn header(out: &mut Vec<u8>, name: &[u8], kind: u8, mode: u32, size: u64, mtime: u64, link: &[u8]) {
    let mut block = [0u8; BLOCK];
    put(&mut block, 0, name.get(..100).unwrap_or(name));
    number(&mut block, 100, 8, mode.into());
    number(&mut block, 108, 8, 0);
    number(&mut block, 116, 8, 0);
    number(&mut block, 124, 12, size);
    number(&mut block, 136, 12, mtime);
    put(&mut block, 156, &[kind]);
    put(&mut block, 157, link.get(..100).unwrap_or(link));
    put(&mut block, 257, b"ustar\x0000");
    let sum = checksum(&block);
    number(&mut block, 148, 8, sum);
    out.extend_from_slice(&block);
}

fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    if let Some(field) = block.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

/// Octal and a NUL, or where that is too short base 256 with its first bit set.
fn number(block: &mut [u8; BLOCK], at: usize, width: usize, value: u64) {
    let Some(field) = block.get_mut(at..at + width) else {
        return;
    };
    if value >> (3 * (width - 1)).min(63) == 0 {
        let mut left = value;
        for digit in field.iter_mut().take(width - 1).rev() {
            *digit = b'0' + (left & 7).to_le_bytes()[0];
            left >>= 3;
        }
        return;
    }
    let bytes = value.to_be_bytes();
    field.fill(0);
    for (to, from) in field.iter_mut().rev().zip(bytes.iter().rev()) {
        *to = *from;
    }
    if let Some(first) = field.first_mut() {
        *first |= 0x80;
    }
}

/// The sum of all bytes, those of the sum itself taken for spaces.
fn checksum(block: &[u8; BLOCK]) -> u64 {
    let bytes = block.iter().enumerate();
    bytes
        .map(|(at, byte)| {
            u64::from(if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            })
        })
        .sum()
}

fn read_number(field: &[u8]) -> Result<u64, Malformed> {
    if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
        let mut value = u64::from(first & 0x7f);
        for byte in rest {
            value = value.checked_mul(256).ok_or(Malformed::Value)? | u64::from(*byte);
        }
        return Ok(value);
    }
    let mut value: u64 = 0;
    let digits = field.iter().skip_while(|byte| **byte == b' ');
    for digit in digits.take_while(|byte| !matches!(byte, 0 | b' ')) {
        let digit = match digit {
            b'0'..=b'7' => digit - b'0',
            _ => return Err(Malformed::Value),
        };
        value = value.checked_mul(8).ok_or(Malformed::Value)? | u64::from(digit);
    }
    Ok(value)
}

fn text(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|byte| *byte == 0);
    field
        .get(..end.unwrap_or(field.len()))
        .unwrap_or_default()
        .into()
}

/// What earlier headers said of the next entry.
#[derive(Default)]
pub struct Parser {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// What `long` is for.
    link_next: bool,
}

impl Parser {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn header(&mut self, block: &[u8; BLOCK]) -> Result<Step, Malformed> {
        let field = |at: usize, width: usize| block.get(at..at + width).unwrap_or_default();
        if block.iter().all(|byte| *byte == 0) {
            return Ok(Step::End);
        }
        if read_number(field(148, 8))? != checksum(block) {
            return Err(Malformed::Value);
        }
        let size = read_number(field(124, 12))?;
        let kind = match field(156, 1) {
            [LONG_NAME] | [LONG_LINK] => {
                self.link_next = field(156, 1) == [LONG_LINK];
                return match usize::try_from(size) {
                    Ok(size) if size <= MAX_PATH + 1 => Ok(Step::Long(size)),
                    _ => Err(Malformed::Length),
                };
            }
            [b'x' | b'g'] if size <= MAX_EXTENSION => return Ok(Step::Skip(size)),
            [b'x' | b'g'] => return Err(Malformed::Length),
            [b'0' | 0] => Kind::File,
            [b'1'] => Kind::HardLink,
            [b'2'] => Kind::Symlink,
            [b'5'] => Kind::Directory,
            _ => Kind::Other,
        };
        let name = self.name.take().unwrap_or_else(|| self.short_name(block));
        let link = self.link.take().unwrap_or_else(|| text(field(157, 100)));
        if name.is_empty() {
            return Err(Malformed::Field);
        }
        let mode = u32::try_from(read_number(field(100, 8))?).map_err(|_| Malformed::Value)?;
        Ok(Step::Entry(Entry {
            name,
            kind,
            mode: mode & 0o7777,
            size: if kind == Kind::File { size } else { 0 },
            mtime: read_number(field(136, 12))?,
            link,
        }))
    }

    /// ustar's own way to longer names: a part before the name.
    fn short_name(&self, block: &[u8; BLOCK]) -> Vec<u8> {
        let field = |at: usize, width: usize| block.get(at..at + width).unwrap_or_default();
        let name = text(field(0, 100));
        let before = text(field(345, 155));
        if field(257, 6) != b"ustar\0" || before.is_empty() {
            return name;
        }
        [&before, &b"/"[..], &name].concat()
    }

    /// The bytes `Step::Long` announced.
    pub fn long(&mut self, bytes: &[u8]) {
        let place = if self.link_next {
            &mut self.link
        } else {
            &mut self.name
        };
        *place = Some(text(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], link: &[u8], size: u64) -> Entry {
        Entry {
            name: name.into(),
            kind: if link.is_empty() {
                Kind::File
            } else {
                Kind::Symlink
            },
            mode: 0o640,
            size,
            mtime: 1_700_000_000,
            link: link.into(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Entry>, Malformed> {
        let mut parser = Parser::new();
        let mut list = Vec::new();
        let mut blocks = bytes.chunks_exact(BLOCK);
        while let Some(block) = blocks.next() {
            match parser.header(block.try_into().unwrap())? {
                Step::Entry(entry) => list.push(entry),
                Step::Long(size) => {
                    let mut text = Vec::new();
                    while text.len() < size {
                        text.extend_from_slice(blocks.next().ok_or(Malformed::Field)?);
                    }
                    parser.long(&text[..size]);
                }
                Step::Skip(_) => {}
                Step::End => break,
            }
        }
        Ok(list)
    }

    #[test]
    fn entries_of_any_length_come_back() {
        let long = alloc::vec![b'n'; 4000];
        for entry in [
            entry(b"a", b"", 7),
            entry(&long, b"", 0),
            entry(b"l", &long, 0),
            entry(&long, &long, 0),
            entry(b"huge", b"", 1 << 40),
        ] {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            end(&mut bytes);
            assert_eq!(decode(&bytes), Ok(alloc::vec![entry]));
        }
    }

    #[test]
    fn damage_is_an_error_and_lies_are_bounded() {
        let mut bytes = Vec::new();
        entry(b"a", b"", 7).encode(&mut bytes);
        bytes[0] ^= 1;
        assert_eq!(decode(&bytes), Err(Malformed::Value));
        let mut bytes = Vec::new();
        header(&mut bytes, b"x", LONG_NAME, 0, 1 << 30, 0, b"");
        assert_eq!(decode(&bytes), Err(Malformed::Length));
        let mut bytes = Vec::new();
        entry(b"", b"", 0).encode(&mut bytes);
        assert_eq!(decode(&bytes), Err(Malformed::Field));
    }
}
