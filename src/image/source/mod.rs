// SPDX-License-Identifier: Apache-2.0
//! What an image is made from: a directory of the host, a tar archive, or an image as
//! others store it.
//!
//! Runs on the thread that opens an image. A source is only ever read.

pub mod archive;
pub mod bundle;
pub mod dir;
mod entry;
mod extension;
mod header;
pub mod layout;
pub mod place;
mod sparse;
mod walk;
mod whiteout;

use super::erofs::keeps_xattr;
use rustix::fs::Stat;

/// Does an attribute belong into an image? Labels of the host's security modules do not:
/// they speak of the host's policy. A file's capabilities speak of the file.
fn wants_xattr(name: &[u8]) -> bool {
    let host_policy = name.starts_with(b"security.") && name != b"security.capability";
    !host_policy && keeps_xattr(name)
}

/// The moment an inode last changed, as the kernel tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Moment {
    fn new(seconds: i64, nanoseconds: u64) -> Self {
        Self {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
        }
    }

    pub fn changed(stat: &Stat) -> Self {
        Self::new(stat.st_ctime, stat.st_ctime_nsec)
    }

    pub fn modified(stat: &Stat) -> Self {
        Self::new(stat.st_mtime, stat.st_mtime_nsec)
    }

    /// The clock file systems stamp changes with. What was last changed before this moment
    /// cannot change from now on and keep its stamp.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Self::new(now.tv_sec, u64::try_from(now.tv_nsec).unwrap_or(0))
    }
}

/// Everything of an inode that a change of its data or attributes would change, as bytes
/// for a digest. The change time is set by the kernel alone, so nobody can hold it back.
pub fn stamp(stat: &Stat) -> [u8; 72] {
    let (changed, modified) = (Moment::changed(stat), Moment::modified(stat));
    let words = [
        stat.st_dev,
        stat.st_ino,
        u64::from(stat.st_mode),
        u64::from(stat.st_uid) << 32 | u64::from(stat.st_gid),
        stat.st_rdev,
        stat.st_size.cast_unsigned(),
        modified.seconds.cast_unsigned(),
        changed.seconds.cast_unsigned(),
        u64::from(modified.nanoseconds) << 32 | u64::from(changed.nanoseconds),
    ];
    let mut bytes = [0; 72];
    for (field, word) in bytes.chunks_exact_mut(8).zip(words) {
        field.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
