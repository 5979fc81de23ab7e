// SPDX-License-Identifier: Apache-2.0
//! A private network's datagrams, as another member may send them.

use super::fuzz::any_message;
use super::*;
use crate::net::user::peers::Peers;
use proptest::collection::vec;
use proptest::prelude::*;
use std::os::unix::net::UnixDatagram;

const ME: u8 = 2;
const OTHER: u8 = 3;

struct Net {
    folder: tempfile::TempDir,
    world: World,
}

impl Net {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let own = Addresses::member(ME);
        let socket = UnixDatagram::bind(folder.path().join("2.sock")).expect("a socket");
        socket.set_nonblocking(true).expect("non-blocking");
        let claim = std::fs::File::create(folder.path().join("2")).expect("a file");
        let path = folder.path().to_owned();
        let world = World::on(own, |parts| {
            parts.peers = Some(Peers::new(socket, claim, path, ME));
        });
        Self { folder, world }
    }

    fn socket(&self, name: &str) -> UnixDatagram {
        UnixDatagram::bind(self.folder.path().join(name)).expect("a socket")
    }

    /// What the guest gets of a packet that somebody sends it.
    fn deliver(&mut self, from: &UnixDatagram, packet: &[u8]) -> Option<Vec<u8>> {
        let to = self.folder.path().join("2.sock");
        from.send_to(packet, to).expect("sent");
        self.world.stack.turn(Some(PAUSE)).expect("epoll");
        self.world.hear()
    }
}

/// A packet from one member to another.
fn packet(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to) = (Addresses::member4(from), Addresses::member4(to));
    ipv4(from, to, IpProtocol::Udp, payload).split_off(14)
}

#[test]
fn a_member_is_heard_under_its_own_address_only() {
    let mut net = Net::new();
    let other = net.socket("3.sock");
    let frame = net
        .deliver(&other, &packet(OTHER, ME, b"hello"))
        .expect("heard");
    let own = Addresses::member(ME);
    assert_eq!(frame[..6], own.guest_mac.0);
    assert_eq!(frame[6..12], own.gateway_mac.0);
    assert_eq!(frame[14..], packet(OTHER, ME, b"hello"));
    // In another's name, to another's address, in nobody's name, from no member.
    assert_eq!(net.deliver(&other, &packet(4, ME, b"hello")), None);
    assert_eq!(net.deliver(&other, &packet(OTHER, 4, b"hello")), None);
    assert_eq!(net.deliver(&other, &packet(1, ME, b"hello")), None);
    let nobody = UnixDatagram::unbound().expect("a socket");
    assert_eq!(net.deliver(&nobody, &packet(OTHER, ME, b"hello")), None);
    let stranger = net.socket("x.sock");
    assert_eq!(net.deliver(&stranger, &packet(OTHER, ME, b"hello")), None);
    assert_eq!(net.deliver(&other, &[]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever a member sends: the guest hears it in that member's name or not at all.
    #[test]
    fn no_datagram_of_a_member_harms(
        payloads in vec((any_message(), any::<bool>()), 1..12),
        damage in vec((any::<usize>(), any::<u8>()), 0..4),
    ) {
        let mut net = Net::new();
        let other = net.socket("3.sock");
        for (payload, whole) in payloads {
            let mut bytes = match whole {
                true => packet(OTHER, ME, &payload),
                false => payload,
            };
            for (at, bits) in &damage {
                let length = bytes.len();
                bytes[at % length] ^= bits;
            }
            let Some(frame) = net.deliver(&other, &bytes) else { continue };
            let (v4, v6) = (frame[14] >> 4 == 4, frame[14] >> 4 == 6);
            prop_assert!(!v4 || frame[26..30] == Addresses::member4(OTHER).octets());
            prop_assert!(!v6 || frame[22..38] == Addresses::member6(OTHER).octets());
            prop_assert!(v4 || v6);
            prop_assert_eq!(&frame[6..12], &OWN.gateway_mac.0);
        }
    }
}
