// SPDX-License-Identifier: Apache-2.0
//! What `husk bench` starts, as a program of its own (feature `load`): `hello` says a line and
//! ends, `web PORT` answers requests until it is told to end, `work` says what
//! work costs here, and without a word, as PID 1 of
//! a machine of somebody else's monitor, it does for one command what the agent does for a
//! host. One thread; static and without a C library, so that it runs in any root file system
//! and its own start is next to nothing of what is measured.

mod work;

use crate::own::Trouble;
use crate::sys::{self, Errno, Fd};
use crate::{OPEN_FILES, command, network, reserve_streams, root};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use core::ffi::CStr;
use husk_protocol::{Decoder, Message, Start};
use libc::pollfd;

const USAGE: &str = "hello, web PORT, or work MILLISECONDS FOLDER DISK [ROW]...";
const HELLO: &[u8] = b"ready\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\
    Connection: close\r\n\r\nready\n";
/// What `/stream` is answered by.
const STREAM: usize = 32 << 20;
const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\
    Content-Length: 33554432\r\nConnection: close\r\n\r\n";
/// Longest request that is read. Stops a client from being read without end.
const MOST_REQUEST: usize = 4096;
/// How long a client may take for its request, in milliseconds.
const PATIENCE: core::ffi::c_int = 1000;
/// Where the host puts a machine's command: a message of the agent's protocol.
const TASK: &CStr = c"/task";
/// Longest command: what the protocol carries in one message.
const MOST_TASK: usize = 4 << 20;

/// Runs what the words say and returns the exit code.
pub fn run(arguments: &[CString]) -> u8 {
    let words = arguments.get(1..).unwrap_or_default();
    let done = match words {
        [word] if word.to_bytes() == b"hello" => crate::own::write_all(HELLO),
        [word, port] if word.to_bytes() == b"web" => web(port),
        // What `work` starts to see how long that takes.
        [word] if word.to_bytes() == b"nothing" => Ok(()),
        [word, milliseconds, folder, disk, rows @ ..] if word.to_bytes() == b"work" => {
            work::run(milliseconds, folder, disk, rows)
        }
        [] if sys::own_pid() == 1 => machine(),
        _ => Err(Trouble::new(USAGE, Errno(0))),
    };
    match done {
        Ok(()) => 0,
        Err(trouble) => {
            trouble.tell();
            1
        }
    }
}

fn web(port: &CStr) -> Result<(), Trouble> {
    let port = port.to_str().ok().and_then(|port| port.parse().ok());
    let port: u16 = port.ok_or_else(|| Trouble::new("that is no port", Errno(0)))?;
    let failed = |errno| Trouble::new(&format!("port {port}"), errno);
    let listener = sys::listen_tcp(port).map_err(failed)?;
    // As PID 1 of a container a process gets no signal that it does not wait for.
    let ends = sys::watch_signals(&[libc::SIGTERM, libc::SIGINT]).map_err(failed)?;
    loop {
        let mut fds = [&listener, &ends].map(waiting);
        match sys::poll(&mut fds, -1) {
            Err(errno) if !errno.is(libc::EINTR) => return Err(failed(errno)),
            _ => {}
        }
        if fds[1].revents != 0 {
            return Ok(());
        }
        if fds[0].revents != 0
            && let Ok((client, _)) = sys::accept(&listener)
        {
            serve(&client);
        }
    }
}

fn waiting(fd: &Fd) -> pollfd {
    pollfd {
        fd: fd.number(),
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Answers one request, whatever it asks for. Who sends none, or leaves, has no answer.
fn serve(client: &Fd) {
    let mut request = [0; MOST_REQUEST];
    let mut filled = 0;
    while let Some(space) = request.get_mut(filled..).filter(|space| !space.is_empty()) {
        if sys::poll(&mut [waiting(client)], PATIENCE) != Ok(true) {
            return;
        }
        match sys::read(client, space) {
            Ok(0) | Err(_) => return,
            Ok(n) => filled += n,
        }
        let seen = request.get(..filled).unwrap_or_default();
        if seen.windows(4).any(|end| end == b"\r\n\r\n") {
            match seen.starts_with(b"GET /stream ") {
                true => stream(client),
                false => drop(sys::send(client, ANSWER)),
            }
            return;
        }
    }
}

/// Sends 32 MiB, as fast as the client takes them.
fn stream(client: &Fd) {
    let block = vec![b'x'; 64 << 10];
    let mut left = STREAM;
    let mut rest = STREAM_HEAD;
    loop {
        let mut fds = [pollfd {
            events: libc::POLLOUT,
            ..waiting(client)
        }];
        match sys::send(client, rest) {
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(errno) if errno.is(libc::EINTR) => {}
            Err(errno) if errno.is(libc::EAGAIN) => {
                if sys::poll(&mut fds, PATIENCE) != Ok(true) {
                    return;
                }
            }
            Err(_) => return,
        }
        if rest.is_empty() {
            if left == 0 {
                return;
            }
            rest = block.get(..left.min(block.len())).unwrap_or_default();
            left -= rest.len();
        }
    }
}

/// The life of a machine: its file systems, its network, its command, its end.
fn machine() -> ! {
    if let Err(why) = live() {
        // To the console, which is all that whoever started this machine sees of it.
        let _ = crate::own::write_all(format!("husk-load: {why}\n").as_bytes());
    }
    let _ = sys::kill(-1, 9);
    root::put_away();
    sys::reset()
}

fn live() -> Result<(), String> {
    root::prepare().map_err(|why| why.message)?;
    reserve_streams();
    let _ = sys::raise_loopback();
    let _ = sys::limit_open_files(OPEN_FILES.0, OPEN_FILES.1);
    let bytes = sys::read_file(TASK, MOST_TASK).map_err(|_| "no task")?;
    let mut decoder = Decoder::new();
    let mut rest = &bytes[..];
    loop {
        if let Some(message) = decoder.take().map_err(|_| "not a task")? {
            let Message::Start(start) = message else {
                return Err("another message than a task".into());
            };
            return obey(&start);
        }
        let space = decoder.space();
        let n = space.len().min(rest.len());
        let (now, later) = rest.split_at(n);
        space.get_mut(..n).unwrap_or_default().copy_from_slice(now);
        rest = later;
        decoder.filled(n);
        if n == 0 {
            return Err("half a task".into());
        }
    }
}

fn obey(start: &Start) -> Result<(), String> {
    let console = || sys::open(c"/dev/console", libc::O_RDWR | libc::O_NOCTTY, 0);
    let console = console().map_err(|errno| format!("the console: errno {}", errno.0))?;
    if let Some(network) = start.network.as_deref() {
        network::join(network).map_err(|why| why.message)?;
    }
    if let Some(root) = &start.root {
        root::enter(
            root,
            &start.hostname,
            &start.mounts,
            start.network.as_deref(),
        )
        .map_err(|why| why.message)?;
    }
    let children = sys::watch_children().map_err(|errno| format!("errno {}", errno.0))?;
    let account = command::account(start).map_err(|why| why.message)?;
    let streams = [&console; 3];
    let identity = Some(&account.identity);
    let pid =
        command::spawn(start, &account.home, identity, streams, None).map_err(|why| why.message)?;
    loop {
        while let Some((ended, _)) = sys::reap() {
            if ended == pid {
                return Ok(());
            }
        }
        let _ = sys::poll(&mut [waiting(&children)], -1);
        let mut told = [0; 128];
        let _ = sys::read(&children, &mut told);
    }
}
