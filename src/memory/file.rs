// SPDX-License-Identifier: Apache-2.0
//! Files as guest memory: whole pages are mapped copy-on-write instead of being copied, so
//! that a kernel costs what the guest touches of it, and all guests of a host share the
//! rest through the page cache.
//!
//! The price: the file must be replaced by a rename, as package managers and linkers do. If
//! it is overwritten in place the guest sees that in pages it has not written to, and if it
//! is cut short the machine ends.
#![expect(unsafe_code, reason = "mmap over a part of guest RAM")]

use super::GuestRam;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};

const PAGE: u64 = 4096;

/// Puts `length` bytes at `offset` of the file to `at`. Not while a vCPU runs.
pub fn place(
    ram: &GuestRam,
    file: &File,
    offset: u64,
    at: GuestAddress,
    length: u64,
) -> io::Result<()> {
    let outside = || io::Error::from(io::ErrorKind::InvalidInput);
    let end = at.0.checked_add(length).ok_or_else(outside)?;
    let first = at.0.next_multiple_of(PAGE).min(end);
    // A page that the file ends in is mapped too: the kernel fills it with zeros.
    let ends_file = offset.checked_add(length) == Some(file.metadata()?.len());
    let last = if ends_file && ram.address_in_range(GuestAddress(end.next_multiple_of(PAGE) - 1)) {
        end.next_multiple_of(PAGE)
    } else {
        end & !(PAGE - 1)
    };
    if offset % PAGE != at.0 % PAGE || first >= last {
        return copy(ram, file, offset, at, length);
    }
    copy(ram, file, offset, at, first - at.0)?;
    map(
        ram,
        file,
        offset + (first - at.0),
        GuestAddress(first),
        last - first,
    )?;
    let rest = end.saturating_sub(last);
    copy(ram, file, offset + (last - at.0), GuestAddress(last), rest)
}

fn map(ram: &GuestRam, file: &File, offset: u64, at: GuestAddress, length: u64) -> io::Result<()> {
    let bytes = usize::try_from(length).map_err(io::Error::other)?;
    let slice = ram.get_slice(at, bytes).map_err(io::Error::other)?;
    let host = slice.ptr_guard_mut();
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: the range is inside one mapping that `ram` owns and later unmaps as a whole, and
    // is page-aligned there because guest RAM is; nothing holds a Rust reference into guest
    // memory, whose contents may change at any time anyway.
    let mapped = unsafe {
        libc::mmap(
            host.as_ptr().cast(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn copy(ram: &GuestRam, file: &File, offset: u64, at: GuestAddress, length: u64) -> io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    let mut done = 0;
    while done < length {
        let left = usize::try_from(length - done).unwrap_or(usize::MAX);
        let take = left.min(piece.len());
        file.read_exact_at(&mut piece[..take], offset + done)?;
        ram.write_slice(&piece[..take], GuestAddress(at.0 + done))
            .map_err(io::Error::other)?;
        done += take as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const BASE: u64 = 0x10_0000;

    fn file(length: usize) -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..length)
            .map(|index| (index / 7).to_le_bytes()[0])
            .collect();
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&bytes).expect("room");
        (file, bytes)
    }

    fn check(offset: u64, at: u64, length: u64) {
        let (file, bytes) = file(0x9123);
        let ram = crate::memory::anonymous(4 << 20, &(0x4000_0000..0x5000_0000)).expect("4 MiB");
        ram.write_slice(&[0xee; 0x20000], GuestAddress(BASE - 0x2000))
            .expect("RAM");
        place(&ram, &file, offset, GuestAddress(at), length).expect("inside");
        let (from, count) = (
            usize::try_from(offset).expect("small"),
            usize::try_from(length).expect("small"),
        );
        let mut found = vec![0; count];
        ram.read_slice(&mut found, GuestAddress(at)).expect("RAM");
        assert!(
            found == bytes[from..from + count],
            "{offset:#x} {at:#x} {length:#x}"
        );
        let before: u8 = ram.read_obj(GuestAddress(at - 1)).expect("RAM");
        assert_eq!(before, 0xee, "nothing before it changes");
    }

    #[test]
    fn bytes_arrive_whatever_the_alignment() {
        for (offset, at, length) in [
            (0, BASE, 0x9123),
            (0, BASE, 0x9000),
            (0x1000, BASE, 0x2345),
            (0x1234, BASE + 0x234, 0x4321),
            (0x1234, BASE + 0x235, 0x4321),
            (0x1ff0, BASE + 0xff0, 0x20),
            (0x10, BASE + 0x10, 0x20),
            (0, BASE, 0),
        ] {
            check(offset, at, length);
        }
    }

    #[test]
    fn the_guest_never_writes_to_the_file() {
        let (file, bytes) = file(0x3000);
        let ram = crate::memory::anonymous(4 << 20, &(0x4000_0000..0x5000_0000)).expect("4 MiB");
        place(&ram, &file, 0, GuestAddress(BASE), 0x3000).expect("inside");
        ram.write_slice(&[0xff; 0x3000], GuestAddress(BASE))
            .expect("RAM");
        let mut after = vec![0; 0x3000];
        file.read_exact_at(&mut after, 0).expect("the whole file");
        assert!(after == bytes);
    }

    #[test]
    fn a_range_outside_memory_is_refused() {
        let (file, _) = file(0x9000);
        let ram = crate::memory::anonymous(0x10_4000, &(0x4000_0000..0x5000_0000)).expect("RAM");
        assert!(place(&ram, &file, 0, GuestAddress(BASE), 0x9000).is_err());
        assert!(place(&ram, &file, 0, GuestAddress(u64::MAX - 1), 0x9000).is_err());
    }
}
