// SPDX-License-Identifier: Apache-2.0
//! Pieces of guest memory that outlive a call: where the host reads or writes while the
//! guest runs on. Any thread. Never a Rust reference into them: the guest changes them at
//! will.
#![expect(
    unsafe_code,
    reason = "addresses of guest memory are kept beside what keeps it mapped"
)]

use super::GuestRam;
use super::transfer::MAX_VECTORS;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use vm_memory::{
    GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress, VolatileSlice,
};

/// Runs of guest memory, consumed from the front.
pub struct Pinned {
    /// What the addresses point into.
    _ram: GuestRam,
    vectors: Vec<libc::iovec>,
    first: usize,
    length: usize,
}

// SAFETY: the addresses point into mappings that `_ram` keeps, which is itself Send; they are
// handed to the kernel or copied through, and never become references.
unsafe impl Send for Pinned {}

impl Pinned {
    /// None if a slice is of other memory than `ram`.
    pub fn new(ram: &GuestRam, slices: &[VolatileSlice<'_>]) -> Option<Self> {
        let mut vectors = Vec::with_capacity(slices.len());
        let mut length = 0usize;
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            let start = slice.ptr_guard_mut().as_ptr();
            if !holds(ram, start.addr(), slice.len()) {
                return None;
            }
            length = length.checked_add(slice.len())?;
            vectors.push(libc::iovec {
                iov_base: start.cast(),
                iov_len: slice.len(),
            });
        }
        Some(Self {
            _ram: ram.clone(),
            vectors,
            first: 0,
            length,
        })
    }

    /// The first `count` bytes of what is left, once more.
    #[must_use]
    pub fn front(&self, count: usize) -> Self {
        let mut front = Self {
            _ram: self._ram.clone(),
            vectors: Vec::new(),
            first: 0,
            length: 0,
        };
        for vector in self.vectors() {
            let iov_len = vector.iov_len.min(count - front.length);
            front.length += iov_len;
            front.vectors.push(libc::iovec { iov_len, ..*vector });
            if front.length == count {
                break;
            }
        }
        front
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes bytes off the front, at most what is left.
    pub fn advance(&mut self, mut count: usize) {
        while let Some(vector) = self.vectors.get_mut(self.first) {
            let step = count.min(vector.iov_len);
            vector.iov_base = vector.iov_base.wrapping_byte_add(step);
            vector.iov_len -= step;
            self.length -= step;
            count -= step;
            if vector.iov_len > 0 {
                return;
            }
            self.first += 1;
        }
    }

    /// Leaves only the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        let mut left = count.min(self.length);
        self.length = left;
        for vector in self.vectors.iter_mut().skip(self.first) {
            vector.iov_len = vector.iov_len.min(left);
            left -= vector.iov_len;
        }
    }

    /// Copies bytes to the front and takes it off; returns how many there was room for.
    pub fn store(&mut self, data: &[u8]) -> usize {
        let mut rest = data;
        while let (Some(vector), false) = (self.vectors.get(self.first), rest.is_empty()) {
            let count = rest.len().min(vector.iov_len);
            let (now, later) = rest.split_at(count);
            // SAFETY: the vector is `iov_len` bytes of guest memory that `_ram` keeps mapped
            // and writable; `data` is memory of ours, which no guest memory overlaps.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), vector.iov_base.cast(), count) };
            rest = later;
            self.advance(count);
        }
        data.len() - rest.len()
    }

    /// Copies bytes from the front and takes it off; returns how many there were.
    pub fn load(&mut self, data: &mut [u8]) -> usize {
        let mut done = 0;
        while let (Some(vector), Some(room)) = (self.vectors.get(self.first), data.get_mut(done..))
        {
            let count = room.len().min(vector.iov_len);
            if count == 0 {
                break;
            }
            // SAFETY: as in `store`, the other way round.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    vector.iov_base.cast_const().cast(),
                    room.as_mut_ptr(),
                    count,
                );
            }
            done += count;
            self.advance(count);
        }
        done
    }

    /// Reads at most `most` bytes from a stream to the front and takes it off.
    pub fn read_from(&mut self, fd: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        let Some(first) = self.vectors().first() else {
            return Ok(0);
        };
        let whole = most >= self.length;
        // SAFETY: the vectors describe guest memory that `_ram` keeps mapped and writable;
        // nothing in this process holds a reference into it.
        let done = unsafe {
            if whole {
                libc::readv(fd.as_raw_fd(), self.vectors().as_ptr(), self.count())
            } else {
                libc::read(fd.as_raw_fd(), first.iov_base, first.iov_len.min(most))
            }
        };
        self.step(done)
    }

    /// Writes from the front to a stream and takes off what was written.
    pub fn write_to(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: as in `read_from`; the kernel only reads the memory.
        let done = unsafe { libc::writev(fd.as_raw_fd(), self.vectors().as_ptr(), self.count()) };
        self.step(done)
    }

    fn count(&self) -> libc::c_int {
        libc::c_int::try_from(self.vectors().len().min(MAX_VECTORS)).unwrap_or(0)
    }

    fn step(&mut self, done: isize) -> io::Result<usize> {
        let count = usize::try_from(done).map_err(|_| io::Error::last_os_error())?;
        self.advance(count);
        Ok(count)
    }

    /// What is left, as the kernel wants it. Stays where it is until the next change.
    pub(super) fn vectors(&self) -> &[libc::iovec] {
        self.vectors.get(self.first..).unwrap_or_default()
    }
}

fn holds(ram: &GuestRam, start: usize, length: usize) -> bool {
    let Some(end) = start.checked_add(length) else {
        return false;
    };
    ram.iter().any(|region| {
        let Ok(base) = region.get_host_address(MemoryRegionAddress(0)) else {
            return false;
        };
        let size = usize::try_from(region.len()).unwrap_or(0);
        start >= base.addr() && end <= base.addr().saturating_add(size)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes as _, GuestAddress};

    #[test]
    fn pieces_are_consumed_in_order_and_end() {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 0x2000)]).expect("memory");
        let slice = |at, length| ram.get_slice(GuestAddress(at), length).expect("inside");
        let pieces = [slice(0x10, 3), slice(0x100, 0), slice(0x1ffe, 2)];
        let mut pinned = Pinned::new(&ram, &pieces).expect("of this memory");
        assert_eq!((pinned.len(), pinned.vectors().len()), (5, 2));
        pinned.advance(1);
        let (mut front, whole) = (pinned.front(3), pinned.front(9));
        assert_eq!((front.len(), front.vectors().len()), (3, 2));
        assert_eq!((whole.len(), pinned.len()), (4, 4));
        assert_eq!(pinned.store(b"abcdef"), 4);
        assert_eq!(front.load(&mut [0; 8]), 3);
        assert!(pinned.is_empty() && pinned.vectors().is_empty());
        let mut seen = [0; 4];
        let mut pinned = Pinned::new(&ram, &pieces).expect("of this memory");
        pinned.truncate(4);
        pinned.advance(1);
        assert_eq!(pinned.load(&mut seen), 3);
        assert_eq!(&seen, b"abc\0");
        let byte: u8 = ram.read_obj(GuestAddress(0x1fff)).expect("inside");
        assert_eq!(byte, b'd');

        let other = GuestRam::from_ranges(&[(GuestAddress(0), 0x2000)]).expect("memory");
        assert!(Pinned::new(&other, &pieces).is_none(), "not its memory");
    }
}
