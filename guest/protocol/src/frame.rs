// SPDX-License-Identifier: Apache-2.0
//! Frames: a kind, a length of three bytes, a payload. Cuts a byte stream into messages.

use crate::message::{KIND_START, Message, known};
use crate::wire::{Malformed, Reader, TooLong, Writer};
use alloc::vec::Vec;

/// Bytes of a frame's header.
pub const HEADER: usize = 4;
/// Longest payload of any frame but `Start`: what a control message may have to wait for.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Longest `Start`, which nothing waits behind: room for an environment far beyond any
/// seen, and all a peer can make us allocate for one.
pub const MAX_START: usize = 1024 * 1024;
/// What one read of the connection asks for.
const READ: usize = 64 * 1024;

fn limit(kind: u8) -> usize {
    if kind == KIND_START {
        MAX_START
    } else {
        MAX_PAYLOAD
    }
}

impl Message<'_> {
    /// Appends the frame of this message to `out`, or leaves `out` as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let start = out.len();
        let kind = self.kind();
        out.extend_from_slice(&[kind, 0, 0, 0]);
        self.write(&mut Writer(out));
        let length = out.len() - start - HEADER;
        if length > limit(kind) {
            out.truncate(start);
            return Err(TooLong);
        }
        // A limit below 2^24 leaves the fourth byte zero.
        if let (Some(field), [a, b, c, ..]) =
            (out.get_mut(start + 1..start + HEADER), length.to_le_bytes())
        {
            field.copy_from_slice(&[a, b, c]);
        }
        Ok(())
    }
}

/// Takes bytes as they come and gives messages back, without copying payloads.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    head: usize,
    tail: usize,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the next bytes of the connection go; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.head == self.tail {
            self.head = 0;
            self.tail = 0;
        }
        let wanted = self.missing().max(READ);
        if self.buffer.len() - self.tail < wanted {
            self.buffer.copy_within(self.head..self.tail, 0);
            self.tail -= self.head;
            self.head = 0;
            let needed = self.tail + wanted;
            if self.buffer.len() < needed {
                // Zeroed by the allocator: pages nothing was read into are never touched,
                // which in a guest whose page faults are slow is most of them.
                let mut larger = alloc::vec![0; needed];
                larger
                    .iter_mut()
                    .zip(self.buffer.iter().take(self.tail))
                    .for_each(|(to, from)| *to = *from);
                self.buffer = larger;
            }
        }
        self.buffer.get_mut(self.tail..).unwrap_or_default()
    }

    /// Says that the first `n` bytes of `space` are filled.
    pub fn filled(&mut self, n: usize) {
        self.tail = self.tail.saturating_add(n).min(self.buffer.len());
    }

    /// Whether the stream ends between two messages, as far as was read.
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// The next whole message, if one is there. After an error the stream is lost.
    pub fn take(&mut self) -> Result<Option<Message<'_>>, Malformed> {
        let Some((kind, length)) = self.header()? else {
            return Ok(None);
        };
        let start = self.head + HEADER;
        let Some(payload) = self
            .buffer
            .get(start..self.tail)
            .and_then(|b| b.get(..length))
        else {
            return Ok(None);
        };
        self.head = start + length;
        let mut reader = Reader(payload);
        let message = Message::read(kind, &mut reader)?;
        if reader.0.is_empty() {
            Ok(Some(message))
        } else {
            Err(Malformed::Field)
        }
    }

    /// Bytes the frame at the head still lacks; an error shows itself in `take`.
    fn missing(&self) -> usize {
        match self.header() {
            Ok(Some((_, length))) => (HEADER + length).saturating_sub(self.tail - self.head),
            _ => 0,
        }
    }

    fn header(&self) -> Result<Option<(u8, usize)>, Malformed> {
        let Some(&[kind, a, b, c]) = self
            .buffer
            .get(self.head..self.tail)
            .and_then(|bytes| bytes.first_chunk::<HEADER>())
        else {
            return Ok(None);
        };
        if !known(kind) {
            return Err(Malformed::Kind(kind));
        }
        let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
        if length > limit(kind) {
            return Err(Malformed::Length);
        }
        Ok(Some((kind, length)))
    }
}
