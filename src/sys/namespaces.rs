// SPDX-License-Identifier: Apache-2.0
//! Starts this program again, as a process that is born into namespaces of its own.
//!
//! A PID namespace takes effect for children only, so `unshare` in the new process
//! would cost a second one that stays behind: clone3(2) with the namespace flags does
//! it in one. The child runs no Rust code that allocates or locks, only system calls.
#![expect(unsafe_code, reason = "clone3 and what a child may do before execve")]

use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// What the new process is to be.
pub struct Birth<'a> {
    /// This program, opened with O_PATH or for reading.
    pub program: &'a OwnedFd,
    pub arguments: &'a [CString],
    /// Descriptors that stay open across execve, by their present numbers, all above 2: the
    /// standard streams of the child are /dev/null. Every other descriptor is closed.
    pub keep: &'a [RawFd],
    /// User, mount, PID, network, IPC and UTS namespaces of its own.
    pub namespaces: bool,
    /// Every id there is means the same in them; for root only, and for a process that is to
    /// act on files of many owners. Else there is the caller's own, as root.
    pub all_ids: bool,
    /// All but the network's: a process that speaks for a guest.
    pub host_network: bool,
}

/// A running child.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// Exit code of a child that could not execute the program.
const CANNOT_EXECUTE: i32 = 126;
/// The unprivileged user and group a root-started process becomes: `nobody` by number.
const NOBODY: u32 = 65534;

/// Starts the child. In namespaces of its own it is root there and nobody's root outside:
/// id 0 inside is the caller's own id, and when that is root, id 1 inside is `nobody`,
/// for the jail to change to.
pub fn spawn(birth: &Birth) -> io::Result<Child> {
    let mut arguments: Vec<*const libc::c_char> =
        birth.arguments.iter().map(|arg| arg.as_ptr()).collect();
    arguments.push(ptr::null());
    let (gate_read, gate_write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut pidfd: RawFd = -1;
    let namespaces = match (birth.namespaces, birth.host_network) {
        (true, false) => NAMESPACES,
        (true, true) => NAMESPACES & !libc::CLONE_NEWNET,
        (false, _) => 0,
    };
    let flags = libc::CLONE_PIDFD | namespaces;

    // SAFETY: all-zero is a valid clone_args, a plain structure of integers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(flags.cast_unsigned());
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
        // SAFETY: this is the child of a fork; `child` makes only async-signal-safe calls and
        // never returns, and every pointer was made before the fork.
        unsafe {
            libc::close(gate_write.as_raw_fd());
            child(
                gate_read.as_raw_fd(),
                null.as_raw_fd(),
                birth.program.as_raw_fd(),
                &arguments,
                birth.keep,
            )
        }
    }
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    drop(gate_read);
    let born = Child { pid, pidfd };
    if birth.namespaces
        && let Err(error) = map_ids(pid, birth.all_ids)
    {
        // Closing the gate unused ends the child; it is reaped so that nothing is left.
        drop(gate_write);
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        return Err(error);
    }
    File::from(gate_write).write_all(b"g")?;
    Ok(born)
}

/// Gives the child's user namespace its identities; it waits for this.
fn map_ids(pid: i32, all: bool) -> io::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let write = |name: &str, text: &str| std::fs::write(format!("/proc/{pid}/{name}"), text);
    if all {
        // All that this process's own namespace has; that may not be all there is.
        for name in ["uid_map", "gid_map"] {
            let known = std::fs::read_to_string(format!("/proc/self/{name}"))?;
            let same = |line: &str| {
                let mut words = line.split_whitespace();
                let (inside, _, count) = (words.next()?, words.next()?, words.next()?);
                Some(format!("{inside} {inside} {count}\n"))
            };
            write(name, &known.lines().filter_map(same).collect::<String>())?;
        }
        return Ok(());
    }
    let map = |name: &str, own: u32| {
        let own = format!("0 {own} 1\n");
        // Root of a user namespace that has no `nobody` is refused the second line; then it
        // is like any other user, which may map itself (user_namespaces(7)).
        if uid.is_root() && write(name, &format!("{own}1 {NOBODY} 1\n")).is_ok() {
            return Ok(());
        }
        write(name, &own)
    };
    map("uid_map", uid.as_raw())?;
    write("setgroups", "deny")?;
    map("gid_map", gid.as_raw())
}

/// # Safety
/// Only in the child of a fork, with pointers made before it. Async-signal-safe calls only.
unsafe fn child(
    gate: RawFd,
    null: RawFd,
    program: RawFd,
    arguments: &[*const libc::c_char],
    keep: &[RawFd],
) -> ! {
    const EMPTY: &CStr = c"";
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    let mut byte = 0u8;
    // SAFETY: plain system calls on descriptors and memory this process owns.
    unsafe {
        loop {
            match libc::read(gate, (&raw mut byte).cast(), 1) {
                1 => break,
                -1 if Errno::last_raw() == libc::EINTR => {}
                _ => libc::_exit(CANNOT_EXECUTE),
            }
        }
        // A session of its own: the terminal's Ctrl-C is for the process that was typed.
        libc::setsid();
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        for stream in 0..3 {
            libc::dup2(null, stream);
        }
        // Linux 5.11; the descriptors of an older kernel's child stay as their flags say.
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        for &fd in keep {
            libc::fcntl(fd, libc::F_SETFD, 0);
        }
        libc::syscall(
            libc::SYS_execveat,
            program,
            EMPTY.as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        libc::_exit(CANNOT_EXECUTE)
    }
}
