// SPDX-License-Identifier: Apache-2.0
//! Tap interfaces: opening one by name, joining it to a bridge, and what it may leave to
//! the guest (Documentation/networking/tuntap.rst, linux/if_tun.h).
#![expect(unsafe_code, reason = "ioctls of /dev/net/tun and of interfaces")]

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_UP: u16 = 0x1;
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
const TUN_F_TSO_ECN: libc::c_ulong = 8;
/// `struct virtio_net_hdr_v1`.
const HEADER: libc::c_int = 12;
/// Longest interface name with its NUL (IFNAMSIZ).
const NAME: usize = 16;

/// `struct ifreq`: a name, then a union of 24 bytes.
#[repr(C, align(8))]
struct Request {
    name: [u8; NAME],
    rest: [u8; 24],
}

impl Request {
    fn new(name: &str) -> io::Result<Self> {
        let mut bytes = [0; NAME];
        if name.is_empty() || name.len() >= NAME || name.contains(['/', '\0']) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self {
            name: bytes,
            rest: [0; 24],
        })
    }

    fn with_flags(mut self, flags: u16) -> Self {
        self.rest[..2].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    fn call(&mut self, fd: BorrowedFd<'_>, number: libc::c_ulong) -> io::Result<()> {
        // SAFETY: every call made through here takes a pointer to a struct ifreq, which is
        // 40 bytes, and reads or writes no more than that.
        match unsafe { libc::ioctl(fd.as_raw_fd(), number, &raw mut *self) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// Opens the tap `name`; a `%d` in it becomes a number that is free. One that did not exist
/// is gone when the descriptor is closed. Returns the interface's name.
pub fn open(name: &str) -> io::Result<(OwnedFd, String)> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let fd = OwnedFd::from(file);
    let mut request = Request::new(name)?.with_flags(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    let borrowed = std::os::fd::AsFd::as_fd(&fd);
    request.call(borrowed, TUNSETIFF)?;
    let size = HEADER;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    if unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let end = request.name.iter().position(|&b| b == 0).unwrap_or(NAME);
    let name = String::from_utf8_lossy(&request.name[..end]).into_owned();
    Ok((fd, name))
}

/// What frames that come from the tap may lack.
pub fn set_offloads(fd: BorrowedFd<'_>, checksum: bool, segments: bool) -> io::Result<()> {
    let mut bits = 0;
    if checksum {
        bits |= TUN_F_CSUM;
        if segments {
            bits |= TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        }
    }
    // SAFETY: TUNSETOFFLOAD takes a number, no pointer.
    match unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, bits) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Brings an interface up.
pub fn raise(name: &str) -> io::Result<()> {
    let socket = control()?;
    let mut request = Request::new(name)?;
    let borrowed = std::os::fd::AsFd::as_fd(&socket);
    request.call(borrowed, libc::SIOCGIFFLAGS)?;
    let [a, b, ..] = request.rest;
    let flags = u16::from_ne_bytes([a, b]) | IFF_UP;
    request.with_flags(flags).call(borrowed, libc::SIOCSIFFLAGS)
}

/// Makes an interface a port of a bridge.
pub fn join(bridge: &str, interface: &str) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    let mut request = Request::new(bridge)?;
    request.rest[..4].copy_from_slice(&index.to_ne_bytes());
    const SIOCBRADDIF: libc::c_ulong = 0x89a2;
    let socket = control()?;
    request.call(std::os::fd::AsFd::as_fd(&socket), SIOCBRADDIF)
}

fn control() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(
        AddressFamily::Inet,
        SockType::Datagram,
        flags,
        None,
    )?)
}
