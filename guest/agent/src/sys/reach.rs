// SPDX-License-Identifier: Apache-2.0
//! A connection to a service of this guest.

use super::{Fd, Result, call, descriptor, plain, word};

/// Connects to a TCP port of the loopback address (ip(7)).
pub fn connect_loopback(port: u16) -> Result<Fd> {
    let kind = word(libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
    let socket = descriptor(plain(libc::SYS_socket, [word(libc::AF_INET), kind, 0])?);
    // struct sockaddr_in: family, port and address, the last two as they travel.
    let [high, low] = port.to_be_bytes();
    let [family, zero] = 2u16.to_ne_bytes();
    let address = [
        family, zero, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
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
