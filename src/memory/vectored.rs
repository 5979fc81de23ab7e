// SPDX-License-Identifier: Apache-2.0
//! System calls that read into guest memory, or write out of it, without a copy between.
//!
//! Any thread. The kernel checks the host addresses; these functions see to it that they
//! are addresses of guest memory and of nothing else.
#![expect(
    unsafe_code,
    reason = "the kernel is handed raw addresses of guest memory, which no safe wrapper takes"
)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use vm_memory::VolatileSlice;

/// Slices per system call; the kernel takes no more than 1024 (UIO_MAXIOV). Bounds the
/// stack a guest can make us use.
const MAX_SLICES: usize = 64;

type Vectors = [libc::iovec; MAX_SLICES];

/// Reads from where the descriptor stands: a socket, a pipe.
pub fn read(fd: BorrowedFd<'_>, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (vectors, count) = vectors(slices);
    // SAFETY: the first `count` vectors describe live guest memory (see `vectors`). The guest
    // may change it meanwhile, but nothing in this process holds a reference into it.
    done(|| unsafe { libc::readv(fd.as_raw_fd(), vectors.as_ptr(), count) })
}

/// Writes to where the descriptor stands. A peer that is gone is an error, not a signal:
/// the process ignores SIGPIPE, as every Rust program does.
pub fn write(fd: BorrowedFd<'_>, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (vectors, count) = vectors(slices);
    // SAFETY: as in `read`; the kernel only reads the memory.
    done(|| unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), count) })
}

/// Reads from a place in a file.
pub fn read_at(fd: BorrowedFd<'_>, slices: &[VolatileSlice<'_>], offset: i64) -> io::Result<usize> {
    let (vectors, count) = vectors(slices);
    // SAFETY: as in `read`.
    done(|| unsafe { libc::preadv(fd.as_raw_fd(), vectors.as_ptr(), count, offset) })
}

/// Writes to a place in a file.
pub fn write_at(
    fd: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    offset: i64,
) -> io::Result<usize> {
    let (vectors, count) = vectors(slices);
    // SAFETY: as in `write`.
    done(|| unsafe { libc::pwritev(fd.as_raw_fd(), vectors.as_ptr(), count, offset) })
}

/// Fills a slice, or as much of it as the kernel gives at once, with random bytes.
pub fn random(slice: &VolatileSlice<'_>) -> io::Result<usize> {
    let guard = slice.ptr_guard_mut();
    // SAFETY: the guard keeps `len` bytes of guest memory valid for writes, and nothing in
    // this process holds a reference into them.
    done(|| unsafe { libc::getrandom(guard.as_ptr().cast(), guard.len(), 0) })
}

/// The slices as the kernel wants them. `VolatileSlice` promises that its bytes stay mapped,
/// readable and writable, for its lifetime, which outlasts the call that follows. (Its
/// pointer guard matters on Xen only, where mappings come and go.)
fn vectors(slices: &[VolatileSlice<'_>]) -> (Vectors, libc::c_int) {
    let empty = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let mut vectors = [empty; MAX_SLICES];
    let mut count = 0;
    for (vector, slice) in vectors.iter_mut().zip(slices) {
        *vector = libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        };
        count += 1;
    }
    (vectors, count)
}

fn done(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestRam;
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::fd::AsFd as _;
    use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};

    #[test]
    fn bytes_go_between_files_and_scattered_guest_memory() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x4000)]).expect("memory");
        let slice = |at, length| memory.get_slice(GuestAddress(at), length).expect("inside");
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"0123456789").expect("room");

        let slices = [slice(0x3000, 3), slice(0x10, 4)];
        assert_eq!(read_at(file.as_fd(), &slices, 2).expect("read"), 7);
        let mut seen = [0; 4];
        memory
            .read_slice(&mut seen, GuestAddress(0x10))
            .expect("in");
        assert_eq!(&seen, b"5678");

        assert_eq!(write_at(file.as_fd(), &slices[1..], 0).expect("write"), 4);
        file.rewind().expect("file");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("text");
        assert_eq!(text, "5678456789");
    }

    #[test]
    fn random_bytes_fill_the_slice() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).expect("memory");
        let slice = memory.get_slice(GuestAddress(8), 64).expect("inside");
        assert_eq!(random(&slice).expect("entropy"), 64);
        let mut seen = [0; 80];
        memory.read_slice(&mut seen, GuestAddress(0)).expect("in");
        assert_ne!(seen[8..72], [0; 64]);
        assert_eq!(seen[..8], [0; 8]);
        assert_eq!(seen[72..], [0; 8]);
    }
}
