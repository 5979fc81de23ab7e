// SPDX-License-Identifier: Apache-2.0
//! Places an initial RAM disk as high as the kernel can reach.

use super::kernel::Kernel;
use crate::arch::layout;
use crate::memory::{self, GuestRam};
use std::fs::File;
use std::io;
use std::ops::Range;
use vm_memory::{Address as _, GuestAddress, GuestMemoryBackend as _};

#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    #[error("cannot be read")]
    Read(#[source] io::Error),
    #[error("is not a regular file")]
    NotAFile,
    #[error("is empty")]
    Empty,
    #[error(
        "is {size} bytes, and only {room} of the guest's memory are left for it: give it more memory"
    )]
    NoRoom { size: u64, room: u64 },
}

const PAGE: u64 = 4096;

/// Maps the file to the top of low memory, below what the kernel can address.
pub fn load(ram: &GuestRam, file: &File, kernel: &Kernel) -> Result<Range<u64>, InitrdError> {
    let metadata = file.metadata().map_err(InitrdError::Read)?;
    if !metadata.is_file() {
        return Err(InitrdError::NotAFile);
    }
    let size = metadata.len();
    if size == 0 {
        return Err(InitrdError::Empty);
    }
    let low_end = layout::HOLE.start.min(ram.last_addr().raw_value() + 1);
    let top = low_end.min(kernel.initrd_limit);
    let bottom = kernel.end.next_multiple_of(PAGE);
    let start = top
        .checked_sub(size)
        .map(|start| start & !(PAGE - 1))
        .filter(|start| *start >= bottom)
        .ok_or(InitrdError::NoRoom {
            size,
            room: top.saturating_sub(bottom),
        })?;
    memory::place(ram, file, 0, GuestAddress(start), size).map_err(InitrdError::Read)?;
    Ok(start..start + size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::boot::Entry;
    use std::io::{Seek as _, Write as _};
    use vm_memory::Bytes as _;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("room");
        file.rewind().expect("a regular file");
        file
    }

    fn kernel(end: u64, initrd_limit: u64) -> Kernel {
        Kernel {
            variant: Default::default(),
            entry: Entry { address: 0 },
            end,
            initrd_limit,
            header: None,
        }
    }

    #[test]
    fn it_lies_page_aligned_at_the_top() {
        let ram = crate::memory::anonymous(8 << 20, &layout::HOLE).expect("8 MiB");
        let bytes = vec![7; 5000];
        let at = load(&ram, &file(&bytes), &kernel(4 << 20, u64::MAX)).expect("room");
        assert_eq!(at, (8 << 20) - 8192..(8 << 20) - 8192 + 5000);
        let mut back = vec![0; 5000];
        ram.read_slice(&mut back, GuestAddress(at.start))
            .expect("RAM");
        assert_eq!(back, bytes);

        let low = load(&ram, &file(&bytes), &kernel(4 << 20, 5 << 20)).expect("room");
        assert!(low.end <= 5 << 20, "the kernel's own limit holds");
    }

    #[test]
    fn one_that_does_not_fit_is_refused() {
        let ram = crate::memory::anonymous(8 << 20, &layout::HOLE).expect("8 MiB");
        let small = kernel((8 << 20) - 4096, u64::MAX);
        assert!(matches!(
            load(&ram, &file(&[1; 5000]), &small),
            Err(InitrdError::NoRoom {
                size: 5000,
                room: 4096
            })
        ));
        let sparse = file(&[]);
        sparse.set_len(1 << 40).expect("a sparse file");
        assert!(matches!(
            load(&ram, &sparse, &kernel(0, u64::MAX)),
            Err(InitrdError::NoRoom { .. })
        ));
        assert!(matches!(
            load(&ram, &file(&[]), &small),
            Err(InitrdError::Empty)
        ));
    }
}
