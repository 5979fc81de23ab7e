// SPDX-License-Identifier: Apache-2.0
//! The stack without a machine: a guest that can put any bytes on its link, and this host's
//! own sockets as the world.

mod escapes;
mod fuzz;
mod lookups;
mod members;

use super::datagrams::Door;
use super::gates::Gate;
use super::policy::Policy;
use super::stack::{Parts, Stack};
use crate::config::net::{Addresses, Destination, Rule};
use crate::net::{Frames, MAX_FRAME};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

const OWN: Addresses = Addresses::ALONE;
/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

struct World {
    guest: OwnedFd,
    stack: Stack,
}

impl World {
    fn new(open: bool, rules: &[Rule], gates: Vec<Gate>, doors: Vec<Door>) -> Self {
        Self::asking(open, rules, gates, doors, Vec::new())
    }

    fn asking(
        open: bool,
        rules: &[Rule],
        gates: Vec<Gate>,
        doors: Vec<Door>,
        resolvers: Vec<SocketAddr>,
    ) -> Self {
        Self::on(OWN, |parts| {
            parts.policy = Policy::new(OWN, open, rules.to_vec());
            (parts.resolvers, parts.gates, parts.doors) = (resolvers, gates, doors);
        })
    }

    fn on(own: Addresses, equip: impl FnOnce(&mut Parts)) -> Self {
        let (guest, theirs) = Frames::pair().expect("sockets");
        let mut parts = Parts {
            link: Frames::new(theirs),
            addresses: own,
            policy: Policy::new(own, false, Vec::new()),
            resolvers: Vec::new(),
            gates: Vec::new(),
            doors: Vec::new(),
            peers: None,
        };
        equip(&mut parts);
        Self {
            guest,
            stack: Stack::new(parts).expect("a stack"),
        }
    }

    fn say(&mut self, frame: &[u8]) {
        send(self.guest.as_raw_fd(), frame, MsgFlags::empty()).expect("room");
        self.stack.turn(Some(PAUSE)).expect("epoll");
    }

    fn hear(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; MAX_FRAME];
        match recv(self.guest.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) => {
                frame.truncate(length);
                Some(frame)
            }
            Err(Errno::EAGAIN) => None,
            Err(other) => panic!("{other}"),
        }
    }

    /// The next frame that comes.
    #[track_caller]
    fn wait(&mut self) -> Vec<u8> {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(frame) = self.hear() {
                return frame;
            }
            assert!(Instant::now() < end, "no frame came");
            self.stack.turn(Some(PAUSE)).expect("epoll");
        }
    }

    /// Nothing comes, nor would: what a frame leads to happens in the turn that reads it.
    #[track_caller]
    fn silence(&mut self) {
        for _ in 0..3 {
            self.stack.turn(Some(PAUSE)).expect("epoll");
        }
        assert_eq!(self.hear(), None);
    }
}

fn ethernet(kind: [u8; 2], rest: &[u8]) -> Vec<u8> {
    [&OWN.gateway_mac.0[..], &OWN.guest_mac.0, &kind, rest].concat()
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, next_header: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header,
        payload_len: payload.len(),
        hop_limit: 64,
    };
    let mut packet = vec![0; 20];
    let caps = ChecksumCapabilities::default();
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut packet), &caps);
    packet.extend(payload);
    ethernet([8, 0], &packet)
}

fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = super::frame::datagram(from, to, payload, &OWN).expect("short");
    frame[..6].copy_from_slice(&OWN.gateway_mac.0);
    frame[6..12].copy_from_slice(&OWN.guest_mac.0);
    frame
}

#[derive(Clone, Copy)]
struct Segment<'s> {
    control: TcpControl,
    seq: i32,
    ack: Option<TcpSeqNumber>,
    payload: &'s [u8],
}

fn tcp(from: u16, to: SocketAddr, segment: Segment<'_>) -> Vec<u8> {
    let IpAddr::V4(remote) = to.ip() else {
        panic!("IPv4 only")
    };
    let repr = TcpRepr {
        src_port: from,
        dst_port: to.port(),
        control: segment.control,
        seq_number: TcpSeqNumber(segment.seq),
        ack_number: segment.ack,
        window_len: 60_000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: segment.payload,
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes),
        &IpAddress::from(OWN.guest4),
        &IpAddress::from(remote),
        &ChecksumCapabilities::default(),
    );
    ipv4(OWN.guest4, remote, IpProtocol::Tcp, &bytes)
}

fn syn(from: u16, to: SocketAddr) -> Vec<u8> {
    let segment = Segment {
        control: TcpControl::Syn,
        seq: 1000,
        ack: None,
        payload: &[],
    };
    tcp(from, to, segment)
}

/// A TCP segment of a frame for the guest: its flags, numbers and payload.
struct Heard {
    from: SocketAddr,
    syn: bool,
    ack: bool,
    rst: bool,
    fin: bool,
    seq: TcpSeqNumber,
    payload: Vec<u8>,
}

fn segment(frame: &[u8]) -> Heard {
    let ip = Ipv4Packet::new_checked(&frame[14..]).expect("IPv4");
    let tcp = TcpPacket::new_checked(ip.payload()).expect("TCP");
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    assert!(ip.verify_checksum() && tcp.verify_checksum(&from.into(), &to.into()));
    Heard {
        from: SocketAddr::new(from.into(), tcp.src_port()),
        syn: tcp.syn(),
        ack: tcp.ack(),
        rst: tcp.rst(),
        fin: tcp.fin(),
        seq: tcp.seq_number(),
        payload: tcp.payload().to_vec(),
    }
}

fn loopback(port: u16) -> Rule {
    Rule {
        to: Destination::Network {
            address: Ipv4Addr::LOCALHOST.into(),
            prefix: 32,
        },
        port: Some(port),
    }
}

fn gateway(port: u16) -> SocketAddr {
    SocketAddr::new(OWN.gateway4.into(), port)
}

fn guest(port: u16) -> SocketAddr {
    SocketAddr::new(OWN.guest4.into(), port)
}

/// A service of the host that says so if anybody comes.
fn service() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("non-blocking");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

#[track_caller]
fn nobody_came(listener: &TcpListener) {
    let kind = listener.accept().map_err(|error| error.kind());
    assert_eq!(kind.map(|_| ()), Err(std::io::ErrorKind::WouldBlock));
}

#[test]
fn a_connection_that_is_allowed_carries_bytes_and_both_ends_of_it() {
    let (listener, port) = service();
    let mut world = World::new(false, &[loopback(port)], Vec::new(), Vec::new());
    world.say(&syn(5000, gateway(port)));
    let answer = segment(&world.wait());
    assert!(answer.syn && answer.ack && answer.from == gateway(port));
    let (mut host, _) = listener.accept().expect("the guest came");
    host.set_nonblocking(false).expect("blocking");
    let next = answer.seq + 1;
    let say = |control, seq, ack, payload| {
        let ack = Some(ack);
        tcp(
            5000,
            gateway(port),
            Segment {
                control,
                seq,
                ack,
                payload,
            },
        )
    };
    world.say(&say(TcpControl::Psh, 1001, next, b"question"));
    let mut bytes = [0; 8];
    host.read_exact(&mut bytes).expect("arrived");
    assert_eq!(&bytes, b"question");
    // The guest says no more; what the host has to say still comes.
    world.say(&say(TcpControl::Fin, 1009, next, b""));
    assert_eq!(host.read(&mut bytes).expect("the end"), 0);
    host.write_all(b"answer").expect("open");
    drop(host);
    let mut heard: Vec<u8> = Vec::new();
    loop {
        let part = segment(&world.wait());
        heard.extend(&part.payload);
        if part.fin {
            break;
        }
    }
    assert_eq!(heard, b"answer");
    world.say(&say(TcpControl::None, 1010, next + 7, b""));
    // The flow is forgotten: the same segment again belongs to nobody.
    world.say(&say(TcpControl::None, 1010, next + 7, b""));
    let mut last = segment(&world.wait());
    while !last.rst {
        last = segment(&world.wait());
    }
}

/// A connection rests for as long as the guest is there, and no longer.
#[test]
fn a_quiet_connection_lives_while_its_guest_does() {
    let (listener, port) = service();
    let mut world = World::new(false, &[loopback(port)], Vec::new(), Vec::new());
    world.say(&syn(5000, gateway(port)));
    let next = segment(&world.wait()).seq + 1;
    let (mut host, _) = listener.accept().expect("the guest came");
    let here = Segment {
        control: TcpControl::None,
        seq: 1001,
        ack: Some(next),
        payload: &[],
    };
    world.say(&tcp(5000, gateway(port), here));
    for _ in 0..20 {
        world.stack.pass(Duration::from_secs(60));
        let asked = segment(&world.wait());
        assert!(asked.ack && !asked.rst);
        world.say(&tcp(5000, gateway(port), here));
    }
    host.write_all(b"still").expect("open");
    let mut part = segment(&world.wait());
    while part.payload != b"still" {
        part = segment(&world.wait());
    }
    world.stack.pass(Duration::from_secs(200));
    host.set_nonblocking(false).expect("blocking");
    let error = host.read(&mut [0; 8]).expect_err("cut");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_of_the_guest_is_a_reset_for_the_host() {
    let (listener, port) = service();
    let mut world = World::new(false, &[loopback(port)], Vec::new(), Vec::new());
    world.say(&syn(5000, gateway(port)));
    let next = segment(&world.wait()).seq + 1;
    let (mut host, _) = listener.accept().expect("the guest came");
    host.set_nonblocking(false).expect("blocking");
    let reset = Segment {
        control: TcpControl::Rst,
        seq: 1001,
        ack: Some(next),
        payload: &[],
    };
    world.say(&tcp(5000, gateway(port), reset));
    let error = host.read(&mut [0; 8]).expect_err("cut");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn what_is_not_allowed_is_refused_at_once_and_nothing_leaves() {
    let (listener, port) = service();
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    for open in [false, true] {
        let mut world = World::new(open, &[loopback(port ^ 1)], Vec::new(), Vec::new());
        let mapped = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let metadata = SocketAddr::new(Ipv4Addr::new(169, 254, 169, 254).into(), 80);
        for to in [gateway(port), local, mapped, metadata] {
            world.say(&syn(5000, to));
            // To an address no packet may bear there is no answer either.
            if let Some(frame) = world.hear() {
                assert!(segment(&frame).rst, "{to}");
            }
            world.silence();
        }
        nobody_came(&listener);
    }
}

#[test]
fn a_port_nobody_listens_on_is_refused_as_such() {
    let (listener, port) = service();
    drop(listener);
    let mut world = World::new(false, &[loopback(port)], Vec::new(), Vec::new());
    world.say(&syn(5000, gateway(port)));
    assert!(segment(&world.wait()).rst);
}

#[test]
fn frames_that_are_not_the_guests_own_lead_nowhere() {
    let (listener, port) = service();
    let mut world = World::new(false, &[loopback(port)], Vec::new(), Vec::new());
    let good = syn(5000, gateway(port));
    // Another's hardware address, as sender and as receiver.
    let mut other = good.clone();
    other[11] ^= 1;
    world.say(&other);
    let mut other = good.clone();
    other[5] ^= 1;
    world.say(&other);
    // Another's address of the network layer, the gateway's own among them.
    for source in [
        OWN.gateway4,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(10, 0, 2, 16),
    ] {
        let mut other = good.clone();
        other[26..30].copy_from_slice(&source.octets());
        world.say(&other);
    }
    // Fragments, the first and a later one; options; a length that lies.
    for (at, bits) in [(20, 0x20), (21, 1), (14, 1), (16, 0x10)] {
        let mut other = good.clone();
        other[at] ^= bits;
        world.say(&other);
    }
    // Every shorter frame.
    for length in 14..good.len() {
        world.say(&good[..length]);
    }
    world.silence();
    nobody_came(&listener);
    world.say(&good);
    assert!(segment(&world.wait()).syn, "the stack is as well as before");
}

#[test]
fn only_the_gateway_is_there_to_be_found() {
    let mut world = World::new(true, &[], Vec::new(), Vec::new());
    let who_has = |target: Ipv4Addr, sender: Ipv4Addr, mac: [u8; 6]| {
        let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
        let rest = [
            &fixed[..],
            &mac,
            &sender.octets(),
            &[0; 6],
            &target.octets(),
        ]
        .concat();
        ethernet([8, 6], &rest)
    };
    let own = OWN.guest_mac.0;
    for (target, sender, mac) in [
        (Ipv4Addr::new(10, 0, 2, 3), OWN.guest4, own),
        (OWN.guest4, OWN.guest4, own),
        (OWN.gateway4, Ipv4Addr::new(10, 0, 2, 99), own),
        (OWN.gateway4, OWN.guest4, OWN.gateway_mac.0),
    ] {
        world.say(&who_has(target, sender, mac));
        world.silence();
    }
    // An answer nobody asked for changes nothing.
    let mut answer = who_has(OWN.gateway4, OWN.guest4, own);
    answer[21] = 2;
    world.say(&answer);
    world.silence();
    world.say(&who_has(OWN.gateway4, OWN.guest4, own));
    let found = world.wait();
    assert_eq!(found[22..28], OWN.gateway_mac.0);

    let solicit = |target: std::net::Ipv6Addr, hop_limit: u8| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, hop_limit];
        packet.extend(OWN.guest6.octets());
        packet.extend(target.octets());
        packet.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(target.octets());
        ethernet([0x86, 0xdd], &packet)
    };
    let other = "fd68:7573:6b00::3".parse().expect("an address");
    world.say(&solicit(other, 255));
    world.say(&solicit(OWN.gateway6, 64));
    world.silence();
    world.say(&solicit(OWN.gateway6, 255));
    let found = world.wait();
    assert_eq!((found[54], &found[80..86]), (136, &OWN.gateway_mac.0[..]));
}

#[test]
fn a_published_port_leads_into_the_guest() {
    let (listener, port) = service();
    let gate = Gate {
        listener,
        guest: guest(80),
    };
    let mut world = World::new(false, &[], vec![gate], Vec::new());
    world.silence();
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("listens");
    // A guest that is not there yet would take no notice of a segment, and hear of it again much
    // later: it is asked for its address until it answers.
    let ends = [&OWN.guest_mac.0[..], &OWN.gateway_mac.0].concat();
    let sender = [&OWN.gateway_mac.0[..], &OWN.gateway4.octets()].concat();
    let target = [&[0; 6][..], &OWN.guest4.octets()].concat();
    let question = [&ends[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &sender, &target].concat();
    assert_eq!(world.wait(), question);
    assert_eq!(world.wait(), question);
    let own = [&OWN.guest_mac.0[..], &OWN.guest4.octets()].concat();
    world.say(&ethernet(
        [8, 6],
        &[&[0, 1, 8, 0, 6, 4, 0, 2], &own[..], &sender].concat(),
    ));
    let mut first = world.wait();
    while first == question {
        first = world.wait();
    }
    let asked = segment(&first);
    assert!(asked.syn && !asked.ack && asked.from.ip() == IpAddr::V4(OWN.gateway4));
    let answer = Segment {
        control: TcpControl::Syn,
        seq: 7000,
        ack: Some(asked.seq + 1),
        payload: &[],
    };
    world.say(&tcp(80, asked.from, answer));
    client.write_all(b"hello").expect("open");
    let mut part = segment(&world.wait());
    while part.payload.is_empty() {
        part = segment(&world.wait());
    }
    assert_eq!(part.payload, b"hello");
}

#[test]
fn datagrams_find_their_way_back_through_a_published_port() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_nonblocking(true).expect("non-blocking");
    let at = socket.local_addr().expect("an address");
    let door = Door {
        socket,
        guest: guest(53),
    };
    let mut world = World::new(false, &[], Vec::new(), vec![door]);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    client.send_to(b"ping", at).expect("sent");
    let frame = world.wait();
    let ip = Ipv4Packet::new_checked(&frame[14..]).expect("IPv4");
    assert_eq!(&ip.payload()[8..], b"ping");
    let from = u16::from_be_bytes([ip.payload()[0], ip.payload()[1]]);
    world.say(&udp(guest(54), gateway(from), b"from another port"));
    world.say(&udp(guest(53), gateway(from), b"pong"));
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut bytes = [0; 32];
    let (length, sender) = client.recv_from(&mut bytes).expect("an answer");
    assert_eq!((&bytes[..length], sender), (&b"pong"[..], at));
}

#[test]
fn datagrams_go_where_a_rule_leads_and_nowhere_else() {
    let host = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let other = UdpSocket::bind("127.0.0.1:0").expect("a port");
    other.set_nonblocking(true).expect("non-blocking");
    let port = host.local_addr().expect("an address").port();
    let closed = other.local_addr().expect("an address").port();
    let mut world = World::new(false, &[loopback(port)], Vec::new(), Vec::new());
    world.say(&udp(guest(9), gateway(closed), b"out"));
    world.say(&udp(guest(9), gateway(port), b"hello"));
    host.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut bytes = [0; 32];
    let (length, from) = host.recv_from(&mut bytes).expect("arrived");
    assert_eq!(&bytes[..length], b"hello");
    host.send_to(b"back", from).expect("sent");
    let frame = world.wait();
    assert_eq!(frame[frame.len() - 4..], *b"back");
    assert!(other.recv(&mut bytes).is_err(), "not allowed");
}

#[test]
fn names_that_no_rule_has_are_not_asked_for() {
    let mut world = World::new(false, &[], Vec::new(), Vec::new());
    let mut question = vec![9, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
    world.say(&udp(guest(4000), gateway(53), &question));
    let answer = world.wait();
    let dns = &answer[42..];
    assert_eq!(
        (&dns[..2], dns[2] & 0x80, dns[3] & 0xf),
        (&[9, 9][..], 0x80, 5)
    );
    question.truncate(14);
    world.say(&udp(guest(4000), gateway(53), &question));
    world.silence();
}

/// A question for `a.example`.
fn question(kind: u8) -> Vec<u8> {
    let mut message = vec![9, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(b"\x01a\x07example\0\0");
    message.extend([kind, 0, 1]);
    message
}

/// What the guest is told by a name server that says `addresses`: the code, and how many.
fn lookup(world: &mut World, server: &UdpSocket, addresses: &[[u8; 4]]) -> (u8, u8) {
    world.say(&udp(guest(4000), gateway(53), &question(1)));
    let mut bytes = [0; 512];
    let (length, from) = server.recv_from(&mut bytes).expect("asked");
    let mut answer = bytes[..length].to_vec();
    // Somebody who guesses the number, and is wrong, is not heard.
    let mut guess = answer.clone();
    guess[1] ^= 1;
    (guess[2], guess[3]) = (0x81, 0x80);
    server.send_to(&guess, from).expect("sent");
    (answer[2], answer[3]) = (0x81, 0x80);
    answer[7] = u8::try_from(addresses.len()).expect("few");
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address);
    }
    server.send_to(&answer, from).expect("sent");
    let frame = world.wait();
    let dns = &frame[42..];
    assert_eq!(dns[..2], [9, 9], "the guest's own number");
    (dns[3] & 0xf, dns[7])
}

#[test]
fn answers_open_what_they_say_but_never_the_hosts_own_addresses() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
    server.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let resolver = server.local_addr().expect("an address");
    let (listener, port) = service();
    let rule = Rule {
        to: Destination::Name {
            name: "a.example".into(),
            below: false,
        },
        port: None,
    };
    let mut world = World::asking(false, &[rule], Vec::new(), Vec::new(), vec![resolver]);
    let outside = [203, 0, 113, 5];
    assert_eq!(lookup(&mut world, &server, &[outside]), (0, 1));
    // The name moves, to where no name may lead: alone, and beside an address that is good.
    let local = [127, 0, 0, 1];
    for rebound in [
        &[local][..],
        &[outside, local],
        &[[169, 254, 169, 254]],
        &[[10, 0, 2, 2]],
    ] {
        assert_eq!(lookup(&mut world, &server, rebound), (3, 0), "{rebound:?}");
    }
    for to in [SocketAddr::new(local.into(), port), gateway(port)] {
        world.say(&syn(5000, to));
        while let Some(frame) = world.hear() {
            assert!(segment(&frame).rst, "{to}");
        }
    }
    nobody_came(&listener);
}

#[test]
fn a_guest_that_opens_connections_without_end_is_refused_in_the_end() {
    let (_listener, port) = service();
    let mut world = World::new(false, &[loopback(port)], Vec::new(), Vec::new());
    let mut refused = 0;
    for from in 1..1200u16 {
        world.say(&syn(from, gateway(port)));
        while let Some(frame) = world.hear() {
            refused += u32::from(segment(&frame).rst);
        }
    }
    assert!(refused > 0, "there is an end");
}
