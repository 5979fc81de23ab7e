// SPDX-License-Identifier: Apache-2.0
//! A link over a `SOCK_SEQPACKET` pair: one message, one frame, without a header. Event
//! thread; never waits. The other end is `husk net`, or a test.

use super::{HEADER, Link, MAX_FRAME, MIN_FRAME, Offloads};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt,
};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

/// Bytes under way in one direction: a few of the longest frames. The kernel may allow less.
const BUFFER: usize = 1 << 20;
/// VIRTIO_NET_HDR_F_DATA_VALID: the checksum need not be looked at (section 5.1.6.4).
const DATA_VALID: u8 = 2;

/// Messages that are no frames, passed over at a time. Stops an other end that is not what it
/// was from keeping its reader busy with them.
const JUNK: usize = 64;

pub struct Frames {
    socket: OwnedFd,
    alive: bool,
    trusted: bool,
}

impl Frames {
    /// Both ends of a link, none of which ever waits.
    pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        for end in [&a, &b] {
            // As much as an ordinary user may have is enough.
            let _ = setsockopt(end, sockopt::SndBuf, &BUFFER);
        }
        Ok((a, b))
    }

    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            alive: true,
            trusted: false,
        }
    }
}

impl Link for Frames {
    fn offloads(&self) -> Offloads {
        // The stack behind it computes every checksum and looks at none: these frames
        // never left this host's memory.
        Offloads {
            checksum_from_guest: true,
            checksum_to_guest: true,
            ..Offloads::default()
        }
    }

    fn accept(&mut self, offloads: Offloads) {
        self.trusted = offloads.checksum_to_guest;
    }

    fn send(&mut self, packet: &[u8]) -> bool {
        let frame = packet.get(HEADER..).unwrap_or_default();
        if !self.alive {
            return true;
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.socket.as_raw_fd(), frame, flags) {
            Ok(_) => true,
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            // A frame is no promise: short of memory, it is lost.
            Err(Errno::ENOBUFS | Errno::ENOMEM | Errno::EMSGSIZE) => true,
            Err(_) => {
                self.alive = false;
                true
            }
        }
    }

    fn recv(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let (header, frame) = buffer.split_at_mut_checked(HEADER)?;
        for _ in 0..JUNK {
            if !self.alive {
                break;
            }
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            match recv(self.socket.as_raw_fd(), frame, flags) {
                Ok(0) => self.alive = false,
                Ok(length) if (MIN_FRAME..=frame.len().min(MAX_FRAME)).contains(&length) => {
                    header.fill(0);
                    if self.trusted
                        && let Some(flags) = header.first_mut()
                    {
                        *flags = DATA_VALID;
                    }
                    return Some(HEADER + length);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return None,
                Err(_) => self.alive = false,
            }
        }
        None
    }

    fn is_alive(&self) -> bool {
        self.alive
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_frame_is_passed_over_a_few_at_a_time() {
        let (ours, theirs) = Frames::pair().expect("sockets");
        let mut link = Frames::new(ours);
        for _ in 0..JUNK + 1 {
            send(theirs.as_raw_fd(), &[1], MsgFlags::MSG_DONTWAIT).expect("room");
        }
        send(theirs.as_raw_fd(), &[2; 60], MsgFlags::MSG_DONTWAIT).expect("room");
        let mut buffer = vec![0; HEADER + MAX_FRAME];
        assert_eq!(link.recv(&mut buffer), None, "others have their turn");
        assert!(link.is_alive());
        assert_eq!(link.recv(&mut buffer), Some(HEADER + 60));
    }
}
