// SPDX-License-Identifier: Apache-2.0
//! virtio-fs, section 5.11: a directory of the host, by FUSE.
//!
//! Event thread. This device opens nothing and understands no request: it carries messages
//! between the guest's queues and the process that serves the directory (`share`), over a
//! stream, with lengths of its own before each. Requests are answered in their order, each
//! exactly once; an answer of no bytes is for those that have none. A server that is gone,
//! or breaks this, is an error the guest is told, and never the machine's end.
//!
//! What the guest holds, places and open files, is known to the server. When the machine is
//! saved the device asks for it, and hands it to the server of the restored machine before
//! the first request; it reads none of it.

use crate::events::{EventSet, Interest, Token, Watch};
use crate::memory::{GuestRam, Pinned};
use crate::telemetry;
use crate::virtio::device::{Io, Kind, Verdict, VirtioDevice, read_config};
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::Chain;
use crate::virtio::state::{DeviceState, StateFault, TransportState};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest request and longest answer: the largest write and read the server agrees to, and
/// what goes before them. Stops a guest from having the server take in more at a time.
pub const MAX_MESSAGE: usize = (1 << 20) + 4096;
/// In the place of a request's length: the server is to say what it knows of what the guest
/// holds, in so many bytes as an answer may have; or is told, and so many bytes follow.
const EXPORT: u32 = u32::MAX;
const IMPORT: u32 = u32::MAX - 1;
/// Longest table of what a guest holds: some 50,000 places. Bounds what a guest makes a saved
/// state grow by; what has no room is looked up anew.
pub const MAX_TABLE: usize = 2 << 20;
/// How long a save waits for what the server was asked before.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests under way: what a guest can make the host remember of it.
const MAX_WAITING: usize = 512;
/// Answers taken in before other devices get their turn.
const BATCH: usize = 64;

/// Bytes of a tag, section 5.11.4.
const TAG: usize = 36;
/// A request before its bytes: how many, and how many its answer may have.
const PREFIX: usize = 8;
/// An answer before its bytes: how many.
const ANSWER_PREFIX: usize = 4;
/// An answer that is an error: a `fuse_out_header`.
const ERROR: usize = 16;

/// A share.
pub struct Fs {
    stream: UnixStream,
    space: [u8; TAG + 4],
    ram: Option<GuestRam>,
    out: VecDeque<Outgoing>,
    waiting: VecDeque<Waiting>,
    answer: Answer,
    /// The server is gone.
    dead: bool,
    /// Queues to serve again when there is room.
    stalled: bool,
    /// The stream takes no more for now.
    blocked: bool,
    /// What the server said of what the guest holds, until anything more happens.
    table: Vec<u8>,
}

struct Outgoing {
    prefix: [u8; PREFIX],
    sent: usize,
    body: Body,
}

enum Body {
    Guest(Pinned),
    /// What a guest that is gone had still to say: so many bytes, of whatever value.
    Blank(usize),
    /// Our own, and how many bytes of it are sent.
    Table(Vec<u8>, usize),
}

struct Waiting {
    queue: usize,
    head: u16,
    room: Room,
    /// Where an answer that is under way began, for an error in its place.
    start: Option<Pinned>,
}

/// Where an answer goes.
enum Room {
    Guest(Pinned),
    /// The guest that asked is gone, or nobody asked.
    Nowhere,
    Table,
}

impl Room {
    fn len(&self) -> usize {
        match self {
            Self::Guest(room) => room.len(),
            Self::Nowhere => MAX_MESSAGE,
            Self::Table => MAX_TABLE,
        }
    }
}

#[derive(Default)]
struct Answer {
    prefix: [u8; ANSWER_PREFIX],
    have: usize,
    left: usize,
}

impl Fs {
    /// `stream` leads to the server; `tag` is what the guest mounts it by.
    pub fn new(stream: UnixStream, tag: &str) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut space = [0; TAG + 4];
        for (to, from) in space[..TAG].iter_mut().zip(tag.bytes()) {
            *to = from;
        }
        // One queue besides the one for forgetting.
        space[TAG] = 1;
        Ok(Self {
            stream,
            space,
            ram: None,
            out: VecDeque::new(),
            waiting: VecDeque::new(),
            answer: Answer::default(),
            dead: false,
            stalled: false,
            blocked: false,
            table: Vec::new(),
        })
    }

    fn request(&mut self, queue: usize, chain: &mut Chain<'_>) -> Result<Verdict, GuestFault> {
        let Some(ram) = &self.ram else {
            return Ok(Verdict::Stop);
        };
        if self.waiting.len() >= MAX_WAITING {
            self.stalled = true;
            return Ok(Verdict::Stop);
        }
        self.table = Vec::new();
        let (asked, room) = (chain.readable.len(), chain.writable.len());
        if asked > MAX_MESSAGE {
            return Err(GuestFault::ChainBytes);
        }
        let pin = |slices: &[_]| Pinned::new(ram, slices).ok_or(GuestFault::TooShort);
        let body = pin(chain.readable.slices())?;
        let mut reply = pin(chain.writable.slices())?;
        if self.dead {
            return Ok(Verdict::Done(refuse(&mut reply)));
        }
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
        let mut prefix = [0; PREFIX];
        prefix[..4].copy_from_slice(&length(asked));
        prefix[4..].copy_from_slice(&length(room.min(MAX_MESSAGE)));
        self.out.push_back(Outgoing {
            prefix,
            sent: 0,
            body: Body::Guest(body),
        });
        self.waiting.push_back(Waiting {
            queue,
            head: chain.head,
            room: Room::Guest(reply),
            start: None,
        });
        Ok(Verdict::Pending)
    }

    /// A message of our own, and where its answer goes.
    fn ask(&mut self, length: u32, room: usize, body: Body, answer: Room) {
        let room = u32::try_from(room).unwrap_or(0).to_le_bytes();
        let mut prefix = [0; PREFIX];
        prefix[..4].copy_from_slice(&length.to_le_bytes());
        prefix[4..].copy_from_slice(&room);
        self.out.push_back(Outgoing {
            prefix,
            sent: 0,
            body,
        });
        self.waiting.push_back(Waiting {
            queue: 0,
            head: 0,
            room: answer,
            start: None,
        });
    }

    /// Sends what the stream takes; true if it takes no more.
    fn push(&mut self) -> io::Result<bool> {
        loop {
            let Some(front) = self.out.front_mut() else {
                return Ok(false);
            };
            match front.push(&self.stream) {
                Ok(true) => drop(self.out.pop_front()),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until everything is answered.
    fn finish(&mut self, io: &mut Io<'_>) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.waiting.is_empty() {
            let wanted = match self.push()? {
                true => PollFlags::POLLIN | PollFlags::POLLOUT,
                false => PollFlags::POLLIN,
            };
            if self.hear(io)? {
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(self.stream.as_fd(), wanted)], left) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Sends what the stream takes, and sees to what is watched.
    fn send(&mut self, watch: &mut dyn Watch) -> io::Result<()> {
        let blocked = self.push()?;
        if blocked != self.blocked {
            self.blocked = blocked;
            watch.change(self.interest())?;
        }
        Ok(())
    }

    /// Takes in what the server answered; true if there may be more.
    fn receive(&mut self, io: &mut Io<'_>) -> io::Result<bool> {
        for _ in 0..BATCH {
            if !self.hear(io)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A step of that; false if there is nothing to hear now.
    fn hear(&mut self, io: &mut Io<'_>) -> io::Result<bool> {
        match self.take_answer() {
            Ok(Some((waiting, length))) => {
                if let Room::Guest(_) = waiting.room {
                    io.give_back(waiting.queue, [(waiting.head, length)]);
                }
                Ok(true)
            }
            Ok(None) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// A step of one answer; the request it is for once it is whole.
    fn take_answer(&mut self) -> io::Result<Option<(Waiting, u32)>> {
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let answer = &mut self.answer;
        if answer.have < ANSWER_PREFIX {
            let count = (&self.stream).read(&mut answer.prefix[answer.have..])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.have += count;
            if answer.have < ANSWER_PREFIX {
                return Ok(None);
            }
            let length = u32::from_le_bytes(answer.prefix) as usize;
            let front = self.waiting.front_mut().ok_or_else(broken)?;
            if length > front.room.len() {
                return Err(broken());
            }
            if let Room::Guest(room) = &front.room {
                front.start = Some(room.front(ERROR));
            }
            answer.left = length;
        }
        if answer.left > 0 {
            let front = self.waiting.front_mut().ok_or_else(broken)?;
            let count = match &mut front.room {
                Room::Guest(room) => room.read_from(self.stream.as_fd(), answer.left)?,
                room => {
                    let mut piece = [0; 4096];
                    let most = answer.left.min(piece.len());
                    let count = (&self.stream).read(&mut piece[..most])?;
                    if let Room::Table = room {
                        self.table.extend_from_slice(&piece[..count]);
                    }
                    count
                }
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.left -= count;
            if answer.left > 0 {
                return Ok(None);
            }
        }
        let length = u32::from_le_bytes(answer.prefix);
        self.answer = Answer::default();
        Ok(self.waiting.pop_front().map(|waiting| (waiting, length)))
    }

    /// The server is gone: everything is an error from now on.
    fn give_up(&mut self, error: &io::Error, io: &mut Io<'_>) {
        if !std::mem::replace(&mut self.dead, true) {
            telemetry::line(&format!("a shared directory is gone: {error}"));
        }
        let _ = io.watch.remove(self.interest());
        self.out.clear();
        self.answer = Answer::default();
        for mut waiting in std::mem::take(&mut self.waiting) {
            // What came of an answer is none: the error lies where it began.
            if let Room::Guest(room) = &mut waiting.room {
                let length = refuse(waiting.start.as_mut().unwrap_or(room));
                io.give_back(waiting.queue, [(waiting.head, length)]);
            }
        }
    }

    fn interest(&self) -> Interest {
        let events = match self.blocked {
            true => EventSet::IN | EventSet::OUT,
            false => EventSet::IN,
        };
        Interest {
            fd: self.stream.as_raw_fd(),
            token: 0,
            events,
        }
    }
}

impl Outgoing {
    /// Sends a piece; true if that was the last.
    fn push(&mut self, mut stream: &UnixStream) -> io::Result<bool> {
        if self.sent < PREFIX {
            self.sent += stream.write(&self.prefix[self.sent..])?;
        } else {
            match &mut self.body {
                Body::Guest(body) if !body.is_empty() => {
                    body.write_to(stream.as_fd())?;
                }
                Body::Blank(left) if *left > 0 => {
                    let zeros = [0; 4096];
                    *left -= stream.write(&zeros[..(*left).min(zeros.len())])?;
                }
                Body::Table(bytes, sent) if *sent < bytes.len() => {
                    *sent += stream.write(&bytes[*sent..])?;
                }
                _ => {}
            }
        }
        Ok(self.sent >= PREFIX
            && match &self.body {
                Body::Guest(body) => body.is_empty(),
                Body::Blank(left) => *left == 0,
                Body::Table(bytes, sent) => *sent == bytes.len(),
            })
    }
}

/// EIO in place of an answer, where one is expected: a `fuse_out_header`.
fn refuse(room: &mut Pinned) -> u32 {
    let mut header = [0; ERROR];
    if room.len() < header.len() {
        return 0;
    }
    header[0] = 16;
    header[4..8].copy_from_slice(&(-libc::EIO).to_le_bytes());
    u32::try_from(room.store(&header)).unwrap_or(0)
}

impl VirtioDevice for Fs {
    fn kind(&self) -> Kind {
        Kind {
            id: 26,
            name: "virtio-fs",
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        // Requests that jump the line, which here means forgetting; and all others.
        &[128, 512]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.space, offset, data);
    }

    fn activate(&mut self, _features: u64, io: &mut Io<'_>) {
        self.ram = Some(io.memory.clone());
        if !self.dead
            && let Err(error) = io.watch.add(self.interest())
        {
            self.give_up(&error, io);
        }
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), GuestFault> {
        let served = io.serve(index, |chain| self.request(index, chain));
        if !self.dead
            && let Err(error) = self.send(io.watch)
        {
            self.give_up(&error, io);
            // Those that waited for room are refused now: nothing else brings us back.
            if std::mem::take(&mut self.stalled) {
                (0..io.queues.len()).try_for_each(|index| self.process_queue(index, io))?;
            }
        }
        served
    }

    fn process_source(
        &mut self,
        _token: Token,
        _events: EventSet,
        io: &mut Io<'_>,
    ) -> Result<(), GuestFault> {
        if self.dead {
            return Ok(());
        }
        // Watching is level-triggered: what is left over comes again.
        let moved = self.receive(io).and_then(|_| self.send(io.watch));
        if let Err(error) = moved {
            self.give_up(&error, io);
        }
        if std::mem::take(&mut self.stalled) {
            (0..io.queues.len()).try_for_each(|index| self.process_queue(index, io))?;
        }
        Ok(())
    }

    fn settle(&mut self, io: &mut Io<'_>) -> io::Result<()> {
        self.table = Vec::new();
        if self.dead {
            return Ok(());
        }
        let mut outcome = self.finish(io);
        if outcome.is_ok() {
            // An answer that came too late for another save may be in it.
            self.table.clear();
            self.ask(EXPORT, MAX_TABLE, Body::Blank(0), Room::Table);
            outcome = self.finish(io);
        }
        // What is left to send, or waits for room, is seen to when the machine goes on.
        (0..io.queues.len()).for_each(|index| io.again(index));
        outcome
    }

    fn save(&self) -> DeviceState {
        DeviceState::Share {
            table: self.table.clone(),
        }
    }

    fn restore(&mut self, state: &TransportState) -> Result<(), StateFault> {
        match &state.own {
            DeviceState::None => Ok(()),
            DeviceState::Share { table } if table.len() <= MAX_TABLE => Ok(()),
            _ => Err(StateFault::Own),
        }
    }

    fn resume(&mut self, features: u64, state: &DeviceState, io: &mut Io<'_>) {
        self.activate(features, io);
        if let DeviceState::Share { table } = state
            && !self.dead
        {
            let body = Body::Table(table.clone(), 0);
            self.ask(IMPORT, table.len(), body, Room::Nowhere);
        }
    }

    fn deactivate(&mut self, watch: &mut dyn Watch) {
        // The server still answers what it was asked, and hears the rest of what it was
        // promised: none of it has to do with the guest any more.
        for out in &mut self.out {
            if let Body::Guest(body) = &out.body {
                out.body = Body::Blank(body.len());
            }
        }
        for waiting in &mut self.waiting {
            if let Room::Guest(_) = waiting.room {
                (waiting.room, waiting.start) = (Room::Nowhere, None);
            }
        }
        self.ram = None;
        self.stalled = false;
        self.blocked = false;
        let _ = watch.remove(self.interest());
    }
}

#[cfg(test)]
mod tests;
