// SPDX-License-Identifier: Apache-2.0
//! A tar archive as a tree; the data of its files stays where it is.
//!
//! Runs on the thread that opens an image. The archive is hostile: no length of it is
//! believed before it is compared with what is there, and no path of it is ever given to
//! the host. An archive is one whole root file system, where whiteouts are files like
//! others, or a layer above those already in the tree (image-spec, layer.md).

use super::extension::Extension;
use super::place::{self, PlaceError, Walker};
use super::sparse::{self, BLOCK, BLOCK_BYTES, Blocks};
use super::whiteout::{Hidden, hidden};
use crate::image::erofs::{Contents, Opened};
use crate::image::error::{ImageError, Malformed};
use crate::image::tree::{Data, Extent, Kind, Meta, Node, NodeId, Refused, Tree};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tar::Header;

/// Longest extended header. Stops a name of gigabytes from being read into memory; room
/// for the 64 KiB of attributes Linux allows, and a path, several times over.
const MAX_EXTENSION: u64 = 1 << 20;

/// An uncompressed archive.
pub struct Archive {
    file: Arc<File>,
    /// Where in the file the archive begins and ends.
    start: u64,
    end: u64,
    path: PathBuf,
}

/// What is taken of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Whole,
    /// What a layer hides of those below.
    Whiteouts,
    /// What a layer brings.
    Entries,
}

/// What went wrong with one entry.
enum Problem {
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

    fn bytes(&self, at: u64, into: &mut [u8]) -> Result<(), Malformed> {
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

struct Reading<'a> {
    archive: &'a Archive,
    tree: &'a mut Tree,
    walker: &'a mut Walker,
    layer: u16,
    pass: Pass,
    /// Of the next header.
    at: u64,
}

impl Reading<'_> {
    /// Takes one entry with the extended headers before it; false at the archive's end.
    fn entry(&mut self) -> Result<bool, Problem> {
        let mut extension = Extension::default();
        // An extended header with nothing behind it is half an entry.
        let mut begun = false;
        loop {
            // The two blocks of zeros at the end are often missing or cut.
            if self.at == self.archive.end && self.at > self.archive.start && !begun {
                return Ok(false);
            }
            let block = self.archive.block(self.at)?;
            if block.iter().all(|&byte| byte == 0) {
                return if begun {
                    Err(Malformed::Truncated.into())
                } else {
                    Ok(false)
                };
            }
            let header = Header::from_byte_slice(&block);
            check_sum(header)?;
            let data = self.at + BLOCK;
            let entry_type = header.entry_type().as_byte();
            begun |= matches!(entry_type, b'x' | b'X' | b'L' | b'K');
            match entry_type {
                b'x' | b'X' => extension.read(&self.long(header, data)?)?,
                b'L' => extension.path = Some(until_nul(self.long(header, data)?)),
                b'K' => extension.link = Some(until_nul(self.long(header, data)?)),
                // Of the whole archive: comments of those who packed it. And a volume's label.
                b'g' | b'V' => self.at = self.next(data, size(header)?)?,
                _ => {
                    self.place(header, data, extension)?;
                    return Ok(true);
                }
            }
        }
    }

    /// The contents of an extended header; goes on behind it.
    fn long(&mut self, header: &Header, data: u64) -> Result<Vec<u8>, Malformed> {
        let size = size(header)?;
        let next = self.next(data, size)?;
        let len = usize::try_from(size).map_err(|_| Malformed::LongExtension)?;
        if size > MAX_EXTENSION {
            return Err(Malformed::LongExtension);
        }
        let mut bytes = vec![0; len];
        self.archive.bytes(data, &mut bytes)?;
        self.at = next;
        Ok(bytes)
    }

    /// Where the header behind `size` bytes at `data` is.
    fn next(&self, data: u64, size: u64) -> Result<u64, Malformed> {
        let end = data.checked_add(size).ok_or(Malformed::Truncated)?;
        if end > self.archive.end {
            return Err(Malformed::Truncated);
        }
        // The padding of the very last entry may be missing.
        Ok(end.next_multiple_of(BLOCK).min(self.archive.end))
    }

    fn place(&mut self, header: &Header, data: u64, extension: Extension) -> Result<(), Problem> {
        let sparse_name = extension.sparse.name.as_deref();
        let path = match sparse_name.or(extension.path.as_deref()) {
            Some(path) => path.into(),
            None => header.path_bytes(),
        };
        let stored = match extension.size {
            Some(size) => size,
            None => size(header)?,
        };
        if self.pass != Pass::Whole {
            let hidden = hidden(&path)?;
            if hidden.is_some() || self.pass == Pass::Whiteouts {
                self.skip(header, data, stored)?;
            }
            match (hidden, self.pass) {
                (Some(name), Pass::Whiteouts) => return Ok(self.hide(&path, name)?),
                (Some(_), _) | (None, Pass::Whiteouts) => return Ok(()),
                (None, _) => {}
            }
        }
        let kind = match header.entry_type().as_byte() {
            b'1' => {
                self.at = self.next(data, stored)?;
                return self.hard_link(header, &path, extension.link.as_deref());
            }
            b'2' => {
                self.at = self.next(data, stored)?;
                Kind::Symlink(link_name(header, extension.link.as_deref()).into())
            }
            b'0' | b'7' | 0 if !path.ends_with(b"/") => self.file(data, stored, &extension)?,
            b'S' => self.old_sparse(header, data, stored)?,
            other => {
                self.at = self.next(data, stored)?;
                special(other, header)?
            }
        };
        let node = Node {
            meta: meta(header, &extension)?,
            xattrs: extension.xattrs.into(),
            kind,
        };
        self.put(&path, node)
    }

    /// Goes on behind an entry that is of no interest.
    fn skip(&mut self, header: &Header, data: u64, stored: u64) -> Result<(), Malformed> {
        match header.entry_type().as_byte() {
            b'S' => self.old_sparse(header, data, stored).map(drop),
            _ => {
                self.at = self.next(data, stored)?;
                Ok(())
            }
        }
    }

    /// Takes away what the whiteout at `path` hides in the layers below: where there is
    /// nothing, nothing is hidden.
    fn hide(&mut self, path: &[u8], hidden: Hidden) -> Result<(), Malformed> {
        let components = place::components(path)?;
        let above = components.split_last().map_or(&[][..], |(_, above)| above);
        let Some(directory) = self.walker.find(self.tree, above)? else {
            return Ok(());
        };
        match hidden {
            Hidden::Name(name) => self.tree.remove(directory, name),
            Hidden::All => self.tree.clear(directory),
            Hidden::Nothing => {}
        }
        Ok(())
    }

    fn put(&mut self, path: &[u8], node: Node) -> Result<(), Problem> {
        let components = place::components(path)?;
        let is_directory = matches!(node.kind, Kind::Directory { .. });
        let Some((name, above)) = components.split_last() else {
            // "./", the root itself; nothing else can be it.
            if !is_directory {
                return Err(Malformed::Path.into());
            }
            return self.describe(NodeId::ROOT, node);
        };
        let parent = self.walker.directory(self.tree, above)?;
        match self.tree.lookup(parent, name) {
            Some(known) if is_directory && self.tree.names(known).is_some() => {
                self.describe(known, node)
            }
            _ => {
                self.tree.add(parent, name, node)?;
                Ok(())
            }
        }
    }

    /// A directory told of again keeps what is in it.
    fn describe(&mut self, id: NodeId, node: Node) -> Result<(), Problem> {
        self.tree.set_meta(id, node.meta);
        self.tree.set_xattrs(id, node.xattrs)?;
        Ok(())
    }

    fn hard_link(
        &mut self,
        header: &Header,
        path: &[u8],
        long: Option<&[u8]>,
    ) -> Result<(), Problem> {
        let target = link_name(header, long);
        let to = place::components(&target)?;
        let (to_name, to_above) = to.split_last().ok_or(Malformed::HardLink)?;
        let from = place::components(path)?;
        let (name, above) = from.split_last().ok_or(Malformed::Path)?;
        let directory = self.walker.directory(self.tree, to_above)?;
        let id = self.tree.lookup(directory, to_name);
        let id = id.filter(|&id| self.tree.names(id).is_none());
        let id = id.ok_or(Malformed::HardLink)?;
        let parent = self.walker.directory(self.tree, above)?;
        self.tree.link(parent, name, id)?;
        Ok(())
    }

    fn file(&mut self, data: u64, stored: u64, extension: &Extension) -> Result<Kind, Malformed> {
        self.at = self.next(data, stored)?;
        let sparse = &extension.sparse;
        let (map, from) = if sparse.map_in_data && sparse.real_size.is_some() {
            sparse::in_data(self.archive, data)?
        } else {
            (sparse.map.clone().unwrap_or_default(), data)
        };
        let mapped = sparse.map_in_data || sparse.map.is_some();
        let (Some(len), true) = (sparse.real_size, mapped) else {
            return Ok(self.plain(data, stored));
        };
        let stored = (data + stored).checked_sub(from).ok_or(Malformed::Sparse)?;
        Ok(Kind::File {
            len,
            data: self.data(sparse::extents(&map, len, from, stored)?),
        })
    }

    fn plain(&self, data: u64, len: u64) -> Kind {
        let whole = Extent {
            at: 0,
            from: data,
            len,
        };
        Kind::File {
            len,
            data: self.data([whole].into()),
        }
    }

    fn data(&self, extents: Box<[Extent]>) -> Data {
        Data::Archive {
            layer: self.layer,
            extents,
        }
    }

    fn old_sparse(&mut self, header: &Header, data: u64, stored: u64) -> Result<Kind, Malformed> {
        let gnu = header.as_gnu().ok_or(Malformed::Sparse)?;
        let len = gnu.real_size().map_err(|_| Malformed::Number)?;
        let (map, from) = sparse::old_gnu(self.archive, gnu, data)?;
        self.at = self.next(from, stored)?;
        Ok(Kind::File {
            len,
            data: self.data(sparse::extents(&map, len, from, stored)?),
        })
    }
}

fn special(entry_type: u8, header: &Header) -> Result<Kind, Malformed> {
    // 'D' is GNU's directory with a list of its files; "name/" of a file is how the oldest
    // archives say directory.
    Ok(match entry_type {
        b'3' | b'4' => {
            let (major, minor) = device(header)?;
            match entry_type {
                b'3' => Kind::CharDevice { major, minor },
                _ => Kind::BlockDevice { major, minor },
            }
        }
        b'5' | b'D' | b'0' | b'7' | 0 => Kind::directory(),
        b'6' => Kind::Fifo,
        _ => return Err(Malformed::Type),
    })
}

/// Twelve bits of major and twenty of minor are all Linux has.
fn device(header: &Header) -> Result<(u32, u32), Malformed> {
    let field =
        |number: std::io::Result<Option<u32>>| number.ok().flatten().ok_or(Malformed::Number);
    let (major, minor) = (field(header.device_major())?, field(header.device_minor())?);
    if major > 0xfff || minor > 0xfffff {
        return Err(Malformed::Device);
    }
    Ok((major, minor))
}

fn meta(header: &Header, extension: &Extension) -> Result<Meta, Malformed> {
    let narrow = |id: std::io::Result<u64>| {
        let id = id.map_err(|_| Malformed::Number)?;
        u32::try_from(id).map_err(|_| Malformed::Number)
    };
    let mode = header.mode().map_err(|_| Malformed::Number)?;
    let (mtime, mtime_nsec) = match extension.mtime {
        Some(time) => time,
        // A time before 1970 stands there in two's complement.
        None => {
            let seconds = header.mtime().map_err(|_| Malformed::Number)?;
            (seconds.cast_signed(), 0)
        }
    };
    Ok(Meta {
        mode: u16::try_from(mode & 0o7777).expect("twelve bits"),
        uid: match extension.uid {
            Some(uid) => uid,
            None => narrow(header.uid())?,
        },
        gid: match extension.gid {
            Some(gid) => gid,
            None => narrow(header.gid())?,
        },
        mtime,
        mtime_nsec,
    })
}

fn link_name(header: &Header, long: Option<&[u8]>) -> Vec<u8> {
    match long {
        Some(long) => long.to_vec(),
        None => header.link_name_bytes().unwrap_or_default().into_owned(),
    }
}

fn size(header: &Header) -> Result<u64, Malformed> {
    header.entry_size().map_err(|_| Malformed::Number)
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// The sum of the header's bytes, its own field taken as spaces.
fn check_sum(header: &Header) -> Result<(), Malformed> {
    let bytes = header.as_bytes();
    let sum = |range: &[u8]| range.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    let expected = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
    match header.cksum() {
        Ok(stated) if stated == expected => Ok(()),
        _ => Err(Malformed::Checksum),
    }
}
