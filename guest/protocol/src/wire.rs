// SPDX-License-Identifier: Apache-2.0
//! Little-endian fields in and out of byte slices. Reading never panics and never
//! allocates more than the slice it reads from could fill.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The other side broke the protocol; the connection is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A frame of a kind this version does not know.
    Kind(u8),
    /// A frame longer than its kind may be.
    Length,
    /// A field that ends after its frame, or a frame that does not end with its last field.
    Field,
    /// A value its field does not allow.
    Value,
    /// More data, or more credit, than the window allows.
    Window,
    /// A known message in the wrong direction or at the wrong time.
    Order,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "unknown message kind {kind}"),
            Self::Length => f.write_str("a message longer than its kind may be"),
            Self::Field => f.write_str("a message whose fields do not fill it exactly"),
            Self::Value => f.write_str("a field with a value it may not have"),
            Self::Window => f.write_str("a stream that overran its window"),
            Self::Order => f.write_str("a message at the wrong time"),
        }
    }
}

impl core::error::Error for Malformed {}

/// A message that does not fit its frame; nothing of it was encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message is too long for its frame")
    }
}

impl core::error::Error for TooLong {}

/// What is left of a payload.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Malformed::Field)?;
        self.0 = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed::Field)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Value),
        }
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.u32()?).map_err(|_| Malformed::Length)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.length()?;
        self.take(n)
    }

    /// Bytes that will become a C string: a NUL inside would change their meaning.
    pub fn text(&mut self) -> Result<Vec<u8>, Malformed> {
        let bytes = self.bytes()?;
        if bytes.contains(&0) {
            return Err(Malformed::Value);
        }
        Ok(bytes.into())
    }

    pub fn string(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.into()).map_err(|_| Malformed::Value)
    }

    /// A counted list. The count reserves nothing: each item must first be there.
    pub fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let n = self.length()?;
        let mut items = Vec::new();
        for _ in 0..n {
            items.push(item(self)?);
        }
        Ok(items)
    }

    pub fn option<T>(
        &mut self,
        item: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        self.bool()?.then(|| item(self)).transpose()
    }
}

/// The writing half: `Vec` methods with the reader's names.
pub struct Writer<'a>(pub &'a mut Vec<u8>);

impl Writer<'_> {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bool(&mut self, value: bool) {
        self.u8(value.into());
    }

    /// A length past 4 GiB saturates; such a message is far beyond any frame's limit and
    /// is refused as a whole.
    fn length(&mut self, n: usize) {
        self.u32(u32::try_from(n).unwrap_or(u32::MAX));
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.raw(bytes);
    }

    pub fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        self.length(items.len());
        for one in items {
            item(self, one);
        }
    }

    pub fn option<T>(&mut self, value: Option<&T>, item: impl FnOnce(&mut Self, &T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            item(self, value);
        }
    }
}
