// SPDX-License-Identifier: Apache-2.0
//! One TCP connection: the guest's half in the stack, the host's half a socket. The thread
//! of `husk net`; never waits.
//!
//! Each flow has a socket set of its own, so a packet is only ever seen by the connection
//! whose addresses it bears, and costs the same however many there are. Bytes move when
//! both sides can: a full buffer on one side is a closed window on the other.

use nix::sys::socket::SockaddrStorage;
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Duration;
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;

/// Bytes held for each direction of a flow. With the number of flows this bounds what a
/// guest can make us keep; pages nobody wrote to cost nothing.
const BUFFER: usize = 256 << 10;
/// A guest that does not acknowledge for this long is gone.
const SILENCE: Duration = Duration::from_secs(120);
/// A quiet guest is asked this often whether it is there: the stack counts every silence as
/// one, also where nothing is owed, and a connection may rest for days.
const ALIVE: Duration = Duration::from_secs(45);

pub struct Flow {
    /// The guest's end, and what it believes to speak to.
    pub guest: SocketAddr,
    pub remote: SocketAddr,
    pub host: TcpStream,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// The guest's first segment, kept until the host's half is connected.
    opening: Option<Vec<u8>>,
    readable: bool,
    writable: bool,
    host_ended: bool,
    host_closed: bool,
}

/// What is to be done with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Goes,
    /// Over on both sides.
    Over,
}

/// Whether it is connected, to whatever kind of socket: one of our own may be behind it.
fn has_peer(host: &TcpStream) -> bool {
    nix::sys::socket::getpeername::<SockaddrStorage>(host.as_raw_fd()).is_ok()
}

fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_timeout(Some(SILENCE));
    socket.set_keep_alive(Some(ALIVE));
    socket.set_ack_delay(None);
    socket
}

impl Flow {
    /// A connection the guest asked for with `segment`; the host's half is under way.
    pub fn outgoing(
        guest: SocketAddr,
        remote: SocketAddr,
        host: TcpStream,
        segment: &[u8],
    ) -> Self {
        Self::new(guest, remote, host, socket(), Some(segment.to_vec()))
    }

    /// A connection to the guest that the host accepted.
    pub fn incoming(
        guest: SocketAddr,
        remote: SocketAddr,
        host: TcpStream,
        iface: &mut Interface,
    ) -> Option<Self> {
        let mut socket = socket();
        let to = IpEndpoint::from(guest);
        socket
            .connect(iface.context(), to, IpEndpoint::from(remote))
            .ok()?;
        Some(Self::new(guest, remote, host, socket, None))
    }

    fn new(
        guest: SocketAddr,
        remote: SocketAddr,
        host: TcpStream,
        socket: Socket<'static>,
        opening: Option<Vec<u8>>,
    ) -> Self {
        let _ = host.set_nodelay(true);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            guest,
            remote,
            host,
            sockets,
            handle,
            opening,
            readable: false,
            writable: false,
            host_ended: false,
            host_closed: false,
        }
    }

    pub fn sockets(&mut self) -> &mut SocketSet<'static> {
        &mut self.sockets
    }

    /// Whether the host's half is not connected yet.
    pub fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    /// Notes what the host's socket is ready for.
    pub fn ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// The host's half is decided. Connected: the segment for the stack to see now.
    /// `Err` is that segment too, for nobody to take.
    pub fn opened(&mut self) -> Option<Result<Vec<u8>, Vec<u8>>> {
        let segment = self.opening.take()?;
        let connected = matches!(self.host.take_error(), Ok(None)) && has_peer(&self.host);
        if !connected {
            return Some(Err(segment));
        }
        let at = IpListenEndpoint::from(IpEndpoint::from(self.remote));
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        Some(match socket.listen(at) {
            Ok(()) => Ok(segment),
            Err(_) => Err(segment),
        })
    }

    /// Moves what can be moved. To be followed by the stack's turn, then by `life`.
    pub fn pump(&mut self) {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        let mut broken = false;
        while self.writable && socket.can_recv() {
            let host = &mut self.host;
            let outcome = socket.recv(|data| match host.write(data) {
                Ok(count) => (count, Ok(())),
                Err(error) => (0, Err(error.kind())),
            });
            match outcome {
                Ok(Ok(())) | Ok(Err(ErrorKind::Interrupted)) => {}
                Ok(Err(ErrorKind::WouldBlock)) => self.writable = false,
                Ok(Err(_)) | Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        let guest_ended = matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if guest_ended && socket.recv_queue() == 0 && !self.host_closed {
            self.host_closed = true;
            let _ = self.host.shutdown(Shutdown::Write);
        }
        while self.readable && !self.host_ended && socket.can_send() {
            let host = &mut self.host;
            let outcome = socket.send(|room| match host.read(room) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error.kind())),
            });
            match outcome {
                Ok(Ok(0)) => {
                    self.host_ended = true;
                    socket.close();
                }
                Ok(Ok(_)) | Ok(Err(ErrorKind::Interrupted)) => {}
                Ok(Err(ErrorKind::WouldBlock)) => self.readable = false,
                Ok(Err(_)) | Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if broken {
            socket.abort();
        }
    }

    /// After the stack's turn.
    pub fn life(&self) -> Life {
        if self.is_opening() {
            return Life::Goes;
        }
        let socket = self.sockets.get::<Socket<'_>>(self.handle);
        match socket.state() {
            // The link loses nothing, so the last acknowledgement needs no second chance.
            State::Closed if socket.remote_endpoint().is_none() => Life::Over,
            State::TimeWait if self.host_closed => Life::Over,
            // The guest took its first segment back.
            State::Listen => Life::Over,
            _ => Life::Goes,
        }
    }

    /// Ends the host's half as the guest's ended: a connection that was cut is no
    /// connection that was closed.
    pub fn end(self) {
        if !(self.host_ended && self.host_closed) {
            let linger = nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            let _ = nix::sys::socket::setsockopt(
                &self.host,
                nix::sys::socket::sockopt::Linger,
                &linger,
            );
        }
    }
}
