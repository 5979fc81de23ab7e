// SPDX-License-Identifier: Apache-2.0
//! A pair of `SOCK_SEQPACKET` Unix sockets: whole messages, and an end that is seen.
//!
//! A message may be longer than a datagram is allowed to be only up to the socket's
//! buffer; every message here is below 64 KiB.

#![expect(unsafe_code, reason = "descriptors that come by number")]

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    recv, recvmsg, send, sendmsg, shutdown, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Descriptors in one message: the kernel takes no more (SCM_MAX_FD).
pub const MAX_DESCRIPTORS: usize = 253;

/// One end.
#[derive(Debug)]
pub struct SeqPacket(OwnedFd);

impl SeqPacket {
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Self(a), Self(b)))
    }

    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one message, waiting for room in the socket's buffer.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        loop {
            match send(self.0.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Sends one message with open descriptors, which the other side gets its own of.
    pub fn send_with(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let parts = [IoSlice::new(message)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &parts, &rights, flags, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// As `recv`, with the descriptors that came along, at most `MAX_DESCRIPTORS`.
    pub fn recv_with(&self, limit: usize) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut buffer = vec![0; limit + 1];
        let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let (length, fds) = loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Ok(message) => {
                    let mut fds = Vec::new();
                    for part in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(numbers) = part {
                            fds.extend(numbers.into_iter().map(own));
                        }
                    }
                    break (message.bytes, fds);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        };
        if length > limit {
            return Err(too_long());
        }
        buffer.truncate(length);
        Ok((length > 0).then_some((buffer, fds)))
    }

    /// Waits for a message of at most `limit` bytes; `None` at the end of the socket.
    /// A longer message is an error, not a truncated value.
    pub fn recv(&self, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; limit + 1];
        let length = loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => break length,
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => break 0,
                Err(errno) => return Err(errno.into()),
            }
        };
        if length > limit {
            return Err(too_long());
        }
        buffer.truncate(length);
        Ok((length > 0).then_some(buffer))
    }
}

impl SeqPacket {
    /// Says that no message follows; the other side's may.
    pub fn finish(&self) -> io::Result<()> {
        Ok(shutdown(self.0.as_raw_fd(), Shutdown::Write)?)
    }

    /// Waits for the other side to be closed, and says whether it was in time.
    #[must_use]
    pub fn ends_within(&self, milliseconds: u16) -> bool {
        let mut list = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let count = poll(&mut list, PollTimeout::from(milliseconds));
        count.is_ok_and(|count| count > 0)
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a control message is too long")
}

fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for the message, and nobody else has
    // seen its number.
    unsafe { OwnedFd::from_raw_fd(number) }
}

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_borders_and_the_end_is_seen() {
        let (a, b) = SeqPacket::pair().expect("a socket pair");
        a.send(b"one").expect("room");
        a.send(b"three").expect("room");
        assert_eq!(b.recv(16).expect("open").as_deref(), Some(&b"one"[..]));
        assert!(b.recv(4).is_err(), "a longer message is not cut short");
        a.finish().expect("open");
        assert!(!a.ends_within(1), "the other side is there");
        assert_eq!(b.recv(16).expect("open"), None);
        b.send(b"last").expect("room");
        assert_eq!(a.recv(16).expect("open").as_deref(), Some(&b"last"[..]));
        let (c, d) = SeqPacket::pair().expect("a socket pair");
        drop(d);
        assert!(c.ends_within(1));
        drop(a);
        assert_eq!(b.recv(16).expect("an orderly end"), None);
    }
}
