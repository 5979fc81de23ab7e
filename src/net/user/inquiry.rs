// SPDX-License-Identifier: Apache-2.0
//! Name lookups over TCP (RFC 7766): where an answer is too long for a datagram. The thread
//! of `husk net`; never waits.
//!
//! The guest's connection is a flow like any other, whose half on the host is one end of a
//! socket pair. This is the other end: one question at a time is taken, judged as those in
//! datagrams are, and asked of the host's name servers over TCP.

use super::datagrams::{judged, own_answer};
use super::dns::{self, MAX_QUESTION, Question};
use super::flows::dial;
use super::ground::{Ground, Token, random};
use nix::sys::epoll::EpollFlags;
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Connections at once: each may be a socket to a name server. A resolver needs one.
const MAX_INQUIRIES: usize = 16;
/// How long a name server may take, and a guest with nothing to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of the length before each message (RFC 1035, 4.2.2).
const PREFIX: usize = 2;

/// A question under way.
struct Asked {
    server: TcpStream,
    question: Question,
    id: u16,
    /// The question as it is sent, and how much of it was.
    message: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
}

/// One connection of the guest's.
struct Inquiry {
    guest: UnixStream,
    /// What came of a question so far, as the guest wrote it.
    taken: Vec<u8>,
    asked: Option<Asked>,
    /// The name server that is asked next.
    server: usize,
    /// Answers the guest has not taken yet.
    out: Vec<u8>,
    heard: Instant,
}

pub struct Inquiries {
    list: HashMap<RawFd, Inquiry>,
    /// The guest's end, by the descriptor of the name server's.
    servers: HashMap<RawFd, RawFd>,
    resolvers: Vec<SocketAddr>,
}

/// The addresses of a machine on the same private network that bears a name.
pub type Members<'a> = &'a dyn Fn(&str) -> Option<Vec<IpAddr>>;

/// There is no going on: the connection is let go.
struct Over;

impl Inquiries {
    pub fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self {
            list: HashMap::new(),
            servers: HashMap::new(),
            resolvers,
        }
    }

    /// The host's half of a connection of the guest's to the gateway's name server.
    pub fn connect(&mut self, ground: &Ground) -> io::Result<TcpStream> {
        if self.list.len() >= MAX_INQUIRIES {
            return Err(ErrorKind::WouldBlock.into());
        }
        let (guest, half) = UnixStream::pair()?;
        for end in [&guest, &half] {
            end.set_nonblocking(true)?;
        }
        let fd = guest.as_raw_fd();
        ground.watch(&guest, Token::Inquiry(fd), both_ways())?;
        let inquiry = Inquiry {
            guest,
            taken: Vec::new(),
            asked: None,
            server: 0,
            out: Vec::new(),
            heard: Instant::now(),
        };
        self.list.insert(fd, inquiry);
        // A flow reads and writes it, and asks no more of it than of any socket.
        Ok(TcpStream::from(OwnedFd::from(half)))
    }

    /// The guest's end has something, or takes something.
    pub fn ready(&mut self, fd: RawFd, members: Members<'_>, ground: &mut Ground) {
        let Some(mut inquiry) = self.list.remove(&fd) else {
            return;
        };
        let before = inquiry.server_fd();
        let outcome = inquiry.go_on(&self.resolvers, members, ground);
        let after = inquiry.server_fd();
        if let Some(old) = before.filter(|_| before != after || outcome.is_err()) {
            self.servers.remove(&old);
        }
        if outcome.is_ok() {
            self.servers.extend(after.map(|server| (server, fd)));
            self.list.insert(fd, inquiry);
        }
    }

    /// A name server's end is.
    pub fn answered(&mut self, server: RawFd, members: Members<'_>, ground: &mut Ground) {
        if let Some(&fd) = self.servers.get(&server) {
            self.ready(fd, members, ground);
        }
    }

    /// Lets go of what is silent; to be called every few seconds while there is anything.
    pub fn sweep(&mut self) {
        let (list, servers) = (&mut self.list, &mut self.servers);
        list.retain(|_, inquiry| inquiry.heard.elapsed() < PATIENCE);
        servers.retain(|_, fd| list.contains_key(fd));
    }

    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.list.is_empty()
    }
}

fn both_ways() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}

impl Inquiry {
    fn server_fd(&self) -> Option<RawFd> {
        self.asked.as_ref().map(|asked| asked.server.as_raw_fd())
    }

    /// Does all that can be done without waiting.
    fn go_on(
        &mut self,
        resolvers: &[SocketAddr],
        members: Members<'_>,
        ground: &mut Ground,
    ) -> Result<(), Over> {
        loop {
            if !drain(&mut self.guest, &mut self.out)? {
                return Ok(());
            }
            match self.asked.as_mut().map(|asked| asked.exchange()) {
                Some(Ok(false)) => return Ok(()),
                Some(Ok(true)) => self.pass_on(ground)?,
                // Nobody there, or nothing of sense: another one may do better.
                Some(Err(Over)) => self.ask(resolvers, ground)?,
                None => {
                    if !fill(&mut self.guest, &mut self.taken, MAX_QUESTION)? {
                        return Ok(());
                    }
                    self.heard = Instant::now();
                    let message = std::mem::take(&mut self.taken);
                    let message = message.get(PREFIX..).unwrap_or_default();
                    self.judge(message, resolvers, members, ground)?;
                }
            }
        }
    }

    /// A question of the guest's.
    fn judge(
        &mut self,
        message: &[u8],
        resolvers: &[SocketAddr],
        members: Members<'_>,
        ground: &Ground,
    ) -> Result<(), Over> {
        let question = Question::read(message).ok_or(Over)?;
        if let Some(answer) = own_answer(&question, members, &ground.policy) {
            return self.answer(&answer);
        }
        let [low, high, ..] = random().to_le_bytes();
        let id = u16::from_le_bytes([low, high]);
        self.server = 0;
        let message = framed(&dns::renumber(message, id))?;
        self.begin(question, id, message, resolvers, ground)
    }

    /// The next name server is asked the same.
    fn ask(&mut self, resolvers: &[SocketAddr], ground: &Ground) -> Result<(), Over> {
        let old = self.asked.take().ok_or(Over)?;
        self.begin(old.question, old.id, old.message, resolvers, ground)
    }

    fn begin(
        &mut self,
        question: Question,
        id: u16,
        message: Vec<u8>,
        resolvers: &[SocketAddr],
        ground: &Ground,
    ) -> Result<(), Over> {
        while let Some(resolver) = resolvers.get(self.server) {
            self.server += 1;
            let Ok(server) = dial(*resolver) else {
                continue;
            };
            let token = Token::Answer(server.as_raw_fd());
            ground
                .watch(&server, token, both_ways())
                .map_err(|_| Over)?;
            self.asked = Some(Asked {
                server,
                question,
                id,
                message,
                sent: 0,
                answer: Vec::new(),
            });
            return Ok(());
        }
        Err(Over)
    }

    /// A name server answered, whole.
    fn pass_on(&mut self, ground: &mut Ground) -> Result<(), Over> {
        let asked = self.asked.take().ok_or(Over)?;
        let message = asked.answer.get(PREFIX..).ok_or(Over)?;
        let answer = judged(message, asked.id, &asked.question, &mut ground.policy).ok_or(Over)?;
        self.answer(&answer)
    }

    fn answer(&mut self, message: &[u8]) -> Result<(), Over> {
        self.heard = Instant::now();
        self.out.extend(framed(message)?);
        Ok(())
    }
}

impl Asked {
    /// True once the answer is whole.
    fn exchange(&mut self) -> Result<bool, Over> {
        while let Some(rest) = self
            .message
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            match self.server.write(rest) {
                Ok(count) => self.sent += count,
                Err(error) => return later(&error).map(|()| false),
            }
        }
        fill(&mut self.server, &mut self.answer, usize::from(u16::MAX))
    }
}

/// Writes what there is. True once there is nothing more.
fn drain(to: &mut impl Write, out: &mut Vec<u8>) -> Result<bool, Over> {
    while !out.is_empty() {
        match to.write(out) {
            Ok(count) => drop(out.drain(..count)),
            Err(error) => return later(&error).map(|()| false),
        }
    }
    Ok(true)
}

/// Reads up to the end of one message, and not a byte beyond it. True once it is whole.
fn fill(from: &mut impl Read, message: &mut Vec<u8>, most: usize) -> Result<bool, Over> {
    loop {
        let length = message.len();
        let whole = match message.first_chunk::<PREFIX>() {
            None => PREFIX,
            Some(prefix) => PREFIX + usize::from(u16::from_be_bytes(*prefix)),
        };
        if whole > PREFIX + most {
            return Err(Over);
        }
        if length >= PREFIX && length == whole {
            return Ok(true);
        }
        message.resize(whole, 0);
        let read = from.read(message.get_mut(length..).unwrap_or_default());
        message.truncate(length + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => return Err(Over),
            Ok(_) => {}
            Err(error) => return later(&error).map(|()| false),
        }
    }
}

/// What waits is no error. An interrupted call is none that waits on sockets like these.
fn later(error: &io::Error) -> Result<(), Over> {
    match error.kind() {
        ErrorKind::WouldBlock => Ok(()),
        _ => Err(Over),
    }
}

/// A message with its length before it.
fn framed(message: &[u8]) -> Result<Vec<u8>, Over> {
    let length = u16::try_from(message.len()).map_err(|_| Over)?;
    Ok([&length.to_be_bytes()[..], message].concat())
}
