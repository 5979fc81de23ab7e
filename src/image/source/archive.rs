// SPDX-License-Identifier: Apache-2.0
//! A tar archive as a tree; the data of its files stays where it is.
//!
//! Runs on the thread that opens an image. The archive is hostile: no length of it is
//! believed before it is compared with what is there, and no path of it is ever given to
//! the host. An archive is one whole root file system, where whiteouts are files like
//! others, or a layer above those already in the tree (image-spec, layer.md).

use super::entry::Reading;
use super::place::{PlaceError, Walker};
use super::sparse::{BLOCK_BYTES, Blocks};
use crate::image::erofs::{Contents, Opened};
use crate::image::error::{ImageError, Malformed};
use crate::image::tree::{Data, Meta, Refused, Tree};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An uncompressed archive.
pub struct Archive {
    file: Arc<File>,
    /// Where in the file the archive begins and ends.
    pub(super) start: u64,
    pub(super) end: u64,
    path: PathBuf,
}

/// What is taken of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Whole,
    /// What a layer hides of those below.
    Whiteouts,
    /// What a layer brings.
    Entries,
}

/// What went wrong with one entry.
pub enum Problem {
    Malformed(Malformed),
    Refused(Refused),
}

impl From<Malformed> for Problem {
    fn from(problem: Malformed) -> Self {
        Self::Malformed(problem)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<PlaceError> for Problem {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Malformed(problem) => Self::Malformed(problem),
            PlaceError::Refused(refused) => Self::Refused(refused),
        }
    }
}

impl Archive {
    /// `path` is for messages.
    pub fn new(file: File, path: &Path) -> Result<Self, ImageError> {
        let metadata = file
            .metadata()
            .map_err(|error| ImageError::io("read", path, error))?;
        Ok(Self::within(Arc::new(file), 0..metadata.len(), path))
    }

    /// A part of a file.
    pub fn within(file: Arc<File>, range: Range<u64>, path: &Path) -> Self {
        Self {
            file,
            start: range.start,
            end: range.end,
            path: path.to_owned(),
        }
    }

    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// The archive as one whole root file system.
    pub fn tree(&self) -> Result<Tree, ImageError> {
        let mut tree = empty_root();
        self.read(&mut tree, &mut Walker::default(), 0, Pass::Whole)?;
        Ok(tree)
    }

    /// Lays the archive over `tree`, as the layer of this number. A whiteout hides what is
    /// in the layers below, never what its own layer brings: so all of them come first.
    pub fn lay_over(
        &self,
        tree: &mut Tree,
        walker: &mut Walker,
        layer: u16,
    ) -> Result<(), ImageError> {
        self.read(tree, walker, layer, Pass::Whiteouts)?;
        self.read(tree, walker, layer, Pass::Entries)
    }

    fn read(
        &self,
        tree: &mut Tree,
        walker: &mut Walker,
        layer: u16,
        pass: Pass,
    ) -> Result<(), ImageError> {
        let mut reading = Reading {
            archive: self,
            tree,
            walker,
            layer,
            pass,
            at: self.start,
        };
        loop {
            let offset = reading.at;
            match reading.entry() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(problem) => return Err(self.error(offset - self.start, problem)),
            }
        }
    }

    fn error(&self, offset: u64, problem: Problem) -> ImageError {
        let archive = self.path.clone();
        match problem {
            Problem::Malformed(problem) => ImageError::Archive {
                archive,
                offset,
                problem,
            },
            Problem::Refused(source) => ImageError::ArchiveEntry {
                archive,
                offset,
                source,
            },
        }
    }

    pub(super) fn bytes(&self, at: u64, into: &mut [u8]) -> Result<(), Malformed> {
        if self.end.saturating_sub(at) < into.len() as u64 {
            return Err(Malformed::Truncated);
        }
        // A failing disk and a file cut short meanwhile look alike from here on.
        self.file
            .read_exact_at(into, at)
            .map_err(|_| Malformed::Truncated)
    }
}

impl Blocks for Archive {
    fn block(&self, at: u64) -> Result<[u8; BLOCK_BYTES], Malformed> {
        let mut block = [0; BLOCK_BYTES];
        self.bytes(at, &mut block)?;
        Ok(block)
    }
}

impl Contents for Archive {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, data: &Data, _len: u64) -> Result<Opened, ImageError> {
        let Data::Archive { extents, .. } = data else {
            unreachable!("an archive's tree holds files of the archive only");
        };
        Ok(Opened {
            file: Arc::clone(&self.file),
            extents: extents.to_vec(),
            path: self.path.clone(),
        })
    }
}

/// A root with nothing in it and nothing said of it.
pub fn empty_root() -> Tree {
    Tree::new(Meta {
        mode: 0o755,
        ..Meta::default()
    })
}
