// SPDX-License-Identifier: Apache-2.0
//! Keys typed at a terminal, on their way to a guest's console.
//!
//! Runs on the main thread, from the loop that waits for the machine. Never blocks: a
//! guest that does not read its console loses keys, as on a serial line without flow
//! control, and never holds up the key that ends the machine.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

/// Ctrl-], as telnet has it: no shell and few programs want it for themselves.
const ESCAPE: u8 = 0x1d;
/// Bytes taken from the terminal at once; people paste.
const CHUNK: usize = 4096;

/// What came of the last keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    Passed,
    /// The machine is to end.
    Escape,
    /// The terminal is gone.
    End,
}

/// The way from a terminal to the descriptor a machine reads its console from.
#[derive(Debug)]
pub struct Keys {
    from: File,
    to: File,
}

impl Keys {
    /// Also returns the end the machine reads; it is for the machine's process alone.
    pub fn new(terminal: OwnedFd) -> io::Result<(Self, OwnedFd)> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let keys = Self {
            from: terminal.into(),
            to: write.into(),
        };
        Ok((keys, read))
    }

    /// The terminal is readable: passes on what there is. Keys before the escape are
    /// passed, those after it go nowhere.
    pub fn ready(&mut self) -> io::Result<Typed> {
        let mut chunk = [0; CHUNK];
        let count = match self.from.read(&mut chunk) {
            // A terminal that hung up reads as EIO (tty_ioctl(4)) or as the end.
            Ok(0) => return Ok(Typed::End),
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(Typed::End),
            Err(error) if retry(&error) => return Ok(Typed::Passed),
            Err(error) => return Err(error),
            Ok(count) => count,
        };
        let typed = &chunk[..count];
        let escape = typed.iter().position(|&byte| byte == ESCAPE);
        self.pass(&typed[..escape.unwrap_or(count)])?;
        Ok(match escape {
            Some(_) => Typed::Escape,
            None => Typed::Passed,
        })
    }

    fn pass(&mut self, keys: &[u8]) -> io::Result<()> {
        match self.to.write_all(keys) {
            Err(error) if retry(&error) || error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

impl AsFd for Keys {
    /// The terminal, to wait upon.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys typed into one end of a pipe, and the machine's end of the other.
    fn keys() -> (Keys, File, File) {
        let (terminal, typist) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let (keys, machine) = Keys::new(terminal).expect("keys");
        (keys, typist.into(), machine.into())
    }

    #[test]
    fn keys_pass_until_the_escape() {
        let (mut keys, mut typist, mut machine) = keys();
        typist.write_all(b"ls\r\x03").expect("typing");
        assert_eq!(keys.ready().expect("keys"), Typed::Passed);
        typist.write_all(b"a\x1db").expect("typing");
        assert_eq!(keys.ready().expect("keys"), Typed::Escape);
        let mut seen = [0; 16];
        let count = machine.read(&mut seen).expect("keys arrive");
        assert_eq!(&seen[..count], b"ls\r\x03a");
        drop(typist);
        assert_eq!(keys.ready().expect("keys"), Typed::End);
    }

    #[test]
    fn a_guest_that_does_not_read_never_stops_the_escape() {
        let (mut keys, mut typist, machine) = keys();
        for _ in 0..64 {
            typist.write_all(&[b'x'; CHUNK]).expect("typing");
            assert_eq!(keys.ready().expect("keys"), Typed::Passed);
        }
        typist.write_all(&[ESCAPE]).expect("typing");
        assert_eq!(keys.ready().expect("keys"), Typed::Escape);
        drop(machine);
        typist.write_all(b"x").expect("typing");
        assert_eq!(
            keys.ready().expect("keys"),
            Typed::Passed,
            "nobody is left to read"
        );
    }
}
