// SPDX-License-Identifier: Apache-2.0
//! virtio-vsock, section 5.10: stream sockets between the guest and Unix sockets of the host.
//!
//! Event thread. Guests connect to the ports the device was given; hosts connect through a
//! `Dialer` or a listening socket. Data goes between sockets and guest buffers without a
//! copy as long as neither side stalls.

mod connection;
mod greeting;
mod muxer;
mod packet;
#[cfg(test)]
mod tests;

pub use muxer::HostPort;

use crate::events::{EventSet, Interest, Token, Watch};
use crate::telemetry::Faults;
use crate::virtio::device::{Io, Kind, Verdict, VirtioDevice, read_config};
use crate::virtio::fault::GuestFault;
use crate::virtio::state::DeviceState;
use muxer::{MAX_CONNECTIONS, Muxer};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::EventFd;

const F_STREAM: u64 = 1;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENTS: usize = 2;
/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, section 5.10.6.7.
const TRANSPORT_RESET: u32 = 0;

const DIALED: Token = 0;
const CLIENT: Token = 1;
const CONNECTION: Token = 2;

/// Opens connections to the guest, from any thread.
pub struct Dialer {
    calls: Mutex<Vec<(u32, UnixStream)>>,
    dialed: EventFd,
}

impl Dialer {
    /// Joins the stream to whatever listens on the guest's port. If nothing does, or there
    /// are too many connections, the stream ends; if the guest is not up yet, it waits.
    pub fn connect(&self, port: u32, stream: UnixStream) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() < MAX_CONNECTIONS {
            calls.push((port, stream));
        }
        drop(calls);
        let _ = self.dialed.write(1);
    }

    fn take(&self) -> Vec<(u32, UnixStream)> {
        let _ = self.dialed.read();
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where the guest is in learning that all of its connections are gone. Until it knows it
/// would take a packet for one that it had, and count a new connection among the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    /// It has not been told: it had no buffer for events.
    Owed,
    /// It was told, when it had offered so many buffers, and has not offered that one anew.
    Told(u16),
    Known,
}

/// The device.
pub struct Vsock {
    guest_cid: u64,
    muxer: Muxer,
    dialer: Arc<Dialer>,
    listener: Option<UnixListener>,
    listening: bool,
    /// The host could not accept a client for want of descriptors or memory.
    exhausted: bool,
    reset: Reset,
    trouble: Faults,
}

impl Vsock {
    /// `guest_cid` is the guest's address, from 3 on. The guest reaches `ports` at address 2.
    /// A client of `listener` writes "CONNECT <port>\n" and reads "OK <host port>\n" once the
    /// guest has accepted.
    pub fn new(
        guest_cid: u32,
        ports: Vec<HostPort>,
        listener: Option<OwnedFd>,
    ) -> io::Result<(Self, Arc<Dialer>)> {
        let listener = listener.map(UnixListener::from);
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        let dialer = Arc::new(Dialer {
            calls: Mutex::default(),
            dialed: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        });
        let vsock = Self {
            guest_cid: u64::from(guest_cid),
            muxer: Muxer::new(u64::from(guest_cid), ports, CONNECTION),
            dialer: dialer.clone(),
            listener,
            listening: false,
            exhausted: false,
            reset: Reset::Known,
            trouble: Faults::new("vsock listener"),
        };
        Ok((vsock, dialer))
    }

    /// Goes on until the guest is told, or has no buffer to be told by: it kicks when it has
    /// one. The driver offers each again once it has acted on it (5.10.6.7.1).
    fn tell_reset(&mut self, io: &mut Io<'_>) -> Result<(), GuestFault> {
        if self.reset == Reset::Owed {
            let offered = io.queues.get(EVENTS).and_then(|q| q.offered(io.memory));
            let mut told = false;
            io.serve(EVENTS, |chain| {
                if told {
                    return Ok(Verdict::Stop);
                }
                chain.writable.write(&TRANSPORT_RESET.to_le_bytes())?;
                told = true;
                Ok(Verdict::Done(4))
            })?;
            if let (true, Some(offered)) = (told, offered) {
                self.reset = Reset::Told(offered);
            }
        }
        let queue = io.queues.get_mut(EVENTS);
        if let (Reset::Told(offered), Some(queue)) = (self.reset, queue)
            && queue.await_beyond(io.memory, offered)
        {
            self.reset = Reset::Known;
            io.again(TRANSMIT);
        }
        Ok(())
    }

    fn transmit(&mut self, io: &mut Io<'_>) -> Result<(), GuestFault> {
        io.serve(TRANSMIT, |chain| self.muxer.take(chain))
    }

    /// Sends what there is to send, then sees to what is watched.
    fn receive(&mut self, io: &mut Io<'_>) -> Result<(), GuestFault> {
        if self.reset != Reset::Known {
            self.settle(io.watch);
            return Ok(());
        }
        let choked = self.muxer.is_choked();
        let outcome = io.serve(RECEIVE, |chain| self.muxer.give(chain));
        if choked && !self.muxer.is_choked() {
            io.again(TRANSMIT);
        }
        self.settle(io.watch);
        outcome
    }

    fn settle(&mut self, watch: &mut dyn Watch) {
        if self.muxer.settle(watch) {
            self.exhausted = false;
        }
        let listen = !self.exhausted && self.muxer.has_room();
        self.listen(listen, watch);
    }

    fn listen(&mut self, on: bool, watch: &mut dyn Watch) {
        let Some(listener) = &self.listener else {
            return;
        };
        let interest = Interest {
            fd: listener.as_raw_fd(),
            token: CLIENT,
            events: EventSet::IN,
        };
        if on && !self.listening {
            self.listening = watch.add(interest).is_ok();
        } else if !on && self.listening {
            let _ = watch.remove(interest);
            self.listening = false;
        }
    }

    fn accept_clients(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        while self.muxer.has_room() {
            match listener.accept() {
                Ok((stream, _)) => self.muxer.greet(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Stays acceptable: looking again at once would never end.
                    self.trouble.report(&error);
                    self.exhausted = true;
                    return;
                }
            }
        }
    }

    fn dialed(&self) -> Interest {
        Interest {
            fd: self.dialer.dialed.as_raw_fd(),
            token: DIALED,
            events: EventSet::IN,
        }
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> Kind {
        Kind {
            id: 19,
            name: "virtio-vsock",
        }
    }

    /// Receive, transmit, events.
    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256, 16]
    }

    fn features(&self) -> u64 {
        F_STREAM
    }

    fn config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, _features: u64, io: &mut Io<'_>) {
        // Fails only if the host is out of memory: then nobody can dial.
        let _ = io.watch.add(self.dialed());
        self.settle(io.watch);
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), GuestFault> {
        if self.reset != Reset::Known {
            return match index {
                EVENTS => self.tell_reset(io),
                _ => Ok(()),
            };
        }
        if index == TRANSMIT {
            self.transmit(io)?;
        }
        self.receive(io)
    }

    /// Connections have another end, which is not in the state: the guest is told that all of
    /// them are gone. What listens goes on listening.
    fn resume(&mut self, features: u64, _state: &DeviceState, io: &mut Io<'_>) {
        self.reset = Reset::Owed;
        self.activate(features, io);
    }

    fn process_source(
        &mut self,
        token: Token,
        events: EventSet,
        io: &mut Io<'_>,
    ) -> Result<(), GuestFault> {
        match token {
            DIALED => {
                for (port, stream) in self.dialer.take() {
                    self.muxer.dial(port, stream);
                }
            }
            CLIENT => self.accept_clients(),
            _ => self.muxer.host_ready(token, events),
        }
        self.receive(io)
    }

    fn deactivate(&mut self, watch: &mut dyn Watch) {
        self.reset = Reset::Known;
        self.muxer.clear(watch);
        self.listen(false, watch);
        let _ = watch.remove(self.dialed());
    }
}
