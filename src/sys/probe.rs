// SPDX-License-Identifier: Apache-2.0
//! Does this kernel let this user do that? Each probe asks by trying.
//!
//! Called on the main thread of the tool while it is the only thread: some probes fork.
//! A probe must leave nothing behind: no descriptor, no namespace, no process.
#![expect(unsafe_code, reason = "system calls that libc does not wrap, and fork")]

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// Namespaces of a jail beside the user namespace that grants the right to make them.
const JAIL_NAMESPACES: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC;

/// May this user create a user namespace?
pub fn user_namespace() -> Result<(), Errno> {
    in_child(|| {
        // SAFETY: takes flags only.
        match unsafe { libc::unshare(libc::CLONE_NEWUSER) } {
            0 => 0,
            _ => Errno::last_raw(),
        }
    })
}

/// May this user, inside a new user namespace, create the jail's other namespaces and
/// mount in them? A distribution that confines unprivileged namespaces (AppArmor) lets
/// the first step pass and refuses here.
pub fn jail_namespaces() -> Result<(), Errno> {
    in_child(|| {
        // SAFETY: both take flags only.
        let made = unsafe {
            libc::unshare(libc::CLONE_NEWUSER) == 0 && libc::unshare(JAIL_NAMESPACES) == 0
        };
        if !made {
            return Errno::last_raw();
        }
        // SAFETY: the path is a NUL-terminated constant; a change of propagation ignores
        // the null source, type and data (mount(2)).
        let mounted = unsafe {
            libc::mount(
                std::ptr::null(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            )
        };
        match mounted {
            0 => 0,
            _ => Errno::last_raw(),
        }
    })
}

/// The kernel's Landlock ABI version.
pub fn landlock_abi() -> Result<u32, Errno> {
    /// LANDLOCK_CREATE_RULESET_VERSION of linux/landlock.h.
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel requires a null attribute of size 0 and reads no
    // memory (landlock_create_ruleset(2)).
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            VERSION,
        )
    };
    Errno::result(abi).map(|abi| u32::try_from(abi).unwrap_or(0))
}

/// Does seccomp know the action that kills the process?
pub fn seccomp_filters() -> Result<(), Errno> {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel reads one u32 behind the pointer, which outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    Errno::result(answer).map(drop)
}

/// May this user handle faults of its own user-mode accesses and of the kernel's, as
/// serving a guest's memory lazily needs?
pub fn userfaultfd() -> Result<(), Errno> {
    // SAFETY: takes flags only.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    close_new(fd)
}

/// May this user create an io_uring?
pub fn io_uring() -> Result<(), Errno> {
    /// sizeof(struct io_uring_params) in linux/io_uring.h, in 8-byte words.
    const PARAMS_WORDS: usize = 15;
    let mut params = [0u64; PARAMS_WORDS];
    // SAFETY: the kernel reads and writes one struct of exactly this size, for which all
    // zeroes is a valid request (io_uring_setup(2)).
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    close_new(fd)
}

fn close_new(answer: libc::c_long) -> Result<(), Errno> {
    let fd = Errno::result(answer)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call that just succeeded made this descriptor, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// Runs `probe` in a forked child; zero or the errno it returns becomes the result.
fn in_child(probe: fn() -> libc::c_int) -> Result<(), Errno> {
    // SAFETY: the child only makes system calls and `_exit`s: no allocation, no lock, no
    // destructor of the parent's runs in it, which is sound even beside other threads.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(Errno::last()),
        0 => {
            let code = probe();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) }
        }
        pid => loop {
            match waitpid(Pid::from_raw(pid), None) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
                Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
                Ok(WaitStatus::Exited(_, code)) => return Err(Errno::from_raw(code)),
                // A filter that kills instead of refusing.
                Ok(_) => return Err(Errno::EPERM),
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_errno_comes_back() {
        assert_eq!(in_child(|| 0), Ok(()));
        assert_eq!(in_child(|| libc::ENOSPC), Err(Errno::ENOSPC));
        assert_eq!(
            in_child(|| {
                // SAFETY: a signal to the calling process itself.
                unsafe { libc::raise(libc::SIGKILL) };
                0
            }),
            Err(Errno::EPERM),
        );
    }

    #[test]
    fn probes_leave_no_descriptor_behind() {
        let open = || std::fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
        let before = open();
        for _ in 0..64 {
            let _ = userfaultfd();
            let _ = io_uring();
        }
        // Other tests of this process open a few descriptors meanwhile, not a hundred.
        assert!(open() < before.map(|count| count + 32));
    }

    #[test]
    fn namespaces_are_tried_in_a_process_of_their_own() {
        // A process of several threads, such as this one, gets EINVAL (unshare(2)).
        assert_ne!(user_namespace(), Err(Errno::EINVAL));
        assert_ne!(jail_namespaces(), Err(Errno::EINVAL));
    }
}
