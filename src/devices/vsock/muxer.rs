// SPDX-License-Identifier: Apache-2.0
//! Which packet belongs to which connection, and whose turn it is to send.
//!
//! Event thread. Connections take turns packet by packet, so none that stalls, for want of
//! credit or of a host that reads, holds up another. All that a guest can make grow here is
//! bounded: connections by `MAX_CONNECTIONS`, replies to nonsense by `MAX_RESETS`.

use super::connection::{Connection, Fate, Key};
use super::greeting::{Greeted, Greeting};
use super::packet::{HEADER, Header, REQUEST, RST, RW, STREAM};
use crate::events::{EventSet, Interest, Token, Watch};
use crate::virtio::device::Verdict;
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::{Buffers, Chain};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

/// The host's address (VMADDR_CID_HOST).
const HOST: u64 = 2;
/// Host descriptors, and buffers of `WINDOW` bytes, that a guest or a host's clients can tie
/// up at once.
pub const MAX_CONNECTIONS: usize = 256;
/// Replies owed to packets that belong nowhere. A guest that sends such packets and takes no
/// replies is not listened to until it does.
const MAX_RESETS: usize = 256;
/// Ports of connections that the host opens; high, and apart from those it serves.
const FIRST_PORT: u32 = 1 << 30;

/// A stream of the host that one connection of the guest to this port is joined to; a second
/// is refused.
pub struct HostPort {
    pub port: u32,
    pub fd: OwnedFd,
}

enum Peer {
    Greeting(Greeting),
    Connection(Box<Connection>),
}

struct Slot {
    peer: Peer,
    watched: Option<EventSet>,
    /// Stands in `ready`.
    queued: bool,
}

pub struct Muxer {
    guest: u64,
    /// The token of slot 0.
    base: Token,
    ports: Vec<HostPort>,
    slots: Vec<Option<Slot>>,
    keys: HashMap<Key, usize>,
    ready: VecDeque<usize>,
    resets: VecDeque<Header>,
    /// Slots whose watching may have to change.
    touched: Vec<usize>,
    next_port: u32,
}

impl Muxer {
    pub fn new(guest: u64, ports: Vec<HostPort>, base: Token) -> Self {
        Self {
            guest,
            base,
            ports,
            slots: Vec::new(),
            keys: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            touched: Vec::new(),
            next_port: FIRST_PORT,
        }
    }

    /// Whether one more host client may come.
    pub fn has_room(&self) -> bool {
        self.free_slot().is_some()
    }

    /// Whether the guest must first take some replies.
    pub fn is_choked(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// A packet of the guest.
    pub fn take(&mut self, chain: &mut Chain<'_>) -> Result<Verdict, GuestFault> {
        if self.is_choked() {
            return Ok(Verdict::Stop);
        }
        let header = Header::read(&mut chain.readable)?;
        if header.src_cid != self.guest {
            return Err(GuestFault::Request("a packet bears another's address"));
        }
        if header.dst_cid != HOST || header.kind != STREAM {
            self.refuse(&header);
            return Ok(Verdict::Done(0));
        }
        let key = Key {
            host: header.dst_port,
            guest: header.src_port,
        };
        let length = usize::try_from(header.len).unwrap_or(usize::MAX);
        let mut data = if header.op == RW {
            match chain.readable.split(length) {
                Ok(data) => data,
                Err(_) => {
                    // The stream has a hole now: it cannot go on.
                    self.refuse(&header);
                    self.close(key);
                    return Err(GuestFault::Request("a packet is shorter than it says"));
                }
            }
        } else {
            Buffers::default()
        };
        match self.keys.get(&key) {
            Some(&index) => {
                if let Some(connection) = self.connection(index) {
                    connection.take(&header, &mut data);
                }
                self.review(index);
            }
            None if header.op == REQUEST => self.accept(key, &header),
            None => self.refuse(&header),
        }
        Ok(Verdict::Done(0))
    }

    /// The next packet for the guest, if there is one.
    pub fn give(&mut self, chain: &mut Chain<'_>) -> Result<Verdict, GuestFault> {
        if chain.writable.len() <= HEADER {
            return Err(GuestFault::TooShort);
        }
        let mut head = chain.writable.split(HEADER)?;
        if let Some(reset) = self.resets.pop_front() {
            head.write(&reset.encode())?;
            return Ok(Verdict::Done(44));
        }
        while let Some(index) = self.ready.pop_front() {
            if let Some(Some(slot)) = self.slots.get_mut(index) {
                slot.queued = false;
            }
            let Some(connection) = self.connection(index) else {
                continue;
            };
            let packet = connection.next_packet(&mut chain.writable);
            let key = connection.key;
            self.review(index);
            if let Some(packet) = packet {
                let packet = self.addressed(key, packet);
                head.write(&packet.encode())?;
                return Ok(Verdict::Done(44 + packet.len));
            }
        }
        Ok(Verdict::Stop)
    }

    /// A host client that has yet to say what it wants.
    pub fn greet(&mut self, stream: UnixStream) {
        if let (Some(index), Ok(greeting)) = (self.free_slot(), Greeting::new(stream)) {
            self.fill(index, Peer::Greeting(greeting), None);
        }
    }

    /// Opens a connection to a port of the guest. If it cannot be, the stream just ends.
    pub fn dial(&mut self, port: u32, stream: UnixStream) {
        if let (Some(index), Ok(())) = (self.free_slot(), stream.set_nonblocking(true)) {
            self.request(index, port, stream, false, None);
        }
    }

    /// The host's end of a slot is ready.
    pub fn host_ready(&mut self, token: Token, events: EventSet) {
        let index = usize::try_from(token.wrapping_sub(self.base)).unwrap_or(usize::MAX);
        let Some(Some(slot)) = self.slots.get_mut(index) else {
            return;
        };
        match &mut slot.peer {
            Peer::Connection(connection) => {
                connection.host_ready(events);
                self.review(index);
            }
            Peer::Greeting(greeting) => match greeting.advance() {
                Greeted::Later => {}
                Greeted::Refused => self.touched.push(index),
                Greeted::Connect(port) => {
                    if let Some(Slot {
                        peer: Peer::Greeting(greeting),
                        watched,
                        ..
                    }) = self.slots[index].take()
                    {
                        self.request(index, port, greeting.stream, true, watched);
                    }
                }
            },
        }
    }

    /// Watches what is to be watched, and frees what is over. True if a slot came free.
    pub fn settle(&mut self, watch: &mut dyn Watch) -> bool {
        let mut freed = false;
        while let Some(index) = self.touched.pop() {
            let base = self.base;
            let Some(Some(slot)) = self.slots.get_mut(index) else {
                continue;
            };
            let token = base + u32::try_from(index).unwrap_or(0);
            if !slot.settle(token, watch) {
                let queued = slot.queued;
                self.slots[index] = None;
                freed = true;
                if queued {
                    self.ready.retain(|&other| other != index);
                }
            }
        }
        freed
    }

    /// Drops every connection, as after a reset of the device.
    pub fn clear(&mut self, watch: &mut dyn Watch) {
        for slot in self.slots.iter_mut().flatten() {
            slot.watch(None, 0, watch);
        }
        self.slots = Vec::new();
        self.keys = HashMap::new();
        self.ready = VecDeque::new();
        self.resets = VecDeque::new();
        self.touched = Vec::new();
    }

    fn accept(&mut self, key: Key, request: &Header) {
        let port = self.ports.iter().position(|port| port.port == key.host);
        let (Some(port), Some(index)) = (port, self.free_slot()) else {
            self.refuse(request);
            return;
        };
        let stream = UnixStream::from(self.ports.swap_remove(port).fd);
        if stream.set_nonblocking(true).is_err() {
            self.refuse(request);
            return;
        }
        let connection = Connection::accept(key, stream, request);
        self.fill(index, Peer::Connection(Box::new(connection)), None);
        self.keys.insert(key, index);
        self.review(index);
    }

    fn request(
        &mut self,
        index: usize,
        port: u32,
        stream: UnixStream,
        announce: bool,
        watched: Option<EventSet>,
    ) {
        let key = Key {
            host: self.unused_port(port),
            guest: port,
        };
        let connection = Connection::request(key, stream, announce);
        self.fill(index, Peer::Connection(Box::new(connection)), watched);
        self.keys.insert(key, index);
        self.review(index);
    }

    fn unused_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = host.checked_add(1).unwrap_or(FIRST_PORT);
            // Ends: there are far fewer connections than ports.
            if !self.keys.contains_key(&Key { host, guest }) {
                return host;
            }
        }
    }

    /// Looks at what an event made of a connection.
    fn review(&mut self, index: usize) {
        self.touched.push(index);
        let Some(Some(slot)) = self.slots.get_mut(index) else {
            return;
        };
        let Peer::Connection(connection) = &slot.peer else {
            return;
        };
        let (key, fate) = (connection.key, connection.fate());
        if fate == Fate::Lives {
            if connection.has_packet() && !slot.queued {
                slot.queued = true;
                self.ready.push_back(index);
            }
        } else if self.keys.get(&key) == Some(&index) {
            self.keys.remove(&key);
            if fate == Fate::Reset {
                let reset = Header {
                    op: RST,
                    ..Header::default()
                };
                let reset = self.addressed(key, reset);
                self.resets.push_back(reset);
            }
        }
    }

    fn close(&mut self, key: Key) {
        if let Some(&index) = self.keys.get(&key) {
            self.keys.remove(&key);
            if let Some(connection) = self.connection(index) {
                connection.abort();
            }
            self.touched.push(index);
        }
    }

    /// Answers a packet that belongs nowhere; never a reset with a reset.
    fn refuse(&mut self, header: &Header) {
        if header.op != RST {
            self.resets.push_back(Header {
                src_cid: header.dst_cid,
                dst_cid: self.guest,
                src_port: header.dst_port,
                dst_port: header.src_port,
                kind: header.kind,
                op: RST,
                ..Header::default()
            });
        }
    }

    fn addressed(&self, key: Key, packet: Header) -> Header {
        Header {
            src_cid: HOST,
            dst_cid: self.guest,
            src_port: key.host,
            dst_port: key.guest,
            kind: STREAM,
            ..packet
        }
    }

    fn connection(&mut self, index: usize) -> Option<&mut Connection> {
        match self.slots.get_mut(index) {
            Some(Some(Slot {
                peer: Peer::Connection(connection),
                ..
            })) => Some(connection),
            _ => None,
        }
    }

    fn free_slot(&self) -> Option<usize> {
        let free = self.slots.iter().position(Option::is_none);
        free.or((self.slots.len() < MAX_CONNECTIONS).then_some(self.slots.len()))
    }

    fn fill(&mut self, index: usize, peer: Peer, watched: Option<EventSet>) {
        let slot = Some(Slot {
            peer,
            watched,
            queued: false,
        });
        match self.slots.get_mut(index) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        self.touched.push(index);
    }
}

impl Slot {
    /// False if the slot is over and no longer watched.
    fn settle(&mut self, token: Token, watch: &mut dyn Watch) -> bool {
        let (over, desired) = match &self.peer {
            Peer::Greeting(greeting) => (greeting.over, Some(EventSet::IN)),
            Peer::Connection(connection) => {
                let over = connection.fate() != Fate::Lives && !connection.lingers();
                (over, connection.desired())
            }
        };
        let desired = if over { None } else { desired };
        self.watch(desired, token, watch);
        !over
    }

    fn watch(&mut self, desired: Option<EventSet>, token: Token, watch: &mut dyn Watch) {
        if desired == self.watched {
            return;
        }
        let fd = match &self.peer {
            Peer::Greeting(greeting) => greeting.stream.as_raw_fd(),
            Peer::Connection(connection) => connection.stream().as_raw_fd(),
        };
        let interest = |events| Interest { fd, token, events };
        // Fails only if the host is out of memory or of watches: the connection then stalls,
        // and is tried again with its next packet.
        let done = match (self.watched, desired) {
            (None, Some(events)) => watch.add(interest(events)),
            (Some(_), Some(events)) => watch.change(interest(events)),
            (_, None) => watch.remove(interest(EventSet::empty())),
        };
        if done.is_ok() {
            self.watched = desired;
        }
    }
}
