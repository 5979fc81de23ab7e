// SPDX-License-Identifier: Apache-2.0
//! Requests to a service of a contestant, over its own way to the host. Blocking, with a limit
//! to everything; any thread. The service may be a guest's and is hostile.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a service may take to take a connection, and to say its next byte.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read, some times what is asked for. Stops a service that sends without
/// end from being listened to without end.
const MOST_ANSWER: u64 = 256 << 20;
/// What is read at once.
const CHUNK: usize = 128 << 10;

/// Asks for `path` on a connection of its own, and reads the whole answer, which must be a 200.
/// Its bytes, head included.
pub fn once(address: SocketAddr, path: &str) -> io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut chunk = vec![0; if path == "/" { 1024 } else { CHUNK }];
    let mut bytes = 0u64;
    let mut head = Vec::new();
    loop {
        let n = match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if head.len() < STATUS {
            head.extend_from_slice(&chunk[..n.min(STATUS)]);
        }
        bytes += n as u64;
        if bytes > MOST_ANSWER {
            return Err(invalid("an answer without end".to_owned()));
        }
    }
    match head.get(9..STATUS) {
        Some(b"200") => Ok(bytes),
        _ => Err(invalid(format!(
            "the service answered {:?}",
            String::from_utf8_lossy(&head)
        ))),
    }
}

/// Of `HTTP/1.1 200`.
const STATUS: usize = 12;

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Requests one after the other for so long, at least one: how long each took, in nanoseconds.
pub fn in_turn(address: SocketAddr, lasting: Duration) -> io::Result<Vec<u64>> {
    let end = Instant::now() + lasting;
    let mut all = Vec::new();
    loop {
        let start = Instant::now();
        once(address, "/")?;
        all.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        if Instant::now() >= end {
            return Ok(all);
        }
    }
}

/// Requests of so many clients at once: how many were answered a second.
pub fn at_once(address: SocketAddr, clients: u32, lasting: Duration) -> io::Result<f64> {
    let start = Instant::now();
    let counts: io::Result<Vec<usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|_| scope.spawn(|| in_turn(address, lasting).map(|all| all.len())))
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let panicked = || Err(io::Error::other("a client panicked"));
            thread.join().unwrap_or_else(|_| panicked())
        });
        joined.collect()
    });
    let count: usize = counts?.into_iter().sum();
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers each connection by these bytes.
    fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 512]);
                let _ = stream.write_all(answer);
            }
        });
        address
    }

    #[test]
    fn answers_are_counted_and_others_are_errors() {
        let good = server(b"HTTP/1.1 200 OK\r\n\r\nready");
        assert_eq!(once(good, "/").unwrap(), 24);
        let turns = in_turn(good, Duration::ZERO).unwrap();
        assert!(turns.len() == 1 && turns[0] > 0, "{turns:?}");
        assert!(at_once(good, 3, Duration::from_millis(20)).unwrap() > 0.0);
        for (bad, words) in [
            (&b"HTTP/1.1 500 no"[..], "500"),
            (b"garbage", "garbage"),
            (b"", "\"\""),
        ] {
            let error = once(server(bad), "/").unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_service_that_is_gone_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(at_once(address, 2, Duration::from_millis(1)).is_err());
    }
}
