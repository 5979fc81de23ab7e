// SPDX-License-Identifier: Apache-2.0
//! A copy of this process that reads what its memory was, while this one goes on and changes
//! its own (fork(2)). Only `memory` starts one: what it does there must neither allocate nor
//! wait for a lock, which a thread that was not copied may have held.
#![expect(unsafe_code, reason = "fork, and what a child may do without exec")]

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// A copy at work. Dropping it ends and reaps it.
#[derive(Debug)]
pub struct Twin {
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Twin {
    /// Starts one that does `work` and ends with its errno, or zero. Of the descriptors it keeps
    /// `keep` alone: else this process's sockets and locks would outlive it.
    ///
    /// # Safety
    /// `work` makes system calls and reads memory, and does nothing else: it allocates nothing,
    /// takes no lock and does not panic.
    pub unsafe fn start(keep: BorrowedFd<'_>, work: impl FnOnce() -> i32) -> io::Result<Self> {
        let keep = keep.as_raw_fd();
        // SAFETY: no argument; it cannot fail.
        let parent = unsafe { libc::getpid() };
        let mut pidfd: RawFd = -1;
        // SAFETY: all-zero is a valid clone_args, a plain structure of integers.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = u64::from(libc::CLONE_PIDFD.cast_unsigned());
        args.pidfd = (&raw mut pidfd).addr() as u64;
        args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
        // SAFETY: clone3 without CLONE_VM is a fork: the child has a copy of this memory, and
        // `args` outlives the call. `pidfd` is written by the kernel in the parent's copy.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw mut args,
                size_of::<libc::clone_args>(),
            )
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if pid == 0 {
            // SAFETY: system calls with plain numbers, and `work`, of which the caller says that
            // it may run here. Nothing returns from here into what the parent was doing.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::getppid() != parent {
                    // It died before it could be told that its copy is to die with it.
                    libc::_exit(libc::ESRCH);
                }
                close_all_but(keep);
                libc::_exit(work())
            }
        }
        Ok(Self {
            pid: Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?),
            // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
            reaped: false,
        })
    }

    /// Readable once it ended.
    pub fn fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }

    /// Whether `finish` would not have to wait.
    pub fn is_over(&self) -> bool {
        let mut list = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut list, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Waits for it to end.
    pub fn finish(mut self) -> io::Result<()> {
        self.reaped = true;
        loop {
            match waitpid(self.pid, None) {
                Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
                Ok(WaitStatus::Exited(_, errno)) => {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                Ok(WaitStatus::Signaled(..)) => return Err(io::ErrorKind::Interrupted.into()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        if !self.reaped {
            let kill = rustix::process::Signal::KILL;
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, kill);
            while waitpid(self.pid, None) == Err(Errno::EINTR) {}
        }
    }
}

/// # Safety
/// In a process whose other descriptors nobody will use again.
unsafe fn close_all_but(keep: RawFd) {
    let close = |from: RawFd, to: RawFd| {
        if from <= to {
            // SAFETY: numbers only; the caller says that nobody uses what is closed.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    };
    close(0, keep - 1);
    close(keep + 1, RawFd::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn it_sees_what_was_while_this_process_goes_on() {
        static VALUE: AtomicU64 = AtomicU64::new(7);
        let file = tempfile::tempfile().expect("a file");
        let work = || {
            let bytes = VALUE.load(Ordering::SeqCst).to_ne_bytes();
            file.write_all_at(&bytes, 0).map_or(libc::EIO, |()| 0)
        };
        // SAFETY: it reads an integer and makes one call.
        let twin = unsafe { Twin::start(file.as_fd(), work) }.expect("a copy");
        VALUE.store(8, Ordering::SeqCst);
        twin.finish().expect("written");
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 0).expect("eight bytes");
        assert_eq!(u64::from_ne_bytes(bytes), 7);
    }

    #[test]
    fn what_went_wrong_in_it_is_told_and_it_holds_nothing_else_open() {
        let keep = tempfile::tempfile().expect("a file");
        let other = tempfile::tempfile().expect("a file");
        let work = || match other.write_all_at(b"x", 0) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(0),
        };
        // SAFETY: it makes one call.
        let twin = unsafe { Twin::start(keep.as_fd(), work) }.expect("a copy");
        let error = twin.finish().expect_err("closed");
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn one_that_is_dropped_is_gone() {
        let keep = tempfile::tempfile().expect("a file");
        let work = || loop {
            // SAFETY: no argument.
            unsafe { libc::pause() };
        };
        // SAFETY: it makes one call, again and again.
        let twin = unsafe { Twin::start(keep.as_fd(), work) }.expect("a copy");
        let pid = twin.pid;
        drop(twin);
        assert_eq!(nix::sys::signal::kill(pid, None), Err(Errno::ESRCH));
    }
}
