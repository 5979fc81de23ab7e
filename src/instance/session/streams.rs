// SPDX-License-Identifier: Apache-2.0
//! The operator's ends of the streams: read and written without ever blocking, and without
//! setting O_NONBLOCK on a description that a shell or another program shares.

use husk_protocol::{ByteQueue, MAX_CHUNK, Malformed, ReceiveWindow, SendWindow, Stream};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{isatty, read, write};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// From the operator to the guest.
pub struct Input {
    pub stream: Stream,
    pub fd: OwnedFd,
    pub window: SendWindow,
}

impl Input {
    pub fn new(stream: Stream, fd: OwnedFd) -> Self {
        Self {
            stream,
            fd,
            window: SendWindow::new(),
        }
    }

    /// Reads once what poll said is there. `Some(0)` is the end, `None` is nothing after
    /// all. An input that cannot be read (closed, or a terminal that is gone) has ended.
    pub fn read(&mut self, buffer: &mut [u8; MAX_CHUNK]) -> Option<usize> {
        let most = MAX_CHUNK.min(self.window.left());
        let buffer = buffer.get_mut(..most).filter(|b| !b.is_empty())?;
        match read(&self.fd, buffer) {
            Ok(n) => {
                self.window.spend(n);
                Some(n)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => None,
            Err(_) => Some(0),
        }
    }
}

/// How a descriptor can be written without blocking once poll says it is writable.
enum Way {
    /// A description of our own that does not block.
    Own,
    Socket,
    /// A file: the kernel never makes its writers wait for a reader.
    File,
    /// A pipe that is writable takes PIPE_BUF bytes without blocking (pipe(7)).
    Pipe,
}

impl Way {
    fn of(fd: OwnedFd) -> (OwnedFd, Self) {
        if isatty(&fd).unwrap_or(false) {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            // A writable terminal may still block within one write (stopped with Ctrl-S):
            // opened again it is ours to make non-blocking.
            return match open(path.as_str(), flags, Mode::empty()) {
                Ok(own) => (own, Self::Own),
                Err(_) => (fd, Self::Pipe),
            };
        }
        let kind = fstat(&fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        let way = match kind {
            Ok(SFlag::S_IFSOCK) => Self::Socket,
            Ok(SFlag::S_IFREG) => Self::File,
            _ => Self::Pipe,
        };
        (fd, way)
    }
}

/// Bytes given to one write where it cannot block however many there are.
const PIECE: usize = 64 * 1024;

/// From the guest to the operator.
pub struct Output {
    pub stream: Stream,
    /// `None` when nobody reads it any more.
    pub fd: Option<OwnedFd>,
    way: Way,
    queue: ByteQueue,
    window: ReceiveWindow,
    ended: bool,
    /// Has no descriptor and never had: others hear it.
    aside: bool,
}

/// What a write came to.
pub enum Written {
    /// Credit to give, if any.
    Some(Option<u32>),
    /// The reader is gone; with an error if it did not simply close its pipe.
    Broken(Option<io::Error>),
}

impl Output {
    pub fn new(stream: Stream, fd: Option<OwnedFd>) -> Self {
        let (fd, way) = match fd.map(Way::of) {
            Some((fd, way)) => (Some(fd), way),
            None => (None, Way::File),
        };
        Self {
            stream,
            aside: fd.is_none(),
            fd,
            way,
            queue: ByteQueue::new(),
            window: ReceiveWindow::new(),
            ended: false,
        }
    }

    /// Takes bytes of the guest. What nobody reads is dropped; the guest was told. Returns
    /// credit to give at once, if any.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<Option<u32>, Malformed> {
        if self.ended {
            return Err(Malformed::Order);
        }
        self.window.accept(bytes.len())?;
        if self.fd.is_some() {
            self.queue.push(bytes);
            return Ok(None);
        }
        // With a closed pipe nobody waits for this credit any more; the window just must not
        // fill up.
        let credit = self.window.release(bytes.len());
        Ok(credit.filter(|_| self.aside))
    }

    pub fn end(&mut self) {
        self.ended = true;
    }

    pub fn is_flushed(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn abandon(&mut self) {
        self.queue.clear();
    }

    /// Writes one piece after poll said there is room.
    pub fn write(&mut self) -> Written {
        let Some(fd) = &self.fd else {
            return Written::Some(None);
        };
        let limit = match self.way {
            Way::Pipe => libc::PIPE_BUF,
            Way::Own | Way::Socket | Way::File => PIECE,
        };
        let bytes = self.queue.peek();
        let bytes = bytes.get(..limit).unwrap_or(bytes);
        let result = match self.way {
            Way::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(fd.as_raw_fd(), bytes, flags)
            }
            Way::Own | Way::File | Way::Pipe => write(fd, bytes),
        };
        match result {
            Ok(n) => {
                self.queue.consume(n);
                Written::Some(self.window.release(n))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Written::Some(None),
            Err(errno) => {
                self.fd = None;
                self.queue.clear();
                Written::Broken((errno != Errno::EPIPE).then(|| errno.into()))
            }
        }
    }
}
