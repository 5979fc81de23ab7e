// SPDX-License-Identifier: Apache-2.0
//! Bytes on their way into an image: a file of the source opened, and a part of the image
//! written from front to back.
//!
//! Runs on the thread that opens an image. Memory is bounded by `BUFFER`, whatever the
//! size of a file; large pieces never pass through this process where the kernel can copy.

use crate::image::error::ImageError;
use crate::image::tree::Extent;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BUFFER: usize = 256 << 10;
/// Above this the kernel copies between the files; below, one read and a shared write cost
/// less than its two extra calls.
const COPIED_BY_KERNEL: u64 = 64 << 10;
/// One call copies no more, so that progress is seen.
const LONGEST_COPY: u64 = 16 << 20;

/// A file of the source, open for reading.
pub struct Opened {
    pub file: Arc<File>,
    /// Where its data lies in `file`, ascending; the rest reads as zeros.
    pub extents: Vec<Extent>,
    /// For messages.
    pub path: PathBuf,
}

impl Opened {
    /// Fills `into` from the file's offset `at`.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), ImageError> {
        into.fill(0);
        let end = at + into.len() as u64;
        for piece in self.pieces(at, end) {
            let start = offset(piece.at - at);
            let bytes = &mut into[start..start + offset(piece.len)];
            self.read_exact(piece.from, bytes)?;
        }
        Ok(())
    }

    fn read_exact(&self, from: u64, into: &mut [u8]) -> Result<(), ImageError> {
        self.file.read_exact_at(into, from).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                self.changing()
            } else {
                ImageError::io("read", &self.path, error)
            }
        })
    }

    /// It was longer a moment ago.
    fn changing(&self) -> ImageError {
        ImageError::Changing {
            path: self.path.clone(),
        }
    }

    /// How much of a large piece's beginning is a hole of the host's file, and how much data
    /// follows. Blocks of zeros that were packed are such holes: those a bomb is made of cost
    /// no disk here either.
    fn run(&self, piece: Extent) -> (u64, u64) {
        let whole = (0, piece.len);
        if piece.len <= COPIED_BY_KERNEL {
            return whole;
        }
        let start = match rustix::fs::seek(&*self.file, SeekFrom::Data(piece.from)) {
            Ok(start) => start - piece.from,
            // Nothing but a hole up to the file's end; a file cut short is seen by its length.
            Err(Errno::NXIO) if self.reaches(piece.from + piece.len) => piece.len,
            Err(_) => return whole,
        };
        if start > 0 {
            return (start.min(piece.len), 0);
        }
        match rustix::fs::seek(&*self.file, SeekFrom::Hole(piece.from)) {
            Ok(end) if end > piece.from => (0, piece.len.min(end - piece.from)),
            _ => whole,
        }
    }

    fn reaches(&self, end: u64) -> bool {
        rustix::fs::fstat(&*self.file).is_ok_and(|stat| stat.st_size.cast_unsigned() >= end)
    }

    /// What of the extents lies between two offsets of the file.
    fn pieces(&self, start: u64, end: u64) -> impl Iterator<Item = Extent> {
        self.extents.iter().filter_map(move |extent| {
            let from = extent.at.max(start);
            let to = (extent.at + extent.len).min(end);
            (from < to).then(|| Extent {
                at: from,
                from: extent.from + (from - extent.at),
                len: to - from,
            })
        })
    }
}

fn offset(bytes: u64) -> usize {
    usize::try_from(bytes).expect("bounded by a buffer in memory")
}

/// A part of the image that grows at its end.
pub struct Region<'a> {
    file: &'a File,
    path: &'a Path,
    /// Where the buffer will go.
    at: u64,
    buffer: Vec<u8>,
    /// Bytes written since the last look at the free disk.
    unseen: u64,
}

impl<'a> Region<'a> {
    pub fn new(file: &'a File, path: &'a Path, at: u64) -> Self {
        Self {
            file,
            path,
            at,
            buffer: Vec::with_capacity(BUFFER),
            unseen: 0,
        }
    }

    pub fn position(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    pub fn put(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Continues at `at`, which is not behind; what is skipped reads as zeros.
    pub fn skip_to(&mut self, at: u64) -> Result<(), ImageError> {
        let gap = at.saturating_sub(self.position());
        if gap <= COPIED_BY_KERNEL && self.buffer.len() + offset(gap) <= BUFFER {
            self.buffer.resize(self.buffer.len() + offset(gap), 0);
            return Ok(());
        }
        self.flush()?;
        self.at = at;
        Ok(())
    }

    pub fn flush(&mut self) -> Result<(), ImageError> {
        self.file
            .write_all_at(&self.buffer, self.at)
            .map_err(|error| ImageError::io("write", self.path, error))?;
        let bytes = self.buffer.len() as u64;
        self.at = self.position();
        self.buffer.clear();
        self.look(bytes)
    }

    /// Leaves the host the disk it needs for itself.
    fn look(&mut self, written: u64) -> Result<(), ImageError> {
        self.unseen += written;
        if self.unseen < crate::image::unpack::LOOK {
            return Ok(());
        }
        self.unseen = 0;
        crate::image::unpack::room(self.file)
            .map_err(|error| ImageError::io("write", self.path, error))
    }

    /// Takes the first `len` bytes of `source`, leaving its holes out. `copied` hears of
    /// each piece.
    pub fn take(
        &mut self,
        source: &Opened,
        len: u64,
        copied: &mut dyn FnMut(u64),
    ) -> Result<(), ImageError> {
        let start = self.position();
        for mut piece in source.pieces(0, len) {
            self.skip_to(start + piece.at)?;
            while piece.len > 0 {
                let (hole, data) = source.run(piece);
                let done = match hole {
                    0 => self.take_piece(source, Extent { len: data, ..piece })?,
                    _ => {
                        self.skip_to(start + piece.at + hole)?;
                        hole
                    }
                };
                piece = Extent {
                    at: piece.at + done,
                    from: piece.from + done,
                    len: piece.len - done,
                };
                copied(done);
            }
        }
        self.skip_to(start + len)
    }

    fn take_piece(&mut self, source: &Opened, piece: Extent) -> Result<u64, ImageError> {
        if piece.len > COPIED_BY_KERNEL {
            self.flush()?;
            let (mut from, mut to) = (piece.from, self.at);
            let whole = offset(piece.len.min(LONGEST_COPY));
            let (input, output) = (&*source.file, self.file);
            let copied =
                rustix::fs::copy_file_range(input, Some(&mut from), output, Some(&mut to), whole);
            match copied {
                Ok(0) => return Err(source.changing()),
                Ok(bytes) => {
                    self.at += bytes as u64;
                    self.look(bytes as u64)?;
                    return Ok(bytes as u64);
                }
                // Two file systems that share nothing, or a kernel that cannot: by hand.
                // A true failure shows again there.
                Err(_) => {}
            }
        }
        let bytes = offset(piece.len.min(BUFFER as u64));
        if self.buffer.len() + bytes > BUFFER {
            self.flush()?;
        }
        let start = self.buffer.len();
        self.buffer.resize(start + bytes, 0);
        source.read_exact(piece.from, &mut self.buffer[start..])?;
        Ok(bytes as u64)
    }
}
