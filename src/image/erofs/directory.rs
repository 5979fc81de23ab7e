// SPDX-License-Identifier: Apache-2.0
//! Packs a directory into blocks: entries first, their names behind them, ordered by byte.
//!
//! Runs on the thread that opens an image. One block is held at a time; the size of a
//! directory follows from its names alone and so is known before any inode has a number.

use super::format::{BLOCK, DIRENT, dirent};
use crate::image::tree::{Names, NodeId};

/// The names of a directory as the kernel expects them: `.` and `..` in their place in the
/// order of bytes, which is not always the first.
pub fn entries(
    names: &Names,
    own: NodeId,
    parent: NodeId,
) -> impl Iterator<Item = (&[u8], NodeId)> {
    let mut dots = [(&b"."[..], own), (&b".."[..], parent)]
        .into_iter()
        .peekable();
    let mut names = names.iter().map(|(name, &id)| (&**name, id)).peekable();
    std::iter::from_fn(move || match (dots.peek(), names.peek()) {
        (Some((dot, _)), Some((name, _))) if name < dot => names.next(),
        (Some(_), _) => dots.next(),
        (None, _) => names.next(),
    })
}

/// Bytes of the directory: whole blocks, and as much of the last as is used.
pub fn size(names: &Names) -> u64 {
    let (mut blocks, mut used) = (0u64, 0usize);
    for (name, _) in entries(names, NodeId::ROOT, NodeId::ROOT) {
        let more = DIRENT + name.len();
        if used + more > BLOCK {
            blocks += 1;
            used = 0;
        }
        used += more;
    }
    blocks * BLOCK as u64 + used as u64
}

/// Calls `block` with each block in turn; every one but the last is `BLOCK` bytes long.
/// `describe` gives the number and type of a node.
pub fn blocks<E>(
    names: &Names,
    own: NodeId,
    parent: NodeId,
    describe: impl Fn(NodeId) -> (u64, u8),
    mut block: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut pending: Vec<(&[u8], NodeId)> = Vec::new();
    let mut used = 0;
    let mut out = Vec::with_capacity(BLOCK);
    for entry in entries(names, own, parent) {
        let more = DIRENT + entry.0.len();
        if used + more > BLOCK {
            pack(&pending, &describe, &mut out);
            // Zeros end the last name of a full block.
            out.resize(BLOCK, 0);
            block(&out)?;
            pending.clear();
            used = 0;
        }
        used += more;
        pending.push(entry);
    }
    pack(&pending, &describe, &mut out);
    block(&out)
}

fn pack(entries: &[(&[u8], NodeId)], describe: &impl Fn(NodeId) -> (u64, u8), out: &mut Vec<u8>) {
    out.clear();
    let mut name_at = entries.len() * DIRENT;
    for &(name, id) in entries {
        let (nid, file_type) = describe(id);
        let offset = u16::try_from(name_at).expect("names lie within one block");
        out.extend_from_slice(&dirent(nid, offset, file_type));
        name_at += name.len();
    }
    for (name, _) in entries {
        out.extend_from_slice(name);
    }
}
