// SPDX-License-Identifier: Apache-2.0
//! The desk requests come in at, on the event thread. A starter that goes away takes its
//! machine with it: the end of the socket is a request to stop.

use super::saving::{Order, Saver};
use super::send;
use crate::control::{End, MAX_MESSAGE, Report, Request};
use crate::events::{EventSet, Interest, Source, Token, Watch};
use crate::machine::{Outcome, Running};
use crate::sys::seqpacket::SeqPacket;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Lines of console in an answer.
const TAIL_LINES: usize = 40;

pub struct Desk {
    socket: Arc<SeqPacket>,
    outcome: Arc<Outcome>,
    console_wanted: AtomicBool,
    saver: Mutex<Saver>,
    save_wanted: Mutex<Option<Order>>,
    resume_wanted: AtomicBool,
    release_wanted: AtomicBool,
    count_wanted: AtomicBool,
}

const SOCKET: Token = 0;
const OUTCOME: Token = 1;
const SAVER: Token = 2;

impl Desk {
    pub fn new(socket: Arc<SeqPacket>, outcome: Arc<Outcome>, saver: Saver) -> Arc<Self> {
        Arc::new(Self {
            socket,
            outcome,
            saver: Mutex::new(saver),
            console_wanted: AtomicBool::new(false),
            save_wanted: Mutex::default(),
            resume_wanted: AtomicBool::new(false),
            release_wanted: AtomicBool::new(false),
            count_wanted: AtomicBool::new(false),
        })
    }

    /// Answers what was asked during the last turn of the loop.
    pub fn answer(&self, running: &Running) {
        if self.console_wanted.swap(false, Ordering::Relaxed) {
            self.tell_console(running);
        }
        self.save(running);
        if self.resume_wanted.swap(false, Ordering::Relaxed) {
            running.go_on();
        }
        if self.release_wanted.swap(false, Ordering::Relaxed) {
            running.release();
        }
        if self.count_wanted.swap(false, Ordering::Relaxed) {
            let _ = send(&self.socket, &Report::Counted(running.counted()));
        }
    }

    /// Writes down which pages its guest wrote to first.
    pub fn learn(&self, running: &Running, file: &File) {
        let saver = self.saver.lock().unwrap_or_else(PoisonError::into_inner);
        // Half of it is no worse than none: whoever reads it trusts nothing.
        if saver.learn(running, file).is_ok() {
            let _ = send(&self.socket, &Report::Learned);
        }
    }

    fn save(&self, running: &Running) {
        let mut saver = self.saver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = saver.finished() {
            let problem = result.err().map(|error| super::chain(&error));
            let _ = send(&self.socket, &Report::Saved { problem });
        }
        let wanted = self.save_wanted.lock();
        let Some(order) = wanted.unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let hold = order.hold;
        match saver.save(running, order) {
            Ok(paused) => {
                let paused = u64::try_from(paused.as_nanos()).unwrap_or(u64::MAX);
                let _ = send(&self.socket, &Report::Captured { paused });
                if hold {
                    let _ = send(&self.socket, &Report::Saved { problem: None });
                }
            }
            Err(error) => {
                let problem = Some(super::chain(&*error));
                let _ = send(&self.socket, &Report::Saved { problem });
            }
        }
    }

    /// Sends the console's last lines.
    pub fn tell_console(&self, running: &Running) {
        let tail = running.console_tail(TAIL_LINES);
        let _ = send(&self.socket, &Report::Console { tail });
    }

    fn hear(&self, watch: &mut dyn Watch) {
        let (request, files) = match self.socket.recv_with(MAX_MESSAGE) {
            Ok(Some((text, fds))) => (serde_json::from_slice(&text).unwrap_or(Request::Stop), fds),
            Ok(None) | Err(_) => {
                let _ = watch.remove(self.interest());
                (Request::Stop, Vec::new())
            }
        };
        match request {
            Request::Stop => self.outcome.tell(End::Stopped),
            Request::Save { hold, changes } => {
                let wanted = self.save_wanted.lock();
                *wanted.unwrap_or_else(PoisonError::into_inner) = Some(Order {
                    hold,
                    changes,
                    files,
                });
            }
            Request::Resume => self.resume_wanted.store(true, Ordering::Relaxed),
            Request::Release => self.release_wanted.store(true, Ordering::Relaxed),
            Request::Console => self.console_wanted.store(true, Ordering::Relaxed),
            Request::Count => self.count_wanted.store(true, Ordering::Relaxed),
        }
    }

    fn interest(&self) -> Interest {
        Interest {
            fd: self.socket.as_fd().as_raw_fd(),
            token: SOCKET,
            events: EventSet::IN,
        }
    }
}

impl Source for Desk {
    fn fds(&self) -> Vec<Interest> {
        // The outcome's descriptor only has to wake the loop, which looks at every turn.
        let saver = self.saver.lock().unwrap_or_else(PoisonError::into_inner);
        vec![
            self.interest(),
            Interest {
                fd: saver.fd(),
                token: SAVER,
                events: EventSet::IN,
            },
            Interest {
                fd: self.outcome.eventfd().as_raw_fd(),
                token: OUTCOME,
                events: EventSet::IN,
            },
        ]
    }

    fn ready(&self, token: Token, _events: EventSet, watch: &mut dyn Watch) {
        if token == SOCKET {
            self.hear(watch);
        }
    }
}
