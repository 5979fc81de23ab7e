// SPDX-License-Identifier: Apache-2.0
//! Calls that only the work loads of `husk bench` make: processes that come and go, files at an
//! offset, fresh memory, and the clock they are timed by.

use super::{Errno, Fd, Result, at, call, descriptor, plain, word};
use core::ffi::{CStr, c_int};
use core::ptr;
use libc::timespec;

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn monotonic() -> u64 {
    let mut now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let pointer = (&raw mut now).expose_provenance();
    let args = [word(libc::CLOCK_MONOTONIC), pointer, 0, 0, 0, 0];
    // SAFETY: the kernel writes one timespec.
    let _ = unsafe { call(libc::SYS_clock_gettime, args) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Whose child this process is: next to nothing but the way into the kernel and back.
pub fn parent_pid() -> usize {
    plain(libc::SYS_getppid, [0; 3]).unwrap_or(0)
}

/// A child that does as told and ends; it does not outlive this process.
pub fn fork(work: impl FnOnce() -> u8) -> Result<i32> {
    // There is one thread, so the child may do whatever this process may.
    match plain(libc::SYS_fork, [0; 3])? {
        0 => {
            let (option, signal) = (word(libc::PR_SET_PDEATHSIG), word(libc::SIGKILL));
            let _ = plain(libc::SYS_prctl, [option, signal, 0]);
            super::exit(work())
        }
        pid => Ok(pid as i32),
    }
}

/// Waits for a child's end: the raw status.
pub fn wait_for(pid: i32) -> Result<c_int> {
    let mut status: c_int = 0;
    let pointer = (&raw mut status).expose_provenance();
    loop {
        // SAFETY: the kernel writes one int.
        match unsafe { call(libc::SYS_wait4, [word(pid), pointer, 0, 0, 0, 0]) } {
            Err(errno) if errno.is(libc::EINTR) => {}
            other => return other.map(|_| status),
        }
    }
}

/// Becomes the program at `path`, with two words and no environment; returns why it did not.
pub fn become_program(path: &CStr, argument: &CStr) -> Errno {
    let argv = [path.as_ptr(), argument.as_ptr(), ptr::null()];
    let environment: [*const core::ffi::c_char; 1] = [ptr::null()];
    let args = [
        at(path),
        argv.as_ptr().expose_provenance(),
        environment.as_ptr().expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel reads a path and two lists of strings that end with null.
    match unsafe { call(libc::SYS_execve, args) } {
        Err(errno) => errno,
        Ok(_) => Errno(0),
    }
}

pub fn write_at(file: &Fd, bytes: &[u8], offset: u64) -> Result<usize> {
    let pointer = bytes.as_ptr().expose_provenance();
    let args = [word(file.0), pointer, bytes.len(), offset as usize, 0, 0];
    // SAFETY: the kernel reads at most `len` bytes of the slice.
    unsafe { call(libc::SYS_pwrite64, args) }
}

pub fn read_at(file: &Fd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let pointer = buffer.as_mut_ptr().expose_provenance();
    let args = [word(file.0), pointer, buffer.len(), offset as usize, 0, 0];
    // SAFETY: the kernel writes at most `len` bytes into the buffer.
    unsafe { call(libc::SYS_pread64, args) }
}

/// Waits until what was written is durable, as far as the file system promises that.
pub fn make_durable(file: &Fd) -> Result<()> {
    plain(libc::SYS_fdatasync, [word(file.0), 0, 0]).map(drop)
}

/// What kind of file system a file is on, by its number (statfs(2)).
pub fn file_system(file: &Fd) -> Result<u64> {
    /// sizeof(struct statfs), in words; the first is the kind.
    const WORDS: usize = 15;
    let mut facts = [0u64; WORDS];
    let pointer = facts.as_mut_ptr().expose_provenance();
    // SAFETY: the kernel writes one struct statfs, 120 bytes.
    unsafe { call(libc::SYS_fstatfs, [word(file.0), pointer, 0, 0, 0, 0]) }?;
    Ok(facts[0])
}

/// The port a TCP socket of ours listens at.
pub fn own_port(socket: &Fd) -> Result<u16> {
    let mut address = [0u8; 16];
    let mut length: u32 = 16;
    let args = [
        word(socket.0),
        address.as_mut_ptr().expose_provenance(),
        (&raw mut length).expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes at most `length` bytes of an address, and its length.
    unsafe { call(libc::SYS_getsockname, args) }?;
    Ok(u16::from_be_bytes([address[2], address[3]]))
}

/// The next connection to a socket that waits for one.
pub fn accept_waiting(socket: &Fd) -> Result<Fd> {
    let flags = word(libc::SOCK_CLOEXEC);
    // SAFETY: no address is asked for.
    unsafe { call(libc::SYS_accept4, [word(socket.0), 0, 0, flags, 0, 0]) }.map(descriptor)
}

/// Maps so many fresh pages, writes to each and gives them back: the nanoseconds of the writes.
pub fn touch_fresh(pages: usize) -> Result<u64> {
    const PAGE: usize = 4096;
    let length = pages * PAGE;
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    let args = [0, length, protection, flags, usize::MAX, 0];
    // SAFETY: an anonymous mapping at an address of the kernel's choice disturbs nothing.
    let address = unsafe { call(libc::SYS_mmap, args) }?;
    let small = word(libc::MADV_NOHUGEPAGE);
    // SAFETY: advice about the mapping just made.
    let _ = unsafe { call(libc::SYS_madvise, [address, length, small, 0, 0, 0]) };
    let memory: *mut u8 = ptr::with_exposed_provenance_mut(address);
    let start = monotonic();
    for at in (0..length).step_by(PAGE) {
        // SAFETY: inside the mapping, which nothing else knows; volatile, since the fault is
        // what is wanted.
        unsafe { memory.add(at).write_volatile(1) };
    }
    let took = monotonic() - start;
    // SAFETY: the mapping just made, which nothing points into any more.
    unsafe { call(libc::SYS_munmap, [address, length, 0, 0, 0, 0]) }?;
    Ok(took)
}
