// SPDX-License-Identifier: Apache-2.0
//! The process's streams: what holds bytes between them and the connection, and how each
//! is opened. Nothing here blocks: our ends are non-blocking and ours alone.

use super::Ends;
use crate::sys::{self, Fd};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use husk_protocol::{
    ByteQueue, MAX_CHUNK, Malformed, Message, ReceiveWindow, SendWindow, Start, Stream,
};

/// End of file as it is typed at a terminal (the default VEOF).
const END_OF_TRANSMISSION: u8 = 4;

/// From the host to the process.
pub struct Input {
    pub stream: Stream,
    pub fd: Rc<Fd>,
    pub ready: bool,
    queue: ByteQueue,
    window: ReceiveWindow,
    ending: bool,
}

/// What a write came to.
pub struct Progress {
    /// Nobody reads the other end any more.
    pub broken: bool,
    pub credit: Option<u32>,
}

impl Input {
    fn new(stream: Stream, fd: Rc<Fd>) -> Self {
        Self {
            stream,
            fd,
            ready: false,
            queue: ByteQueue::new(),
            window: ReceiveWindow::new(),
            ending: false,
        }
    }

    pub fn accept(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if self.ending {
            return Err(Malformed::Order);
        }
        self.window.accept(bytes.len())?;
        self.queue.push(bytes);
        Ok(())
    }

    /// What is here still goes to the process; of more, a whole window may come.
    pub fn begin_anew(&mut self) {
        self.window = ReceiveWindow::new();
    }

    /// The host has no more. A pipe is closed when it took everything; a terminal cannot
    /// be, so its end of file is typed.
    pub fn end(&mut self) {
        if self.stream == Stream::Terminal && !self.ending {
            self.queue.push(&[END_OF_TRANSMISSION]);
        }
        self.ending = true;
    }

    pub fn wants(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether a pipe can be closed; what it holds stays readable.
    pub fn is_finished(&self) -> bool {
        self.ending && self.queue.is_empty() && self.stream != Stream::Terminal
    }

    pub fn write(&mut self) -> Progress {
        self.ready = false;
        if self.queue.is_empty() {
            return Progress {
                broken: false,
                credit: None,
            };
        }
        match sys::write(&self.fd, self.queue.peek()) {
            Ok(n) => {
                self.queue.consume(n);
                Progress {
                    broken: false,
                    credit: self.window.release(n),
                }
            }
            Err(errno) => Progress {
                broken: !errno.is(libc::EAGAIN) && !errno.is(libc::EINTR),
                credit: None,
            },
        }
    }
}

/// From the process to the host.
pub struct Output {
    pub stream: Stream,
    pub fd: Rc<Fd>,
    pub ready: bool,
    pub window: SendWindow,
    /// After the process's end: how many bytes are still to be sent.
    left: Option<usize>,
    pub ended: bool,
}

impl Output {
    fn new(stream: Stream, fd: Rc<Fd>) -> Self {
        Self {
            stream,
            fd,
            ready: false,
            window: SendWindow::new(),
            left: None,
            ended: false,
        }
    }

    pub fn wants(&self) -> bool {
        self.window.left() > 0
    }

    /// Passes on one piece of what is there, or the end.
    pub fn read(&mut self, scratch: &mut Vec<u8>, out: &mut ByteQueue) {
        if scratch.is_empty() {
            *scratch = vec![0; MAX_CHUNK];
        }
        let most = MAX_CHUNK
            .min(self.window.left())
            .min(self.left.unwrap_or(usize::MAX));
        let Some(buffer) = scratch.get_mut(..most).filter(|b| !b.is_empty()) else {
            return;
        };
        let n = match sys::read(&self.fd, buffer) {
            Ok(n) => n,
            Err(errno) if errno.is(libc::EINTR) => return,
            // Before the end of the process this is a readiness that passed; after it,
            // everything counted was read.
            Err(errno) if errno.is(libc::EAGAIN) && self.left.is_none() => return,
            // A terminal whose other end is closed says EIO, and has nothing more.
            Err(_) => 0,
        };
        if n > 0 {
            self.window.spend(n);
            let message = Message::Data {
                stream: self.stream,
                bytes: buffer.get(..n).unwrap_or_default(),
            };
            let _ = message.encode(out.tail());
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(n);
        }
        if n == 0 || self.left == Some(0) {
            self.end(out);
        }
    }

    /// Counts what was written until now: others may hold the pipe open for ever, and go
    /// on writing. Of a terminal there is no count, since the kernel moves its bytes
    /// later: it ends when nobody has it open, or it was silent for a while.
    pub fn close_after_what_is_there(&mut self, out: &mut ByteQueue) {
        if self.stream == Stream::Terminal {
            return;
        }
        self.left = Some(sys::readable(&self.fd).unwrap_or(0));
        if self.left == Some(0) {
            self.end(out);
        }
    }

    pub fn end(&mut self, out: &mut ByteQueue) {
        self.ended = true;
        let _ = Message::Eof {
            stream: self.stream,
        }
        .encode(out.tail());
    }
}

/// Three pipes, or /dev/null for an input that is not wanted. They belong to the process's
/// user, who may then open /dev/stdout and its like.
pub fn pipes(stdin: bool, uid: u32) -> sys::Result<Ends> {
    let give = |fd: Fd| -> sys::Result<Rc<Fd>> {
        if uid != 0 {
            sys::set_owner(&fd, uid)?;
        }
        Ok(Rc::new(fd))
    };
    let (zero, input) = if stdin {
        let (reader, writer) = sys::pipe()?;
        sys::set_nonblocking(&writer)?;
        let input = Input::new(Stream::Stdin, Rc::new(writer));
        (give(reader)?, Some(input))
    } else {
        (Rc::new(sys::open(c"/dev/null", libc::O_RDWR, 0)?), None)
    };
    let output = |stream| -> sys::Result<(Rc<Fd>, Output)> {
        let (reader, writer) = sys::pipe()?;
        sys::set_nonblocking(&reader)?;
        Ok((give(writer)?, Output::new(stream, Rc::new(reader))))
    };
    let (one, stdout) = output(Stream::Stdout)?;
    let (two, stderr) = output(Stream::Stderr)?;
    Ok(Ends {
        theirs: [zero, one, two],
        input,
        outputs: vec![stdout, stderr],
    })
}

/// One pseudo-terminal for all three.
pub fn terminal(start: &Start, uid: u32) -> sys::Result<Ends> {
    let (ours, theirs) = sys::open_terminal(c"/dev/ptmx")?;
    if let Some(terminal) = &start.terminal {
        sys::set_window_size(&ours, terminal.size.columns, terminal.size.rows)?;
    }
    if uid != 0 {
        sys::set_owner(&theirs, uid)?;
    }
    let (ours, theirs) = (Rc::new(ours), Rc::new(theirs));
    Ok(Ends {
        theirs: [theirs.clone(), theirs.clone(), theirs],
        input: Some(Input::new(Stream::Terminal, ours.clone())),
        outputs: vec![Output::new(Stream::Terminal, ours)],
    })
}
