// SPDX-License-Identifier: Apache-2.0
//! The on-disk structures of EROFS, encoded; names and offsets as in fs/erofs/erofs_fs.h.
//!
//! Pure functions of their arguments, for the writer alone. They must never need the host.

use crate::image::tree::{Kind, Meta, Xattr};

pub const BLOCK: usize = 4096;
const BLOCK_BITS: u8 = 12;
pub const MAGIC: u32 = 0xE0F5_E1E2;
pub const SUPER_OFFSET: usize = 1024;
pub const SUPER_SIZE: usize = 128;
/// An inode's number is its offset in these units.
pub const SLOT: u64 = 32;
pub const COMPACT_INODE: usize = 32;
pub const EXTENDED_INODE: usize = 64;
pub const DIRENT: usize = 12;

const COMPAT_SB_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;
const XATTR_HEADER: usize = 12;
const XATTR_ENTRY: usize = 4;

/// The prefixes EROFS keeps as a number (EROFS_XATTR_INDEX_*). The two lists of access
/// rights are whole names. A name under no prefix has no place in an image.
const XATTR_PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// A little-endian structure being filled at fixed offsets.
struct Fields<const N: usize>([u8; N]);

impl<const N: usize> Fields<N> {
    fn set<const W: usize>(mut self, at: usize, bytes: [u8; W]) -> Self {
        self.0[at..at + W].copy_from_slice(&bytes);
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Time {
    pub fn of(meta: &Meta) -> Self {
        Self {
            seconds: meta.mtime,
            nanoseconds: meta.mtime_nsec,
        }
    }
}

pub struct Super {
    pub root_nid: u16,
    pub inodes: u64,
    pub blocks: u32,
    pub epoch: Time,
    pub uuid: [u8; 16],
}

impl Super {
    /// With no checksum yet: that covers the whole rest of the block.
    pub fn encode(&self) -> [u8; SUPER_SIZE] {
        Fields([0; SUPER_SIZE])
            .set(0, MAGIC.to_le_bytes())
            .set(8, (COMPAT_SB_CHECKSUM | COMPAT_MTIME).to_le_bytes())
            .set(12, [BLOCK_BITS])
            .set(14, self.root_nid.to_le_bytes())
            .set(16, self.inodes.to_le_bytes())
            .set(24, self.epoch.seconds.to_le_bytes())
            .set(32, self.epoch.nanoseconds.to_le_bytes())
            .set(36, self.blocks.to_le_bytes())
            .set(48, self.uuid)
            .0
    }
}

/// How long the image is that starts with this super block (128 bytes from `SUPER_OFFSET`),
/// if it is one of ours.
pub fn image_bytes(super_block: &[u8; SUPER_SIZE]) -> Option<u64> {
    let word = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&super_block[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    let ours = word(0) == MAGIC && super_block[12] == BLOCK_BITS;
    ours.then(|| u64::from(word(36)) << BLOCK_BITS)
}

/// Seals the first block: the checksum runs from the super block to the block's end, with
/// its own field zero (erofs_superblock_csum_verify in fs/erofs/super.c).
pub fn seal(first_block: &mut [u8; BLOCK]) {
    let field = SUPER_OFFSET + 4..SUPER_OFFSET + 8;
    first_block[field.clone()].fill(0);
    let sum = crc32c(&first_block[SUPER_OFFSET..]);
    first_block[field].copy_from_slice(&sum.to_le_bytes());
}

/// CRC-32C as the kernel's crc32c(~0, …): reflected, and not inverted at the end. Three
/// kilobytes once per image, so no table.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg())
        })
    })
}

/// One inode as the layout decided it.
pub struct Inode<'a> {
    pub meta: &'a Meta,
    pub kind: &'a Kind,
    pub extended: bool,
    /// The last partial block follows the inode (EROFS_INODE_FLAT_INLINE).
    pub inline: bool,
    pub xattr_bytes: usize,
    pub size: u64,
    /// First block of the data, for what has data.
    pub block: u32,
    pub number: u32,
    pub links: u32,
}

/// May this be a 32-byte inode? Its owner, links and size are narrow, and its time is
/// the image's.
pub fn fits_compact(meta: &Meta, size: u64, links: u32, epoch: Time) -> bool {
    u16::try_from(meta.uid).is_ok()
        && u16::try_from(meta.gid).is_ok()
        && u16::try_from(links).is_ok()
        && u32::try_from(size).is_ok()
        && Time::of(meta) == epoch
}

impl Inode<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let layout: u16 = if self.inline { 2 } else { 0 };
        let format = u16::from(self.extended) | (layout << 1);
        let mode = type_bits(self.kind) | (self.meta.mode & 0o7777);
        let place = match *self.kind {
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                encode_device(major, minor)
            }
            _ => self.block,
        };
        let [size0, size1, size2, size3, ..] = self.size.to_le_bytes();
        let common = Fields([0; EXTENDED_INODE])
            .set(0, format.to_le_bytes())
            .set(2, xattr_count(self.xattr_bytes).to_le_bytes())
            .set(4, mode.to_le_bytes())
            .set(16, place.to_le_bytes())
            .set(20, self.number.to_le_bytes());
        if self.extended {
            let inode = common
                .set(8, self.size.to_le_bytes())
                .set(24, self.meta.uid.to_le_bytes())
                .set(28, self.meta.gid.to_le_bytes())
                .set(32, self.meta.mtime.to_le_bytes())
                .set(40, self.meta.mtime_nsec.to_le_bytes())
                .set(44, self.links.to_le_bytes());
            out.extend_from_slice(&inode.0);
        } else {
            let low = |word: u32| {
                let [a, b, ..] = word.to_le_bytes();
                [a, b]
            };
            let inode = common
                .set(6, low(self.links))
                .set(8, [size0, size1, size2, size3])
                .set(24, low(self.meta.uid))
                .set(26, low(self.meta.gid));
            out.extend_from_slice(&inode.0[..COMPACT_INODE]);
        }
    }
}

/// The kernel's new_encode_dev: twelve bits of major, twenty of minor.
fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}

fn type_bits(kind: &Kind) -> u16 {
    match kind {
        Kind::Fifo => 0o010_000,
        Kind::CharDevice { .. } => 0o020_000,
        Kind::Directory { .. } => 0o040_000,
        Kind::BlockDevice { .. } => 0o060_000,
        Kind::File { .. } => 0o100_000,
        Kind::Symlink(_) => 0o120_000,
    }
}

/// The type of a directory entry (FT_* of include/linux/fs_types.h).
pub fn dirent_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => 1,
        Kind::Directory { .. } => 2,
        Kind::CharDevice { .. } => 3,
        Kind::BlockDevice { .. } => 4,
        Kind::Fifo => 5,
        Kind::Symlink(_) => 7,
    }
}

pub fn dirent(nid: u64, name_offset: u16, file_type: u8) -> [u8; DIRENT] {
    Fields([0; DIRENT])
        .set(0, nid.to_le_bytes())
        .set(8, name_offset.to_le_bytes())
        .set(10, [file_type])
        .0
}

fn split_xattr(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_PREFIXES.iter().find_map(|&(prefix, index)| {
        let rest = name.strip_prefix(prefix)?;
        // A whole name has nothing behind it, a prefix something.
        let whole = matches!(index, 2 | 3);
        (rest.is_empty() == whole && u8::try_from(rest.len()).is_ok()).then_some((index, rest))
    })
}

/// Can an image keep an attribute of this name?
pub fn keeps_xattr(name: &[u8]) -> bool {
    split_xattr(name).is_some()
}

fn xattr_entry_bytes(xattr: &Xattr) -> usize {
    split_xattr(&xattr.name).map_or(0, |(_, rest)| {
        (XATTR_ENTRY + rest.len() + xattr.value.len()).next_multiple_of(XATTR_ENTRY)
    })
}

/// Bytes the attributes take behind their inode: the header and every entry.
pub fn xattr_bytes(xattrs: &[Xattr]) -> usize {
    match xattrs.iter().map(xattr_entry_bytes).sum() {
        0 => 0,
        entries => XATTR_HEADER + entries,
    }
}

/// i_xattr_icount: the header counts one, each further four bytes one.
fn xattr_count(bytes: usize) -> u16 {
    let count = bytes.saturating_sub(XATTR_HEADER - XATTR_ENTRY) / XATTR_ENTRY;
    u16::try_from(count).expect("a tree's attributes are bounded well below 256 KiB")
}

pub fn encode_xattrs(xattrs: &[Xattr], out: &mut Vec<u8>) {
    if xattr_bytes(xattrs) == 0 {
        return;
    }
    out.extend_from_slice(&[0; XATTR_HEADER]);
    for xattr in xattrs {
        let Some((index, rest)) = split_xattr(&xattr.name) else {
            continue;
        };
        let name_bytes = u8::try_from(rest.len()).expect("split_xattr checked it");
        let value_bytes = u16::try_from(xattr.value.len()).expect("the tree checked it");
        let start = out.len();
        out.extend_from_slice(&[name_bytes, index]);
        out.extend_from_slice(&value_bytes.to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(&xattr.value);
        out.resize(start + (out.len() - start).next_multiple_of(XATTR_ENTRY), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c_without_the_last_inversion() {
        // RFC 3720 B.4: 32 bytes of zeros have CRC-32C 0x8a9136aa.
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn device_numbers_are_split_as_the_kernel_does() {
        assert_eq!(encode_device(8, 1), 0x801);
        assert_eq!(encode_device(0xfff, 0xfffff), 0xffff_ffff);
        assert_eq!(encode_device(1, 0x100), 0x0010_0100);
    }

    #[test]
    fn names_of_attributes_are_kept_by_prefix() {
        assert_eq!(split_xattr(b"user.a"), Some((1, &b"a"[..])));
        assert_eq!(
            split_xattr(b"security.capability"),
            Some((6, &b"capability"[..]))
        );
        assert_eq!(split_xattr(b"system.posix_acl_access"), Some((2, &b""[..])));
        for lost in [
            &b"user."[..],
            b"system.posix_acl_accessx",
            b"system.nfs4_acl",
            b"",
            b"x",
        ] {
            assert_eq!(split_xattr(lost), None);
        }
    }
}
