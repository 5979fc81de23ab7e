// SPDX-License-Identifier: Apache-2.0
//! The host's ends of a console: descriptors husk was given and shares with others.
//!
//! Event thread. They are often a terminal or a pipe inherited from a shell, so their
//! O_NONBLOCK flag is not ours to set: each call asks poll(2) first and then moves no more
//! than a ready descriptor takes without blocking.

use crate::events::{EventSet, Interest, Token, Watch};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A pipe that polls writable takes this much without blocking (PIPE_BUF, pipe(7)).
pub const CHUNK: usize = 4096;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    Bytes(usize),
    /// Nothing now: watch it.
    Later,
    /// Nothing any more.
    End,
}

/// Keeps track of whether a descriptor is being watched.
struct Watched {
    interest: Interest,
    on: bool,
}

impl Watched {
    fn new(fd: &OwnedFd, token: Token, events: EventSet) -> Self {
        let interest = Interest {
            fd: fd.as_raw_fd(),
            token,
            events,
        };
        Self {
            interest,
            on: false,
        }
    }

    fn set(&mut self, on: bool, watch: &mut dyn Watch) {
        if on && !self.on {
            // Only a regular file cannot be watched, and that is always ready.
            self.on = watch.add(self.interest).is_ok();
        } else if !on && self.on {
            let _ = watch.remove(self.interest);
            self.on = false;
        }
    }
}

/// Where a console's input comes from. Without a descriptor there is none.
pub struct Input {
    fd: Option<OwnedFd>,
    watched: Option<Watched>,
    ended: bool,
}

impl Input {
    #[must_use]
    pub fn new(fd: Option<OwnedFd>, token: Token) -> Self {
        let watched = fd.as_ref();
        let watched = watched.map(|fd| Watched::new(fd, token, EventSet::IN));
        let ended = fd.is_none();
        Self { fd, watched, ended }
    }

    /// Reads what is there into `data`, which is not empty.
    pub fn read(&mut self, data: &mut [u8]) -> Got {
        let fd = match &self.fd {
            Some(fd) if !self.ended => fd,
            _ => return Got::End,
        };
        if !is_ready(fd.as_fd(), PollFlags::POLLIN, PollTimeout::ZERO) {
            return Got::Later;
        }
        match nix::unistd::read(fd, data) {
            Ok(count) if count > 0 => Got::Bytes(count),
            Err(Errno::EAGAIN | Errno::EINTR) => Got::Later,
            // End of file, or a terminal that is gone.
            Ok(_) | Err(_) => {
                self.ended = true;
                Got::End
            }
        }
    }

    /// Whether to be told of input: not while the guest has no room for it, nor once it ended.
    pub fn listen(&mut self, on: bool, watch: &mut dyn Watch) {
        if let Some(watched) = &mut self.watched {
            watched.set(on && !self.ended, watch);
        }
        if self.ended {
            self.watched = None;
            self.fd = None;
        }
    }
}

/// Where a console's output goes. Without a descriptor, or once its reader is gone, nowhere.
pub struct Output {
    fd: Option<Arc<OwnedFd>>,
    watched: Option<Watched>,
}

impl Output {
    #[must_use]
    pub fn new(fd: Option<OwnedFd>, token: Token) -> Self {
        let fd = fd.map(Arc::new);
        let watched = fd.as_ref();
        let watched = watched.map(|fd| Watched::new(fd, token, EventSet::OUT));
        Self { fd, watched }
    }

    /// How many of the bytes were taken; zero means not now.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let Some(fd) = &self.fd else {
            return data.len();
        };
        if !is_ready(fd.as_fd(), PollFlags::POLLOUT, PollTimeout::ZERO) {
            return 0;
        }
        match nix::unistd::write(fd.as_fd(), &data[..data.len().min(CHUNK)]) {
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(_) => {
                // The descriptor stays open for the sake of whoever watches it.
                self.fd = None;
                data.len()
            }
        }
    }

    /// Whether to be told when there is room again.
    pub fn listen(&mut self, on: bool, watch: &mut dyn Watch) {
        if let Some(watched) = &mut self.watched {
            watched.set(on, watch);
        }
    }

    /// The descriptor, to wait for without holding a lock.
    #[must_use]
    pub fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        self.fd.clone()
    }
}

/// Waits until a descriptor takes output. False after the time, or when a signal came.
pub fn wait_writable(fd: BorrowedFd<'_>, timeout: PollTimeout) -> bool {
    is_ready(fd, PollFlags::POLLOUT, timeout)
}

fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags, timeout: PollTimeout) -> bool {
    // Errors and hang-ups count as ready: the call that follows finds out.
    poll(&mut [PollFd::new(fd, flags)], timeout).is_ok_and(|count| count > 0)
}
