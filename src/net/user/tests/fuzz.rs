// SPDX-License-Identifier: Apache-2.0
//! Random frames of every kind the stack knows, whole and damaged; and what else reaches it
//! from outside: name servers' answers, the bytes of a lookup over TCP.

use super::lookups::Client;
use super::*;
use crate::net::user::frame;
use proptest::collection::vec;
use proptest::prelude::*;
use smoltcp::wire::{Ipv6Packet, Ipv6Repr};
use std::net::Ipv6Addr;

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8], hop_limit: u8) -> Vec<u8> {
    let repr = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: next_header.into(),
        payload_len: payload.len(),
        hop_limit,
    };
    let mut packet = vec![0; 40];
    repr.emit(&mut Ipv6Packet::new_unchecked(&mut packet));
    packet.extend(payload);
    ethernet([0x86, 0xdd], &packet)
}

fn any_port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(53u16), Just(80), 1..=u16::MAX]
}

fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        Just(OWN.gateway4),
        Just(OWN.guest4),
        Just(Ipv4Addr::BROADCAST),
        Just(Ipv4Addr::UNSPECIFIED),
        any::<[u8; 4]>().prop_map(Ipv4Addr::from),
    ]
}

fn any_v6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        Just(OWN.gateway6),
        Just(OWN.guest6),
        Just(Ipv6Addr::UNSPECIFIED),
        Just("ff02::1:ff00:2".parse().expect("an address")),
        any::<[u8; 16]>().prop_map(Ipv6Addr::from),
    ]
}

/// A header of TCP with options, and what follows it.
fn any_tcp() -> impl Strategy<Value = Vec<u8>> {
    let fixed = (
        any_port(),
        any_port(),
        any::<[u8; 8]>(),
        0..16u8,
        any::<u8>(),
    );
    let rest = (any::<u16>(), vec(any::<u8>(), 0..80));
    (fixed, rest).prop_map(|((from, to, numbers, words, flags), (window, rest))| {
        let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
        bytes.extend(numbers);
        bytes.extend([words << 4, flags]);
        bytes.extend(window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(rest);
        bytes
    })
}

/// A message of DNS: a question with labels, pointers and records that may be sense.
pub fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let label = prop_oneof![
        vec(any::<u8>(), 0..12).prop_map(|label| {
            let mut bytes = vec![u8::try_from(label.len()).expect("short")];
            bytes.extend(label);
            bytes
        }),
        any::<u8>().prop_map(|low| vec![0xc0, low]),
        Just(b"\x01a\x07example".to_vec()),
    ];
    let name = vec(label, 0..6).prop_map(|labels| labels.concat());
    let record =
        (name.clone(), 0..64u16, vec(any::<u8>(), 0..20)).prop_map(|(name, kind, data)| {
            let mut bytes = name;
            bytes.push(0);
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 60]);
            bytes.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
            bytes.extend(data);
            bytes
        });
    let head = (any::<[u8; 4]>(), 0..3u8, vec(0..4u8, 3));
    (head, name, vec(record, 0..4)).prop_map(|((start, questions, counts), name, records)| {
        let mut bytes = start.to_vec();
        bytes.extend([0, questions]);
        for count in counts {
            bytes.extend([0, count]);
        }
        bytes.extend(name);
        bytes.extend([0, 0, 1, 0, 1]);
        bytes.extend(records.concat());
        bytes
    })
}

/// Frames of all that is understood, and of what is not.
fn any_good() -> impl Strategy<Value = Vec<u8>> {
    let raw =
        (any::<[u8; 2]>(), vec(any::<u8>(), 0..200)).prop_map(|(kind, rest)| ethernet(kind, &rest));
    let arp = (0..4u8, any_v4(), any_v4()).prop_map(|(operation, sender, target)| {
        let mac = OWN.guest_mac.0;
        let (sender, target) = (sender.octets(), target.octets());
        let fixed = [0, 1, 8, 0, 6, 4, 0, operation];
        ethernet(
            [8, 6],
            &[&fixed[..], &mac, &sender, &[0; 6], &target].concat(),
        )
    });
    let icmp6 = (any_v6(), any::<bool>(), 128..140u8, vec(any::<u8>(), 3..80));
    let icmp6 = icmp6.prop_map(|(to, own, kind, mut message)| {
        message[0] = kind;
        let from = match own {
            true => OWN.guest6,
            false => "fe80::1".parse().expect("an address"),
        };
        ipv6(from, to, 58, &message, 255)
    });
    let other4 =
        (any_v4(), any::<u8>(), vec(any::<u8>(), 0..100)).prop_map(|(to, protocol, payload)| {
            ipv4(OWN.guest4, to, IpProtocol::from(protocol), &payload)
        });
    let other6 = (any_v6(), any::<u8>(), vec(any::<u8>(), 0..100))
        .prop_map(|(to, next, payload)| ipv6(OWN.guest6, to, next, &payload, 64));
    let tcp4 =
        (any_v4(), any_tcp()).prop_map(|(to, bytes)| ipv4(OWN.guest4, to, IpProtocol::Tcp, &bytes));
    let tcp6 = (any_v6(), any_tcp()).prop_map(|(to, bytes)| ipv6(OWN.guest6, to, 6, &bytes, 64));
    let udp4 = (any_v4(), any_port(), vec(any::<u8>(), 0..80)).prop_map(|(to, port, payload)| {
        udp(guest(1000), SocketAddr::new(to.into(), port), &payload)
    });
    let udp6 = (any_v6(), any_port(), vec(any::<u8>(), 0..80)).prop_map(|(to, port, payload)| {
        let from = SocketAddr::new(OWN.guest6.into(), 1000);
        udp(from, SocketAddr::new(to.into(), port), &payload)
    });
    let lookup = any_message().prop_map(|payload| udp(guest(1000), gateway(53), &payload));
    prop_oneof![
        raw, arp, icmp6, other4, other6, tcp4, tcp6, udp4, udp6, lookup
    ]
}

/// The same, with damage: bits that are not what they were, an end that is missing, or more
/// of it.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let damage = vec((any::<usize>(), any::<u8>()), 0..4);
    (any_good(), damage, -20..20isize).prop_map(|(mut frame, damage, length)| {
        for (at, bits) in damage {
            let length = frame.len();
            frame[at % length] ^= bits;
        }
        let length = frame.len().saturating_add_signed(length.min(8)).max(14);
        frame.resize(length, 0x5a);
        frame
    })
}

/// The guest's own frames are the only ones that lead anywhere: what is read has its address.
fn is_own(seen: &frame::Seen<'_>) -> bool {
    let own = |ip: IpAddr| ip == OWN.guest4 || ip == OWN.guest6;
    match seen {
        frame::Seen::Tcp { from, .. } | frame::Seen::Udp { from, .. } => own(from.ip()),
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_bytes_are_read_without_panic(
        frame in any_frame(),
        noise in vec(any::<u8>(), 0..100),
    ) {
        for bytes in [&frame[..], &noise] {
            if let Ok(seen) = frame::read(bytes, &OWN) {
                prop_assert!(is_own(&seen), "{seen:?}");
            }
            let mut packet = bytes.get(14..).unwrap_or_default().to_vec();
            frame::complete(&mut packet);
            let _ = frame::echo_reply(&packet, &OWN);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a guest sends, the stack neither fails nor lets it out, and serves on.
    #[test]
    fn no_frame_harms_the_stack(frames in vec(any_frame(), 1..40)) {
        let (listener, _) = service();
        let mut world = World::new(false, &[], Vec::new(), Vec::new());
        for frame in &frames {
            world.say(frame);
            while world.hear().is_some() {}
        }
        nobody_came(&listener);
        let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
        let ask = [&fixed[..], &OWN.guest_mac.0, &OWN.guest4.octets(), &[0; 6], &OWN.gateway4.octets()];
        world.say(&ethernet([8, 6], &ask.concat()));
        prop_assert_eq!(&world.wait()[12..14], &[8, 6]);
    }

    /// A connection that is open hears any segment of its own, and the stack stays well.
    #[test]
    fn no_segment_harms_a_connection_or_another(
        segments in vec((any_tcp(), 0..4usize), 1..30),
    ) {
        let (listener, port) = service();
        let mut world = World::new(false, &[loopback(port)], Vec::new(), Vec::new());
        world.say(&syn(5000, gateway(port)));
        let next = segment(&world.wait()).seq + 1;
        let _host = listener.accept().expect("the guest came");
        for (mut bytes, keep) in segments {
            bytes[..2].copy_from_slice(&5000u16.to_be_bytes());
            bytes[2..4].copy_from_slice(&port.to_be_bytes());
            // Numbers that may be the right ones.
            if keep > 0 {
                bytes[4..8].copy_from_slice(&1001u32.to_be_bytes());
                bytes[8..12].copy_from_slice(&next.0.to_be_bytes());
            }
            world.say(&ipv4(OWN.guest4, OWN.gateway4, IpProtocol::Tcp, &bytes));
            while world.hear().is_some() {}
        }
        world.say(&syn(5001, gateway(port)));
        while !segment(&world.wait()).syn {}
    }

    /// Nor do name servers, whatever they answer, by datagram or connection.
    #[test]
    fn no_answer_harms_the_stack(
        answers in vec(prop_oneof![any_message(), vec(any::<u8>(), 0..100)], 1..6),
        echoes in any::<bool>(),
    ) {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
        server.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let resolver = server.local_addr().expect("an address");
        let mut world = World::asking(true, &[], Vec::new(), Vec::new(), vec![resolver]);
        world.say(&udp(guest(4000), gateway(53), &question(1)));
        let mut asked = [0; 512];
        let (length, from) = server.recv_from(&mut asked).expect("asked");
        for answer in &answers {
            let mut answer = answer.clone();
            if echoes && answer.len() >= 12 {
                answer[..2].copy_from_slice(&asked[..2]);
                answer[2] |= 0x80;
                answer.splice(12..12, asked[12..length].iter().copied());
                (answer[4], answer[5]) = (0, 1);
            }
            server.send_to(&answer, from).expect("sent");
            world.stack.turn(Some(PAUSE)).expect("epoll");
            while world.hear().is_some() {}
        }
        world.say(&syn(5001, gateway(1)));
        prop_assert!(segment(&world.wait()).rst);
    }

    /// A guest that says anything where questions are asked over TCP.
    #[test]
    fn no_bytes_harm_a_lookup_over_tcp(
        bytes in prop_oneof![any_message(), vec(any::<u8>(), 1..300)],
        framed in any::<bool>(),
        cut in any::<usize>(),
    ) {
        let mut world = World::new(false, &[], Vec::new(), Vec::new());
        let mut client = Client::open(&mut world, 5000);
        let mut all = Vec::new();
        if framed {
            all.extend(u16::try_from(bytes.len()).expect("short").to_be_bytes());
        }
        all.extend(bytes);
        let (one, two) = all.split_at(cut % all.len());
        for part in [one, two].into_iter().filter(|part| !part.is_empty()) {
            client.say(&mut world, part);
            while world.hear().is_some() {}
        }
        // The next one is answered.
        let mut next = Client::open(&mut world, 5001);
        let refused = next.ask(&mut world, &question(1));
        prop_assert_eq!(refused[3] & 0xf, 5);
    }
}
