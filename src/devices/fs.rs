// SPDX-License-Identifier: Apache-2.0
//! virtio-fs, section 5.11: a directory of the host, by FUSE.
//!
//! Event thread. This device opens nothing and understands no request: it carries messages
//! between the guest's queues and the process that serves the directory (`share`), over a
//! stream, with lengths of its own before each. Requests are answered in their order, each
//! exactly once; an answer of no bytes is for those that have none. A server that is gone,
//! or breaks this, is an error the guest is told, and never the machine's end.

use crate::events::{EventSet, Interest, Token, Watch};
use crate::memory::{GuestRam, Pinned};
use crate::telemetry;
use crate::virtio::device::{Io, Kind, Verdict, VirtioDevice, read_config};
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::Chain;
use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;

/// Longest request and longest answer: the largest write and read the server agrees to, and
/// what goes before them. Stops a guest from having the server take in more at a time.
pub const MAX_MESSAGE: usize = (1 << 20) + 4096;
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
}

struct Waiting {
    queue: usize,
    head: u16,
    /// None: the guest that asked is gone.
    room: Option<Pinned>,
    /// Where an answer that is under way began, for an error in its place.
    start: Option<Pinned>,
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
            room: Some(reply),
            start: None,
        });
        Ok(Verdict::Pending)
    }

    /// Sends what the stream takes.
    fn send(&mut self, watch: &mut dyn Watch) -> io::Result<()> {
        let blocked = loop {
            let Some(front) = self.out.front_mut() else {
                break false;
            };
            match front.push(&self.stream) {
                Ok(true) => drop(self.out.pop_front()),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        if blocked != self.blocked {
            self.blocked = blocked;
            watch.change(self.interest())?;
        }
        Ok(())
    }

    /// Takes in what the server answered; true if there may be more.
    fn receive(&mut self, io: &mut Io<'_>) -> io::Result<bool> {
        for _ in 0..BATCH {
            match self.take_answer() {
                Ok(Some((waiting, length))) => {
                    if waiting.room.is_some() {
                        io.give_back(waiting.queue, [(waiting.head, length)]);
                    }
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
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
            if length > front.room.as_ref().map_or(MAX_MESSAGE, Pinned::len) {
                return Err(broken());
            }
            front.start = front.room.as_ref().map(|room| room.front(ERROR));
            answer.left = length;
        }
        if answer.left > 0 {
            let front = self.waiting.front_mut().ok_or_else(broken)?;
            let count = match &mut front.room {
                Some(room) => room.read_from(self.stream.as_fd(), answer.left)?,
                None => {
                    let mut nowhere = [0; 4096];
                    let room = answer.left.min(nowhere.len());
                    (&self.stream).read(&mut nowhere[..room])?
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
            if let Some(room) = waiting.start.as_mut().or(waiting.room.as_mut()) {
                let length = refuse(room);
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
                _ => {}
            }
        }
        Ok(self.sent >= PREFIX
            && match &self.body {
                Body::Guest(body) => body.is_empty(),
                Body::Blank(left) => *left == 0,
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

    fn deactivate(&mut self, watch: &mut dyn Watch) {
        // The server still answers what it was asked, and hears the rest of what it was
        // promised: none of it has to do with the guest any more.
        for out in &mut self.out {
            if let Body::Guest(body) = &out.body {
                out.body = Body::Blank(body.len());
            }
        }
        for waiting in &mut self.waiting {
            (waiting.room, waiting.start) = (None, None);
        }
        self.ram = None;
        self.stalled = false;
        self.blocked = false;
        let _ = watch.remove(self.interest());
    }
}

#[cfg(test)]
mod tests;
