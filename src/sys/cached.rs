// SPDX-License-Identifier: Apache-2.0
//! How much of a file is in the page cache. Any thread; reads nothing of the file.
#![expect(unsafe_code, reason = "cachestat, and mincore where that is not there")]

use nix::errno::Errno;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd as _;

/// cachestat(2), since Linux 6.5; the same number on every architecture.
const CACHESTAT: libc::c_long = 451;
/// Of all page caches: pages of files on x86-64 are of this size.
const PAGE: u64 = 4096;
/// Of a file that is looked at at once: what the answer takes is a 4096th of it.
const WINDOW: u64 = 1 << 30;

/// Bytes of `file` that are in the page cache.
pub fn cached(file: &File) -> Result<u64, Errno> {
    match by_cachestat(file) {
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EOPNOTSUPP) => by_mincore(file),
        other => other,
    }
}

fn by_cachestat(file: &File) -> Result<u64, Errno> {
    // struct cachestat_range: from the beginning, length 0 for all of it.
    let range = [0u64; 2];
    // struct cachestat: pages in the cache, dirty, under way, evicted, recently evicted.
    let mut pages = [0u64; 5];
    // SAFETY: the kernel reads the one structure and writes the other, both as long as it
    // knows them (linux/mman.h).
    let answer = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_raw_fd(),
            range.as_ptr(),
            pages.as_mut_ptr(),
            0,
        )
    };
    Errno::result(answer)?;
    Ok(pages[0] * PAGE)
}

fn by_mincore(file: &File) -> Result<u64, Errno> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
    let length = file.metadata().map_err(|_| Errno::EIO)?.len();
    let mut pages = 0u64;
    let mut at = 0;
    while at < length {
        let part = (length - at).min(WINDOW);
        let size = usize::try_from(part).map_err(|_| Errno::EOVERFLOW)?;
        let size = NonZeroUsize::new(size).ok_or(Errno::EINVAL)?;
        let offset = libc::off_t::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
        let (none, private) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choosing touches no other, and
        // this one is never read.
        let start = unsafe { mmap(None, size, none, private, file, offset) }?;
        let mut present = vec![0u8; size.get().div_ceil(4096)];
        // SAFETY: the mapping just made, and a byte for each of its pages.
        let answer = unsafe { libc::mincore(start.as_ptr(), size.get(), present.as_mut_ptr()) };
        let seen = Errno::result(answer);
        // SAFETY: the mapping just made, into which nothing points.
        unsafe { munmap(start, size.get()) }?;
        seen?;
        let here = present.iter().filter(|page| **page & 1 == 1).count();
        pages += u64::try_from(here).unwrap_or(u64::MAX);
        at += part;
    }
    Ok(pages * PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_just_written_is_in_the_cache_by_either_count() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(by_mincore(&file), Ok(0));
        file.write_all(&[1; 10 * 4096 + 1]).unwrap();
        assert_eq!(cached(&file), Ok(11 * PAGE));
        assert_eq!(by_mincore(&file), Ok(11 * PAGE));
    }

    #[test]
    fn what_was_never_read_is_not() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        assert_eq!(cached(&file), Ok(0));
        assert_eq!(by_mincore(&file), Ok(0));
    }
}
