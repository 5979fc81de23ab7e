// SPDX-License-Identifier: Apache-2.0
//! The records of a PAX extended header (POSIX.1-2017, pax, "pax Extended Header").
//!
//! Pure functions of hostile bytes. A record is "length key=value\n" and its length rules:
//! a value may hold any byte, newlines included, as extended attributes do.

use super::wants_xattr;
use crate::image::error::Malformed;
use crate::image::tree::Xattr;
use std::collections::HashMap;

/// Most bytes of the headers before one entry. Each is bounded by who reads it; stops a
/// thousand of them from adding up in memory.
const MAX_TOGETHER: usize = 1 << 20;

/// What the headers before an entry say of it, over its own header.
#[derive(Debug, Default)]
pub struct Extension {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<Xattr>,
    /// Where each attribute is in `xattrs`: a header may name thousands.
    places: HashMap<Box<[u8]>, usize>,
    /// Bytes read so far.
    bytes: usize,
    pub sparse: Sparse,
}

/// GNU's three ways to describe a sparse file in PAX records (GNU tar manual, "PAX Format,
/// Version 0.0" to "1.0").
#[derive(Debug, Default)]
pub struct Sparse {
    /// The true name; `path` is one for programs that do not know sparse files.
    pub name: Option<Vec<u8>>,
    /// Version 1.0: the map stands before the data.
    pub map_in_data: bool,
    /// Offsets and lengths in turn.
    pub map: Option<Vec<u64>>,
    pub real_size: Option<u64>,
}

impl Extension {
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        let bad = Malformed::Extension;
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > MAX_TOGETHER {
            return Err(Malformed::LongExtension);
        }
        while !bytes.is_empty() {
            let space = bytes.iter().take(20).position(|&b| b == b' ').ok_or(bad)?;
            let length = usize::try_from(number(&bytes[..space])?).map_err(|_| bad)?;
            let record = bytes.get(space + 1..length).ok_or(bad)?;
            let record = record.strip_suffix(b"\n").ok_or(bad)?;
            let equals = record.iter().position(|&b| b == b'=').ok_or(bad)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let narrow = |value| u32::try_from(number(value)?).map_err(|_| Malformed::Number);
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(narrow(value)?),
            b"gid" => self.gid = Some(narrow(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse.map_in_data = value == b"1",
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.real_size = Some(number(value)?);
            }
            b"GNU.sparse.map" => {
                let numbers = value.split(|&b| b == b',').map(number);
                self.sparse.map = Some(numbers.collect::<Result<_, _>>()?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.map.get_or_insert_default().push(number(value)?);
            }
            _ => {
                let name = key.strip_prefix(b"SCHILY.xattr.").unwrap_or_default();
                if wants_xattr(name) {
                    self.attribute(name, value);
                }
            }
        }
        Ok(())
    }
}

impl Extension {
    /// The last of one name counts.
    fn attribute(&mut self, name: &[u8], value: &[u8]) {
        let known = self.places.get(name).copied();
        match known.and_then(|place| self.xattrs.get_mut(place)) {
            Some(xattr) => xattr.value = value.into(),
            None => {
                self.places.insert(name.into(), self.xattrs.len());
                self.xattrs.push(Xattr {
                    name: name.into(),
                    value: value.into(),
                });
            }
        }
    }
}

pub fn number(digits: &[u8]) -> Result<u64, Malformed> {
    let text = std::str::from_utf8(digits).map_err(|_| Malformed::Number)?;
    text.parse().map_err(|_| Malformed::Number)
}

/// Seconds, perhaps negative, with a fraction.
fn time(value: &[u8]) -> Result<(i64, u32), Malformed> {
    let text = std::str::from_utf8(value).map_err(|_| Malformed::Number)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut seconds: i64 = whole.parse().map_err(|_| Malformed::Number)?;
    let mut nanoseconds = 0;
    for place in 0..9 {
        let digit = fraction
            .as_bytes()
            .get(place)
            .map_or(0, |b| b.wrapping_sub(b'0'));
        if digit > 9 {
            return Err(Malformed::Number);
        }
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    // A time before 1970 counts its fraction downwards.
    if whole.starts_with('-') && nanoseconds > 0 {
        seconds = seconds.checked_sub(1).ok_or(Malformed::Number)?;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    Ok((seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_newlines_and_zeros() {
        let mut extension = Extension::default();
        extension
            .read(b"26 SCHILY.xattr.user.x=\n\0\n12 path=a\nb\n")
            .unwrap();
        assert_eq!(*extension.xattrs[0].value, *b"\n\0");
        assert_eq!(extension.path.as_deref(), Some(&b"a\nb"[..]));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bad in [
            &b"5"[..],
            b"99 path=a\n",
            b"0 path=a\n",
            b" path=a\n",
            b"8 path=a\n",
            b"18446744073709551616 a=b\n",
            b"11 path=a\nb",
            b"7 path\n",
        ] {
            assert!(Extension::default().read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_before_1970_keep_their_fraction() {
        assert_eq!(time(b"1.5").unwrap(), (1, 500_000_000));
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(time(b"7.1234567899").unwrap(), (7, 123_456_789));
        assert!(time(b"1.x").is_err());
        assert!(time(b"").is_err());
    }
}
