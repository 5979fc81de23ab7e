// SPDX-License-Identifier: Apache-2.0
//! Writes an image: inodes and blocks side by side, the super block last.
//!
//! Runs on the thread that opens an image. Until the super block is there the file is no
//! image, so a write cut short is never mistaken for one.

use super::MAX_IMAGE;
use super::directory;
use super::format::{
    BLOCK, Inode, SUPER_OFFSET, SUPER_SIZE, Super, dirent_type, encode_xattrs, seal,
};
use super::layout::{Layout, Slot};
use super::region::{Opened, Region};
use crate::image::error::ImageError;
use crate::image::tree::{Data, Kind, Names, NodeId, Tree};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Where the bytes of a tree's files come from.
pub trait Contents {
    /// What the tree was read from, for messages.
    fn path(&self) -> &Path;
    /// The file of `len` bytes, or an error if it is no longer the one the tree speaks of.
    fn open(&self, data: &Data, len: u64) -> Result<Opened, ImageError>;
}

/// The image being written: an empty file open for reading and writing.
pub struct Output<'a> {
    pub file: &'a File,
    pub path: &'a Path,
}

/// Writes `tree` to `output`. `progress` is told how many bytes of how many are copied.
pub fn write(
    tree: &Tree,
    contents: &dyn Contents,
    output: &Output,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ImageError> {
    let layout = Layout::of(tree).map_err(|_| ImageError::TooLarge {
        path: contents.path().to_owned(),
        limit: MAX_IMAGE,
    })?;
    let length = u64::from(layout.blocks) * BLOCK as u64;
    output
        .file
        .set_len(length)
        .map_err(|error| ImageError::io("write", output.path, error))?;
    let mut writer = Writer::new(tree, &layout, contents, output);
    let mut done = 0;
    for (number, slot) in (1..).zip(&layout.slots) {
        writer.inode(slot, number, &mut |bytes| {
            done += bytes;
            progress(done, length);
        })?;
    }
    let digest = writer.finish()?;
    write_super(&layout, output, digest)
}

struct Writer<'a> {
    tree: &'a Tree,
    layout: &'a Layout,
    contents: &'a dyn Contents,
    inodes: Region<'a>,
    blocks: Region<'a>,
    /// Over all inodes with their attributes and tails: names the image.
    digest: Sha256,
    scratch: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(
        tree: &'a Tree,
        layout: &'a Layout,
        contents: &'a dyn Contents,
        output: &'a Output,
    ) -> Self {
        let first = layout.slots.iter().find(|slot| slot.blocks() > 0);
        let data = first.map_or(0, |slot| u64::from(slot.block) * BLOCK as u64);
        let inodes = (SUPER_OFFSET + SUPER_SIZE) as u64;
        Self {
            tree,
            layout,
            contents,
            inodes: Region::new(output.file, output.path, inodes),
            blocks: Region::new(output.file, output.path, data),
            digest: Sha256::new(),
            scratch: Vec::new(),
        }
    }

    fn inode(
        &mut self,
        slot: &Slot,
        number: u32,
        copied: &mut dyn FnMut(u64),
    ) -> Result<(), ImageError> {
        let node = self.tree.node(slot.node);
        let inode = Inode {
            meta: &node.meta,
            kind: &node.kind,
            extended: slot.extended,
            inline: slot.inline,
            xattr_bytes: slot.xattr_bytes,
            size: slot.size,
            block: slot.block,
            number,
            links: slot.links,
        };
        self.scratch.clear();
        inode.encode(&mut self.scratch);
        encode_xattrs(&node.xattrs, &mut self.scratch);
        if slot.blocks() > 0 {
            self.blocks.skip_to(u64::from(slot.block) * BLOCK as u64)?;
        }
        match &node.kind {
            Kind::File { len, data } if *len > 0 => self.file(slot, data, copied)?,
            Kind::Directory { names, .. } => self.directory(slot, names)?,
            Kind::Symlink(target) if slot.inline => self.scratch.extend_from_slice(target),
            Kind::Symlink(target) => self.blocks.put(target)?,
            _ => {}
        }
        self.inodes.skip_to(slot.at)?;
        self.inodes.put(&self.scratch)?;
        self.digest.update(&self.scratch);
        Ok(())
    }

    fn file(
        &mut self,
        slot: &Slot,
        data: &Data,
        copied: &mut dyn FnMut(u64),
    ) -> Result<(), ImageError> {
        let source = self.contents.open(data, slot.size)?;
        let tail = slot.tail();
        let body = slot.size - tail as u64;
        if body > 0 {
            self.blocks.take(&source, body, copied)?;
        }
        let head = self.scratch.len();
        self.scratch.resize(head + tail, 0);
        source.read(body, &mut self.scratch[head..])?;
        copied(tail as u64);
        Ok(())
    }

    fn directory(&mut self, slot: &Slot, names: &Names) -> Result<(), ImageError> {
        let (tree, layout) = (self.tree, self.layout);
        let describe = |id: NodeId| (layout.slot(id).nid(), dirent_type(&tree.node(id).kind));
        let (scratch, blocks) = (&mut self.scratch, &mut self.blocks);
        directory::blocks(names, slot.node, slot.parent, describe, |block| {
            if block.len() < BLOCK && slot.inline {
                scratch.extend_from_slice(block);
                return Ok(());
            }
            blocks.put(block)
        })
    }

    fn finish(mut self) -> Result<[u8; 32], ImageError> {
        self.inodes.flush()?;
        self.blocks.flush()?;
        Ok(self.digest.finalize().into())
    }
}

fn write_super(layout: &Layout, output: &Output, digest: [u8; 32]) -> Result<(), ImageError> {
    let failed = |error| ImageError::io("write", output.path, error);
    let mut first = [0; BLOCK];
    output.file.read_exact_at(&mut first, 0).map_err(failed)?;
    let root = layout.slot(NodeId::ROOT).nid();
    let block = Super {
        root_nid: u16::try_from(root).expect("the root is the first inode"),
        inodes: layout.slots.len() as u64,
        blocks: layout.blocks,
        epoch: layout.epoch,
        uuid: uuid(digest),
    };
    first[SUPER_OFFSET..SUPER_OFFSET + SUPER_SIZE].copy_from_slice(&block.encode());
    seal(&mut first);
    output.file.write_all_at(&first, 0).map_err(failed)
}

/// A version 8 UUID (RFC 9562): the digest's own bytes.
fn uuid(digest: [u8; 32]) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest[..16]);
    uuid[6] = (uuid[6] & 0x0f) | 0x80;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    uuid
}
