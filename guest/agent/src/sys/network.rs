// SPDX-License-Identifier: Apache-2.0
//! Calls for interfaces: what a name's index is, and netlink.

use super::{Errno, Fd, Result, at, call, descriptor, plain, receive, send, word};
use alloc::vec;
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

/// A socket to one of the kernel's netlink families.
pub fn netlink(protocol: core::ffi::c_int) -> Result<Fd> {
    let kind = word(libc::SOCK_RAW | libc::SOCK_CLOEXEC);
    let family = word(libc::AF_NETLINK);
    plain(libc::SYS_socket, [family, kind, word(protocol)]).map(descriptor)
}

/// Asks for a list, and hands each item of it, less its header, to `take`.
pub fn netlink_list(socket: &Fd, message: &[u8], mut take: impl FnMut(&[u8])) -> Result<()> {
    const HEADER: usize = 16;
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    send(socket, message)?;
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        // The kernel has the next part ready when it hands one out.
        let n = receive(socket, &mut buffer)?;
        let mut rest = buffer.get(..n).unwrap_or_default();
        while let Some(&[a, b, c, d, e, f]) = rest.first_chunk::<6>() {
            let length = u32::from_ne_bytes([a, b, c, d]) as usize;
            let Some(body) = rest.get(HEADER..length) else {
                return Err(Errno(5));
            };
            match u16::from_ne_bytes([e, f]) {
                DONE => return Ok(()),
                ERROR => return verdict(body),
                _ => take(body),
            }
            // NLMSG_ALIGN: multiples of four.
            rest = rest.get((length + 3) & !3..).unwrap_or_default();
        }
    }
}

/// What a struct nlmsgerr says: an errno in negative.
fn verdict(body: &[u8]) -> Result<()> {
    let Some(&[a, b, c, d]) = body.first_chunk::<4>() else {
        return Err(Errno(5));
    };
    match u16::try_from(i32::from_ne_bytes([a, b, c, d]).unsigned_abs()) {
        Ok(0) => Ok(()),
        Ok(errno) => Err(Errno(errno)),
        Err(_) => Err(Errno(5)),
    }
}

/// Sends a request and returns the kernel's verdict, which is there when the call returns.
pub fn netlink_request(socket: &Fd, message: &[u8]) -> Result<()> {
    send(socket, message)?;
    let mut answer = [0u8; 256];
    let length = receive(socket, &mut answer)?;
    verdict(answer.get(16..length).unwrap_or_default())
}

pub fn remove_file(path: &CStr) -> Result<()> {
    // SAFETY: the kernel reads one path.
    unsafe { call(libc::SYS_unlink, [at(path), 0, 0, 0, 0, 0]) }.map(drop)
}
