// SPDX-License-Identifier: Apache-2.0
//! Where the host's kernel would send a packet (rtnetlink(7)). The thread of `husk net`;
//! the kernel answers within the call, so this never waits.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    socket,
};
use std::cell::Cell;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
/// Bytes of `struct nlmsghdr`, and of the `struct rtmsg` behind it.
const HEADER: usize = 16;
const ROUTE: usize = 12;
/// Kinds of routes: to somebody else, or to nobody (blackhole, unreachable, prohibit).
const UNICAST: u8 = 1;
const TO_NOBODY: std::ops::RangeInclusive<u8> = 6..=8;
/// More than the kernel says of a route. What is cut off is not looked at.
const ANSWER: usize = 1024;

/// A question to the kernel, asked over a socket that is opened once: the process may have
/// none of this kind when it is jailed.
pub struct Routes {
    socket: Option<OwnedFd>,
    asked: Cell<u32>,
}

impl Routes {
    #[must_use]
    pub fn open() -> Self {
        Self {
            socket: connected().ok(),
            asked: Cell::new(0),
        }
    }

    /// Whether the host itself takes what is sent to an address: one of its own, whichever
    /// it would speak from, an anycast address, a broadcast. A kernel that does not tell is
    /// taken to say yes. Without a route there is nothing to reach, and nothing to hide.
    pub fn lead_to_host(&self, address: IpAddr) -> bool {
        let Some(socket) = &self.socket else {
            return true;
        };
        let number = self.asked.get().wrapping_add(1);
        self.asked.set(number);
        let flags = MsgFlags::MSG_DONTWAIT;
        if send(socket.as_raw_fd(), &question(address, number), flags).is_err() {
            return true;
        }
        let mut answer = [0; ANSWER];
        loop {
            match recv(socket.as_raw_fd(), &mut answer, flags) {
                Ok(length) => {
                    let answer = answer.get(..length).unwrap_or_default();
                    // An earlier one that was given up has another number.
                    if let Some(verdict) = judge(answer, number) {
                        return verdict;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return true,
            }
        }
    }
}

fn connected() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkRoute;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// A `struct nlmsghdr`, a `struct rtmsg`, and the address as an attribute.
fn question(address: IpAddr, number: u32) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (nix::libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (nix::libc::AF_INET6, v6.octets().to_vec()),
    };
    // Both are below 256.
    let [family, ..] = family.to_le_bytes();
    let size = |bytes: usize| u16::try_from(bytes).unwrap_or(0);
    let bits = u8::try_from(bytes.len() * 8).unwrap_or(0);
    let length = u32::from(size(HEADER + ROUTE + 4 + bytes.len()));
    [
        &length.to_ne_bytes()[..],
        &RTM_GETROUTE.to_ne_bytes(),
        &NLM_F_REQUEST.to_ne_bytes(),
        &number.to_ne_bytes(),
        &[0; 4],
        &[family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &size(4 + bytes.len()).to_ne_bytes(),
        &RTA_DST.to_ne_bytes(),
        &bytes,
    ]
    .concat()
}

/// What an answer says; nothing, if it is one to another question.
fn judge(answer: &[u8], number: u32) -> Option<bool> {
    let (header, rest) = answer.split_first_chunk::<HEADER>()?;
    let [_, _, _, _, k0, k1, _, _, n0, n1, n2, n3, ..] = *header;
    if u32::from_ne_bytes([n0, n1, n2, n3]) != number {
        return None;
    }
    Some(match (u16::from_ne_bytes([k0, k1]), rest) {
        (RTM_NEWROUTE, [_, _, _, _, _, _, _, kind, ..]) => {
            *kind != UNICAST && !TO_NOBODY.contains(kind)
        }
        (NLMSG_ERROR, [a, b, c, d, ..]) => {
            let code = i32::from_ne_bytes([*a, *b, *c, *d]);
            // What a connection would be told too. Blackholes are "invalid".
            !matches!(
                Errno::from_raw(code.wrapping_neg()),
                Errno::ENETUNREACH
                    | Errno::EHOSTUNREACH
                    | Errno::EACCES
                    | Errno::EINVAL
                    | Errno::EAFNOSUPPORT
                    | Errno::EOPNOTSUPP
            )
        }
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_hosts_own_addresses_are_known_whichever_it_speaks_from() {
        let routes = Routes::open();
        // To the second the host speaks from the first, as it does to every further address
        // of a network it has several of.
        for own in ["127.0.0.1", "127.0.0.2", "::1"] {
            assert!(routes.lead_to_host(ip(own)), "{own}");
        }
        assert!(routes.lead_to_host(ip("255.255.255.255")), "a broadcast");
        for other in ["203.0.113.7", "2001:db8::7"] {
            assert!(!routes.lead_to_host(ip(other)), "{other}");
        }
    }

    #[test]
    fn who_does_not_tell_says_yes() {
        let mute = Routes {
            socket: None,
            asked: Cell::new(0),
        };
        assert!(mute.lead_to_host(ip("203.0.113.7")));
        let error = |number: u32, code: i32| {
            let mut bytes = vec![0; HEADER];
            bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
            bytes[8..12].copy_from_slice(&number.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes
        };
        assert_eq!(judge(&error(7, -nix::libc::ENOBUFS), 7), Some(true));
        assert_eq!(judge(&error(7, -nix::libc::ENETUNREACH), 7), Some(false));
        assert_eq!(judge(&error(6, -nix::libc::ENETUNREACH), 7), None);
        assert_eq!(judge(&[0; 15], 7), None);
        assert_eq!(judge(&error(7, 0)[..HEADER], 7), Some(true), "cut short");
    }
}
