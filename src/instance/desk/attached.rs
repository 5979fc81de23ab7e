// SPDX-License-Identifier: Apache-2.0
//! A client that hears the process's output and may type: spoken to in frames, as an agent
//! speaks. Never blocks; a client that falls too far behind is let go, since the process
//! does not wait for onlookers.

use crate::instance::session::Wish;
use husk_protocol::{
    ByteQueue, Decoder, Exit, Hello, MAX_CHUNK, Malformed, Message, ReceiveWindow, SendWindow,
    Stream, VERSION,
};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv, send};
use std::collections::VecDeque;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Output a client may leave unread: far more than a reader that lives is ever behind.
const MAX_BEHIND: usize = 4 << 20;

struct Channel {
    stream: Stream,
    queue: ByteQueue,
    window: SendWindow,
}

pub struct Attached {
    stream: UnixStream,
    decoder: Decoder,
    out: ByteQueue,
    channels: Vec<Channel>,
    pid: u32,
    /// The client's `Start` came: output may follow.
    greeted: bool,
    typed: VecDeque<u8>,
    typing: ReceiveWindow,
    input: Stream,
    eof: bool,
    exit: Option<Exit>,
    exit_told: bool,
}

impl Attached {
    pub fn new(stream: UnixStream, terminal: bool, pid: u32) -> Self {
        let channel = |stream| Channel {
            stream,
            queue: ByteQueue::new(),
            window: SendWindow::new(),
        };
        let (channels, input) = match terminal {
            true => (vec![channel(Stream::Terminal)], Stream::Terminal),
            false => (
                vec![channel(Stream::Stdout), channel(Stream::Stderr)],
                Stream::Stdin,
            ),
        };
        let mut attached = Self {
            stream,
            decoder: Decoder::new(),
            out: ByteQueue::new(),
            channels,
            pid,
            greeted: false,
            typed: VecDeque::new(),
            typing: ReceiveWindow::new(),
            input,
            eof: false,
            exit: None,
            exit_told: false,
        };
        attached.say(&Message::Hello(Hello {
            version: VERSION,
            started: 0,
            ready: 0,
            running: None,
        }));
        attached.flush();
        attached
    }

    fn say(&mut self, message: &Message<'_>) {
        let _ = message.encode(self.out.tail());
    }

    pub fn watched(&self, room: bool) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, room && self.typed.len() < MAX_CHUNK);
        flags.set(PollFlags::POLLOUT, !self.out.is_empty());
        (self.stream.as_fd(), flags)
    }

    /// Takes output of the process. False: the client is too far behind.
    pub fn hear(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let Some(channel) = self.channels.iter_mut().find(|c| c.stream == stream) else {
            return true;
        };
        channel.queue.push(bytes);
        let behind = channel.queue.len();
        self.fill();
        self.flush() && behind <= MAX_BEHIND
    }

    pub fn exited(&mut self, exit: Exit) {
        self.exit = Some(exit);
        self.fill();
        self.flush();
    }

    /// Whether there is something the client has not got yet.
    pub fn has_more(&self) -> bool {
        self.greeted && (!self.out.is_empty() || (self.exit.is_some() && !self.exit_told))
    }

    /// Reads and writes what can be. False: the client is gone.
    pub fn exchange(&mut self, wishes: &mut VecDeque<Wish>) -> bool {
        let alive = match recv(
            self.stream.as_raw_fd(),
            self.decoder.space(),
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(0) => false,
            Ok(n) => {
                self.decoder.filled(n);
                self.obey_all(wishes).is_ok()
            }
            Err(Errno::EAGAIN | Errno::EINTR) => true,
            Err(_) => false,
        };
        self.fill();
        alive && self.flush()
    }

    fn obey_all(&mut self, wishes: &mut VecDeque<Wish>) -> Result<(), Malformed> {
        let mut decoder = std::mem::take(&mut self.decoder);
        while let Some(message) = decoder.take()? {
            self.obey(&message, wishes)?;
        }
        self.decoder = decoder;
        Ok(())
    }

    fn obey(
        &mut self,
        message: &Message<'_>,
        wishes: &mut VecDeque<Wish>,
    ) -> Result<(), Malformed> {
        match message {
            Message::Start(start) if !self.greeted => {
                self.greeted = true;
                if let Some(terminal) = &start.terminal {
                    wishes.push_back(Wish::Resize(terminal.size));
                }
                self.say(&Message::Started { pid: self.pid });
            }
            _ if !self.greeted => return Err(Malformed::Order),
            Message::Data { stream, bytes } if *stream == self.input => {
                self.typing.accept(bytes.len())?;
                self.typed.extend(*bytes);
            }
            Message::Eof { stream } if *stream == self.input => self.eof = true,
            Message::Credit { stream, bytes } => {
                if let Some(channel) = self.channels.iter_mut().find(|c| c.stream == *stream) {
                    channel.window.grant(*bytes)?;
                }
            }
            Message::Broken { stream } => self.channels.retain(|c| c.stream != *stream),
            Message::Signal { number } => wishes.push_back(Wish::Signal(*number)),
            Message::Resize(size) => wishes.push_back(Wish::Resize(*size)),
            _ => return Err(Malformed::Order),
        }
        Ok(())
    }

    /// At most this much of what was typed.
    pub fn take_input(&mut self, most: usize) -> Vec<u8> {
        let n = most.min(self.typed.len());
        let bytes: Vec<u8> = self.typed.drain(..n).collect();
        if let Some(bytes) = self.typing.release(n) {
            let stream = self.input;
            self.say(&Message::Credit { stream, bytes });
            self.flush();
        }
        bytes
    }

    pub fn said_eof(&self) -> bool {
        self.eof && self.typed.is_empty()
    }

    /// Moves output into frames as far as the client's windows allow.
    fn fill(&mut self) {
        if !self.greeted {
            return;
        }
        let mut waiting = false;
        for channel in &mut self.channels {
            while !channel.queue.is_empty() && self.out.len() < MAX_BEHIND {
                let most = MAX_CHUNK.min(channel.window.left());
                let bytes = channel.queue.peek();
                let bytes = bytes.get(..most).unwrap_or(bytes);
                if bytes.is_empty() {
                    break;
                }
                let (stream, n) = (channel.stream, bytes.len());
                let _ = Message::Data { stream, bytes }.encode(self.out.tail());
                channel.queue.consume(n);
                channel.window.spend(n);
            }
            waiting |= !channel.queue.is_empty();
        }
        if let Some(exit) = self.exit.filter(|_| !waiting && !self.exit_told) {
            self.exit_told = true;
            self.say(&Message::Exited(exit));
        }
    }

    /// False: the client is gone.
    fn flush(&mut self) -> bool {
        while !self.out.is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.stream.as_raw_fd(), self.out.peek(), flags) {
                Ok(n) => self.out.consume(n),
                Err(Errno::EAGAIN) => return true,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}
