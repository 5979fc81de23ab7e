// SPDX-License-Identifier: Apache-2.0
//! The event loop of the `vmm` thread; the only file that knows `event_manager`.
//!
//! All device code runs on this thread, one source at a time.

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps as _};
use std::os::fd::RawFd;
use std::sync::Arc;
pub use vmm_sys_util::epoll::EventSet;

/// Tells a source which of its descriptors is ready; its own choice of number.
pub type Token = u32;

/// A descriptor a source wants watched. The source keeps it open while watched.
#[derive(Clone, Copy, Debug)]
pub struct Interest {
    pub fd: RawFd,
    pub token: Token,
    pub events: EventSet,
}

/// Something with descriptors that become ready.
///
/// Called on the event thread only, never from two threads at once. Watching is
/// level-triggered: `ready` drains its descriptor before it returns, or is called again.
pub trait Source: Send + Sync {
    /// What to watch from the start.
    fn fds(&self) -> Vec<Interest>;
    fn ready(&self, token: Token, events: EventSet, watch: &mut dyn Watch);
}

/// How a source changes, while it runs, what is watched on its behalf.
/// Errors of the kernel (a closed descriptor, no memory) come back as they are.
pub trait Watch {
    fn add(&mut self, interest: Interest) -> std::io::Result<()>;
    fn change(&mut self, interest: Interest) -> std::io::Result<()>;
    fn remove(&mut self, interest: Interest) -> std::io::Result<()>;
}

#[derive(Debug, thiserror::Error)]
#[error("the event loop failed: {0:?}")]
pub struct LoopError(event_manager::Error);

struct Subscriber(Arc<dyn Source>);

fn wire(interest: Interest) -> Events {
    Events::with_data_raw(interest.fd, interest.token, interest.events)
}

fn io_error(error: event_manager::Error) -> std::io::Error {
    match error {
        event_manager::Error::Epoll(errno) => errno.into(),
        other => std::io::Error::other(format!("{other:?}")),
    }
}

impl Watch for EventOps<'_> {
    fn add(&mut self, interest: Interest) -> std::io::Result<()> {
        EventOps::add(self, wire(interest)).map_err(io_error)
    }
    fn change(&mut self, interest: Interest) -> std::io::Result<()> {
        self.modify(wire(interest)).map_err(io_error)
    }
    fn remove(&mut self, interest: Interest) -> std::io::Result<()> {
        EventOps::remove(self, wire(interest)).map_err(io_error)
    }
}

impl MutEventSubscriber for Subscriber {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        self.0.ready(events.data(), events.event_set(), ops);
    }

    fn init(&mut self, ops: &mut EventOps) {
        for interest in self.0.fds() {
            // A descriptor that cannot be watched is one the source closed: its own affair.
            let _ = Watch::add(ops, interest);
        }
    }
}

/// The loop itself.
pub struct Loop(EventManager<Subscriber>);

impl Loop {
    pub fn new() -> Result<Self, LoopError> {
        EventManager::new().map(Self).map_err(LoopError)
    }

    pub fn add(&mut self, source: Arc<dyn Source>) {
        self.0.add_subscriber(Subscriber(source));
    }

    /// Waits until something is ready, or `timeout` milliseconds pass (-1: no limit),
    /// and serves it. Returns how many events were served; an interrupted wait is zero.
    pub fn turn(&mut self, timeout: i32) -> Result<usize, LoopError> {
        self.0.run_with_timeout(timeout).map_err(LoopError)
    }
}
