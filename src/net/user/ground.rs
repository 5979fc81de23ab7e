// SPDX-License-Identifier: Apache-2.0
//! What every part of the stack stands on: the link, the TCP stack's interface, the rules,
//! and what is waited for. The thread of `husk net`.

use super::policy::Policy;
use super::wire::Wire;
use crate::config::net::Addresses;
use crate::net::Frames;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::wire::{HardwareAddress, IpCidr};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::time::Instant;

/// Who an event is for. The number beside it is a place in a list, or a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Link,
    Peers,
    Flow {
        place: u32,
        generation: u16,
    },
    Listener(u32),
    PublishedDatagrams(u32),
    Datagrams(RawFd),
    Lookup(RawFd),
    /// Of lookups over TCP: the guest's end, and a name server's.
    Inquiry(RawFd),
    Answer(RawFd),
    /// Whoever started this process.
    Owner,
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, generation, number) = match self {
            Self::Link => (0, 0, 0),
            Self::Peers => (1, 0, 0),
            Self::Flow { place, generation } => (2, generation, place),
            Self::Listener(place) => (3, 0, place),
            Self::PublishedDatagrams(place) => (4, 0, place),
            Self::Datagrams(fd) => (5, 0, fd.cast_unsigned()),
            Self::Lookup(fd) => (6, 0, fd.cast_unsigned()),
            Self::Inquiry(fd) => (7, 0, fd.cast_unsigned()),
            Self::Answer(fd) => (8, 0, fd.cast_unsigned()),
            Self::Owner => (9, 0, 0),
        };
        u64::from(number) | u64::from(generation) << 32 | kind << 56
    }

    #[must_use]
    pub fn unpack(bits: u64) -> Self {
        let [n0, n1, n2, n3, g0, g1, _, kind] = bits.to_le_bytes();
        let number = u32::from_le_bytes([n0, n1, n2, n3]);
        let generation = u16::from_le_bytes([g0, g1]);
        match kind {
            1 => Self::Peers,
            2 => Self::Flow {
                place: number,
                generation,
            },
            3 => Self::Listener(number),
            4 => Self::PublishedDatagrams(number),
            5 => Self::Datagrams(number.cast_signed()),
            6 => Self::Lookup(number.cast_signed()),
            7 => Self::Inquiry(number.cast_signed()),
            8 => Self::Answer(number.cast_signed()),
            9 => Self::Owner,
            _ => Self::Link,
        }
    }
}

pub struct Ground {
    pub wire: Wire,
    pub iface: Interface,
    pub own: Addresses,
    pub policy: Policy,
    pub epoll: Epoll,
    born: Instant,
}

impl Ground {
    pub fn new(link: Frames, own: Addresses, policy: Policy) -> io::Result<Self> {
        let mut wire = Wire::new(link, own);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random();
        let born = Instant::now();
        let mut iface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        iface.update_ip_addrs(|list| {
            let _ = list.push(IpCidr::new(own.gateway4.into(), own.prefix4));
            let _ = list.push(IpCidr::new(own.gateway6.into(), own.prefix6));
        });
        // Every address is ours to answer for, once a flow was allowed to it.
        iface.set_any_ip(true);
        let _ = iface.routes_mut().add_default_ipv4_route(own.gateway4);
        let _ = iface.routes_mut().add_default_ipv6_route(own.gateway6);
        Ok(Self {
            wire,
            iface,
            own,
            policy,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            born,
        })
    }

    /// Lets time pass for the stack.
    #[cfg(test)]
    pub fn age(&mut self, time: std::time::Duration) {
        self.born -= time;
    }

    /// The stack's clock.
    pub fn now(&self) -> smoltcp::time::Instant {
        let micros = i64::try_from(self.born.elapsed().as_micros()).unwrap_or(i64::MAX);
        smoltcp::time::Instant::from_micros(micros)
    }

    pub fn watch(&self, fd: impl AsFd, token: Token, flags: EpollFlags) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(flags, token.pack()))?)
    }

    /// As `watch`, of what is watched already: for something else.
    pub fn watch_anew(&self, fd: impl AsFd, token: Token, flags: EpollFlags) -> io::Result<()> {
        let mut event = EpollEvent::new(flags, token.pack());
        Ok(self.epoll.modify(fd, &mut event)?)
    }

    /// Waits for frames, or for room when some wait for that.
    pub fn watch_link(&self, for_room: bool) {
        let flags = match for_room {
            true => EpollFlags::EPOLLOUT,
            false => EpollFlags::EPOLLIN,
        };
        // Fails only for a descriptor that was never added.
        let _ = self.watch_anew(self.wire.fd(), Token::Link, flags);
    }

    /// Has the stack answer a segment that belongs to no flow, as a host without a listener
    /// would.
    pub fn reset(&mut self, packet: &[u8]) {
        self.wire.offer(packet);
        let now = self.now();
        let mut nobody = SocketSet::new(Vec::new());
        let _ = self.iface.poll(now, &mut self.wire, &mut nobody);
    }
}

/// A number nobody can guess: a keyed hash whose key the system chose.
#[must_use]
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
