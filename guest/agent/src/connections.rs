// SPDX-License-Identifier: Apache-2.0
//! Ends the connections that a restored machine has in its memory and nowhere else, as `ss -K`
//! does (sock_diag(7)): their programs see a reset, and no silence. Runs in PID 1 only, in its
//! own network namespace. What listens stays, and what is within the machine.

use crate::network::framed;
use crate::sys::{self, Errno};
use alloc::vec::Vec;
use libc::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, c_int};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// NLM_F_REQUEST, with NLM_F_ACK or with NLM_F_ROOT and NLM_F_MATCH.
const ASK: u16 = 0x1 | 0x4;
const LIST: u16 = 0x1 | 0x100 | 0x200;
/// States as the kernel numbers them (net/tcp_states.h).
const ESTABLISHED: u32 = 1;
const CLOSE: u32 = 7;
const LISTEN: u32 = 10;
/// Bytes of a struct inet_diag_sockid, which follows four others in an answer: ports,
/// addresses, interface, cookie.
const ID: usize = 48;
const PEER: core::ops::Range<usize> = 20..36;
/// Connections looked at in one pass: what the agent holds of them is bounded.
const MOST: usize = 16 * 1024;

/// Ends all of them. `EOPNOTSUPP`: there are some, and this kernel cannot.
pub fn end_all() -> sys::Result<()> {
    let tcp = !(1 << CLOSE | 1 << LISTEN);
    for (family, protocol, states) in [
        (AF_INET, IPPROTO_TCP, tcp),
        (AF_INET6, IPPROTO_TCP, tcp),
        (AF_INET, IPPROTO_UDP, 1 << ESTABLISHED),
        (AF_INET6, IPPROTO_UDP, 1 << ESTABLISHED),
    ] {
        while end_some(family, protocol, states)? {}
    }
    Ok(())
}

/// One pass. Whether there may be more.
fn end_some(family: c_int, protocol: c_int, states: u32) -> sys::Result<bool> {
    let socket = sys::netlink(libc::NETLINK_SOCK_DIAG)?;
    let mut theirs: Vec<[u8; ID]> = Vec::new();
    let mut more = false;
    let question = request(family, protocol, states, &[0; ID]);
    let listed = sys::netlink_list(
        &socket,
        &framed(SOCK_DIAG_BY_FAMILY, LIST, &question),
        |item| {
            let id = item.get(4..).and_then(|rest| rest.first_chunk::<ID>());
            match id.filter(|id| !stays(family, id)) {
                Some(id) if theirs.len() < MOST => theirs.push(*id),
                Some(_) => more = true,
                None => {}
            }
        },
    );
    match listed {
        // This family or protocol is none of the kernel's.
        Err(errno) if errno.is(libc::ENOENT) => return Ok(false),
        listed => listed?,
    }
    let before = theirs.len();
    let mut ended = 0;
    for id in theirs {
        let order = request(family, protocol, u32::MAX, &id);
        match sys::netlink_request(&socket, &framed(SOCK_DESTROY, ASK, &order)) {
            Ok(()) => ended += 1,
            // Gone by itself.
            Err(errno) if errno.is(libc::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    if more && ended == 0 && before > 0 {
        return Err(Errno(5));
    }
    Ok(more)
}

/// A struct inet_diag_req_v2.
fn request(family: c_int, protocol: c_int, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let byte = |number: c_int| u8::try_from(number).unwrap_or(0);
    let mut body = Vec::from([byte(family), byte(protocol), 0, 0]);
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

/// Whether the other end is in this machine, too, by an address every machine has.
fn stays(family: c_int, id: &[u8; ID]) -> bool {
    const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    const SELF: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let peer = id.get(PEER).unwrap_or_default();
    if family == AF_INET {
        return peer.first() == Some(&127);
    }
    peer == SELF
        || peer
            .strip_prefix(&MAPPED)
            .is_some_and(|v4| v4.first() == Some(&127))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    fn id(peer: [u8; 16]) -> [u8; ID] {
        let mut id = [0; ID];
        id[PEER].copy_from_slice(&peer);
        id
    }

    #[test]
    fn what_is_within_the_machine_stays() {
        let v4 = |a, b, c, d| {
            let mut peer = [0; 16];
            peer[..4].copy_from_slice(&[a, b, c, d]);
            id(peer)
        };
        assert!(stays(AF_INET, &v4(127, 0, 0, 1)) && stays(AF_INET, &v4(127, 9, 9, 9)));
        assert!(!stays(AF_INET, &v4(10, 0, 2, 2)) && !stays(AF_INET, &v4(0, 0, 0, 0)));
        let v6 = |text: &str| id(text.parse::<std::net::Ipv6Addr>().unwrap().octets());
        assert!(stays(AF_INET6, &v6("::1")) && stays(AF_INET6, &v6("::ffff:127.0.0.1")));
        assert!(!stays(AF_INET6, &v6("fd00::2")) && !stays(AF_INET6, &v6("::ffff:10.0.0.1")));
    }

    /// The kernel's list has the shape that is read here: this very connection is in it.
    #[test]
    fn connections_are_found_as_the_kernel_lists_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        let _other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let Ok(socket) = sys::netlink(libc::NETLINK_SOCK_DIAG) else {
            panic!("no netlink here");
        };
        let question = request(AF_INET, IPPROTO_TCP, 1 << ESTABLISHED, &[0; ID]);
        let mut found = 0;
        let question = framed(SOCK_DIAG_BY_FAMILY, LIST, &question);
        sys::netlink_list(&socket, &question, |item| {
            let id = item[4..].first_chunk::<ID>().unwrap();
            let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
            let own = client.local_addr().unwrap().port();
            found += usize::from(port(0) == own || port(2) == own);
            assert!(port(0) != own || stays(AF_INET, id));
        })
        .unwrap();
        assert_eq!(found, 2);
        drop(client);
        assert_eq!(served.read(&mut [0]).unwrap(), 0);
    }
}
