// SPDX-License-Identifier: Apache-2.0
//! One start, cut at named end points, by CLOCK_MONOTONIC of this host.
//!
//! | end point | the moment |
//! |---|---|
//! | command returned | the process that was started to start something has ended, which goes on |
//! | first byte of output | poll(2) says there is something in the pipe that is its output |
//! | first HTTP 200 | a status of 200 has been read from the service's address |
//! | process exit | poll(2) says that the process which was started has ended |
//!
//! All begin right before posix_spawn(3). Output and exits wake us; a service is asked again
//! `RETRY` after it refused, and where somebody else takes connections for it and lets them
//! wait, by one connection more each two hundredth part of the time that went by: so coarse is that
//! end point, and no other. On the thread that measures.

use super::contestant::Launch;
use super::supervise::{self, Child, MOST_OUTPUT, Supervisor};
use crate::sys::clock;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, connect, getsockname,
    socket,
};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

pub const RETURNED: &str = "command returned";
pub const FIRST_BYTE: &str = "first byte of output";
pub const ANSWERED: &str = "first HTTP 200 from the service";
pub const EXITED: &str = "process exit";

/// Between two tries of a service that refuses.
const RETRY: Duration = Duration::from_micros(100);
/// Before another connection where one is taken and not answered: this part of what went by.
const PATIENCE: u64 = 200;
const LEAST_PATIENCE: Duration = Duration::from_millis(1);
/// Connections that may wait for an answer at once; the oldest goes first.
const MOST_CONNECTIONS: usize = 64;
/// How often an operator's wish for an end is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// More of an answer is not needed: `HTTP/1.1 200`.
const STATUS: usize = 12;

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The end of a command in the foreground, which says this; anything, if nothing is said.
    Exit(Option<&'static str>),
    /// That the service answers a request for `path`; of a start that returns, that it has
    /// returned, too.
    Answer { detached: bool, path: String },
}

/// The moments of one start, in nanoseconds since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub returned: Option<u64>,
    pub first_byte: Option<u64>,
    pub answered: Option<u64>,
    pub exited: Option<u64>,
}

impl Marks {
    /// By name, those that were reached.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        let all = [
            (RETURNED, self.returned),
            (FIRST_BYTE, self.first_byte),
            (ANSWERED, self.answered),
            (EXITED, self.exited),
        ];
        all.into_iter()
            .filter_map(|(name, at)| Some((name, at?)))
            .collect()
    }
}

/// Why a start did not get where it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    #[error("it could not be started: {0}")]
    Spawn(String),
    #[error("nothing more within {0} s: {1}")]
    Late(u64, String),
    #[error("it ended with {code}{when}{complaint}")]
    Ended {
        code: i32,
        when: &'static str,
        complaint: String,
    },
    #[error("it said {0:?}")]
    Garbage(String),
    #[error("it said more than {} MiB", MOST_OUTPUT >> 20)]
    Flood,
    #[error("the service answered {0:?}")]
    Status(String),
    #[error("{0}")]
    Left(String),
    #[error("interrupted")]
    Interrupted,
}

/// Starts what `launch` says and watches it until `goal`. The child is handed back in any
/// case: it may live.
pub fn observe(
    supervisor: &Supervisor,
    launch: &Launch,
    goal: &Goal,
    limit: Duration,
) -> (Option<Child>, Result<Marks, Failed>) {
    let (listen, path) = match goal {
        Goal::Exit(_) => (true, "/"),
        Goal::Answer { path, .. } => (false, &**path),
    };
    let mut child = match supervisor.spawn(&launch.start, listen) {
        Ok(child) => child,
        Err(error) => return (None, Err(Failed::Spawn(error.to_string()))),
    };
    let mut watch = Watch {
        supervisor,
        goal,
        limit,
        marks: Marks::default(),
        said: Vec::new(),
        asker: launch
            .service
            .filter(|_| !listen)
            .map(|address| Asker::new(address, path)),
    };
    let marks = watch.until_done(&mut child).map(|()| watch.marks);
    (Some(child), marks)
}

struct Watch<'a> {
    supervisor: &'a Supervisor,
    goal: &'a Goal,
    limit: Duration,
    marks: Marks,
    said: Vec<u8>,
    asker: Option<Asker>,
}

impl Watch<'_> {
    fn until_done(&mut self, child: &mut Child) -> Result<(), Failed> {
        let broken = |error: std::io::Error| Failed::Spawn(error.to_string());
        loop {
            let now = clock::monotonic_ns().saturating_sub(child.began);
            self.look(child, now)?;
            if self.done() {
                return Ok(());
            }
            let since = Duration::from_nanos(now);
            if since > self.limit {
                return Err(self.late(child));
            }
            if self.supervisor.interrupted() {
                return Err(Failed::Interrupted);
            }
            let mut pause = LOOK.min(self.limit.saturating_sub(since) + RETRY);
            if let Some(asker) = &mut self.asker {
                pause = pause.min(asker.ask(now));
            }
            let mut fds = Vec::with_capacity(2 + MOST_CONNECTIONS);
            // A process that has ended stays readable.
            if self.marks.exited.is_none() && self.marks.returned.is_none() {
                fds.push(child.exit_fd());
            }
            fds.extend(child.out_fd());
            fds.extend(self.asker.iter().flat_map(Asker::fds));
            let before = clock::monotonic_ns();
            supervise::wait(&mut fds, pause).map_err(broken)?;
            // Nothing happened for long: now nothing that is timed is kept waiting.
            if Duration::from_nanos(clock::monotonic_ns().saturating_sub(before)) >= LOOK {
                self.supervisor.reap();
            }
        }
    }

    /// Takes note of what happened until just now.
    fn look(&mut self, child: &mut Child, now: u64) -> Result<(), Failed> {
        let broken = |error: std::io::Error| Failed::Spawn(error.to_string());
        // The end before the output: what it said is all there then.
        let ended = self.supervisor.ended(child).map_err(broken)?;
        child.listen(&mut self.said).map_err(broken)?;
        if !self.said.is_empty() {
            self.marks.first_byte.get_or_insert(now);
        }
        if self.said.len() > MOST_OUTPUT {
            return Err(Failed::Flood);
        }
        if let Some(asker) = &mut self.asker
            && asker.hear()
        {
            self.marks
                .answered
                .get_or_insert(clock::monotonic_ns().saturating_sub(child.began));
            self.asker = None;
        }
        match (ended, self.goal) {
            (None, _) => Ok(()),
            (Some(0), Goal::Exit(expected)) => {
                self.marks.exited.get_or_insert(now);
                let right = expected.is_none_or(|expected| says(&self.said, expected));
                match right {
                    true => Ok(()),
                    false => Err(Failed::Garbage(excerpt(&self.said))),
                }
            }
            (Some(0), Goal::Answer { detached: true, .. }) => {
                self.marks.returned.get_or_insert(now);
                Ok(())
            }
            (Some(code), goal) => Err(Failed::Ended {
                code,
                when: match goal {
                    Goal::Exit(_) => "",
                    Goal::Answer { detached, .. } => match detached {
                        false => " before it answered",
                        true => " in place of going on in the background",
                    },
                },
                complaint: complaint(child),
            }),
        }
    }

    fn done(&self) -> bool {
        match self.goal {
            Goal::Exit(_) => self.marks.exited.is_some(),
            Goal::Answer { detached, .. } => {
                self.marks.answered.is_some() && (!detached || self.marks.returned.is_some())
            }
        }
    }

    fn late(&self, child: &Child) -> Failed {
        let reached: Vec<&str> = self
            .marks
            .list()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let last = self.asker.as_ref().map_or("", |asker| &asker.last);
        let what = match (reached.is_empty(), last) {
            (_, last) if !last.is_empty() => return Failed::Status(last.to_owned()),
            (true, _) => "not one of its end points was reached".to_owned(),
            (false, _) => format!("it reached {}", reached.join(", ")),
        };
        Failed::Late(self.limit.as_secs(), what + &complaint(child))
    }
}

fn complaint(child: &Child) -> String {
    match child.complaint() {
        text if text.is_empty() => text,
        text => format!(": {}", shortened(&text)),
    }
}

/// Its beginning, which mostly is the reason, and its end, which else is it. A monitor may say
/// all its registers.
fn shortened(text: &str) -> String {
    const BEGINNING: usize = 160;
    const END: usize = 80;
    let count = text.chars().count();
    if count <= BEGINNING + END {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(BEGINNING).collect();
    let end: String = text.chars().skip(count - END).collect();
    format!("{beginning} … {end}")
}

/// A console of a machine ends lines in its own way.
fn says(said: &[u8], expected: &str) -> bool {
    let plain = said.iter().filter(|&&byte| byte != b'\r');
    plain.eq(expected.as_bytes())
}

/// The beginning of what somebody said.
fn excerpt(said: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(said);
    text.chars().take(SHOWN).collect()
}

/// Asks a service until it answers.
struct Asker {
    address: SocketAddr,
    request: Vec<u8>,
    connections: VecDeque<Connection>,
    /// When, in nanoseconds since the start, the last connection was begun.
    asked: Option<u64>,
    refused: bool,
    /// The last status that was not 200.
    last: String,
}

struct Connection {
    stream: File,
    sent: bool,
    answer: Vec<u8>,
}

impl Asker {
    fn new(address: SocketAddr, path: &str) -> Self {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        Self {
            address,
            request: request.into_bytes(),
            connections: VecDeque::new(),
            asked: None,
            refused: true,
            last: String::new(),
        }
    }

    fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.connections.iter().map(|connection| {
            let flags = match connection.sent {
                true => PollFlags::POLLIN,
                false => PollFlags::POLLOUT,
            };
            PollFd::new(connection.stream.as_fd(), flags)
        })
    }

    /// Begins a connection if it is time to, and says how long nothing needs to be done.
    fn ask(&mut self, now: u64) -> Duration {
        let pause = match self.refused {
            true => RETRY,
            false => LEAST_PATIENCE.max(Duration::from_nanos(now / PATIENCE)),
        };
        let due = self.asked.map_or(Duration::ZERO, |asked| {
            pause.saturating_sub(Duration::from_nanos(now.saturating_sub(asked)))
        });
        if !due.is_zero() {
            return due;
        }
        self.asked = Some(now);
        self.refused = true;
        if let Some(stream) = begin(self.address) {
            if self.connections.len() == MOST_CONNECTIONS {
                self.connections.pop_front();
            }
            self.refused = false;
            self.connections.push_back(Connection {
                stream,
                sent: false,
                answer: Vec::new(),
            });
        }
        pause
    }

    /// Whether one of them was answered by 200.
    fn hear(&mut self) -> bool {
        let mut done = false;
        let (last, refused) = (&mut self.last, &mut self.refused);
        let request = &self.request;
        self.connections
            .retain_mut(|connection| match connection.go_on(request) {
                Step::Wait => true,
                Step::Gone => {
                    *refused = true;
                    false
                }
                Step::Answer(status) => {
                    if status.get(9..12) == Some("200") {
                        done = true;
                    } else {
                        *last = status;
                    }
                    *refused = true;
                    false
                }
            });
        done
    }
}

enum Step {
    Wait,
    Gone,
    Answer(String),
}

impl Connection {
    fn go_on(&mut self, request: &[u8]) -> Step {
        use std::io::ErrorKind::{Interrupted, NotConnected, WouldBlock};
        if !self.sent {
            match self.stream.write(request) {
                Ok(_) => self.sent = true,
                Err(error) if matches!(error.kind(), WouldBlock | NotConnected | Interrupted) => {
                    return Step::Wait;
                }
                Err(_) => return Step::Gone,
            }
        }
        let mut chunk = [0; 512];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Step::Gone,
                Ok(n) => self.answer.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == Interrupted => {}
                Err(error) if error.kind() == WouldBlock => return Step::Wait,
                Err(_) => return Step::Gone,
            }
            if let Some(status) = self.answer.get(..STATUS) {
                return Step::Answer(String::from_utf8_lossy(status).into_owned());
            }
        }
    }
}

/// A connection that has begun; none if it was refused at once.
fn begin(address: SocketAddr) -> Option<File> {
    let (family, to): (_, Box<dyn SockaddrLike>) = match address {
        SocketAddr::V4(v4) => (AddressFamily::Inet, Box::new(SockaddrIn::from(v4))),
        SocketAddr::V6(v6) => (AddressFamily::Inet6, Box::new(SockaddrIn6::from(v6))),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Stream, flags, None).ok()?;
    match connect(fd.as_raw_fd(), &*to) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => {}
        Err(_) => return None,
    }
    // Where nobody listens yet, and the kernel chose the same port to come from: it is connected
    // to itself, and would hear its own question (RFC 9293, simultaneous open).
    let own = match address {
        SocketAddr::V4(_) => getsockname::<SockaddrIn>(fd.as_raw_fd())
            .ok()
            .map(|it| SocketAddr::V4(it.into())),
        SocketAddr::V6(_) => getsockname::<SockaddrIn6>(fd.as_raw_fd())
            .ok()
            .map(|it| SocketAddr::V6(it.into())),
    };
    (own != Some(address)).then(|| File::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_complaint_keeps_both_its_ends() {
        assert_eq!(shortened("short"), "short");
        let long = format!("begin{}end", "ä".repeat(5000));
        let told = shortened(&long);
        assert!(told.starts_with("begin") && told.ends_with("end"), "{told}");
        assert!(told.chars().count() < 250 && told.contains(" … "));
    }

    #[test]
    fn nobody_is_asked_by_a_connection_to_itself() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(begin(address).is_some());
        drop(listener);
        // The kernel comes to choose the port itself, of a few ten thousand.
        for _ in 0..200_000 {
            if let Some(stream) = begin(address) {
                let own = getsockname::<SockaddrIn>(stream.as_fd().as_raw_fd()).unwrap();
                assert_ne!(SocketAddr::V4(own.into()), address);
            }
        }
    }
}
