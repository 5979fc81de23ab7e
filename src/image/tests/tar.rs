// SPDX-License-Identifier: Apache-2.0
//! Archives put together by hand, header by header.

use super::{Entries, Place, entries};
use crate::image::{ImageError, Malformed, open};
use tar::Header;

#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn raw(mut self, kind: u8, name: &[u8], size: u64, change: impl Fn(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[156] = kind;
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(9);
        header.set_size(size);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(b'0', name.as_bytes(), data.len() as u64, |_| {})
            .data(data)
    }

    pub fn long(self, kind: u8, data: &[u8]) -> Self {
        self.raw(kind, b"x", data.len() as u64, |_| {}).data(data)
    }

    pub fn directory(self, name: &str) -> Self {
        self.raw(b'5', name.as_bytes(), 0, |_| {})
    }

    pub fn link(self, kind: u8, name: &str, target: &str) -> Self {
        self.raw(kind, name.as_bytes(), 0, |header| {
            header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        })
    }

    /// With its end.
    pub fn whole(&self) -> Vec<u8> {
        let mut whole = self.0.clone();
        whole.resize(whole.len() + 1024, 0);
        whole
    }

    pub fn open(&self) -> Result<Entries, ImageError> {
        open_bytes(&self.whole())
    }

    pub fn malformed(&self) -> Malformed {
        match self.open() {
            Err(ImageError::Archive { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }
}

pub fn open_bytes(bytes: &[u8]) -> Result<Entries, ImageError> {
    let place = Place::new();
    place.write("archive", bytes);
    let reference = format!("tar:{}/archive", place.source.path().display());
    let image = open(&reference, place.cache.path(), &mut |_| {});
    if image.is_err() {
        assert!(
            place.cached("").is_empty(),
            "nothing is left of what failed"
        );
    }
    Ok(entries(&image?))
}
