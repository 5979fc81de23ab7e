// SPDX-License-Identifier: Apache-2.0
//! Descriptors this process was started with, taken over by number.
#![expect(unsafe_code, reason = "a number becomes an owned descriptor")]

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Another descriptor of what is open under this number; closed at execve.
pub fn another(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only borrowed for the call, which fails with EBADF if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned()
}

/// Takes over inherited descriptors, each once. Exists once in a process, on the main
/// thread, before anything else opens a descriptor that could be taken for one of these.
#[derive(Debug, Default)]
pub struct Inherited {
    taken: BTreeSet<RawFd>,
    /// What came in a message, by the numbers it had where it came from.
    received: BTreeMap<RawFd, OwnedFd>,
}

impl Inherited {
    /// Notes descriptors that came in a message, under the numbers by which that speaks of
    /// them. They take the place of what was inherited.
    pub fn receive(&mut self, numbers: Vec<RawFd>, fds: Vec<OwnedFd>) {
        self.received.extend(numbers.into_iter().zip(fds));
    }

    /// The open descriptor `fd`, closed at execve from now on. The standard streams cannot be
    /// taken.
    pub fn take(&mut self, fd: RawFd) -> io::Result<OwnedFd> {
        if let Some(own) = self.received.remove(&fd) {
            return Ok(own);
        }
        if fd <= libc::STDERR_FILENO || !self.taken.insert(fd) {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: only borrowed for the call, which fails with EBADF if it is not open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        // SAFETY: it is open, was inherited and so belongs to no object of this process, and
        // `taken` sees to it that it is handed out once.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}
