// SPDX-License-Identifier: Apache-2.0
//! Unpacks compressed archives into files without a name, and checks digests on the way.
//!
//! Runs on the thread that opens an image, or several beside it, one an archive. What is
//! packed is hostile: it is bounded by `Budget`, by the host's free disk, and by the
//! decoders' windows, never by what it says of itself. Zeros cost no disk.

use super::blob::Blob;
use super::digest::{Digest, Digesting};
use super::error::{ImageError, Malformed};
use super::reference::Packing;
use flate2::read::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes the compressed parts of one image may unpack to. Stops one of a few
/// megabytes from filling the disk many times over.
pub const MAX_UNPACKED: u64 = 256 << 30;
/// Disk that is left to the host: an image that needs it is refused, and what it took is
/// given back.
const LEFT_FREE: u64 = 256 << 20;
/// How many bytes may be written between two looks at the free disk.
pub const LOOK: u64 = 32 << 20;
const BUFFER: usize = 1 << 20;
/// What a hole is made of: blocks of the host's file systems.
const HOLE: usize = 4096;

/// What may still be unpacked, over all parts.
pub struct Budget(AtomicU64);

impl Budget {
    pub fn new() -> Self {
        Self(AtomicU64::new(MAX_UNPACKED))
    }

    fn take(&self, bytes: u64) -> bool {
        let left = |left: u64| left.checked_sub(bytes);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
            .is_ok()
    }
}

/// A blob unpacked.
pub struct Unpacked {
    /// Of what was packed.
    pub packed: Digest,
    /// Of what was in it.
    pub plain: Digest,
}

/// Where it goes, and where that is for messages.
pub struct Spool<'a> {
    pub file: &'a File,
    pub path: &'a Path,
}

/// Unpacks `blob` into `spool`, an empty file. `told` hears of each piece, and says whether
/// to go on.
pub fn unpack(
    blob: &Blob,
    packing: Packing,
    spool: &Spool,
    budget: &Budget,
    told: &mut dyn FnMut(u64) -> bool,
) -> Result<Unpacked, ImageError> {
    let bad = |offset, problem| ImageError::Archive {
        archive: blob.path.clone(),
        offset,
        problem,
    };
    let failed = |error| ImageError::io("write", spool.path, error);
    let mut packed = Digesting::new(blob.reader());
    let mut plain = Digesting::new(decoder(packing, &mut packed));
    let mut buffer = vec![0; BUFFER];
    let (mut at, mut looked) = (0u64, 0u64);
    loop {
        let len = fill(&mut plain, &mut buffer).map_err(|_| bad(at, Malformed::Compressed))?;
        if len == 0 {
            break;
        }
        // Over all parts of the image.
        if !budget.take(len as u64) {
            return Err(bad(at, Malformed::Bomb));
        }
        if looked == 0 || at - looked >= LOOK {
            looked = at.max(1);
            room(spool.file).map_err(failed)?;
        }
        write_sparse(spool.file, &buffer[..len], at).map_err(failed)?;
        at += len as u64;
        if !told(len as u64) {
            return Err(failed(io::ErrorKind::Interrupted.into()));
        }
    }
    spool.file.set_len(at).map_err(failed)?;
    let (plain, _) = plain.finish();
    // What follows the last frame is part of the blob its digest is of.
    let rest = packed.drain();
    let (packed, _) = rest.map_err(|error| ImageError::io("read", &blob.path, error))?;
    Ok(Unpacked { packed, plain })
}

/// Unpacks zstd, however many frames of it.
pub fn unzstd<'a>(packed: impl Read + 'a) -> Box<dyn Read + 'a> {
    decoder(Packing::Zstd, packed)
}

fn decoder<'a, R: Read + 'a>(packing: Packing, packed: R) -> Box<dyn Read + 'a> {
    match packing {
        Packing::Plain => Box::new(packed),
        Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
        Packing::Zstd => Box::new(Frames {
            packed: BufReader::new(packed),
            decoder: FrameDecoder::new(),
            within: false,
        }),
    }
}

/// Whole buffers, so that blocks of zeros are seen as such.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match reader.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn write_sparse(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    // Blocks of one kind go in one write.
    let zero = |block: &[u8]| block.iter().all(|&byte| byte == 0);
    let mut start = 0;
    for run in bytes
        .chunks(HOLE)
        .collect::<Vec<_>>()
        .chunk_by(|a, b| zero(a) == zero(b))
    {
        let len: usize = run.iter().map(|block| block.len()).sum();
        if !zero(run[0]) {
            file.write_all_at(&bytes[start..start + len], at + start as u64)?;
        }
        start += len;
    }
    Ok(())
}

/// Is there disk left that is not the host's own?
pub fn room(file: &File) -> io::Result<()> {
    let stat = rustix::fs::fstatvfs(file)?;
    match stat.f_bavail.saturating_mul(stat.f_frsize) < LEFT_FREE {
        true => Err(io::ErrorKind::StorageFull.into()),
        false => Ok(()),
    }
}

/// The frames of a zstd file one after the other (RFC 8878, section 3.1); those to be
/// skipped hold what other programs want to know.
struct Frames<R: Read> {
    packed: BufReader<R>,
    decoder: FrameDecoder,
    within: bool,
}

impl<R: Read> Frames<R> {
    /// Begins the next frame; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        loop {
            if self.packed.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.packed) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut frame = (&mut self.packed).take(length.into());
                    if io::copy(&mut frame, &mut io::sink())? < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within {
                self.within = self.next()?;
                if !self.within {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.packed, one);
                decoded.map_err(io::Error::other)?;
            }
            let len = self.decoder.read(buffer)?;
            if len > 0 || buffer.is_empty() {
                return Ok(len);
            }
            self.within = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::Arc;

    fn packed(plain: &[&[u8]]) -> Blob {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        plain
            .iter()
            .for_each(|bytes| gzip.write_all(bytes).unwrap());
        let file = tempfile::tempfile().unwrap();
        let bytes = gzip.finish().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        Blob {
            file: Arc::new(file),
            at: 0,
            len: bytes.len() as u64,
            path: "packed".into(),
        }
    }

    fn unpacked(blob: &Blob, budget: &Budget) -> (File, Result<Unpacked, ImageError>) {
        let file = tempfile::tempfile().unwrap();
        let spool = Spool {
            file: &file,
            path: Path::new("spool"),
        };
        let result = unpack(blob, Packing::Gzip, &spool, budget, &mut |_| true);
        (file, result)
    }

    #[test]
    fn zeros_take_no_disk_and_are_there() {
        const ZEROS: usize = 64 << 20;
        let zeros = vec![0; ZEROS];
        let blob = packed(&[b"head", &zeros, b"tail", &[0; 9000]]);
        let (file, result) = unpacked(&blob, &Budget::new());
        let whole = [b"head", &zeros[..], b"tail", &[0; 9000]].concat();
        assert_eq!(result.unwrap().plain, Digest::of(&whole));
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), whole.len() as u64);
        assert!(metadata.blocks() * 512 < 1 << 20, "{}", metadata.blocks());
        let mut found = vec![1; whole.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == whole);
    }

    #[test]
    fn what_unpacks_to_more_than_the_budget_is_a_bomb() {
        let blob = packed(&[&[7; 3 << 20]]);
        let budget = Budget(AtomicU64::new(2 << 20));
        let (_, result) = unpacked(&blob, &budget);
        let problem = Malformed::Bomb;
        assert!(matches!(result, Err(ImageError::Archive { problem: p, .. }) if p == problem));
    }
}
