// SPDX-License-Identifier: Apache-2.0
//! Who takes part in a session beside the operator: a machine's log, and the clients of its
//! control socket. On the session's thread; must never block.

use super::Event;
use husk_protocol::{Size, Stream};
use nix::poll::PollFlags;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What the company wants of the process.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    Signal(u8),
    /// First this signal; after the grace, its end and the machine's.
    Stop {
        signal: u8,
        grace: Duration,
    },
    Resize(Size),
    /// The machine is asked what its devices counted; its report is the answer.
    Count,
    /// The machine is saved while its processes stand still; answered by `Event::Saved`.
    Save(SaveOrder),
    /// One that was saved to stand still from then on goes on.
    Resume,
    /// The machine is ended, whatever it does.
    End,
}

/// Into what, and how.
#[derive(Debug)]
pub struct SaveOrder {
    /// Empty files, in the order of `Request::Save`.
    pub files: Vec<OwnedFd>,
    /// It stands still from then on; else it goes on.
    pub hold: bool,
    /// Of its memory only what is not as it was when it was restored.
    pub changes: bool,
}

impl PartialEq for SaveOrder {
    /// The same files, by their numbers.
    fn eq(&self, other: &Self) -> bool {
        let numbers = |order: &Self| -> Vec<i32> {
            let files = order.files.iter();
            files.map(|file| file.as_raw_fd()).collect()
        };
        (self.hold, self.changes) == (other.hold, other.changes) && numbers(self) == numbers(other)
    }
}

impl Eq for SaveOrder {}

pub trait Company {
    /// What to wait for; `ready` is told the place in this list.
    fn watched(&self) -> Vec<(BorrowedFd<'_>, PollFlags)>;
    /// These places of what was watched last are ready.
    fn ready(&mut self, places: &[usize]);
    fn next_wish(&mut self) -> Option<Wish>;
    /// At most this many bytes for the process's input, if there are any.
    fn input(&mut self, most: usize) -> Option<Vec<u8>>;
    /// Whether no more input will come.
    fn input_ended(&self) -> bool;
    /// Output of the process.
    fn heard(&mut self, stream: Stream, bytes: &[u8]);
    /// Before the session's own `on_event`.
    fn told(&mut self, event: &Event);
}
