// SPDX-License-Identifier: Apache-2.0
//! What a guest's root can put on the wire to get past the front: fragments, extension
//! headers, other protocols, other names, and word of neighbours nobody asked for. A service
//! that is allowed is the target, so only the front stands between.

use super::*;
use std::net::Ipv6Addr;

/// A service by datagrams that the guest may reach.
struct Target {
    socket: UdpSocket,
    port: u16,
    world: World,
}

impl Target {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_nonblocking(true).expect("non-blocking");
        let port = socket.local_addr().expect("an address").port();
        let world = World::new(false, &[loopback(port)], Vec::new(), Vec::new());
        Self {
            socket,
            port,
            world,
        }
    }

    /// Nothing of it arrives, and nothing is answered.
    #[track_caller]
    fn ignores(&mut self, frame: &[u8], what: &str) {
        self.world.say(frame);
        let mut bytes = [0; 2048];
        let got = self.socket.recv(&mut bytes).map_err(|error| error.kind());
        assert_eq!(got, Err(std::io::ErrorKind::WouldBlock), "{what}");
        assert_eq!(self.world.hear(), None, "{what}");
    }

    /// A plain datagram arrives, and its answer comes back to the guest's own address.
    #[track_caller]
    fn serves(&mut self) {
        let good = udp(guest(9), gateway(self.port), b"good");
        self.world.say(&good);
        let mut bytes = [0; 16];
        let (length, from) = self.socket.recv_from(&mut bytes).expect("it arrives");
        assert_eq!(&bytes[..length], b"good");
        self.socket.send_to(b"back", from).expect("sent");
        let frame = self.world.wait();
        assert_eq!(
            (&frame[..6], &frame[frame.len() - 4..]),
            (&OWN.guest_mac.0[..], &b"back"[..])
        );
    }
}

/// The payload of a packet: a UDP header and what it carries.
fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    udp(guest(9), gateway(port), payload).split_off(34)
}

/// An IPv4 packet whose fragment field says this.
fn fragment(identification: u16, field: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = ipv4(OWN.guest4, OWN.gateway4, IpProtocol::Udp, payload);
    frame[18..20].copy_from_slice(&identification.to_be_bytes());
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    // The sum over the header is not looked at; it is right all the same.
    frame[24..26].fill(0);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.fill_checksum();
    frame
}

#[test]
fn fragments_are_dropped_whatever_they_would_become() {
    const MORE: u16 = 0x2000;
    let mut target = Target::new();
    let whole = datagram(target.port, &[7; 64]);
    let (one, two) = whole.split_at(32);
    // In order, in reverse, one over the other, one alone, a hole that is never filled.
    for (identification, parts) in [
        (1, vec![(MORE, one), (4, two)]),
        (2, vec![(4, two), (MORE, one)]),
        (3, vec![(MORE, one), (MORE, one), (1, two), (4, two)]),
        (4, vec![(MORE, &whole[..])]),
        (5, vec![(0x1fff, two)]),
        (6, vec![(4, two)]),
    ] {
        for (field, part) in parts {
            let frame = fragment(identification, field, part);
            target.ignores(&frame, &format!("fragment {field:#x} of {identification}"));
        }
    }
    // A first segment in pieces opens nothing either.
    let (listener, port) = service();
    let mut world = World::new(false, &[loopback(port)], Vec::new(), Vec::new());
    let segment = syn(5000, gateway(port)).split_off(34);
    for (field, part) in [(MORE, &segment[..8]), (1, &segment[8..])] {
        let mut frame = fragment(9, field, part);
        frame[23] = 6;
        world.say(&frame);
    }
    world.silence();
    nobody_came(&listener);
    target.serves();
}

#[test]
fn ipv6_fragments_and_extension_headers_are_dropped() {
    let mut target = Target::new();
    let mut whole = datagram(target.port, b"out");
    let host = UdpSocket::bind("[::1]:0").ok();
    let port = host.as_ref().and_then(|host| host.local_addr().ok());
    let port = port.map_or(target.port, |at| at.port());
    whole[2..4].copy_from_slice(&port.to_be_bytes());
    let rule = Rule {
        to: Destination::Network {
            address: Ipv6Addr::LOCALHOST.into(),
            prefix: 128,
        },
        port: None,
    };
    target.world = World::new(false, &[rule], Vec::new(), Vec::new());
    // Hop-by-hop, routing, fragment, destination options, authentication: each before UDP.
    for kind in [0u8, 43, 44, 60, 51] {
        for field in [[0, 0], [0, 1], [0, 0x21]] {
            let mut header = vec![17, 0, field[0], field[1], 0, 0, 0, 1];
            header.extend(&whole);
            let length = u16::try_from(header.len()).expect("short").to_be_bytes();
            let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], kind, 64];
            packet.extend(OWN.guest6.octets());
            packet.extend(OWN.gateway6.octets());
            packet.extend(&header);
            let frame = ethernet([0x86, 0xdd], &packet);
            target.ignores(&frame, &format!("extension header {kind}"));
        }
    }
    if let Some(host) = host {
        host.set_nonblocking(true).expect("non-blocking");
        assert!(host.recv(&mut [0; 16]).is_err(), "nothing came");
    }
}

#[test]
fn protocols_other_than_tcp_and_udp_go_nowhere() {
    let mut target = Target::new();
    let inner = udp(guest(9), gateway(target.port), b"inside").split_off(14);
    // IGMP, IP in IP, IPv6 in IP, GRE, ESP, SCTP, UDP-Lite, and one of no name.
    for protocol in [2, 4, 41, 47, 50, 132, 136, 253] {
        let frame = ipv4(OWN.guest4, OWN.gateway4, IpProtocol::from(protocol), &inner);
        target.ignores(&frame, &format!("protocol {protocol}"));
    }
    // Errors of ICMP, with a packet of the gateway's own in them, and timestamp requests.
    for (kind, code) in [(3, 4), (5, 1), (11, 0), (13, 0), (17, 0)] {
        let message = [&[kind, code, 0, 0, 0, 0, 2, 0][..], &inner].concat();
        let frame = ipv4(OWN.guest4, OWN.gateway4, IpProtocol::Icmp, &message);
        target.ignores(&frame, &format!("ICMP {kind}"));
    }
    target.serves();
}

#[test]
fn other_names_and_tags_are_not_the_guests() {
    let mut target = Target::new();
    let good = udp(guest(9), gateway(target.port), b"spoofed");
    for source in [
        "10.0.2.2",
        "10.0.2.16",
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "10.0.3.2",
    ] {
        let mut frame = good.clone();
        let source: Ipv4Addr = source.parse().expect("an address");
        frame[26..30].copy_from_slice(&source.octets());
        target.ignores(&frame, &source.to_string());
    }
    for at in 6..12 {
        let mut frame = good.clone();
        frame[at] ^= 1;
        target.ignores(&frame, "another's hardware address");
    }
    // A VLAN's tag, once and twice, and a frame that says a length.
    let tagged = [&good[..12], &[0x81, 0, 0, 1], &good[12..]].concat();
    target.ignores(&tagged, "a tag");
    let twice = [&good[..12], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 1], &good[12..]].concat();
    target.ignores(&twice, "two tags");
    let mut long = good.clone();
    long[12..14].copy_from_slice(&[0, 46]);
    target.ignores(&long, "a length");
    target.serves();
}

/// Neighbours are not learnt: whatever a guest says of them changes nothing.
#[test]
fn word_of_neighbours_changes_nothing() {
    let mut target = Target::new();
    let evil = [2, 0xba, 0xd, 0xba, 0xd, 0];
    for operation in [1, 2] {
        for claimed in [OWN.gateway4, OWN.guest4, Ipv4Addr::new(10, 0, 2, 77)] {
            let fixed = [0, 1, 8, 0, 6, 4, 0, operation];
            let claimed = claimed.octets();
            let rest = [&fixed[..], &evil, &claimed, &[0xff; 6], &claimed].concat();
            target.ignores(&ethernet([8, 6], &rest), "a gratuitous answer");
        }
    }
    let icmp6 = |kind: u8, rest: &[u8]| {
        let message = [&[kind, 0, 0, 0][..], rest].concat();
        let length = u8::try_from(message.len()).expect("short");
        let mut packet = vec![0x60, 0, 0, 0, 0, length, 58, 255];
        packet.extend(OWN.guest6.octets());
        packet.extend("ff02::1".parse::<Ipv6Addr>().expect("an address").octets());
        packet.extend(message);
        ethernet([0x86, 0xdd], &packet)
    };
    let link = [&[2, 1][..], &evil].concat();
    let claim = [&[0x20, 0, 0, 0][..], &OWN.gateway6.octets(), &link].concat();
    let redirect = [
        &[0; 4][..],
        &OWN.gateway6.octets(),
        &OWN.gateway6.octets(),
        &link,
    ]
    .concat();
    // An advertisement, one of a router, a redirect, and what a router would be asked.
    for (kind, rest) in [
        (136, &claim[..]),
        (134, &[64, 0, 7, 8, 0, 0, 0, 0]),
        (137, &redirect),
        (133, &[0; 4]),
    ] {
        target.ignores(&icmp6(kind, rest), &format!("ICMPv6 {kind}"));
    }
    target.serves();
}
