// SPDX-License-Identifier: Apache-2.0
//! One entry of an archive after the other, put into the tree it belongs in.
//!
//! Runs on the thread that opens an image. Every length is the archive's word: it is compared
//! with what is there before it is used. A path is walked in the tree and nowhere else.

use super::archive::{Archive, Pass, Problem};
use super::extension::Extension;
use super::header::{check_sum, link_name, meta, size, special, until_nul};
use super::place::{self, Walker};
use super::sparse::{self, BLOCK, Blocks as _};
use super::whiteout::{Hidden, hidden};
use crate::image::error::Malformed;
use crate::image::tree::{Data, Extent, Kind, Node, NodeId, Tree};
use tar::Header;

/// Longest extended header. Stops a name of gigabytes from being read into memory; room
/// for the 64 KiB of attributes Linux allows, and a path, several times over.
const MAX_EXTENSION: u64 = 1 << 20;

pub struct Reading<'a> {
    pub archive: &'a Archive,
    pub tree: &'a mut Tree,
    pub walker: &'a mut Walker,
    pub layer: u16,
    pub pass: Pass,
    /// Of the next header.
    pub at: u64,
}

impl Reading<'_> {
    /// Takes one entry with the extended headers before it; false at the archive's end.
    pub fn entry(&mut self) -> Result<bool, Problem> {
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
