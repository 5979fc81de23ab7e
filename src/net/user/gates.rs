// SPDX-License-Identifier: Apache-2.0
//! Published TCP ports, and from when on who calls there is let in. The thread of `husk net`;
//! never waits.
//!
//! The first segment to a guest whose interface is not up is lost, and repeated 0.7 s later. So
//! callers wait with the host's kernel until the guest has said something. As its own kernel does
//! that some ticks after its interface came up only, it is asked, once somebody calls.

use super::frame;
use super::ground::{Ground, Token};
use nix::sys::epoll::EpollFlags;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// How long callers wait for a guest that says nothing, whatever it is asked.
const QUIET: Duration = Duration::from_secs(1);
/// Between the first two questions; each further pause is a quarter longer, so that there are
/// some two dozen at most, and an answer is late by a fifth at most.
const PAUSE: Duration = Duration::from_millis(1);

/// A published TCP port.
pub struct Gate {
    pub listener: TcpListener,
    pub guest: SocketAddr,
}

pub struct Gates {
    gates: Vec<Gate>,
    /// None once they are open.
    closed: Option<Closed>,
}

struct Closed {
    until: Instant,
    question: Option<Question>,
}

struct Question {
    at: Instant,
    pause: Duration,
}

impl Gates {
    /// Closed, and each hears of its first caller.
    pub fn new(gates: Vec<Gate>, ground: &Ground) -> io::Result<Self> {
        for (place, gate) in (0..).zip(&gates) {
            let once = EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT;
            ground.watch(&gate.listener, Token::Listener(place), once)?;
        }
        let closed = (!gates.is_empty()).then(|| Closed {
            until: Instant::now() + QUIET,
            question: None,
        });
        Ok(Self { gates, closed })
    }

    /// The port at which somebody calls, if that is to be answered now.
    pub fn called(&mut self, place: u32) -> Option<&Gate> {
        if let Some(closed) = &mut self.closed {
            closed.question.get_or_insert_with(|| Question {
                at: Instant::now(),
                pause: PAUSE,
            });
            return None;
        }
        self.gates.get(place as usize)
    }

    /// The guest has said something: it is there, and who called is let in at the next `turn`.
    pub fn heard(&mut self) {
        if let Some(closed) = &mut self.closed {
            closed.until = closed.until.min(Instant::now());
        }
    }

    /// When there is something to do.
    pub fn due(&self) -> Option<Instant> {
        let closed = self.closed.as_ref()?;
        let question = closed.question.as_ref().map(|question| question.at);
        Some(question.map_or(closed.until, |at| at.min(closed.until)))
    }

    /// Opens, or asks, if it is time to.
    pub fn turn(&mut self, ground: &mut Ground) -> io::Result<()> {
        let Some(closed) = &mut self.closed else {
            return Ok(());
        };
        let now = Instant::now();
        if now >= closed.until {
            self.closed = None;
            return self.open(ground);
        }
        if let Some(question) = closed.question.as_mut().filter(|it| now >= it.at) {
            // One that does not fit is not missed.
            let frame = frame::arp_request(&ground.own);
            ground.wire.send_or_drop(&frame);
            question.at = now + question.pause;
            question.pause += question.pause / 4;
        }
        Ok(())
    }

    fn open(&self, ground: &Ground) -> io::Result<()> {
        for (place, gate) in (0..).zip(&self.gates) {
            let token = Token::Listener(place);
            ground.watch_anew(&gate.listener, token, EpollFlags::EPOLLIN)?;
        }
        Ok(())
    }
}
