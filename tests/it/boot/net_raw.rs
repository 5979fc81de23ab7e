// SPDX-License-Identifier: Apache-2.0
//! A guest whose root writes its own frames, past its kernel: in other names, in pieces, of
//! other protocols, and with word of neighbours. A service of the host that is allowed is the
//! target, so that nothing but the front of the stack stands between.

use crate::support::husk::Host;
use std::net::UdpSocket;
use std::time::Duration;

/// Stands for the address of the guest's interface.
const GUEST_MAC: &str = "02687573 6b0f";
const GATEWAY_MAC: &str = "02687573 6b02";
const GUEST: [u8; 4] = [10, 0, 2, 15];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16))
        .collect::<Result<_, _>>()
        .expect("digits")
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let pairs = bytes
        .chunks(2)
        .map(|pair| [pair[0], *pair.get(1).unwrap_or(&0)]);
    let sum: u32 = pairs.map(|pair| u32::from(u16::from_be_bytes(pair))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded")).to_be_bytes()
}

#[derive(Clone, Copy)]
struct Packet<'p> {
    from: [u8; 4],
    protocol: u8,
    /// Flags and offset of a fragment.
    fragment: u16,
    options: &'p [u8],
    payload: &'p [u8],
}

fn frame(kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&hex(GATEWAY_MAC)[..], &hex(GUEST_MAC), &kind, packet].concat()
}

impl Packet<'_> {
    fn frame(&self) -> Vec<u8> {
        let words = u8::try_from(5 + self.options.len() / 4).expect("short");
        let length = usize::from(words) * 4 + self.payload.len();
        let mut header = vec![0x40 | words, 0];
        header.extend(u16::try_from(length).expect("short").to_be_bytes());
        header.extend([0, 7]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([64, self.protocol, 0, 0]);
        header.extend(self.from);
        header.extend(GATEWAY);
        header.extend(self.options);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        frame([8, 0], &[&header[..], self.payload].concat())
    }
}

/// UDP without a checksum, which IPv4 allows.
fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("short");
    let mut bytes = [[0, 9], port.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    bytes.extend(payload);
    bytes
}

fn hostile(port: u16, closed: u16) -> Vec<Vec<u8>> {
    const MORE: u16 = 0x2000;
    let evil = datagram(port, b"evil evil evil evil evil");
    let plain = Packet {
        from: GUEST,
        protocol: 17,
        fragment: 0,
        options: &[],
        payload: &evil,
    };
    let mut list = Vec::new();
    // In the gateway's name, a neighbour's, loopback's, nobody's, everybody's.
    for from in [GATEWAY, [10, 0, 2, 16], [127, 0, 0, 1], [0; 4], [255; 4]] {
        list.push(Packet { from, ..plain }.frame());
    }
    let mut other = plain.frame();
    other[6..12].copy_from_slice(&hex("02 ba db ad 00 01"));
    list.push(other);
    // Whole but for a flag; two pieces; the last one first; one over the other.
    let (one, two) = evil.split_at(16);
    for (fragment, payload) in [
        (MORE, &evil[..]),
        (MORE, one),
        (2, two),
        (2, two),
        (MORE, one),
        (1, two),
    ] {
        list.push(
            Packet {
                fragment,
                payload,
                ..plain
            }
            .frame(),
        );
    }
    // A source route through the gateway; IP in IP, and other protocols.
    let route = [&[131, 7, 4][..], &[127, 0, 0, 1], &[0]].concat();
    list.push(
        Packet {
            options: &route,
            ..plain
        }
        .frame(),
    );
    let inner = plain.frame().split_off(14);
    for protocol in [4, 41, 47, 50, 132] {
        list.push(
            Packet {
                protocol,
                payload: &inner,
                ..plain
            }
            .frame(),
        );
    }
    // To ports that no rule names, and one in a VLAN.
    list.push(
        Packet {
            payload: &datagram(closed, b"evil"),
            ..plain
        }
        .frame(),
    );
    let good = plain.frame();
    list.push([&good[..12], &[0x81, 0, 0, 1], &good[12..]].concat());
    // The gateway is elsewhere now, says the guest: as an answer and as a question.
    for operation in [1, 2] {
        let fixed = [0, 1, 8, 0, 6, 4, 0, operation];
        let rest = [
            &fixed[..],
            &hex("02badbad0001"),
            &GATEWAY,
            &[0xff; 6],
            &GATEWAY,
        ];
        list.push(frame([8, 6], &rest.concat()));
    }
    // Cut short, and nothing at all.
    list.push(good[..30].to_vec());
    list.push(good[..14].to_vec());
    list
}

#[test]
fn frames_of_a_guests_own_making_lead_nowhere_and_harm_nothing() {
    let Some(host) = Host::find() else { return };
    let allowed = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let forbidden = UdpSocket::bind("127.0.0.1:0").expect("a port");
    forbidden.set_nonblocking(true).expect("non-blocking");
    let port = |socket: &UdpSocket| socket.local_addr().expect("an address").port();
    let (open, closed) = (port(&allowed), port(&forbidden));
    let good = Packet {
        from: GUEST,
        protocol: 17,
        fragment: 0,
        options: &[],
        payload: &datagram(open, b"good"),
    };
    let mut frames = hostile(open, closed);
    // The same way, as it should be: what comes after all the others.
    frames.push(good.frame());
    let count = frames.len();
    let frames = frames.iter().map(|frame| {
        let digits = frame.iter().map(|byte| format!("{byte:02x}"));
        // The probe knows which address the interface really has.
        let digits: String = digits.collect();
        digits.replace(&GUEST_MAC.replace(' ', ""), "own")
    });
    let words = frames.collect::<Vec<_>>().join(" ");
    let script = format!(
        "husk-probe frames eth0 {words} && busybox ping -c 1 -W 5 10.0.2.2 >/dev/null && echo well"
    );
    let allow = format!("127.0.0.1:{open}");
    let ended = host.sh(&script).options(&["--allow", &allow]).end();
    ended.is(0, &format!("{count} frames\nwell\n"), "");
    let patience = Some(Duration::from_secs(20));
    allowed.set_read_timeout(patience).expect("a timeout");
    let mut bytes = [0; 64];
    let (length, _) = allowed.recv_from(&mut bytes).expect("the good one");
    assert_eq!(&bytes[..length], b"good", "nothing came before it");
    allowed.set_nonblocking(true).expect("non-blocking");
    assert!(allowed.recv(&mut bytes).is_err(), "nothing after it");
    assert!(forbidden.recv(&mut bytes).is_err());
}

/// A resolver that comes by TCP is no better off.
#[test]
fn lookups_by_tcp_are_judged_as_others_are() {
    let Some(host) = Host::find() else { return };
    // A question for a name no rule has, framed for TCP; what comes back says refused.
    let question =
        "\\0\\033\\011\\011\\001\\0\\0\\001\\0\\0\\0\\0\\0\\0\\001a\\007example\\0\\0\\001\\0\\001";
    let script = format!(
        "printf '{question}' | busybox nc -w 5 10.0.2.2 53 | busybox hexdump -v -e '1/1 \"%02x\"' | cut -c 5-12"
    );
    let ended = host.sh(&script).end();
    ended.is(0, "09098185\n", "");
}
