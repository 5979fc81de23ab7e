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
pub struct Input(Option<(OwnedFd, Watched)>);

impl Input {
    #[must_use]
    pub fn new(fd: Option<OwnedFd>, token: Token) -> Self {
        Self(fd.map(|fd| {
            let watched = Watched::new(&fd, token, EventSet::IN);
            (fd, watched)
        }))
    }

    /// Reads what is there. The end comes once; from then on nothing is watched.
    pub fn read(&mut self, data: &mut [u8], watch: &mut dyn Watch) -> Got {
        let Some((fd, watched)) = &mut self.0 else {
            return Got::End;
        };
        if !is_ready(fd.as_fd(), PollFlags::POLLIN, PollTimeout::ZERO) {
            return Got::Later;
        }
        match nix::unistd::read(&*fd, data) {
            Ok(count) if count > 0 => Got::Bytes(count),
            Err(Errno::EAGAIN | Errno::EINTR) => Got::Later,
            // End of file, or a terminal that is gone.
            Ok(_) | Err(_) => {
                watched.set(false, watch);
                self.0 = None;
                Got::End
            }
        }
    }

    /// Whether to be told of input. Off while the guest has no room for it.
    pub fn listen(&mut self, on: bool, watch: &mut dyn Watch) {
        if let Some((_, watched)) = &mut self.0 {
            watched.set(on, watch);
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
