// SPDX-License-Identifier: Apache-2.0
//! What carries a disk's requests out: io_uring where the host allows it, a thread where not.
//!
//! Event thread; a backend waits in `drain` only. The caller has checked every range
//! against the disk's length, and its right to write.

use super::worker::Worker;
use crate::memory::{Transfer, Uring};
use std::fs::File;
use std::io;
use std::os::fd::RawFd;

/// Requests a backend works on at a time, which is also what one guest can make the host
/// remember: as many as the queue has entries.
pub const DEPTH: u16 = 128;

/// The file under a disk.
///
/// Transfers end in any order, each exactly once. A flush is a barrier: it covers all that
/// was submitted before it, and what comes after waits for it.
pub trait Backend: Send {
    /// Takes a transfer in, or gives it back while there are `DEPTH` of them.
    fn submit(&mut self, tag: u32, work: Transfer) -> Result<(), Transfer>;
    /// Whatever was submitted is to begin now.
    fn kick(&mut self);
    /// Passes on what has ended: tag, bytes left undone, and how it went.
    fn completions(&mut self, done: &mut dyn FnMut(u32, usize, io::Result<()>));
    /// Readable when something has ended.
    fn fd(&self) -> RawFd;
    /// Waits until something that is under way has ended.
    fn wait(&mut self);
    /// Waits until nothing is under way, so that nobody touches guest memory any more, and
    /// forgets how it went.
    fn drain(&mut self);
}

/// Which backend a disk gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The ring where it is allowed.
    Best,
    Thread,
}

pub fn open(file: File, choice: Choice) -> io::Result<Box<dyn Backend>> {
    if choice == Choice::Best
        && let Ok(ring) = Uring::new(&file, DEPTH)
    {
        return Ok(Box::new(ring));
    }
    Ok(Box::new(Worker::start(file)?))
}

impl Backend for Uring {
    fn submit(&mut self, tag: u32, work: Transfer) -> Result<(), Transfer> {
        Self::submit(self, tag, work)
    }

    fn kick(&mut self) {
        Self::kick(self);
    }

    fn completions(&mut self, done: &mut dyn FnMut(u32, usize, io::Result<()>)) {
        self.reap(done);
    }

    fn fd(&self) -> RawFd {
        Self::fd(self)
    }

    fn wait(&mut self) {
        Self::wait(self);
    }

    fn drain(&mut self) {
        Self::drain(self);
    }
}
