// SPDX-License-Identifier: Apache-2.0
//! One stream between a guest's socket and a host's: credit, half-closes, backlog.
//!
//! Event thread. Never blocks, and holds at most `WINDOW` bytes: what the guest sent and the
//! host has not taken. Data for the guest is read only when there is a buffer of the guest
//! and credit for it. Knows nothing of queues, other connections or epoll.

use super::packet::{
    CREDIT_REQUEST, CREDIT_UPDATE, Header, NO_RECEIVE, NO_SEND, REQUEST, RESPONSE, RST, RW,
    SHUTDOWN,
};
use crate::events::EventSet;
use crate::memory::vectored;
use crate::virtio::queue::Buffers;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write as _};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

/// What the guest may send ahead of the host's reading; the most a connection buffers.
pub const WINDOW: u32 = 128 << 10;
/// Bytes of a packet to the guest: one system call's worth.
const MAX_PAYLOAD: usize = 64 << 10;

/// The ports of both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub host: u32,
    pub guest: u32,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lives,
    /// The guest is to be told with a reset.
    Reset,
    /// The guest knows. What it sent before is still owed to the host.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest has not answered our request. Says who is waiting for the answer.
    Requested {
        announce: bool,
    },
    Open,
}

pub struct Connection {
    pub key: Key,
    stream: UnixStream,
    phase: Phase,
    fate: Fate,
    /// The request or response that goes before everything else.
    opening: Option<u16>,

    /// To the guest: what it said of its buffer, and what we sent.
    peer_alloc: u32,
    peer_forwarded: Wrapping<u32>,
    sent: Wrapping<u32>,
    /// Credit ran out and we asked for more.
    asked: bool,
    /// The host's socket had something to read when last looked at.
    readable: bool,

    /// From the guest: what came, what the host took, what of that we told the guest.
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    told: Wrapping<u32>,
    backlog: VecDeque<u8>,
    update: bool,

    /// What the guest gave up (NO_SEND, NO_RECEIVE), and what of it the host was told.
    guest_shut: u32,
    passed_on: bool,
    /// What the host gave up, and what of it the guest was told.
    host_shut: u32,
    announced: u32,
}

impl Connection {
    fn new(key: Key, stream: UnixStream, phase: Phase, opening: u16) -> Self {
        Self {
            key,
            stream,
            phase,
            fate: Fate::Lives,
            opening: Some(opening),
            peer_alloc: 0,
            peer_forwarded: Wrapping(0),
            sent: Wrapping(0),
            asked: false,
            readable: false,
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told: Wrapping(0),
            backlog: VecDeque::new(),
            update: false,
            guest_shut: 0,
            passed_on: false,
            host_shut: 0,
            announced: 0,
        }
    }

    /// Answers a guest's request. The stream does not block.
    pub fn accept(key: Key, stream: UnixStream, request: &Header) -> Self {
        let mut connection = Self::new(key, stream, Phase::Open, RESPONSE);
        connection.peer_alloc = request.buf_alloc;
        connection
    }

    /// Asks the guest. With `announce` the host's end reads "OK" and our port once the guest
    /// has accepted. The stream does not block.
    pub fn request(key: Key, stream: UnixStream, announce: bool) -> Self {
        Self::new(key, stream, Phase::Requested { announce }, REQUEST)
    }

    pub fn fate(&self) -> Fate {
        let shut = self.guest_shut == NO_SEND | NO_RECEIVE && self.backlog.is_empty();
        match self.fate {
            Fate::Lives if shut => Fate::Reset,
            fate => fate,
        }
    }

    /// Whether the host is still owed bytes of a guest that is gone.
    pub fn lingers(&self) -> bool {
        self.fate == Fate::Gone && !self.backlog.is_empty() && self.host_shut & NO_RECEIVE == 0
    }

    /// Ends it at once, whatever is owed to anyone.
    pub fn abort(&mut self) {
        self.fate = Fate::Reset;
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// What to watch the host's socket for. An empty set still reports a hang-up; that is
    /// level-triggered and cannot be masked, so once it is known there is no watching.
    pub fn desired(&self) -> Option<EventSet> {
        let mut events = EventSet::empty();
        if self.phase == Phase::Open && self.fate == Fate::Lives && !self.readable && self.reads() {
            events |= EventSet::IN;
        }
        if !self.backlog.is_empty() {
            events |= EventSet::OUT;
        }
        (!events.is_empty() || self.host_shut & NO_RECEIVE == 0).then_some(events)
    }

    /// The host's socket is ready for something.
    pub fn host_ready(&mut self, events: EventSet) {
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.deafen();
            if self.phase != Phase::Open {
                // Whoever asked for the connection left before it came about.
                self.fate = Fate::Reset;
            }
        }
        self.readable |= self.phase == Phase::Open && self.reads();
        self.flush();
    }

    /// A packet of the guest; `data` is its payload.
    pub fn take(&mut self, header: &Header, data: &mut Buffers<'_>) {
        if header.op == RST {
            // Its counters mean nothing: there may be no socket behind it any more.
            self.fate = Fate::Gone;
            return;
        }
        if !self.credit(header.buf_alloc, Wrapping(header.fwd_cnt)) {
            self.fate = Fate::Reset;
            return;
        }
        match (header.op, self.phase) {
            (RESPONSE, Phase::Requested { announce }) if self.opening.is_none() => {
                self.phase = Phase::Open;
                if announce && self.announce().is_err() {
                    self.abort();
                }
            }
            (RW, Phase::Open) if self.guest_shut & NO_SEND == 0 => self.receive(data),
            (SHUTDOWN, Phase::Open) => {
                self.guest_shut |= header.flags & (NO_SEND | NO_RECEIVE);
                if self.guest_shut & NO_RECEIVE != 0 {
                    // Fails if the host's end is closed: then there is nothing to tell.
                    let _ = self.stream.shutdown(Shutdown::Read);
                    self.readable = false;
                }
                self.flush();
            }
            (CREDIT_UPDATE, Phase::Open) => {}
            (CREDIT_REQUEST, Phase::Open) => self.update = true,
            _ => self.fate = Fate::Reset,
        }
    }

    /// Whether there may be a packet for the guest.
    pub fn has_packet(&self) -> bool {
        self.opening.is_some()
            || self.phase == Phase::Open
                && (self.update
                    || self.host_shut != self.announced
                    || self.readable && self.reads() && (self.free() > 0 || !self.asked))
    }

    /// The next packet for the guest, its payload already in `room`, which is not empty.
    /// Addresses are the caller's to fill in.
    pub fn next_packet(&mut self, room: &mut Buffers<'_>) -> Option<Header> {
        let (op, len, flags) = self.next_op(room)?;
        // Every packet says how far we are.
        self.told = self.forwarded;
        self.update = false;
        Some(Header {
            op,
            len,
            flags,
            buf_alloc: WINDOW,
            fwd_cnt: self.forwarded.0,
            ..Header::default()
        })
    }

    fn next_op(&mut self, room: &mut Buffers<'_>) -> Option<(u16, u32, u32)> {
        if let Some(op) = self.opening.take() {
            return Some((op, 0, 0));
        }
        if self.phase != Phase::Open {
            return None;
        }
        if self.readable && self.reads() && self.free() > 0 {
            let count = self.read(room);
            if count > 0 {
                self.sent += count;
                return Some((RW, count, 0));
            }
        }
        if self.host_shut != self.announced {
            self.announced = self.host_shut;
            return Some((SHUTDOWN, 0, self.host_shut));
        }
        if self.readable && self.reads() && self.free() == 0 && !self.asked {
            self.asked = true;
            return Some((CREDIT_REQUEST, 0, 0));
        }
        self.update.then_some((CREDIT_UPDATE, 0, 0))
    }

    /// Whether anything may still go from host to guest.
    fn reads(&self) -> bool {
        self.host_shut & NO_SEND == 0 && self.guest_shut & NO_RECEIVE == 0
    }

    /// What the guest has room for.
    fn free(&self) -> u32 {
        self.peer_alloc
            .saturating_sub((self.sent - self.peer_forwarded).0)
    }

    /// Takes note of the guest's counters. False if it claims to have consumed what we never
    /// sent, or less than it said before.
    fn credit(&mut self, alloc: u32, forwarded: Wrapping<u32>) -> bool {
        if self.sent - forwarded > self.sent - self.peer_forwarded {
            return false;
        }
        self.peer_alloc = alloc;
        self.peer_forwarded = forwarded;
        self.asked &= self.free() == 0;
        true
    }

    /// Host to guest, straight into its buffers.
    fn read(&mut self, room: &mut Buffers<'_>) -> u32 {
        let free = usize::try_from(self.free()).unwrap_or(usize::MAX);
        let Ok(mut part) = room.split(room.len().min(free).min(MAX_PAYLOAD)) else {
            return 0;
        };
        match vectored::read(self.stream.as_fd(), part.slices()) {
            Ok(0) => {
                self.host_shut |= NO_SEND;
                self.readable = false;
                0
            }
            Ok(count) => {
                // If that was not all, the loop will say so.
                self.readable = count == part.len();
                u32::try_from(count).unwrap_or(0)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                0
            }
            Err(_) => {
                // An end that closed with our bytes unread, once its own are read.
                self.host_shut |= NO_SEND;
                self.readable = false;
                self.deafen();
                0
            }
        }
    }

    /// Guest to host, straight out of its buffers as far as the host takes it.
    fn receive(&mut self, data: &mut Buffers<'_>) {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let ahead = (self.received - self.told).0;
        if length > WINDOW - ahead.min(WINDOW) {
            // More than it has credit for.
            self.fate = Fate::Reset;
            return;
        }
        self.received += length;
        while self.backlog.is_empty() && !data.is_empty() && self.host_shut & NO_RECEIVE == 0 {
            match vectored::write(self.stream.as_fd(), data.slices()) {
                Ok(count) => {
                    self.forwarded += u32::try_from(count).unwrap_or(0);
                    if data.advance(count).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.deafen(),
            }
        }
        let mut chunk = [0; 4096];
        while !data.is_empty() && self.host_shut & NO_RECEIVE == 0 {
            let part = &mut chunk[..data.len().min(4096)];
            if data.read(part).is_err() {
                return;
            }
            self.backlog.extend(&*part);
        }
        self.flush();
    }

    /// Gives the host what it takes of the backlog, and the guest the credit for it.
    fn flush(&mut self) {
        while !self.backlog.is_empty() && self.host_shut & NO_RECEIVE == 0 {
            match (&self.stream).write(self.backlog.as_slices().0) {
                Ok(count) => {
                    self.backlog.drain(..count);
                    self.forwarded += u32::try_from(count).unwrap_or(0);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.deafen(),
            }
        }
        if self.host_shut & NO_RECEIVE != 0 {
            // Nobody reads it: what the guest still sends is gone, and costs it no credit.
            self.backlog.clear();
            self.forwarded = self.received;
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
            if self.guest_shut & NO_SEND != 0 && !self.passed_on {
                self.passed_on = true;
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
        // Often enough that the guest never waits for credit without need, seldom enough
        // that small packets are not each answered.
        self.update |= (self.forwarded - self.told).0 >= WINDOW / 2;
    }

    /// The host reads no more.
    fn deafen(&mut self) {
        self.host_shut |= NO_RECEIVE;
    }

    fn announce(&mut self) -> io::Result<()> {
        // The socket is fresh: so few bytes fit.
        (&self.stream).write_all(format!("OK {}\n", self.key.host).as_bytes())
    }
}
