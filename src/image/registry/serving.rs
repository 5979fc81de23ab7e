// SPDX-License-Identifier: Apache-2.0
//! A registry on a port of its own that answers as a test says.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use super::{PullError, PullPolicy};
use crate::image::digest::Digest;
use crate::image::error::ImageError;
use crate::image::name::Name;
use crate::image::pull;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tempfile::TempDir;

/// One request: its path, and its headers in lower case.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    head: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Answers as a test says, on a port of its own.
pub struct Server {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

pub type Answers = Box<dyn Fn(&Asked, &str) -> Vec<u8> + Send>;

impl Server {
    pub fn start(answer: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (log, stop) = (Arc::clone(&asked), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                serve(
                    &mut stream.unwrap(),
                    &log,
                    &|asked| match asked.path.as_str() {
                        "/v2/" => ok(b""),
                        _ => answer(asked, &format!("http://127.0.0.1:{port}")),
                    },
                );
            }
        });
        let thread = Some(thread);
        Self {
            port,
            asked,
            over,
            thread,
        }
    }

    pub fn pull(&self, what: &str) -> Result<Digest, ImageError> {
        let cache = TempDir::new().unwrap();
        self.pull_into(what, cache.path())
    }

    pub fn pull_into(&self, what: &str, cache: &Path) -> Result<Digest, ImageError> {
        let name = Name::parse(&format!("127.0.0.1:{}/{what}", self.port)).unwrap();
        pull(&name, cache, PullPolicy::Missing, &mut |_| {})
    }

    pub fn pull_error(&self) -> PullError {
        match self.pull("app") {
            Err(ImageError::Pull { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes it.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(stream: &mut TcpStream, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Vec<u8>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len > 0) {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let head = head.lines().map(|line| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}\n", name.to_ascii_lowercase()),
        None => String::new(),
    });
    let asked = Asked {
        path,
        head: head.collect(),
    };
    if asked.path != "/v2/" {
        log.lock().unwrap().push(asked.clone());
    }
    // A client that has heard enough hangs up.
    let _ = stream.write_all(&answer(&asked));
}

pub fn status(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    answer += &format!("Content-Length: {}\r\n", body.len());
    headers
        .iter()
        .for_each(|header| answer += &format!("{header}\r\n"));
    answer += "\r\n";
    [answer.as_bytes(), body].concat()
}

pub fn ok(body: &[u8]) -> Vec<u8> {
    status("200 OK", &[], body)
}
