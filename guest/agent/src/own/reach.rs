// SPDX-License-Identifier: Apache-2.0
//! `reach SECONDS PORT [PATH]`: waits at most so long until a service of this guest answers on
//! its loopback address: takes a connection or, with a path, gives a document without an error
//! (RFC 9110, 15.3 and 15.4). Whether it did is the exit code.

use super::Trouble;
use crate::sys::{self, Errno};
use alloc::format;
use alloc::vec::Vec;

/// Between two tries, in milliseconds.
const PAUSE: core::ffi::c_int = 10;
/// Bytes that say how an answer begins: `HTTP/1.1 200`.
const STATUS: usize = 12;

pub fn run(seconds: &[u8], port: &[u8], path: Option<&[u8]>) -> Result<bool, Trouble> {
    let number = |bytes: &[u8]| -> Option<u32> { core::str::from_utf8(bytes).ok()?.parse().ok() };
    let wrong = || Trouble::new("that is no port, or no time", Errno(0));
    let seconds = number(seconds).ok_or_else(wrong)?;
    let port = number(port).and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or_else(wrong)?;
    let until = sys::uptime() + u64::from(seconds) * 1_000_000_000;
    while !answers(port, path) {
        if sys::uptime() >= until {
            return Ok(false);
        }
        let _ = sys::poll(&mut [], PAUSE);
    }
    Ok(true)
}

fn answers(port: u16, path: Option<&[u8]>) -> bool {
    let Ok(socket) = sys::connect_loopback(port) else {
        return false;
    };
    let Some(path) = path else {
        return true;
    };
    let mut request = Vec::from(&b"GET "[..]);
    request.extend(path);
    request.extend(format!(" HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n").bytes());
    if sys::send(&socket, &request) != Ok(request.len()) {
        return false;
    }
    let mut answer = [0; STATUS];
    let mut filled = 0;
    while let Some(space) = answer.get_mut(filled..).filter(|space| !space.is_empty()) {
        match sys::read(&socket, space) {
            Ok(0) | Err(_) => return false,
            Ok(n) => filled += n,
        }
    }
    is_good(&answer)
}

fn is_good(answer: &[u8; STATUS]) -> bool {
    answer.starts_with(b"HTTP/") && matches!(answer.get(8..10), Some([b' ', b'2' | b'3']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    #[test]
    fn an_answer_is_good_if_it_says_so() {
        assert!(is_good(b"HTTP/1.1 200"));
        assert!(is_good(b"HTTP/1.0 302"));
        assert!(!is_good(b"HTTP/1.1 503"));
        assert!(!is_good(b"SSH-2.0-Open"));
    }

    #[test]
    fn it_waits_for_a_service_that_is_not_ready_yet() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = std::thread::spawn(move || {
            for status in ["503 Later", "200 OK"] {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = [0; 256];
                let n = stream.read(&mut request).expect("a request");
                assert!(request[..n].starts_with(b"GET /health HTTP/1.0\r\n"));
                write!(stream, "HTTP/1.0 {status}\r\n\r\n").expect("a client");
            }
            // One more, of whom nothing is heard.
            drop(listener.accept());
        });
        let port = port.to_string();
        assert!(run(b"60", port.as_bytes(), Some(b"/health")).expect("it answers"));
        let path = Some(&b"/"[..]);
        assert!(!run(b"0", port.as_bytes(), path).expect("it hangs up"));
        server.join().expect("no panic");
        assert!(run(b"60", b"x", None).is_err());
    }
}
