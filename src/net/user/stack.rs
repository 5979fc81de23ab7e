// SPDX-License-Identifier: Apache-2.0
//! The loop: frames in, packets to where they are allowed to go, answers out. The one
//! thread of `husk net`, which waits in epoll only.

use super::datagrams::{DOMAIN, Datagrams, Door};
use super::flows::{self, Flows};
use super::frame::{self, Seen};
use super::gates::{Gate, Gates};
use super::ground::{Ground, Token};
use super::inquiry::Inquiries;
use super::peers::Peers;
use super::policy::Policy;
use crate::config::net::Addresses;
use crate::net::{Frames, HEADER, MAX_FRAME};
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Frames read before others have their turn.
const BATCH: usize = 128;
/// Events taken at once.
const EVENTS: usize = 64;
/// How often silent flows are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// Everything the stack works with, open; none of its sockets waits.
pub struct Parts {
    pub link: Frames,
    pub addresses: Addresses,
    pub policy: Policy,
    pub resolvers: Vec<SocketAddr>,
    pub gates: Vec<Gate>,
    pub doors: Vec<Door>,
    pub peers: Option<Peers>,
}

pub struct Stack {
    ground: Ground,
    flows: Flows,
    datagrams: Datagrams,
    inquiries: Inquiries,
    gates: Gates,
    peers: Option<Peers>,
    swept: Instant,
    is_over: bool,
    buffer: Vec<u8>,
}

impl Stack {
    pub fn new(parts: Parts) -> io::Result<Self> {
        let ground = Ground::new(parts.link, parts.addresses, parts.policy)?;
        let inquiries = Inquiries::new(parts.resolvers.clone());
        let datagrams = Datagrams::new(parts.doors, parts.resolvers);
        ground.watch(ground.wire.fd(), Token::Link, EpollFlags::EPOLLIN)?;
        datagrams.watch(&ground)?;
        if let Some(peers) = &parts.peers {
            ground.watch(peers.socket(), Token::Peers, EpollFlags::EPOLLIN)?;
        }
        let gates = Gates::new(parts.gates, &ground)?;
        Ok(Self {
            ground,
            flows: Flows::new(),
            datagrams,
            inquiries,
            gates,
            peers: parts.peers,
            swept: Instant::now(),
            is_over: false,
            buffer: vec![0; HEADER + MAX_FRAME],
        })
    }

    /// Serves until the guest's link is gone, or the owner has no more to say.
    pub fn run(&mut self, owner: &impl AsFd) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        self.ground.watch(owner, Token::Owner, flags)?;
        while self.ground.wire.is_alive() && !self.is_over {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Waits for something, at most `limit`, and serves it.
    pub fn turn(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let timeout = match (self.delay(), limit) {
            (Some(delay), Some(limit)) => Some(delay.min(limit)),
            (delay, limit) => delay.or(limit),
        };
        // Rounded up: waking a moment early would be waking twice.
        let timeout = timeout.map_or(EpollTimeout::NONE, |delay| {
            let ms = delay.as_millis() + u128::from(delay.subsec_nanos() % 1_000_000 != 0);
            EpollTimeout::from(u16::try_from(ms).unwrap_or(u16::MAX))
        });
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.ground.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let was_full = self.ground.wire.is_full();
        for event in events.iter().take(count) {
            self.serve(Token::unpack(event.data()), event.events());
        }
        self.flows.expire(&mut self.ground);
        self.gates.turn(&mut self.ground)?;
        if !self.is_idle() && self.swept.elapsed() >= SWEEP {
            self.datagrams.sweep();
            self.inquiries.sweep();
            self.swept = Instant::now();
        }
        let full = self.ground.wire.is_full();
        if full != was_full {
            self.ground.watch_link(full);
        }
        Ok(())
    }

    /// As if that much time had passed.
    #[cfg(test)]
    pub fn pass(&mut self, time: Duration) {
        self.ground.age(time);
        self.flows.turn_all(&mut self.ground);
    }

    /// Time until something is due by itself. A link that is full is waited for first.
    fn delay(&self) -> Option<Duration> {
        let now = Instant::now();
        let timer = self
            .flows
            .next_timer()
            .filter(|_| !self.ground.wire.is_full());
        let timer = timer.map(|at| at.saturating_duration_since(now));
        let sweep = (!self.is_idle()).then_some(SWEEP);
        let gates = self.gates.due();
        let gates = gates.map(|at| at.saturating_duration_since(now));
        [timer, sweep, gates].into_iter().flatten().min()
    }

    /// Whether nothing here grows old.
    fn is_idle(&self) -> bool {
        self.datagrams.is_idle() && self.inquiries.is_idle()
    }

    fn serve(&mut self, token: Token, events: EpollFlags) {
        let ground = &mut self.ground;
        let peers = self.peers.as_ref();
        let members = |name: &str| peers.and_then(|peers| peers.find(name));
        match token {
            // It never says anything once this works, but that it leaves.
            Token::Owner => self.is_over = true,
            Token::Inquiry(fd) => self.inquiries.ready(fd, &members, ground),
            Token::Answer(fd) => self.inquiries.answered(fd, &members, ground),
            Token::Link => {
                if ground.wire.is_full() && ground.wire.flush() {
                    self.flows.resume(ground);
                }
                self.read();
            }
            Token::Peers => {
                if let Some(peers) = &mut self.peers {
                    peers.ready(ground);
                }
            }
            Token::Flow { place, generation } => {
                self.flows.ready(place, generation, events, ground);
            }
            Token::Listener(place) => {
                if let Some(gate) = self.gates.called(place) {
                    self.flows.accept(&gate.listener, gate.guest, ground);
                }
            }
            Token::PublishedDatagrams(place) => self.datagrams.knock(place, ground),
            Token::Datagrams(fd) => self.datagrams.ready(fd, ground),
            Token::Lookup(fd) => self.datagrams.answered(fd, ground),
        }
    }

    /// Reads the guest's frames, while their answers find room.
    fn read(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..BATCH {
            if self.ground.wire.is_full() {
                break;
            }
            let Some(frame) = self.ground.wire.read(&mut buffer) else {
                break;
            };
            self.take(frame);
            self.gates.heard();
        }
        self.buffer = buffer;
    }

    fn take(&mut self, frame: &[u8]) {
        let own = self.ground.own;
        let Ok(seen) = frame::read(frame, &own) else {
            return;
        };
        match seen {
            Seen::WhoHas4(target) => {
                if self.answers_for(target.into()) {
                    self.ground.wire.send(&frame::arp_reply(target, &own));
                }
            }
            Seen::WhoHas6 { target, asker } => {
                if self.answers_for(target.into()) {
                    let answer = frame::neighbour(target, asker, &own);
                    self.ground.wire.send(&answer);
                }
            }
            Seen::Tcp {
                from,
                to,
                opens,
                packet,
            } => {
                let asks = own.is_gateway(to.ip()) && to.port() == DOMAIN;
                if !asks && self.goes_to_member(to.ip(), packet) {
                    return;
                }
                let inquiries = &mut self.inquiries;
                let dial = |ground: &Ground| match asks {
                    true => Some(inquiries.connect(ground)),
                    false => ground.policy.target(to).map(flows::dial),
                };
                self.flows
                    .segment((from, to), opens, packet, dial, &mut self.ground);
            }
            Seen::Udp {
                from,
                to,
                payload,
                packet,
            } => {
                if own.is_gateway(to.ip()) && to.port() == DOMAIN {
                    let peers = self.peers.as_ref();
                    let members = |name: &str| peers.and_then(|peers| peers.find(name));
                    self.datagrams
                        .ask(from, to, payload, &members, &mut self.ground);
                } else if !self.goes_to_member(to.ip(), packet) {
                    self.datagrams.send(from, to, payload, &mut self.ground);
                }
            }
            Seen::Other { to, packet } => {
                if own.is_gateway(to) {
                    let answer = frame::echo_reply(packet, &own);
                    answer
                        .into_iter()
                        .for_each(|frame| self.ground.wire.send(&frame));
                } else {
                    self.goes_to_member(to, packet);
                }
            }
        }
    }

    /// Whose hardware address the gateway gives as its own: its own, and the members'.
    fn answers_for(&self, target: IpAddr) -> bool {
        let own = &self.ground.own;
        let member = self.peers.is_some() && Peers::member(target).is_some();
        own.is_gateway(target) || (member && own.guest_like(target) != target)
    }

    fn goes_to_member(&self, to: IpAddr, packet: &[u8]) -> bool {
        match (&self.peers, Peers::member(to)) {
            (Some(peers), Some(number)) => {
                peers.send(number, packet);
                true
            }
            _ => false,
        }
    }
}
