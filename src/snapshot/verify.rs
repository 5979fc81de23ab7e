// SPDX-License-Identifier: Apache-2.0
//! Whether a file is what it was: its digest, and the stamp that saves reading it again. Any
//! thread of the tool.
//!
//! A stamp is what the file system says of a file, taken when its digest was known. While it
//! holds, nobody has written to the file through the file system since. Of what the disk
//! itself loses, the next whole reading tells.

use super::format::is_sparse;
use super::pages::PAGE;
use crate::image::Digest;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::num::NonZero;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a sparse file that are digested on their own, so that processors share the work.
/// Part of the format.
const SEGMENT: u64 = 16 << 20;
/// Bytes read at a time.
const PIECE: u64 = 256 << 10;
/// Most threads that read one file.
const READERS: usize = 8;
/// Longest step of the clock that file systems stamp with (a tick at 100 Hz).
const TICK: Duration = Duration::from_millis(10);

/// What a file system says of a file that nobody has touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// How long ago the file was changed; nothing, if it will be.
    fn age(&self) -> Duration {
        let (seconds, nanos) = self.changed;
        let whole = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let since = whole + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.unwrap_or_default().saturating_sub(since)
    }
}

/// The digest of a file, and a stamp that holds as long as the digest does.
pub fn seal(name: &str, file: &File) -> io::Result<(Digest, Stamp)> {
    // A write within one tick of another leaves no trace in a stamp: none is taken in it.
    while Stamp::of(file)?.age() < TICK {
        thread::sleep(TICK / 4);
    }
    let stamp = Stamp::of(file)?;
    Ok((digest(name, file)?, stamp))
}

/// Writes a seal in the place of another, whole. One that is lost costs a reading.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// The digest of a file of this name.
pub fn digest(name: &str, file: &File) -> io::Result<Digest> {
    match is_sparse(name) {
        true => sparse(file),
        false => plain(file),
    }
}

/// SHA-256 of all bytes.
pub fn plain(file: &File) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; usize::try_from(PIECE).unwrap_or(usize::MAX)];
    let mut at = 0;
    loop {
        match file.read_at(&mut piece, at) {
            Ok(0) => return Ok(<[u8; 32]>::from(hash.finalize()).into()),
            Ok(count) => {
                hash.update(&piece[..count]);
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// SHA-256 over the file's length and, for each segment that holds anything but zeros, its
/// number and a SHA-256 over its pages that do: each one's number, and its bytes. Where a file
/// system puts holes does not matter, and what is a hole costs nothing.
pub fn sparse(file: &File) -> io::Result<Digest> {
    let length = file.metadata()?.len();
    let segments = length.div_ceil(SEGMENT);
    let next = AtomicU64::new(0);
    let work = || -> io::Result<Vec<(u64, [u8; 32])>> {
        let mut found = Vec::new();
        let mut piece = vec![0; usize::try_from(PIECE).unwrap_or(usize::MAX)];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= segments {
                return Ok(found);
            }
            match data_from(file, number * SEGMENT)? {
                None => next.store(segments, Ordering::Relaxed),
                Some(at) if at / SEGMENT > number => {
                    next.fetch_max(at / SEGMENT, Ordering::Relaxed);
                }
                Some(_) => {
                    let digest = segment(file, number, length, &mut piece)?;
                    found.extend(digest.map(|digest| (number, digest)));
                }
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let readers = usize::try_from(segments).unwrap_or(usize::MAX);
    let readers = readers.min(cores).min(READERS);
    let mut all = match readers {
        0 | 1 => work()?,
        _ => thread::scope(|scope| {
            let others: Vec<_> = (1..readers).map(|_| scope.spawn(work)).collect();
            let mut all = work()?;
            for other in others {
                let found = other.join();
                all.extend(found.unwrap_or_else(|_| Err(io::Error::other("a reader panicked")))?);
            }
            Ok::<_, io::Error>(all)
        })?,
    };
    all.sort_unstable();
    let mut hash = Sha256::new();
    hash.update(length.to_le_bytes());
    for (number, digest) in all {
        hash.update(number.to_le_bytes());
        hash.update(digest);
    }
    Ok(<[u8; 32]>::from(hash.finalize()).into())
}

/// None: it is empty.
fn segment(
    file: &File,
    number: u64,
    length: u64,
    piece: &mut [u8],
) -> io::Result<Option<[u8; 32]>> {
    let mut hash = Sha256::new();
    let mut any = false;
    each_page(
        file,
        number * SEGMENT,
        length.min((number + 1) * SEGMENT),
        piece,
        |at, page| {
            any = true;
            hash.update((at / PAGE).to_le_bytes());
            hash.update(page);
            Ok(())
        },
    )?;
    Ok(any.then(|| hash.finalize().into()))
}

/// Hands over every page between two places, itself whole pages apart, that holds anything
/// but zeros; the last one of the file may be short.
pub(super) fn each_page(
    file: &File,
    start: u64,
    end: u64,
    piece: &mut [u8],
    mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let Some(data) = data_from(file, at)?.filter(|data| *data < end) else {
            return Ok(());
        };
        at = data / PAGE * PAGE;
        let hole = match seek(file, SeekFrom::Hole(data)) {
            Ok(hole) => hole.div_ceil(PAGE).saturating_mul(PAGE).min(end),
            Err(errno) => return Err(errno.into()),
        };
        while at < hole {
            let most = usize::try_from(hole - at).unwrap_or(usize::MAX);
            let bytes = &mut piece[..];
            let count = most.min(bytes.len());
            let bytes = &mut bytes[..count];
            file.read_exact_at(bytes, at)?;
            for page in bytes.chunks(usize::try_from(PAGE).unwrap_or(usize::MAX)) {
                // Compared as words by the compiler.
                if page.iter().any(|byte| *byte != 0) {
                    take(at, page)?;
                }
                at += page.len() as u64;
            }
        }
    }
    Ok(())
}

/// The next place that is no hole, from `at` on.
fn data_from(file: &File, at: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// All of a small file, of at most `most` bytes; none if it is longer.
pub(super) fn all_of(file: &File, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}
