// SPDX-License-Identifier: Apache-2.0
//! UDP: from the guest to the outside, to published ports and back, and its name lookups.
//! The thread of `husk net`; never waits. What does not fit now is lost, as datagrams are.

use super::dns::{self, Answer, MAX_ANSWER, Question};
use super::frame;
use super::ground::{Ground, Token, random};
use super::inquiry::Members;
use super::policy::Policy;
use super::udp::Table;
use nix::sys::epoll::EpollFlags;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::{Duration, Instant};

/// Datagrams taken from one socket in one turn of the loop.
const BATCH: usize = 32;
/// Lookups under way. Stops a guest from making us, and the name server, work without end.
const MAX_LOOKUPS: usize = 64;
/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The port of name servers.
pub const DOMAIN: u16 = 53;
/// Ports the gateway speaks to the guest from.
const PORTS: std::ops::Range<u16> = 32768..61000;
/// The longest datagram there is.
const MAX_DATAGRAM: usize = 65_535;

/// A published port.
pub struct Door {
    pub socket: UdpSocket,
    pub guest: SocketAddr,
}

struct Lookup {
    socket: UdpSocket,
    question: Question,
    id: u16,
    guest: SocketAddr,
    server: SocketAddr,
    asked: Instant,
}

pub struct Datagrams {
    /// By the guest's end and the address it believes to speak to.
    outgoing: Table<(SocketAddr, SocketAddr), UdpSocket>,
    by_fd: HashMap<RawFd, (SocketAddr, SocketAddr)>,
    doors: Vec<Door>,
    /// By door and client: the gateway's port that stands for it.
    clients: Table<(usize, SocketAddr), SocketAddr>,
    /// By that port: door and client.
    ports: HashMap<SocketAddr, (usize, SocketAddr)>,
    next_port: u16,
    resolvers: Vec<SocketAddr>,
    lookups: HashMap<RawFd, Lookup>,
    buffer: Vec<u8>,
}

impl Datagrams {
    pub fn new(doors: Vec<Door>, resolvers: Vec<SocketAddr>) -> Self {
        Self {
            outgoing: Table::new(),
            by_fd: HashMap::new(),
            doors,
            clients: Table::new(),
            ports: HashMap::new(),
            next_port: PORTS.start,
            resolvers,
            lookups: HashMap::new(),
            buffer: vec![0; MAX_DATAGRAM],
        }
    }

    /// Has its sockets watched.
    pub fn watch(&self, ground: &Ground) -> io::Result<()> {
        for (place, door) in (0..).zip(&self.doors) {
            ground.watch(
                &door.socket,
                Token::PublishedDatagrams(place),
                EpollFlags::EPOLLIN,
            )?;
        }
        Ok(())
    }

    /// A datagram of the guest's that is no question for a name.
    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8], ground: &mut Ground) {
        if let Some(&(door, client)) = self.ports.get(&to) {
            if let Some(door) = self.doors.get(door).filter(|door| door.guest == from) {
                self.clients.touch(&(self.ports[&to].0, client));
                let _ = door.socket.send_to(payload, client);
            }
            return;
        }
        let key = (from, to);
        if !self.outgoing.contains(&key) {
            let Some(target) = ground.policy.target(to) else {
                return;
            };
            let Ok(socket) = connected(target) else {
                return;
            };
            let fd = socket.as_raw_fd();
            if ground
                .watch(&socket, Token::Datagrams(fd), EpollFlags::EPOLLIN)
                .is_err()
            {
                return;
            }
            if let Some(gone) = self.outgoing.add(key, socket) {
                self.by_fd.remove(&gone.as_raw_fd());
            }
            self.by_fd.insert(fd, key);
        }
        if let Some(socket) = self.outgoing.touch(&key) {
            let _ = socket.send(payload);
        }
    }

    /// Answers from the outside.
    pub fn ready(&mut self, fd: RawFd, ground: &mut Ground) {
        let Some(key) = self.by_fd.get(&fd).copied() else {
            return;
        };
        let Some(socket) = self.outgoing.touch(&key) else {
            return;
        };
        for _ in 0..BATCH {
            match socket.recv(&mut self.buffer) {
                Ok(length) => {
                    let payload = self.buffer.get(..length).unwrap_or_default();
                    let answer = frame::datagram(key.1, key.0, payload, &ground.own);
                    answer
                        .into_iter()
                        .for_each(|frame| ground.wire.send_or_drop(&frame));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    }

    /// Datagrams for a published port.
    pub fn knock(&mut self, place: u32, ground: &mut Ground) {
        let place = place as usize;
        for _ in 0..BATCH {
            let Some(door) = self.doors.get(place) else {
                return;
            };
            let guest = door.guest;
            let Ok((length, client)) = door.socket.recv_from(&mut self.buffer) else {
                return;
            };
            let gateway = match guest {
                SocketAddr::V4(_) => ground.own.gateway4.into(),
                SocketAddr::V6(_) => ground.own.gateway6.into(),
            };
            let Some(port) = self.port_of(place, client, gateway) else {
                continue;
            };
            let payload = self.buffer.get(..length).unwrap_or_default();
            let frame = frame::datagram(port, guest, payload, &ground.own);
            frame
                .into_iter()
                .for_each(|frame| ground.wire.send_or_drop(&frame));
        }
    }

    fn port_of(&mut self, place: usize, client: SocketAddr, gateway: IpAddr) -> Option<SocketAddr> {
        let key = (place, client);
        if let Some(port) = self.clients.touch(&key) {
            return Some(*port);
        }
        let mut free = PORTS.map(|_| {
            let port = self.next_port;
            self.next_port = Some(port + 1)
                .filter(|port| PORTS.contains(port))
                .unwrap_or(PORTS.start);
            SocketAddr::new(gateway, port)
        });
        let port = free.find(|port| !self.ports.contains_key(port))?;
        if let Some(gone) = self.clients.add(key, port) {
            self.ports.remove(&gone);
        }
        self.ports.insert(port, key);
        Some(port)
    }

    /// A question of the guest's to the gateway. `members` are the addresses of a machine
    /// on the same private network that bears the name.
    pub fn ask(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[u8],
        members: Members<'_>,
        ground: &mut Ground,
    ) {
        let Some(question) = Question::read(payload) else {
            return;
        };
        if let Some(answer) = own_answer(&question, members, &ground.policy) {
            let frame = frame::datagram(to, from, &answer, &ground.own);
            frame.into_iter().for_each(|frame| ground.wire.send(&frame));
            return;
        }
        let _ = self.look_up(from, to, question, payload, ground);
    }

    fn look_up(
        &mut self,
        guest: SocketAddr,
        server: SocketAddr,
        question: Question,
        payload: &[u8],
        ground: &Ground,
    ) -> io::Result<()> {
        // Who asks again was not answered: it is the next server's turn.
        let again = self
            .lookups
            .values()
            .filter(|other| other.question.name == question.name);
        let turn = again.count().checked_rem(self.resolvers.len());
        let Some(resolver) = turn.and_then(|turn| self.resolvers.get(turn)) else {
            return Ok(());
        };
        if self.lookups.len() >= MAX_LOOKUPS {
            return Ok(());
        }
        let socket = connected(*resolver)?;
        let [low, high, ..] = random().to_le_bytes();
        let id = u16::from_le_bytes([low, high]);
        socket.send(&dns::renumber(payload, id))?;
        let fd = socket.as_raw_fd();
        ground.watch(&socket, Token::Lookup(fd), EpollFlags::EPOLLIN)?;
        let lookup = Lookup {
            socket,
            question,
            id,
            guest,
            server,
            asked: Instant::now(),
        };
        self.lookups.insert(fd, lookup);
        Ok(())
    }

    /// A name server answered, or somebody in its place.
    pub fn answered(&mut self, fd: RawFd, ground: &mut Ground) {
        let Some(lookup) = self.lookups.get(&fd) else {
            return;
        };
        let room = self.buffer.get_mut(..MAX_ANSWER).unwrap_or_default();
        let Ok(length) = lookup.socket.recv(room) else {
            // Refused: nobody is there, and the guest asks again in its own time.
            self.lookups.remove(&fd);
            return;
        };
        let message = self.buffer.get(..length).unwrap_or_default();
        let question = &lookup.question;
        let Some(answer) = judged(message, lookup.id, question, &mut ground.policy) else {
            return;
        };
        let frame = frame::datagram(lookup.server, lookup.guest, &answer, &ground.own);
        frame
            .into_iter()
            .for_each(|frame| ground.wire.send_or_drop(&frame));
        self.lookups.remove(&fd);
    }

    /// Forgets what is silent; to be called every few seconds while there is anything.
    pub fn sweep(&mut self) {
        for (_, socket) in self.outgoing.sweep() {
            self.by_fd.remove(&socket.as_raw_fd());
        }
        for (_, port) in self.clients.sweep() {
            self.ports.remove(&port);
        }
        self.lookups
            .retain(|_, lookup| lookup.asked.elapsed() < PATIENCE);
    }

    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outgoing.is_empty() && self.clients.is_empty() && self.lookups.is_empty()
    }
}

/// What is answered without asking anybody: the addresses of a member, or that the name is not
/// to be asked for.
pub fn own_answer(question: &Question, members: Members<'_>, policy: &Policy) -> Option<Vec<u8>> {
    match members(&question.name) {
        Some(addresses) => Some(question.addresses(&addresses)),
        None => (!policy.may_ask(&question.name)).then(|| question.refusal()),
    }
}

/// What the guest is told of a name server's answer; nothing, if it is none to the question
/// that was asked under this number.
pub fn judged(
    message: &[u8],
    id: u16,
    question: &Question,
    policy: &mut Policy,
) -> Option<Vec<u8>> {
    let Answer::Addresses { answered, beside } = dns::read_answer(message, id, question) else {
        return None;
    };
    // Other sections' are of other names: nothing is opened for them, but a resolver may take
    // them, so they are judged.
    let harmless = beside.into_iter().all(|address| policy.may_name(address))
        && answered
            .into_iter()
            .all(|address| policy.pin(&question.name, address));
    Some(match harmless {
        true => dns::renumber(message, question.id),
        false => question.no_such_name(),
    })
}

/// A socket that hears from one address only.
fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(to)?;
    // What came from anybody between the two calls is still there, and is nobody's answer.
    while socket.recv(&mut [0]).is_ok() {}
    Ok(socket)
}
