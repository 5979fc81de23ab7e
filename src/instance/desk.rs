// SPDX-License-Identifier: Apache-2.0
//! The owner's side of a machine's control socket: what others ask of it while its session
//! runs. A request is one line of JSON, and so is the answer; after `Attach` the connection
//! goes on in frames, as if the desk were an agent.
//!
//! On the session's thread; never blocks, and no client makes the machine wait: one that
//! does not read what it asked for is let go.

mod attached;
mod saving;

use super::journal;
use super::logs::Log;
use super::place::Claim;
use super::record::Ended;
use super::session::{Company, Event, SaveOrder, Saved, Wish};
use crate::control::{Counted, Report};
use attached::Attached;
use husk_protocol::{Exit, Stream};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
pub use saving::{BLUEPRINT, Described};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest request: a client of the same user may err, and must not fill memory.
pub const MAX_REQUEST: usize = 4096;
/// Clients at once; more wait to be accepted.
const MAX_CLIENTS: usize = 64;
/// How long the last words may take to leave.
const FAREWELL: Duration = Duration::from_secs(2);
/// Input of clients that waits for the process.
const MAX_INPUT: usize = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    Signal {
        number: u8,
    },
    Stop {
        signal: Option<u8>,
        grace_ms: u64,
    },
    Inspect,
    /// What the machine's devices counted.
    Count,
    /// Answered when the machine is at its end.
    Wait,
    Attach,
    /// End the machine at once.
    End,
    /// A machine that stands still since it was saved goes on.
    Resume,
    /// Save the machine into files of this folder, which is empty. Answered when they are
    /// whole.
    Save {
        folder: PathBuf,
        /// Whether it stands still from then on, until whoever asked says `End` or `Resume`
        /// or hangs up; else it goes on.
        hold: bool,
        /// Of its memory only what is not as it was when it was restored.
        changes: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Live(Live),
    Ended(Ended),
    Counted(Counted),
    /// For how many nanoseconds the machine stood still.
    Saved {
        paused: u64,
    },
    Refused(String),
}

/// What only the owner knows, while the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The process that runs the guest.
    pub machine_pid: i32,
    /// The command's, in the guest; none before it started.
    pub guest_pid: Option<u32>,
    /// Nanoseconds since 1970.
    pub started: Option<u64>,
    pub exited: bool,
    pub attached: usize,
}

enum Client {
    Asking(UnixStream, Vec<u8>),
    Waiting(UnixStream),
    /// For what the machine's devices counted.
    Counting(UnixStream),
    /// For its snapshot to be whole.
    Saving(UnixStream),
    /// The machine stands still for its sake, until it says what is to become of it or is gone.
    Holding(UnixStream),
    Attached(Box<Attached>),
    Gone,
}

pub struct Desk {
    listener: UnixListener,
    clients: Vec<Client>,
    log: Option<Log>,
    claim: Claim,
    described: Described,
    /// A save that was ordered and has not come to its end, whoever still waits for it; and
    /// whether the machine is to stand still after it.
    saving: Option<bool>,
    live: Live,
    wishes: VecDeque<Wish>,
    input: VecDeque<u8>,
    input_ended: bool,
}

impl Desk {
    /// `log`: whether the process's output is kept. `described` goes into every snapshot.
    pub fn open(claim: Claim, log: bool, described: Described) -> io::Result<Self> {
        let listener = claim.desk()?;
        listener.set_nonblocking(true)?;
        let log = log.then(|| Log::create(claim.dir())).transpose()?;
        Ok(Self {
            listener,
            clients: Vec::new(),
            log,
            claim,
            described,
            saving: None,
            live: Live::default(),
            wishes: VecDeque::new(),
            input: VecDeque::new(),
            input_ended: false,
        })
    }

    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    pub fn machine_started(&mut self, pid: i32) {
        self.live.machine_pid = pid;
    }

    /// Writes it down, tells those who wait, and lets everything go.
    pub fn conclude(mut self, ended: &Ended) {
        self.accept();
        for client in &mut self.clients {
            if let Client::Asking(..) = client {
                client.hear(&mut Vec::new());
            }
        }
        // First, so that who is told finds it as it is told: gone, if nothing is kept. A folder
        // that cannot be written is swept by the next husk that looks.
        let _ = self.claim.conclude(ended);
        // Of all together: until then the machine seems to live.
        let until = Instant::now() + FAREWELL;
        for client in std::mem::take(&mut self.clients) {
            match client {
                Client::Counting(stream) | Client::Saving(stream) => {
                    let why = "the machine is at its end".to_owned();
                    let _ = tell(&stream, &Answer::Refused(why));
                }
                Client::Waiting(stream) => drop(tell(&stream, &Answer::Ended(ended.clone()))),
                Client::Attached(attached) => farewell(*attached, until),
                Client::Asking(..) | Client::Holding(_) | Client::Gone => {}
            }
        }
    }

    /// Takes everything away: nothing of it came to be.
    pub fn forget(self) {
        let _ = self.claim.forget();
    }

    fn accept(&mut self) {
        while self.clients.len() < MAX_CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else {
                return;
            };
            self.clients.push(Client::Asking(stream, Vec::new()));
        }
    }

    fn obey(&mut self, place: usize, ask: Ask) {
        let Some(slot) = self.clients.get_mut(place) else {
            return;
        };
        let Client::Asking(stream, _) = std::mem::replace(slot, Client::Gone) else {
            return;
        };
        let record = &self.claim.record;
        let note = |what, code| journal::note(self.claim.place().path(), what, record, code);
        match ask {
            Ask::Signal { number } => {
                note("kill", Some(number));
                self.wishes.push_back(Wish::Signal(number));
                let _ = tell(&stream, &Answer::Done);
            }
            Ask::Stop { signal, grace_ms } => {
                note("stop", signal);
                self.wishes.push_back(Wish::Stop {
                    signal: signal.unwrap_or(record.stop_signal),
                    grace: Duration::from_millis(grace_ms),
                });
                let _ = tell(&stream, &Answer::Done);
            }
            Ask::Inspect => {
                let attached = |client: &&Client| matches!(client, Client::Attached(_));
                self.live.attached = self.clients.iter().filter(attached).count();
                let _ = tell(&stream, &Answer::Live(self.live.clone()));
            }
            Ask::End => {
                self.wishes.push_back(Wish::End);
                let _ = tell(&stream, &Answer::Done);
            }
            Ask::Resume => {
                self.wishes.push_back(Wish::Resume);
                let _ = tell(&stream, &Answer::Done);
            }
            Ask::Wait => self.clients[place] = Client::Waiting(stream),
            Ask::Count => {
                self.clients[place] = Client::Counting(stream);
                self.wishes.push_back(Wish::Count);
            }
            Ask::Save {
                folder,
                hold,
                changes,
            } => match self.order(&folder, hold, changes) {
                Ok(order) => {
                    note("snapshot", None);
                    self.saving = Some(hold);
                    self.clients[place] = Client::Saving(stream);
                    self.wishes.push_back(Wish::Save(order));
                }
                Err(why) => drop(tell(&stream, &Answer::Refused(why))),
            },
            Ask::Attach if self.live.guest_pid.is_none() || self.live.exited => {
                let why = "its command does not run".to_owned();
                let _ = tell(&stream, &Answer::Refused(why));
            }
            Ask::Attach => {
                note("attach", None);
                let pid = self.live.guest_pid.unwrap_or(0);
                if tell(&stream, &Answer::Done).is_ok() {
                    let attached = Attached::new(stream, record.tty, pid);
                    self.clients[place] = Client::Attached(Box::new(attached));
                }
            }
        }
    }

    fn order(&self, folder: &Path, hold: bool, changes: bool) -> Result<SaveOrder, String> {
        if self.live.guest_pid.is_none() || self.live.exited {
            return Err("its command does not run".into());
        }
        // Also one whose client is gone: its answer would be taken for that of the next.
        if self.saving.is_some() {
            return Err("another snapshot of it is being made".into());
        }
        if changes && !self.described.restored {
            return Err(
                "it was not restored from a snapshot, so there is nothing its changes \
                        could be kept apart from"
                    .into(),
            );
        }
        let order = self.described.order(folder, hold, changes);
        order.map_err(|error| format!("cannot make the snapshot's files: {error}"))
    }

    /// What an attached client typed and wished.
    fn take(&mut self, place: usize) {
        let forward = self.claim.record.interactive && self.claim.record.detached;
        let Some(Client::Attached(attached)) = self.clients.get_mut(place) else {
            return;
        };
        let alive = attached.exchange(&mut self.wishes);
        let typed = attached.take_input(MAX_INPUT.saturating_sub(self.input.len()));
        if forward {
            self.input.extend(typed);
            // Who leaves a terminal just leaves; the end of a pipe's input is its end.
            self.input_ended |= attached.said_eof() && !self.claim.record.tty;
        }
        if !alive {
            self.clients[place] = Client::Gone;
        }
    }
}

impl Company for Desk {
    fn watched(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut list = vec![(self.listener.as_fd(), PollFlags::POLLIN)];
        for client in &self.clients {
            list.push(match client {
                Client::Asking(stream, _) => (stream.as_fd(), PollFlags::POLLIN),
                Client::Waiting(stream)
                | Client::Counting(stream)
                | Client::Saving(stream)
                | Client::Holding(stream) => (stream.as_fd(), PollFlags::POLLIN),
                Client::Attached(attached) => attached.watched(self.input.len() < MAX_INPUT),
                // Cleared after each turn; watched only to keep the places.
                Client::Gone => (self.listener.as_fd(), PollFlags::empty()),
            });
        }
        if self.clients.len() >= MAX_CLIENTS {
            list[0].1 = PollFlags::empty();
        }
        list
    }

    fn ready(&mut self, places: &[usize]) {
        for place in places.iter().filter_map(|place| place.checked_sub(1)) {
            let mut ask = Vec::new();
            match self.clients.get_mut(place) {
                Some(Client::Attached(_)) => self.take(place),
                Some(client) => {
                    let held = matches!(client, Client::Holding(_));
                    if client.hear(&mut ask)
                        && let Ok(ask) = serde_json::from_slice(&ask)
                    {
                        self.obey(place, ask);
                    } else if held && matches!(client, Client::Gone) {
                        // Whoever ended it has said so before; else it is as if never held.
                        self.wishes.push_back(Wish::Resume);
                    }
                }
                None => {}
            }
        }
        if places.contains(&0) {
            self.accept();
        }
        self.clients
            .retain(|client| !matches!(client, Client::Gone));
    }

    fn next_wish(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    fn input(&mut self, most: usize) -> Option<Vec<u8>> {
        let n = most.min(self.input.len());
        (n > 0).then(|| self.input.drain(..n).collect())
    }

    fn input_ended(&self) -> bool {
        self.input_ended
    }

    fn heard(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            log.write(stream, bytes);
        }
        for client in &mut self.clients {
            if let Client::Attached(attached) = client
                && !attached.hear(stream, bytes)
            {
                *client = Client::Gone;
            }
        }
    }

    fn told(&mut self, event: &Event) {
        match event {
            Event::Started { pid } => {
                self.live.guest_pid = Some(*pid);
                self.live.started = Some(super::record::now());
                let record = &self.claim.record;
                journal::note(self.claim.place().path(), "start", record, None);
            }
            Event::Exited(exit) => self.exited(*exit),
            Event::Report(Report::Counted(counted)) => self.counted(counted),
            Event::Saved(result) => self.saved(result),
            Event::AgentUp(_) | Event::KernelLog(_) | Event::Report(_) => {}
        }
    }
}

impl Desk {
    /// One report answers everybody who asked before it came.
    fn counted(&mut self, counted: &Counted) {
        for client in &mut self.clients {
            if let Client::Counting(stream) = client {
                let _ = tell(stream, &Answer::Counted(*counted));
                *client = Client::Gone;
            }
        }
    }

    fn saved(&mut self, result: &Result<Saved, String>) {
        let answer = match result {
            Ok(saved) => Answer::Saved {
                paused: saved.paused,
            },
            Err(why) => Answer::Refused(why.clone()),
        };
        let held = self.saving.take() == Some(true) && result.is_ok();
        let mut heard = false;
        for client in &mut self.clients {
            if let Client::Saving(_) = client
                && let Client::Saving(stream) = std::mem::replace(client, Client::Gone)
                && tell(&stream, &answer).is_ok()
                && held
            {
                heard = true;
                *client = Client::Holding(stream);
            }
        }
        // Nobody is there any more to say whether it is to go on.
        if held && !heard {
            self.wishes.push_back(Wish::Resume);
        }
    }

    fn exited(&mut self, exit: Exit) {
        self.live.exited = true;
        for client in &mut self.clients {
            if let Client::Attached(attached) = client {
                attached.exited(exit);
            }
        }
    }
}

impl Client {
    /// Reads what came. True if `ask` holds a request now.
    fn hear(&mut self, ask: &mut Vec<u8>) -> bool {
        let stream = match self {
            Self::Asking(stream, _)
            | Self::Waiting(stream)
            | Self::Counting(stream)
            | Self::Saving(stream)
            | Self::Holding(stream) => &*stream,
            Self::Attached(_) | Self::Gone => return false,
        };
        let mut buffer = [0; MAX_REQUEST];
        // Not a byte beyond the line: it may belong to the frames that follow it.
        let peek = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        let n = match recv(stream.as_raw_fd(), &mut buffer, peek) {
            Ok(0) => 0,
            Ok(n) => n,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return false,
            Err(_) => 0,
        };
        let seen = buffer.get(..n).unwrap_or_default();
        let line = seen.iter().position(|byte| *byte == b'\n');
        let used = line.map_or(n, |at| at + 1);
        let mut taken = vec![0; used];
        let read = used > 0 && recv(stream.as_raw_fd(), &mut taken, MsgFlags::MSG_DONTWAIT).is_ok();
        match self {
            Self::Asking(_, text) if read && text.len() + used <= MAX_REQUEST => {
                text.extend_from_slice(&taken);
                if line.is_some() {
                    *ask = std::mem::take(text);
                    return serde_json::from_slice::<Ask>(ask).is_ok() || self.leave();
                }
                false
            }
            // The end, or nonsense.
            _ => self.leave(),
        }
    }

    fn leave(&mut self) -> bool {
        *self = Self::Gone;
        false
    }
}

fn tell(stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    // An answer is far smaller than a socket's buffer.
    send(stream.as_raw_fd(), &line, flags)?;
    Ok(())
}

/// What an attached client has not read yet of the end.
fn farewell(mut attached: Attached, until: Instant) {
    let mut nothing = VecDeque::new();
    while attached.has_more() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let (fd, flags) = attached.watched(true);
        let mut list = [PollFd::new(fd, flags)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        if poll(&mut list, timeout).is_err() || !attached.exchange(&mut nothing) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
