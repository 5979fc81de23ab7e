// SPDX-License-Identifier: Apache-2.0
//! All TCP connections of a guest. The thread of `husk net`; never waits.

use super::ground::{Ground, Token};
use super::tcp::{Flow, Life};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

/// Connections at once. Stops a guest from taking all descriptors and much memory.
const MAX_FLOWS: usize = 1024;
/// And of the descriptors this process may have they take no more than one in so many: one
/// that cannot be accepted for want of them would wake us for ever.
const SHARE: u64 = 4;
/// How long a connection to the outside may take to come about.
const CONNECT: Duration = Duration::from_secs(30);
/// Connections accepted in one turn of the loop.
const ACCEPTS: usize = 64;
/// Ports the gateway speaks to the guest from.
const PORTS: std::ops::Range<u16> = 32768..61000;

type Ends = (SocketAddr, SocketAddr);

#[derive(Default)]
struct Slot {
    flow: Option<Flow>,
    generation: u16,
    timer: Option<Instant>,
    stalled: bool,
}

pub struct Flows {
    slots: Vec<Slot>,
    free: Vec<usize>,
    places: HashMap<Ends, usize>,
    timers: BTreeSet<(Instant, usize)>,
    /// Flows that wait for the link to take more.
    stalled: Vec<usize>,
    next_port: u16,
    most: usize,
}

impl Flows {
    pub fn new() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let share = usize::try_from(limit / SHARE).unwrap_or(usize::MAX);
        Self {
            most: MAX_FLOWS.min(share),
            slots: Vec::new(),
            free: Vec::new(),
            places: HashMap::new(),
            timers: BTreeSet::new(),
            stalled: Vec::new(),
            next_port: PORTS.start,
        }
    }

    /// A segment of the guest's. `dial` begins the host's half of a connection it opens, if
    /// there may be one.
    pub fn segment(
        &mut self,
        ends: Ends,
        opens: bool,
        packet: &[u8],
        dial: impl FnOnce(&Ground) -> Option<io::Result<TcpStream>>,
        ground: &mut Ground,
    ) {
        if let Some(&place) = self.places.get(&ends) {
            let opening = self.flow(place).is_some_and(|flow| flow.is_opening());
            // A repeated first segment, which is kept already; or a second thought.
            if !opening {
                ground.wire.offer(packet);
                self.turn(place, ground);
            }
            return;
        }
        match (opens && self.has_room()).then(|| dial(ground)).flatten() {
            Some(Ok(host)) => {
                let flow = Flow::outgoing(ends.0, ends.1, host, packet);
                self.add(flow, Some(Instant::now() + CONNECT), ground);
            }
            _ => ground.reset(packet),
        }
    }

    /// Takes the connections to a published port.
    pub fn accept(&mut self, listener: &TcpListener, guest: SocketAddr, ground: &mut Ground) {
        for _ in 0..ACCEPTS {
            let Ok((host, _)) = listener.accept() else {
                return;
            };
            if !self.has_room() || host.set_nonblocking(true).is_err() {
                continue;
            }
            let gateway = match guest {
                SocketAddr::V4(_) => ground.own.gateway4.into(),
                SocketAddr::V6(_) => ground.own.gateway6.into(),
            };
            let Some(remote) = self.free_port(gateway, guest) else {
                continue;
            };
            if let Some(flow) = Flow::incoming(guest, remote, host, &mut ground.iface)
                && let Some(place) = self.add(flow, None, ground)
            {
                self.turn(place, ground);
            }
        }
    }

    /// A host's socket is ready.
    pub fn ready(&mut self, place: u32, generation: u16, events: EpollFlags, ground: &mut Ground) {
        let place = place as usize;
        if self
            .slots
            .get(place)
            .is_none_or(|slot| slot.generation != generation)
        {
            return;
        }
        let ended = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let readable = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | ended;
        let writable = EpollFlags::EPOLLOUT | ended;
        let Some(flow) = self.flow(place) else { return };
        flow.ready(events.intersects(readable), events.intersects(writable));
        if flow.is_opening() {
            if events.intersects(writable) {
                self.open(place, ground);
            }
            return;
        }
        self.turn(place, ground);
    }

    /// The link takes frames again.
    pub fn resume(&mut self, ground: &mut Ground) {
        for place in std::mem::take(&mut self.stalled) {
            if let Some(slot) = self.slots.get_mut(place).filter(|slot| slot.stalled) {
                slot.stalled = false;
                self.turn(place, ground);
            }
        }
    }

    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Serves the flows whose time has come.
    pub fn expire(&mut self, ground: &mut Ground) {
        let now = Instant::now();
        while let Some(&(at, place)) = self.timers.first() {
            if at > now || ground.wire.is_full() {
                return;
            }
            self.set_timer(place, None);
            if self.flow(place).is_some_and(|flow| flow.is_opening()) {
                // Nobody answered: the guest hears what it would from a closed port.
                self.open(place, ground);
            } else {
                self.turn(place, ground);
            }
        }
    }

    /// Every flow has its turn.
    #[cfg(test)]
    pub fn turn_all(&mut self, ground: &mut Ground) {
        for place in 0..self.slots.len() {
            self.turn(place, ground);
        }
    }

    /// The host's half came about, or did not.
    fn open(&mut self, place: usize, ground: &mut Ground) {
        match self.flow(place).and_then(Flow::opened) {
            Some(Ok(segment)) => {
                ground.wire.offer(&segment);
                self.turn(place, ground);
            }
            Some(Err(segment)) => {
                ground.reset(&segment);
                self.remove(place, ground);
            }
            None => {}
        }
    }

    /// Lets the stack take what came in, moves bytes, and lets it send.
    fn turn(&mut self, place: usize, ground: &mut Ground) {
        let now = ground.now();
        let Some(flow) = self
            .slots
            .get_mut(place)
            .and_then(|slot| slot.flow.as_mut())
        else {
            return;
        };
        let _ = ground.iface.poll(now, &mut ground.wire, flow.sockets());
        flow.pump();
        let _ = ground
            .iface
            .poll_egress(now, &mut ground.wire, flow.sockets());
        let full = ground.wire.is_full();
        if flow.life() == Life::Over && !full {
            self.remove(place, ground);
            return;
        }
        let delay = ground.iface.poll_delay(now, flow.sockets());
        if full {
            self.set_timer(place, None);
            if let Some(slot) = self.slots.get_mut(place).filter(|slot| !slot.stalled) {
                slot.stalled = true;
                self.stalled.push(place);
            }
        } else {
            let delay = delay.map(|delay| Duration::from_micros(delay.total_micros()));
            self.set_timer(place, delay.map(|delay| Instant::now() + delay));
        }
    }

    fn set_timer(&mut self, place: usize, at: Option<Instant>) {
        if let Some(slot) = self.slots.get_mut(place) {
            if let Some(old) = slot.timer.take() {
                self.timers.remove(&(old, place));
            }
            slot.timer = at;
            self.timers.extend(at.map(|at| (at, place)));
        }
    }

    fn add(&mut self, flow: Flow, timer: Option<Instant>, ground: &Ground) -> Option<usize> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = self.slots.get_mut(place)?;
        let token = Token::Flow {
            place: u32::try_from(place).ok()?,
            generation: slot.generation,
        };
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        if ground.watch(&flow.host, token, flags).is_err() {
            self.free.push(place);
            return None;
        }
        self.places.insert((flow.guest, flow.remote), place);
        slot.flow = Some(flow);
        self.set_timer(place, timer);
        Some(place)
    }

    fn remove(&mut self, place: usize, ground: &Ground) {
        self.set_timer(place, None);
        let Some(slot) = self.slots.get_mut(place) else {
            return;
        };
        let Some(flow) = slot.flow.take() else { return };
        slot.generation = slot.generation.wrapping_add(1);
        slot.stalled = false;
        self.places.remove(&(flow.guest, flow.remote));
        self.free.push(place);
        let _ = ground.epoll.delete(&flow.host);
        flow.end();
    }

    fn flow(&mut self, place: usize) -> Option<&mut Flow> {
        self.slots.get_mut(place)?.flow.as_mut()
    }

    fn has_room(&self) -> bool {
        self.places.len() < self.most
    }

    fn free_port(&mut self, gateway: std::net::IpAddr, guest: SocketAddr) -> Option<SocketAddr> {
        for _ in PORTS {
            let remote = SocketAddr::new(gateway, self.next_port);
            self.next_port = Some(self.next_port + 1)
                .filter(|port| PORTS.contains(port))
                .unwrap_or(PORTS.start);
            if !self.places.contains_key(&(guest, remote)) {
                return Some(remote);
            }
        }
        None
    }
}

/// Begins a connection, without waiting for it.
pub fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(errno) => Err(errno.into()),
    }
}
