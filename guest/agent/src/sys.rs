// SPDX-License-Identifier: Apache-2.0
//! System calls without a C library, and the only unsafe code of the agent.
//!
//! The agent is single-threaded; nothing here blocks but what its name says. A C library
//! would be ten times the agent itself, and each of its pages costs a page fault at boot.
#![expect(unsafe_code, reason = "system calls and the process's entry point")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "x86-64 only, as the syscall instruction is: a usize holds any argument"
)]

mod clone;
mod files;
mod machine;
mod network;
mod reach;
#[cfg(feature = "load")]
mod service;
#[cfg(feature = "init")]
mod start;
#[cfg(feature = "load")]
mod work;

pub use clone::{Identity, Plan, Step, spawn};
pub use files::*;
pub use machine::*;
pub use network::*;
pub use reach::*;
#[cfg(feature = "load")]
pub use service::*;
#[cfg(feature = "load")]
pub use work::*;

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::arch::asm;
use core::ffi::{CStr, c_int, c_long};
use libc::pollfd;

/// The kernel's reason for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u16);

impl Errno {
    /// Whether this is the `libc` constant `code`.
    pub fn is(self, code: c_int) -> bool {
        c_int::from(self.0) == code
    }
}

pub type Result<T> = core::result::Result<T, Errno>;

/// An open descriptor, closed when dropped.
#[derive(Debug)]
pub struct Fd(c_int);

impl Fd {
    /// Takes over a descriptor this process was started with.
    pub fn inherited(number: c_int) -> Self {
        Self(number)
    }

    pub fn number(&self) -> c_int {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: close touches no memory, and `self` is the descriptor's only owner.
        let _ = unsafe { call(libc::SYS_close, [word(self.0), 0, 0, 0, 0, 0]) };
    }
}

/// A C int as the kernel's calling convention has it: sign-extended.
fn word(value: c_int) -> usize {
    (value as isize).cast_unsigned()
}

/// # Safety
/// The arguments must be what the call `number` asks for: pointers valid for what the
/// kernel reads or writes through them.
unsafe fn call(number: c_long, args: [usize; 6]) -> Result<usize> {
    let result: isize;
    // SAFETY: the kernel preserves all registers but rax, rcx and r11; memory is the
    // caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    match u16::try_from(result.wrapping_neg()) {
        Ok(errno @ 1..=4095) => Err(Errno(errno)),
        _ => Ok(result.cast_unsigned()),
    }
}

/// A call whose arguments are numbers only, so that it cannot touch this process's memory.
fn plain(number: c_long, args: [usize; 3]) -> Result<usize> {
    // SAFETY: used in this file for calls that take no pointers.
    unsafe { call(number, [args[0], args[1], args[2], 0, 0, 0]) }
}

fn descriptor(result: usize) -> Fd {
    Fd(c_int::try_from(result).unwrap_or(-1))
}

fn at(path: &CStr) -> usize {
    path.as_ptr().expose_provenance()
}

pub fn open(path: &CStr, flags: c_int, mode: u32) -> Result<Fd> {
    let flags = word(flags | libc::O_CLOEXEC);
    // SAFETY: a NUL-terminated path the kernel reads.
    unsafe { call(libc::SYS_open, [at(path), flags, mode as usize, 0, 0, 0]) }.map(descriptor)
}

pub fn read(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    let args = [
        word(fd.0),
        buffer.as_mut_ptr().expose_provenance(),
        buffer.len(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes at most `len` bytes into the buffer.
    unsafe { call(libc::SYS_read, args) }
}

pub fn write(fd: &Fd, bytes: &[u8]) -> Result<usize> {
    let args = [
        word(fd.0),
        bytes.as_ptr().expose_provenance(),
        bytes.len(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel reads at most `len` bytes of the slice.
    unsafe { call(libc::SYS_write, args) }
}

/// Receives what is there, without waiting; 0 is the end.
pub fn receive(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    let flags = word(libc::MSG_DONTWAIT);
    let args = [
        word(fd.0),
        buffer.as_mut_ptr().expose_provenance(),
        buffer.len(),
        flags,
        0,
        0,
    ];
    // SAFETY: the kernel writes at most `len` bytes into the buffer.
    unsafe { call(libc::SYS_recvfrom, args) }
}

/// Sends what fits, without waiting and without SIGPIPE.
pub fn send(fd: &Fd, bytes: &[u8]) -> Result<usize> {
    let flags = word(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    let args = [
        word(fd.0),
        bytes.as_ptr().expose_provenance(),
        bytes.len(),
        flags,
        0,
        0,
    ];
    // SAFETY: the kernel reads at most `len` bytes of the slice.
    unsafe { call(libc::SYS_sendto, args) }
}

/// A stream to a vsock port, once the other side accepted it.
pub fn connect_vsock(cid: u32, port: u32) -> Result<Fd> {
    let kind = word(libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
    let socket = descriptor(plain(libc::SYS_socket, [word(libc::AF_VSOCK), kind, 0])?);
    // The clock of a machine that is restored may leap while this waits: patience is counted by
    // the host. SO_VM_SOCKETS_CONNECT_TIMEOUT of linux/vm_sockets.h, seconds and microseconds.
    const CONNECT_TIMEOUT: usize = 6;
    let patience: [i64; 2] = [1_000_000_000, 0];
    let args = [
        word(socket.0),
        word(libc::AF_VSOCK),
        CONNECT_TIMEOUT,
        patience.as_ptr().expose_provenance(),
        size_of_val(&patience),
        0,
    ];
    // SAFETY: the kernel reads `size_of_val` bytes of the two words.
    unsafe { call(libc::SYS_setsockopt, args) }?;
    let address = vsock_address(cid, port);
    let args = [
        word(socket.0),
        address.as_ptr().expose_provenance(),
        address.len(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel reads `len` bytes of the address.
    unsafe { call(libc::SYS_connect, args) }?;
    Ok(socket)
}

/// A socket that takes connections of the host to a vsock port, without waiting.
pub fn listen_vsock(port: u32) -> Result<Fd> {
    let kind = word(libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
    let socket = descriptor(plain(libc::SYS_socket, [word(libc::AF_VSOCK), kind, 0])?);
    let address = vsock_address(u32::MAX, port);
    let args = [
        word(socket.0),
        address.as_ptr().expose_provenance(),
        address.len(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel reads `len` bytes of the address.
    unsafe { call(libc::SYS_bind, args) }?;
    plain(libc::SYS_listen, [word(socket.0), 64, 0])?;
    Ok(socket)
}

/// The next connection that waits on a listening vsock socket, and the context id of who
/// dialled.
pub fn accept(socket: &Fd) -> Result<(Fd, u32)> {
    let mut address = [0u8; 16];
    let mut length: u32 = 16;
    let args = [
        word(socket.0),
        address.as_mut_ptr().expose_provenance(),
        (&raw mut length).expose_provenance(),
        word(libc::SOCK_CLOEXEC),
        0,
        0,
    ];
    // SAFETY: the kernel writes at most `length` bytes of an address, and its length.
    let link = unsafe { call(libc::SYS_accept4, args) }.map(descriptor)?;
    let [.., a, b, c, d, _, _, _, _] = address;
    Ok((link, u32::from_ne_bytes([a, b, c, d])))
}

/// struct sockaddr_vm: family, reserved, port, cid, padding.
fn vsock_address(cid: u32, port: u32) -> [u8; 16] {
    let mut address = [0u8; 16];
    address[..2].copy_from_slice(&40u16.to_ne_bytes());
    address[4..8].copy_from_slice(&port.to_ne_bytes());
    address[8..12].copy_from_slice(&cid.to_ne_bytes());
    address
}

/// Waits until one of `fds` is ready, at most `timeout` milliseconds (-1: as long as it
/// takes). True if one is; an interrupted wait is nobody ready, but no silence either.
pub fn poll(fds: &mut [pollfd], timeout: c_int) -> Result<bool> {
    let pointer = fds.as_mut_ptr().expose_provenance();
    let args = [pointer, fds.len(), word(timeout), 0, 0, 0];
    // SAFETY: the kernel reads and writes `len` entries of the slice.
    let ready = unsafe { call(libc::SYS_poll, args) }?;
    Ok(ready > 0)
}

/// A pipe: its reading end, its writing end.
pub fn pipe() -> Result<(Fd, Fd)> {
    let mut ends: [c_int; 2] = [-1; 2];
    let args = [
        ends.as_mut_ptr().expose_provenance(),
        word(libc::O_CLOEXEC),
        0,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes two ints.
    unsafe { call(libc::SYS_pipe2, args) }?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// Makes reads and writes on a descriptor that is ours alone return at once.
pub fn set_nonblocking(fd: &Fd) -> Result<()> {
    let args = [word(fd.0), word(libc::F_SETFL), word(libc::O_NONBLOCK)];
    plain(libc::SYS_fcntl, args).map(drop)
}

/// Bytes that can be read at once.
pub fn readable(fd: &Fd) -> Result<usize> {
    let mut n: c_int = 0;
    let args = [
        word(fd.0),
        libc::FIONREAD as usize,
        (&raw mut n).expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: FIONREAD writes one int.
    unsafe { call(libc::SYS_ioctl, args) }?;
    Ok(usize::try_from(n).unwrap_or(0))
}

/// A new pseudo-terminal: the end we hold, and the end the process gets.
pub fn open_terminal(ptmx: &CStr) -> Result<(Fd, Fd)> {
    let ours = open(ptmx, libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK, 0)?;
    let locked: c_int = 0;
    let args = [
        word(ours.0),
        libc::TIOCSPTLCK as usize,
        (&raw const locked).expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: TIOCSPTLCK reads one int.
    unsafe { call(libc::SYS_ioctl, args) }?;
    let flags = word(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
    let theirs = plain(
        libc::SYS_ioctl,
        [word(ours.0), libc::TIOCGPTPEER as usize, flags],
    )?;
    Ok((ours, descriptor(theirs)))
}

pub fn set_window_size(terminal: &Fd, columns: u16, rows: u16) -> Result<()> {
    // struct winsize: rows, columns, and two sizes in pixels nobody fills.
    let size = [rows, columns, 0, 0];
    let args = [
        word(terminal.0),
        libc::TIOCSWINSZ as usize,
        size.as_ptr().expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: TIOCSWINSZ reads four 16-bit words.
    unsafe { call(libc::SYS_ioctl, args) }.map(drop)
}

/// Owner of an open file; `gid` stays.
pub fn set_owner(fd: &Fd, uid: u32) -> Result<()> {
    plain(libc::SYS_fchown, [word(fd.0), uid as usize, word(-1)]).map(drop)
}

/// Blocks every signal and returns a descriptor that is readable when a child ended.
pub fn watch_children() -> Result<Fd> {
    let all = u64::MAX;
    let args = [
        word(libc::SIG_SETMASK),
        (&raw const all).expose_provenance(),
        0,
        8,
        0,
        0,
    ];
    // SAFETY: the kernel reads a mask of 8 bytes.
    unsafe { call(libc::SYS_rt_sigprocmask, args) }?;
    let child = 1u64 << (libc::SIGCHLD - 1);
    let flags = word(libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
    let args = [
        word(-1),
        (&raw const child).expose_provenance(),
        8,
        flags,
        0,
        0,
    ];
    // SAFETY: the kernel reads a mask of 8 bytes.
    unsafe { call(libc::SYS_signalfd4, args) }.map(descriptor)
}

/// One child that ended, with its wait status; `None` if there is none now.
pub fn reap() -> Option<(u32, c_int)> {
    let mut status: c_int = 0;
    let args = [
        word(-1),
        (&raw mut status).expose_provenance(),
        word(libc::WNOHANG),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes one int.
    match unsafe { call(libc::SYS_wait4, args) } {
        Ok(pid) if pid > 0 => Some((u32::try_from(pid).ok()?, status)),
        _ => None,
    }
}

/// Sends a signal to a process, or with a negative `pid` to a group, or with -1 to all.
pub fn kill(pid: i32, signal: u8) -> Result<()> {
    plain(libc::SYS_kill, [word(pid), signal.into(), 0]).map(drop)
}

/// The process group of a process; 0 of those that are the kernel's own.
pub fn group_of(pid: i32) -> Result<usize> {
    plain(libc::SYS_getpgid, [word(pid), 0, 0])
}

pub fn own_pid() -> usize {
    plain(libc::SYS_getpid, [0; 3]).unwrap_or(0)
}

/// Makes orphans below this process its children, as PID 1 has them without asking.
pub fn adopt_orphans() -> Result<()> {
    let option = word(libc::PR_SET_CHILD_SUBREAPER);
    plain(libc::SYS_prctl, [option, 1, 0]).map(drop)
}

pub fn exit(code: u8) -> ! {
    loop {
        let _ = plain(libc::SYS_exit_group, [code.into(), 0, 0]);
    }
}

/// At most `limit` bytes of a file, never waiting for more.
pub fn read_file(path: &CStr, limit: usize) -> Result<Vec<u8>> {
    let file = open(path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0)?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    while bytes.len() < limit {
        let n = read(&file, &mut chunk)?;
        if n == 0 {
            break;
        }
        bytes.extend_from_slice(&chunk[..n]);
    }
    bytes.truncate(limit);
    Ok(bytes)
}

/// Replaces a file's content.
pub fn write_file(path: &CStr, bytes: &[u8]) -> Result<()> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NOCTTY;
    write(&open(path, flags, 0o644)?, bytes).map(drop)
}

/// Bytes up to the first NUL as a C string.
pub fn c_string(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    CString::new(bytes.get(..end).unwrap_or_default()).unwrap_or_default()
}

/// One line to the kernel's log, which the console shows.
pub fn log(line: core::fmt::Arguments<'_>) {
    let text = alloc::format!("<2>husk-agent: {line}\n");
    if let Ok(log) = open(c"/dev/kmsg", libc::O_WRONLY, 0) {
        let _ = write(&log, text.as_bytes());
    }
}
