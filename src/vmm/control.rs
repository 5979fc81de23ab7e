// SPDX-License-Identifier: Apache-2.0
//! The desk requests come in at, on the event thread. A starter that goes away takes its
//! machine with it: the end of the socket is a request to stop.

use super::send;
use crate::control::{End, MAX_MESSAGE, Report, Request};
use crate::events::{EventSet, Interest, Source, Token, Watch};
use crate::machine::{Outcome, Running};
use crate::memory::saved::{self, Against, Pagemap};
use crate::sys::seqpacket::SeqPacket;
use std::error::Error;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Lines of console in an answer.
const TAIL_LINES: usize = 40;

pub struct Desk {
    socket: Arc<SeqPacket>,
    outcome: Arc<Outcome>,
    console_wanted: AtomicBool,
    save_wanted: Mutex<Option<Vec<OwnedFd>>>,
    count_wanted: AtomicBool,
    pagemap: Pagemap,
}

const SOCKET: Token = 0;
const OUTCOME: Token = 1;

impl Desk {
    pub fn new(socket: Arc<SeqPacket>, outcome: Arc<Outcome>, pagemap: Pagemap) -> Arc<Self> {
        Arc::new(Self {
            socket,
            outcome,
            console_wanted: AtomicBool::new(false),
            save_wanted: Mutex::default(),
            count_wanted: AtomicBool::new(false),
            pagemap,
        })
    }

    /// Answers what was asked during the last turn of the loop.
    pub fn answer(&self, running: &Running) {
        if self.console_wanted.swap(false, Ordering::Relaxed) {
            self.tell_console(running);
        }
        let wanted = self.save_wanted.lock();
        let files = wanted.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(files) = files {
            let problem = save(running, files, &self.pagemap).err();
            let problem = problem.map(|error| super::chain(&*error));
            let _ = send(&self.socket, &Report::Saved { problem });
        }
        if self.count_wanted.swap(false, Ordering::Relaxed) {
            let _ = send(&self.socket, &Report::Counted(running.counted()));
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
            Request::Save { .. } => {
                let wanted = self.save_wanted.lock();
                *wanted.unwrap_or_else(PoisonError::into_inner) = Some(files);
            }
            Request::Release => {}
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

/// The machine stands still meanwhile.
fn save(running: &Running, files: Vec<OwnedFd>, pagemap: &Pagemap) -> Result<(), Box<dyn Error>> {
    let mut files = files.into_iter().map(File::from);
    let (Some(state), Some(memory)) = (files.next(), files.next()) else {
        return Err("there are no files to save to".into());
    };
    let mut held = running.hold().ok_or("the machine came to its end")?;
    held.save()?.write(&state)?;
    let runs = saved::held(held.memory(), pagemap, Against::Zero)?;
    saved::write(held.memory(), &memory, &runs)?;
    Ok(())
}

impl Source for Desk {
    fn fds(&self) -> Vec<Interest> {
        // The outcome's descriptor only has to wake the loop, which looks at every turn.
        vec![
            self.interest(),
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
