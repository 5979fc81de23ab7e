// SPDX-License-Identifier: Apache-2.0
//! Decides where everything of an image goes before a byte of it is written.
//!
//! Runs on the thread that opens an image; reads the tree and nothing else. Breadth first,
//! so that the inodes of one directory lie side by side for who lists it.

use super::MAX_IMAGE;
use super::directory;
use super::format::{
    BLOCK, COMPACT_INODE, EXTENDED_INODE, SLOT, SUPER_OFFSET, SUPER_SIZE, Time, fits_compact,
    xattr_bytes,
};
use crate::image::tree::{Kind, NodeId, Tree};
use std::collections::HashMap;

/// One inode's place.
pub struct Slot {
    pub node: NodeId,
    /// The directory it was first found in; its own for the root.
    pub parent: NodeId,
    pub links: u32,
    pub extended: bool,
    pub inline: bool,
    pub xattr_bytes: usize,
    pub size: u64,
    /// Where in the image the inode is.
    pub at: u64,
    /// First block of the data.
    pub block: u32,
}

impl Slot {
    pub fn nid(&self) -> u64 {
        self.at / SLOT
    }

    fn head(&self) -> usize {
        let inode = if self.extended {
            EXTENDED_INODE
        } else {
            COMPACT_INODE
        };
        inode + self.xattr_bytes
    }

    /// Bytes behind the inode and its attributes.
    pub fn tail(&self) -> usize {
        if self.inline { partial(self.size) } else { 0 }
    }

    /// Full blocks elsewhere.
    pub fn blocks(&self) -> u64 {
        if self.inline {
            self.size / BLOCK as u64
        } else {
            self.size.div_ceil(BLOCK as u64)
        }
    }
}

pub struct Layout {
    pub slots: Vec<Slot>,
    /// The slot of each node of the tree; `NOWHERE` for those with no name any more.
    slot_of: Vec<u32>,
    pub blocks: u32,
    /// The time compact inodes have.
    pub epoch: Time,
}

const NOWHERE: u32 = u32::MAX;

/// The image would be larger than `MAX_IMAGE`.
pub struct TooLarge;

impl Layout {
    pub fn of(tree: &Tree) -> Result<Self, TooLarge> {
        let (mut slots, slot_of) = collect(tree);
        let epoch = commonest_time(tree, &slots);
        for slot in &mut slots {
            measure(tree, slot, epoch);
        }
        let end = place_inodes(&mut slots);
        let blocks = place_blocks(&mut slots, end)?;
        Ok(Self {
            slots,
            slot_of,
            blocks,
            epoch,
        })
    }

    pub fn slot(&self, node: NodeId) -> &Slot {
        &self.slots[self.slot_of[node.index()] as usize]
    }
}

/// Finds every node that has a name, once, and counts its names.
fn collect(tree: &Tree) -> (Vec<Slot>, Vec<u32>) {
    let mut slot_of = vec![NOWHERE; tree.len()];
    let mut slots = vec![new_slot(NodeId::ROOT, NodeId::ROOT, 2)];
    slot_of[NodeId::ROOT.index()] = 0;
    let mut next = 0;
    while next < slots.len() {
        let here = slots[next].node;
        for &id in tree
            .names(here)
            .into_iter()
            .flat_map(|names| names.values())
        {
            let is_directory = tree.names(id).is_some();
            slots[next].links += u32::from(is_directory);
            let seen = &mut slot_of[id.index()];
            if *seen == NOWHERE {
                *seen = u32::try_from(slots.len()).expect("a tree has at most MAX_ENTRIES nodes");
                slots.push(new_slot(id, here, if is_directory { 2 } else { 1 }));
            } else {
                slots[*seen as usize].links += 1;
            }
        }
        next += 1;
    }
    (slots, slot_of)
}

fn new_slot(node: NodeId, parent: NodeId, links: u32) -> Slot {
    Slot {
        node,
        parent,
        links,
        extended: true,
        inline: false,
        xattr_bytes: 0,
        size: 0,
        at: 0,
        block: 0,
    }
}

/// The time most inodes have, the earliest of several: an image packed with one time for
/// all files then needs small inodes only.
fn commonest_time(tree: &Tree, slots: &[Slot]) -> Time {
    let mut counts: HashMap<(i64, u32), usize> = HashMap::new();
    for slot in slots {
        let time = Time::of(&tree.node(slot.node).meta);
        *counts.entry((time.seconds, time.nanoseconds)).or_default() += 1;
    }
    let commonest = counts
        .into_iter()
        .max_by_key(|&(time, count)| (count, std::cmp::Reverse(time)));
    let (seconds, nanoseconds) = commonest.map_or((0, 0), |(time, _)| time);
    Time {
        seconds,
        nanoseconds,
    }
}

fn partial(size: u64) -> usize {
    usize::try_from(size % BLOCK as u64).expect("less than a block")
}

fn measure(tree: &Tree, slot: &mut Slot, epoch: Time) {
    let node = tree.node(slot.node);
    slot.size = match &node.kind {
        Kind::Directory { names, .. } => directory::size(names),
        Kind::File { len, .. } => *len,
        Kind::Symlink(target) => target.len() as u64,
        _ => 0,
    };
    slot.extended = !fits_compact(&node.meta, slot.size, slot.links, epoch);
    slot.xattr_bytes = xattr_bytes(&node.xattrs);
    // The kernel refuses inline data that crosses a block; an inode that shares one block
    // with its attributes and its tail never does.
    let tail = partial(slot.size);
    slot.inline = tail > 0 && slot.head() + tail <= BLOCK;
}

/// Returns where the inodes end.
fn place_inodes(slots: &mut [Slot]) -> u64 {
    let block = BLOCK as u64;
    let mut at = (SUPER_OFFSET + SUPER_SIZE) as u64;
    for slot in slots {
        at = at.next_multiple_of(SLOT);
        let bytes = (slot.head() + slot.tail()) as u64;
        if at % block + bytes > block {
            at = at.next_multiple_of(block);
        }
        slot.at = at;
        at += bytes;
    }
    at
}

fn place_blocks(slots: &mut [Slot], end: u64) -> Result<u32, TooLarge> {
    let mut block = end.div_ceil(BLOCK as u64);
    for slot in slots {
        let blocks = slot.blocks();
        if blocks > 0 {
            slot.block = u32::try_from(block).map_err(|_| TooLarge)?;
        }
        block = block.checked_add(blocks).ok_or(TooLarge)?;
        if block > MAX_IMAGE / BLOCK as u64 {
            return Err(TooLarge);
        }
    }
    u32::try_from(block).map_err(|_| TooLarge)
}
