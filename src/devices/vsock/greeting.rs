// SPDX-License-Identifier: Apache-2.0
//! A host client that says which port of the guest it wants: "CONNECT <port>\n".
//!
//! Event thread. Not a byte beyond the line is read: it belongs to the guest.

use std::io::{ErrorKind, Read as _};
use std::os::unix::net::UnixStream;

/// No port makes a longer line; a client that sends one is no client of ours.
const LINE: usize = 32;

pub enum Greeted {
    Later,
    Connect(u32),
    /// It left, or speaks something else.
    Refused,
}

pub struct Greeting {
    pub stream: UnixStream,
    line: Vec<u8>,
    /// Refused: to be closed.
    pub over: bool,
}

impl Greeting {
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            line: Vec::new(),
            over: false,
        })
    }

    /// Reads what is there.
    pub fn advance(&mut self) -> Greeted {
        let greeted = self.read();
        self.over = matches!(greeted, Greeted::Refused);
        greeted
    }

    fn read(&mut self) -> Greeted {
        while self.line.len() < LINE {
            let mut byte = [0];
            match (&self.stream).read(&mut byte) {
                Ok(1) if byte == *b"\n" => {
                    return port(&self.line).map_or(Greeted::Refused, Greeted::Connect);
                }
                Ok(1) => self.line.extend(byte),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Greeted::Later,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return Greeted::Refused,
            }
        }
        Greeted::Refused
    }
}

fn port(line: &[u8]) -> Option<u32> {
    let port = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?;
    port.trim_end_matches('\r').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_line_may_come_in_pieces_and_nothing_after_it_is_read() {
        let (mut client, server) = UnixStream::pair().expect("sockets");
        let mut greeting = Greeting::new(server).expect("socket");
        assert!(matches!(greeting.advance(), Greeted::Later));
        client.write_all(b"CONN").expect("room");
        assert!(matches!(greeting.advance(), Greeted::Later));
        client.write_all(b"ECT 52\nGET /").expect("room");
        assert!(matches!(greeting.advance(), Greeted::Connect(52)));
        let mut rest = [0; 16];
        let count = greeting.stream.read(&mut rest).expect("data");
        assert_eq!(&rest[..count], b"GET /");
    }

    #[test]
    fn other_talk_is_refused() {
        let long = [b'C'; 100];
        let lines: [&[u8]; 5] = [
            b"GET / HTTP/1.1\n",
            b"CONNECT -1\n",
            b"CONNECT 4294967296\n",
            b"CONNECT \xff\n",
            &long,
        ];
        for line in lines {
            let (mut client, server) = UnixStream::pair().expect("sockets");
            let mut greeting = Greeting::new(server).expect("socket");
            client.write_all(line).expect("room");
            assert!(matches!(greeting.advance(), Greeted::Refused));
        }
        let (client, server) = UnixStream::pair().expect("sockets");
        drop(client);
        let mut greeting = Greeting::new(server).expect("socket");
        assert!(matches!(greeting.advance(), Greeted::Refused));
    }
}
