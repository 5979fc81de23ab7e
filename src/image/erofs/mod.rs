// SPDX-License-Identifier: Apache-2.0
//! Writes a tree as an EROFS image: uncompressed, 4 KiB blocks, one device.
//!
//! Runs on the thread that opens an image. The format is that of the kernel's
//! Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h. The same tree and data
//! give the same bytes: nothing of the clock, the host or the process enters an image.
//!
//! ```text
//! 0        super block at 1024, inodes from 1152: each with its attributes and the
//!          last, partial block of its data right behind it
//! blocks   the full blocks of files and directories, in the order of the inodes
//! ```

mod directory;
mod format;
mod layout;
mod region;
mod write;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use format::{MAGIC, SUPER_OFFSET, SUPER_SIZE, image_bytes, keeps_xattr};
pub use region::Opened;
pub use write::{Contents, Output, write};

/// Most bytes an image may span, holes included: what a sparse file of a hostile archive
/// can make of it. Holes take no room on the host, so this only keeps offsets in range.
pub const MAX_IMAGE: u64 = 4 << 40;
