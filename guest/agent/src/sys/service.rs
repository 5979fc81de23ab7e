// SPDX-License-Identifier: Apache-2.0
//! What a small service of TCP needs, for the program that `husk bench` starts.

use super::{Fd, Result, call, descriptor, plain, word};
use core::ffi::c_int;

/// Connections that may wait to be taken.
const BACKLOG: usize = 128;

/// A socket that takes connections to a port of any address (ip(7)).
pub fn listen_tcp(port: u16) -> Result<Fd> {
    let kind = word(libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
    let socket = descriptor(plain(libc::SYS_socket, [word(libc::AF_INET), kind, 0])?);
    let yes: c_int = 1;
    let args = [
        word(socket.0),
        word(libc::SOL_SOCKET),
        word(libc::SO_REUSEADDR),
        (&raw const yes).expose_provenance(),
        size_of_val(&yes),
        0,
    ];
    // SAFETY: the kernel reads one int.
    unsafe { call(libc::SYS_setsockopt, args) }?;
    // struct sockaddr_in: family, port and address, the last two as they travel.
    let [high, low] = port.to_be_bytes();
    let [family, zero] = 2u16.to_ne_bytes();
    let address = [family, zero, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
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
    plain(libc::SYS_listen, [word(socket.0), BACKLOG, 0])?;
    Ok(socket)
}

/// Blocks these signals and returns a descriptor that is readable when one of them came.
pub fn watch_signals(signals: &[c_int]) -> Result<Fd> {
    let mask: u64 = signals
        .iter()
        .fold(0, |mask, signal| mask | 1 << (signal - 1));
    let pointer = (&raw const mask).expose_provenance();
    let args = [word(libc::SIG_BLOCK), pointer, 0, 8, 0, 0];
    // SAFETY: the kernel reads a mask of 8 bytes.
    unsafe { call(libc::SYS_rt_sigprocmask, args) }?;
    let args = [word(-1), pointer, 8, word(libc::SFD_CLOEXEC), 0, 0];
    // SAFETY: the kernel reads a mask of 8 bytes.
    unsafe { call(libc::SYS_signalfd4, args) }.map(descriptor)
}
