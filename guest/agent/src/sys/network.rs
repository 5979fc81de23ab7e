// SPDX-License-Identifier: Apache-2.0
//! Calls for interfaces: what a name's index is, and netlink.

use super::{Errno, Fd, Result, at, call, descriptor, plain, receive, send, word};
use core::ffi::CStr;

/// Longest interface name with its NUL (IFNAMSIZ).
const NAME: usize = 16;

/// The index of an interface.
pub fn interface_index(name: &str) -> Result<u32> {
    let kind = word(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC);
    let socket = descriptor(plain(libc::SYS_socket, [word(libc::AF_UNIX), kind, 0])?);
    // struct ifreq: a name of 16 bytes, then a union whose index comes first.
    let mut request = [0u8; 40];
    let room = request
        .get_mut(..NAME - 1)
        .and_then(|r| r.get_mut(..name.len()));
    room.ok_or(Errno(22))?.copy_from_slice(name.as_bytes());
    let args = [
        word(socket.0),
        libc::SIOCGIFINDEX as usize,
        request.as_mut_ptr().expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: SIOCGIFINDEX reads and writes a struct ifreq of 40 bytes.
    unsafe { call(libc::SYS_ioctl, args) }?;
    Ok(u32::from_ne_bytes([
        request[16],
        request[17],
        request[18],
        request[19],
    ]))
}

/// A socket of the kernel's routing family.
pub fn netlink() -> Result<Fd> {
    let kind = word(libc::SOCK_RAW | libc::SOCK_CLOEXEC);
    let family = word(libc::AF_NETLINK);
    plain(libc::SYS_socket, [family, kind, word(libc::NETLINK_ROUTE)]).map(descriptor)
}

/// Sends a request and returns the kernel's verdict, which is there when the call returns.
pub fn netlink_request(socket: &Fd, message: &[u8]) -> Result<()> {
    send(socket, message)?;
    let mut answer = [0u8; 256];
    let length = receive(socket, &mut answer)?;
    // struct nlmsghdr, then an errno in negative (struct nlmsgerr).
    match answer.get(16..20).filter(|_| length >= 20) {
        Some(&[a, b, c, d]) => {
            let code = i32::from_ne_bytes([a, b, c, d]).unsigned_abs();
            match u16::try_from(code) {
                Ok(0) => Ok(()),
                Ok(errno) => Err(Errno(errno)),
                Err(_) => Err(Errno(5)),
            }
        }
        _ => Err(Errno(5)),
    }
}

pub fn remove_file(path: &CStr) -> Result<()> {
    // SAFETY: the kernel reads one path.
    unsafe { call(libc::SYS_unlink, [at(path), 0, 0, 0, 0, 0]) }.map(drop)
}
