// SPDX-License-Identifier: Apache-2.0
//! Reads the guest's frames and writes ours. The thread of `husk net`; pure.
//!
//! Every byte of a frame is the guest's. What does not come from the guest's one hardware
//! address and one address of each family is refused here, before anything acts on it; so
//! are fragments and extension headers, which nothing on a link with our MTU needs.

use crate::config::net::Addresses;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpPacket, UdpPacket,
    UdpRepr,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub const ETHERNET: usize = 14;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const ARP: usize = 28;
const ICMPV6: u8 = 58;
const ICMPV4: u8 = 1;
const HOP_LIMIT: u8 = 64;
/// Longest echo request answered; `ping -s` goes no further.
const MAX_ECHO: usize = 65_500;

/// What the guest wants with a frame. `packet` is the IP packet, as long as it says it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'f> {
    /// Who has an IPv4 address (RFC 826).
    WhoHas4(Ipv4Addr),
    /// Who has an IPv6 address (RFC 4861, 4.3).
    WhoHas6 { target: Ipv6Addr, asker: Ipv6Addr },
    Tcp {
        from: SocketAddr,
        to: SocketAddr,
        /// A first segment: it may open a connection.
        opens: bool,
        packet: &'f [u8],
    },
    Udp {
        from: SocketAddr,
        to: SocketAddr,
        payload: &'f [u8],
        packet: &'f [u8],
    },
    /// Anything else to an address, an echo request among it.
    Other { to: IpAddr, packet: &'f [u8] },
}

/// Why a frame leads to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is shorter than what it says it holds.
    Short,
    /// Neither IPv4, IPv6 nor ARP, or not to us.
    NotOurs,
    /// It does not come from the guest's own address.
    Spoofed,
    /// Fragments, IPv4 options, IPv6 extension headers.
    Unsupported,
}

/// Reads a frame of the guest.
pub fn read<'f>(frame: &'f [u8], own: &Addresses) -> Result<Seen<'f>, Refused> {
    let (ethernet, rest) = frame.split_at_checked(ETHERNET).ok_or(Refused::Short)?;
    let (to, from, kind) = (&ethernet[..6], &ethernet[6..12], &ethernet[12..]);
    if from != own.guest_mac.0 {
        return Err(Refused::Spoofed);
    }
    if to != own.gateway_mac.0 && to[0] & 1 == 0 {
        return Err(Refused::NotOurs);
    }
    if kind == TYPE_ARP {
        read_arp(rest, own)
    } else if kind == TYPE_IPV4 {
        read_ipv4(rest, own)
    } else if kind == TYPE_IPV6 {
        read_ipv6(rest, own)
    } else {
        Err(Refused::NotOurs)
    }
}

fn read_arp<'f>(packet: &[u8], own: &Addresses) -> Result<Seen<'f>, Refused> {
    let packet: &[u8; ARP] = packet.first_chunk().ok_or(Refused::Short)?;
    // Ethernet and IPv4, a request.
    if packet[..8] != [0, 1, 8, 0, 6, 4, 0, 1] {
        return Err(Refused::Unsupported);
    }
    if packet[8..14] != own.guest_mac.0 || packet[14..18] != own.guest4.octets() {
        return Err(Refused::Spoofed);
    }
    let [.., a, b, c, d] = *packet;
    Ok(Seen::WhoHas4(Ipv4Addr::new(a, b, c, d)))
}

fn read_ipv4<'f>(bytes: &'f [u8], own: &Addresses) -> Result<Seen<'f>, Refused> {
    let packet = Ipv4Packet::new_checked(bytes).map_err(|_| Refused::Short)?;
    if packet.version() != 4 {
        return Err(Refused::Unsupported);
    }
    if packet.src_addr() != own.guest4 {
        return Err(Refused::Spoofed);
    }
    if packet.header_len() != 20 || packet.more_frags() || packet.frag_offset() != 0 {
        return Err(Refused::Unsupported);
    }
    let whole = &bytes[..usize::from(packet.total_len())];
    let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
    read_payload(packet.next_header(), from, to, packet.payload(), whole)
}

fn read_ipv6<'f>(bytes: &'f [u8], own: &Addresses) -> Result<Seen<'f>, Refused> {
    let packet = Ipv6Packet::new_checked(bytes).map_err(|_| Refused::Short)?;
    if packet.version() != 6 {
        return Err(Refused::Unsupported);
    }
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    let length = packet.total_len();
    let whole = bytes.get(..length).ok_or(Refused::Short)?;
    let payload = packet.payload();
    let protocol = packet.next_header();
    // A guest asks for its neighbours from its link-local address too.
    let asks = protocol == IpProtocol::Icmpv6 && payload.first() == Some(&135);
    if asks && packet.hop_limit() == 255 && (from == own.guest6 || from.is_unicast_link_local()) {
        let target: [u8; 16] = payload
            .get(8..24)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Refused::Short)?;
        return Ok(Seen::WhoHas6 {
            target: target.into(),
            asker: from,
        });
    }
    if from != own.guest6 {
        return Err(Refused::Spoofed);
    }
    // Who is where on a link is said by us alone.
    if protocol == IpProtocol::Icmpv6 && payload.first().is_some_and(is_discovery) {
        return Err(Refused::Unsupported);
    }
    read_payload(protocol, from.into(), to.into(), payload, whole)
}

/// Whether a message of ICMPv6 is about neighbours, routers or redirects (RFC 4861, 4).
#[must_use]
pub fn is_discovery(kind: &u8) -> bool {
    (133..=137).contains(kind)
}

fn read_payload<'f>(
    protocol: IpProtocol,
    from: IpAddr,
    to: IpAddr,
    payload: &'f [u8],
    packet: &'f [u8],
) -> Result<Seen<'f>, Refused> {
    match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(payload).map_err(|_| Refused::Short)?;
            Ok(Seen::Tcp {
                from: SocketAddr::new(from, tcp.src_port()),
                to: SocketAddr::new(to, tcp.dst_port()),
                opens: tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin(),
                packet,
            })
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).map_err(|_| Refused::Short)?;
            let length = usize::from(udp.len());
            Ok(Seen::Udp {
                from: SocketAddr::new(from, udp.src_port()),
                to: SocketAddr::new(to, udp.dst_port()),
                payload: payload.get(8..length).ok_or(Refused::Short)?,
                packet,
            })
        }
        IpProtocol::Icmp | IpProtocol::Icmpv6 => Ok(Seen::Other { to, packet }),
        _ => Err(Refused::Unsupported),
    }
}

/// The type of frame an IP packet travels in.
fn ethernet_type(packet: &[u8]) -> [u8; 2] {
    match packet.first().map(|first| first >> 4) {
        Some(6) => TYPE_IPV6,
        _ => TYPE_IPV4,
    }
}

/// Writes the Ethernet header before the packet that follows it in `frame`.
pub fn address(frame: &mut [u8], own: &Addresses) {
    let kind = ethernet_type(frame.get(ETHERNET..).unwrap_or_default());
    header(frame, own, kind);
}

fn header(frame: &mut [u8], own: &Addresses, kind: [u8; 2]) {
    if let Some(header) = frame.get_mut(..ETHERNET) {
        header[..6].copy_from_slice(&own.guest_mac.0);
        header[6..12].copy_from_slice(&own.gateway_mac.0);
        header[12..].copy_from_slice(&kind);
    }
}

/// Our answer to `WhoHas4`: the gateway's hardware address.
#[must_use]
pub fn arp_reply(target: Ipv4Addr, own: &Addresses) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET];
    header(&mut frame, own, TYPE_ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(own.gateway_mac.0);
    frame.extend(target.octets());
    frame.extend(own.guest_mac.0);
    frame.extend(own.guest4.octets());
    frame
}

/// Asks the guest for its hardware address, which we know: it answers once its interface is up.
#[must_use]
pub fn arp_request(own: &Addresses) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET];
    header(&mut frame, own, TYPE_ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(own.gateway_mac.0);
    frame.extend(own.gateway4.octets());
    frame.extend([0; 6]);
    frame.extend(own.guest4.octets());
    frame
}

/// Our answer to `WhoHas6`: a neighbour advertisement, solicited, with our address (4.4).
#[must_use]
pub fn neighbour(target: Ipv6Addr, asker: Ipv6Addr, own: &Addresses) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(own.gateway_mac.0);
    ipv6_icmp(target, asker, 255, message, own)
}

fn ipv6_icmp(
    from: Ipv6Addr,
    to: Ipv6Addr,
    hop_limit: u8,
    mut message: Vec<u8>,
    own: &Addresses,
) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    let pseudo = [
        &from.octets()[..],
        &to.octets(),
        &length,
        &[0, 0, 0, ICMPV6],
    ]
    .concat();
    message[2..4].fill(0);
    let sum = checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum);
    let repr = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.len(),
        hop_limit,
    };
    let mut frame = vec![0; ETHERNET + 40];
    repr.emit(&mut Ipv6Packet::new_unchecked(&mut frame[ETHERNET..]));
    header(&mut frame, own, TYPE_IPV6);
    frame.extend(message);
    frame
}

/// The answer to an echo request to the gateway; `None` if the packet is none.
#[must_use]
pub fn echo_reply(packet: &[u8], own: &Addresses) -> Option<Vec<u8>> {
    let v6 = packet.first()? >> 4 == 6;
    let start = if v6 { 40 } else { 20 };
    let message = packet
        .get(start..)
        .filter(|m| (8..MAX_ECHO).contains(&m.len()))?;
    let mut message = message.to_vec();
    match (v6, message[0], message[1]) {
        (true, 128, 0) => {
            message[0] = 129;
            Some(ipv6_icmp(own.gateway6, own.guest6, HOP_LIMIT, message, own))
        }
        (false, 8, 0) => {
            message[0] = 0;
            message[2..4].fill(0);
            let sum = checksum(&[&message]);
            message[2..4].copy_from_slice(&sum);
            let repr = Ipv4Repr {
                src_addr: own.gateway4,
                dst_addr: own.guest4,
                next_header: IpProtocol::from(ICMPV4),
                payload_len: message.len(),
                hop_limit: HOP_LIMIT,
            };
            let mut frame = vec![0; ETHERNET + 20];
            let caps = ChecksumCapabilities::default();
            repr.emit(
                &mut Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]),
                &caps,
            );
            header(&mut frame, own, TYPE_IPV4);
            frame.extend(message);
            Some(frame)
        }
        _ => None,
    }
}

/// A datagram for the guest; `None` if it is too long for one, or of two families.
#[must_use]
pub fn datagram(
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
    own: &Addresses,
) -> Option<Vec<u8>> {
    let length = 8 + payload.len();
    let (start, kind) = match from {
        SocketAddr::V4(_) => (20, TYPE_IPV4),
        SocketAddr::V6(_) => (40, TYPE_IPV6),
    };
    if start + length > usize::from(own.mtu) {
        return None;
    }
    let caps = ChecksumCapabilities::default();
    let mut frame = vec![0; ETHERNET + start + length];
    header(&mut frame, own, kind);
    let (ip, udp) = frame[ETHERNET..].split_at_mut(start);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => Ipv4Repr {
            src_addr,
            dst_addr,
            next_header: IpProtocol::Udp,
            payload_len: length,
            hop_limit: HOP_LIMIT,
        }
        .emit(&mut Ipv4Packet::new_unchecked(ip), &caps),
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => Ipv6Repr {
            src_addr,
            dst_addr,
            next_header: IpProtocol::Udp,
            payload_len: length,
            hop_limit: HOP_LIMIT,
        }
        .emit(&mut Ipv6Packet::new_unchecked(ip)),
        _ => return None,
    }
    let repr = UdpRepr {
        src_port: from.port(),
        dst_port: to.port(),
    };
    let (from, to) = (IpAddress::from(from.ip()), IpAddress::from(to.ip()));
    let mut packet = UdpPacket::new_unchecked(udp);
    let copy = |room: &mut [u8]| room.copy_from_slice(payload);
    repr.emit(&mut packet, &from, &to, payload.len(), copy, &caps);
    Some(frame)
}

/// Completes the checksum a guest left to us, in a packet that goes on to another guest.
pub fn complete(packet: &mut [u8]) {
    let (from, to, protocol, start): (IpAddress, IpAddress, _, _) =
        if packet.first().is_some_and(|first| first >> 4 == 6) {
            let Ok(ip) = Ipv6Packet::new_checked(&*packet) else {
                return;
            };
            (
                ip.src_addr().into(),
                ip.dst_addr().into(),
                ip.next_header(),
                40,
            )
        } else {
            let Ok(ip) = Ipv4Packet::new_checked(&*packet) else {
                return;
            };
            (
                ip.src_addr().into(),
                ip.dst_addr().into(),
                ip.next_header(),
                20,
            )
        };
    let payload = packet.get_mut(start..).unwrap_or_default();
    match protocol {
        IpProtocol::Tcp if payload.len() >= 20 => {
            TcpPacket::new_unchecked(payload).fill_checksum(&from, &to);
        }
        IpProtocol::Udp => {
            if let Ok(mut udp) = UdpPacket::new_checked(payload) {
                udp.fill_checksum(&from, &to);
            }
        }
        _ => {}
    }
}

/// The Internet checksum (RFC 1071) of parts of even length but for the last.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
}
