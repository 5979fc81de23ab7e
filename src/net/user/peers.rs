// SPDX-License-Identifier: Apache-2.0
//! A private network: machines that reach each other and that nobody else reaches. The
//! thread of `husk net`; never waits.
//!
//! Each member has a number in the network's folder: a file `N` that its process holds
//! locked and that holds its name, and a datagram socket `N.sock`. A packet goes straight
//! to the socket of its address's number. The kernel says which socket a packet came from,
//! so none can bear another member's address. There is no switch to run, or to fail; the
//! folder's owner alone can enter it.

use super::frame;
use super::ground::Ground;
use crate::config::net::Addresses;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// Numbers of members.
pub const NUMBERS: std::ops::RangeInclusive<u8> = 2..=254;
/// Packets taken in one turn of the loop.
const BATCH: usize = 64;
/// Longest name a member's file is read for (HOST_NAME_MAX).
const MAX_NAME: u64 = 64;

pub struct Peers {
    socket: UnixDatagram,
    /// The network's folder, as this process sees it.
    folder: PathBuf,
    number: u8,
    /// Holds the number while this process lives.
    _claim: File,
    buffer: Vec<u8>,
}

impl Peers {
    pub fn new(socket: UnixDatagram, claim: File, folder: PathBuf, number: u8) -> Self {
        Self {
            socket,
            folder,
            number,
            _claim: claim,
            buffer: vec![0; frame::ETHERNET + usize::from(u16::MAX)],
        }
    }

    pub fn socket(&self) -> &UnixDatagram {
        &self.socket
    }

    /// The member an address belongs to.
    #[must_use]
    pub fn member(address: IpAddr) -> Option<u8> {
        NUMBERS.into_iter().find(|&number| match address {
            IpAddr::V4(v4) => v4 == Addresses::member4(number),
            IpAddr::V6(v6) => v6 == Addresses::member6(number),
        })
    }

    /// Hands a packet of the guest's to a member. A member that is busy, or not there,
    /// loses it.
    pub fn send(&self, number: u8, packet: &[u8]) {
        let mut packet = packet.to_vec();
        frame::complete(&mut packet);
        if number != self.number {
            let _ = self
                .socket
                .send_to(&packet, self.folder.join(format!("{number}.sock")));
        }
    }

    /// Packets of members for the guest.
    pub fn ready(&mut self, ground: &mut Ground) {
        for _ in 0..BATCH {
            let Some(room) = self.buffer.get_mut(frame::ETHERNET..) else {
                return;
            };
            let Ok((length, from)) = self.socket.recv_from(room) else {
                return;
            };
            let sender = from.as_pathname().and_then(|path| {
                let name = path.file_name()?.to_str()?;
                name.strip_suffix(".sock")?.parse().ok()
            });
            let Some(packet) = self.buffer.get_mut(..frame::ETHERNET + length) else {
                return;
            };
            let (_, inner) = packet.split_at(frame::ETHERNET);
            if sender.is_some_and(|sender| is_between(inner, sender, self.number)) {
                frame::address(packet, &ground.own);
                ground.wire.send_or_drop(packet);
            }
        }
    }

    /// The addresses of the member that bears a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Vec<IpAddr>> {
        let number = NUMBERS.into_iter().find(|number| {
            let path = self.folder.join(number.to_string());
            let Ok(file) = File::open(path) else {
                return false;
            };
            let mut text = String::new();
            let read = (&file).take(MAX_NAME).read_to_string(&mut text);
            read.is_ok() && text.eq_ignore_ascii_case(name) && is_held(file)
        })?;
        let v4 = Addresses::member4(number).into();
        Some(vec![v4, Addresses::member6(number).into()])
    }
}

/// Whether the process that locked a file still lives.
fn is_held(file: File) -> bool {
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

/// Whether a packet goes from one member to another by its addresses, and is what members may
/// send each other: nothing about neighbours, which a guest would believe. The sender's front
/// has seen to that; this is for a sender that is not what it was.
fn is_between(packet: &[u8], from: u8, to: u8) -> bool {
    let at = |range: std::ops::Range<usize>| packet.get(range);
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            matches!(packet.get(9), Some(1 | 6 | 17))
                && at(12..16) == Some(&Addresses::member4(from).octets()[..])
                && at(16..20) == Some(&Addresses::member4(to).octets()[..])
        }
        Some(6) => {
            let plain = match packet.get(6) {
                Some(58) => !packet.get(40).is_none_or(frame::is_discovery),
                next => matches!(next, Some(6 | 17)),
            };
            plain
                && at(8..24) == Some(&Addresses::member6(from).octets()[..])
                && at(24..40) == Some(&Addresses::member6(to).octets()[..])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv6 packet from one member to another.
    fn packet(from: u8, to: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("short");
        let mut packet = vec![0x60, 0, 0, 0, 0, length, protocol, 255];
        packet.extend(Addresses::member6(from).octets());
        packet.extend(Addresses::member6(to).octets());
        packet.extend(payload);
        packet
    }

    /// A neighbour advertisement would have another member's guest send what it has for its
    /// gateway to a hardware address that is nobody's.
    #[test]
    fn no_member_tells_another_who_its_neighbours_are() {
        let own = Addresses::member(3);
        for kind in 133..=137 {
            let mut message = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
            message.extend(own.gateway6.octets());
            message.extend([2, 1, 2, 0xba, 0xd, 0xba, 0xd, 0]);
            let packet = packet(3, 2, 58, &message);
            assert!(!is_between(&packet, 3, 2), "{kind}");
            let head = [&own.gateway_mac.0[..], &own.guest_mac.0, &[0x86, 0xdd]].concat();
            let frame = [head, packet].concat();
            let goes_on = matches!(frame::read(&frame, &own), Ok(frame::Seen::Other { .. }));
            assert!(!goes_on, "{kind}");
        }
        let echo = packet(3, 2, 58, &[128, 0, 0, 0, 0, 0, 0, 0]);
        assert!(is_between(&echo, 3, 2));
        assert!(is_between(&packet(3, 2, 17, &[0; 8]), 3, 2));
        // Behind an extension header anything may lie.
        assert!(!is_between(
            &packet(3, 2, 0, &[58, 0, 0, 0, 0, 0, 0, 0]),
            3,
            2
        ));
    }
}
