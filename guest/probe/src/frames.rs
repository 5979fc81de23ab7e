// SPDX-License-Identifier: Apache-2.0
//! Frames as a guest's kernel would never send them, byte for byte, on one of its interfaces.
#![expect(unsafe_code, reason = "packet sockets as the kernel offers them")]

use crate::sys::{check, failed};
use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Every protocol (linux/if_ether.h), as the network has it.
const ALL: u16 = 0x0003u16.to_be();

/// Sends each frame, given in hexadecimal digits, on `interface`. `own` among them is the
/// interface's address.
pub fn send(interface: &str, frames: &[&str]) -> Result<(), String> {
    let name = CString::new(interface).map_err(|_| "no name of an interface")?;
    // SAFETY: reads a string that ends with a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(failed(interface));
    }
    // SAFETY: makes a descriptor and touches no memory.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    let socket = check(socket, "a packet socket")?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all-zero is a valid address, a plain structure of integers.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(|_| "a family")?;
    to.sll_protocol = ALL;
    to.sll_ifindex = i32::try_from(index).map_err(|_| "an interface beyond all")?;
    let length = libc::socklen_t::try_from(size_of_val(&to)).map_err(|_| "an address")?;
    let own = std::fs::read_to_string(format!("/sys/class/net/{interface}/address"));
    let own = own.map_err(|error| error.to_string())?;
    let own = own.trim().replace(':', "");
    for text in frames {
        let frame = bytes(&text.replace("own", &own))?;
        // SAFETY: reads `frame.len()` bytes of `frame` and an address of `length`.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                length,
            )
        };
        if sent < 0 {
            return Err(failed("a frame"));
        }
    }
    println!("{} frames", frames.len());
    Ok(())
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let pairs = text.as_bytes().chunks(2);
    let pairs = pairs.map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    let bytes: Option<Vec<u8>> = pairs.collect();
    bytes.ok_or_else(|| format!("{text} is no frame"))
}
