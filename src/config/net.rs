// SPDX-License-Identifier: Apache-2.0
//! A machine's network as plain data: its interface, and what the process beside it that
//! carries its traffic may do. Pure; read by both sides.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

/// Most rules of one machine: the list is walked for every new connection of a guest.
pub const MAX_RULES: usize = 256;
/// Most published ports of one machine; each is an open socket.
pub const MAX_PUBLISHED: usize = 256;

/// An interface's hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The guest's interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net {
    pub mac: MacAddr,
    pub mtu: u16,
    /// Most bytes a second, in each direction.
    pub bps: Option<u64>,
    pub link: NetLink,
}

impl Net {
    /// The interface that leads to husk's own stack, which is alike in all machines but for its
    /// address: a template has it.
    #[must_use]
    pub fn is_common(&self) -> bool {
        matches!(self.link, NetLink::Frames(_)) && self.mtu == Addresses::ALONE.mtu
    }
}

/// What carries the guest's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetLink {
    /// A socket of whole frames, whose other end is `husk net`.
    Frames(RawFd),
    /// A tap interface, attached and with virtio headers.
    Tap(RawFd),
}

/// The addresses of a machine behind the user-mode stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub guest_mac: MacAddr,
    pub gateway_mac: MacAddr,
    pub guest4: Ipv4Addr,
    pub gateway4: Ipv4Addr,
    pub prefix4: u8,
    pub guest6: Ipv6Addr,
    pub gateway6: Ipv6Addr,
    pub prefix6: u8,
    pub mtu: u16,
}

impl Addresses {
    /// Of every machine that is on no private network: each has a stack of its own.
    pub const ALONE: Self = Self {
        guest_mac: MacAddr([0x02, 0x68, 0x75, 0x73, 0x6b, 0x0f]),
        gateway_mac: MacAddr([0x02, 0x68, 0x75, 0x73, 0x6b, 0x02]),
        guest4: Ipv4Addr::new(10, 0, 2, 15),
        gateway4: Ipv4Addr::new(10, 0, 2, 2),
        prefix4: 24,
        guest6: Ipv6Addr::new(0xfd68, 0x7573, 0x6b00, 0, 0, 0, 0, 15),
        gateway6: Ipv6Addr::new(0xfd68, 0x7573, 0x6b00, 0, 0, 0, 0, 2),
        prefix6: 64,
        mtu: 65520,
    };

    /// Of member `number` of a private network.
    #[must_use]
    pub const fn member(number: u8) -> Self {
        let mut own = Self::ALONE;
        own.guest_mac = MacAddr([0x02, 0x68, 0x75, 0x73, 0x6c, number]);
        own.guest4 = Self::member4(number);
        own.gateway4 = Ipv4Addr::new(10, 0, 3, 1);
        own.guest6 = Self::member6(number);
        own.gateway6 = Ipv6Addr::new(0xfd68, 0x7573, 0x6b01, 0, 0, 0, 0, 1);
        own
    }

    #[must_use]
    pub const fn member4(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 3, number)
    }

    #[must_use]
    pub const fn member6(number: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd68, 0x7573, 0x6b01, 0, 0, 0, 0, number as u16)
    }

    #[must_use]
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.gateway4) || address == IpAddr::V6(self.gateway6)
    }

    #[must_use]
    pub fn guest_like(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(_) => self.guest4.into(),
            IpAddr::V6(_) => self.guest6.into(),
        }
    }
}

/// What `husk net` is to be; its first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNet {
    /// Its end of the guest's frames.
    pub link: RawFd,
    pub addresses: Addresses,
    /// Everything that is not forbidden by its nature may be reached.
    pub open: bool,
    pub rules: Vec<Rule>,
    /// The host's name servers, in its order.
    pub resolvers: Vec<IpAddr>,
    pub published: Vec<Published>,
    /// The private network it is on, whose folder becomes the process's root.
    pub private: Option<Membership>,
    pub jail: bool,
}

/// A port of the host that leads into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// A listening or a bound socket.
    pub fd: RawFd,
    pub protocol: Protocol,
    pub guest_port: u16,
    /// Whether the guest is reached by its IPv6 address.
    pub v6: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A place on a private network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The network's folder on the host.
    pub folder: std::path::PathBuf,
    /// The datagram socket bound there under `number`.
    pub socket: RawFd,
    /// The locked file that makes the number this machine's.
    pub claim: RawFd,
    pub number: u8,
}

/// Something a guest may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub to: Destination,
    /// None: every port.
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    Network {
        address: IpAddr,
        prefix: u8,
    },
    /// A name in lower case without a final dot; `below`, every name that ends with it.
    Name {
        name: String,
        below: bool,
    },
}
