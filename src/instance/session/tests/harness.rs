// SPDX-License-Identifier: Apache-2.0
//! A machine whose guest is a process of the host, and everything around `drive`.

use super::super::{
    Company, Event, How, Limits, Machine, Opening, Outcome, Saved, Session, SessionError, Signals,
    Streams, Wish, drive,
};
use crate::control::{Counted, End, MAX_MESSAGE, Report, Request};
use husk_protocol::{Size, Start, Stream};
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A start that runs a shell script.
pub fn sh(script: &str) -> Start {
    Start {
        argv: ["/bin/sh", "-c", script]
            .map(|s| s.as_bytes().to_vec())
            .into(),
        ..Start::default()
    }
}

struct Control(OwnedFd);

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Machine for Control {
    fn send(&self, request: &Request) -> io::Result<()> {
        let text = serde_json::to_vec(request)?;
        send(self.0.as_raw_fd(), &text, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    fn save(&self, request: &Request, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        assert_eq!(files.len(), 2);
        self.send(request)
    }

    fn recv(&self) -> io::Result<Option<Report>> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let n = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let message = buffer.get(..n).filter(|bytes| !bytes.is_empty());
        Ok(message.map(serde_json::from_slice).transpose()?)
    }
}

/// Signals as bytes of a pipe: real ones would be the whole test process's.
struct SignalPipe(PipeReader);

impl AsFd for SignalPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Signals for SignalPipe {
    fn next(&self) -> Option<u8> {
        let mut fds = [nix::poll::PollFd::new(
            self.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        if nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO) != Ok(1) {
            return None;
        }
        let mut number = [0];
        let n = (&self.0).read(&mut number).ok()?;
        (n == 1).then_some(number[0])
    }
}

/// What both sides of a test see happen.
#[derive(Default)]
struct Seen {
    events: Vec<Event>,
    stdout: Vec<u8>,
    /// What the machine was asked for, but for its end and its console.
    requests: Vec<Request>,
}

/// Company whose wishes the test has.
struct Wishing {
    bell: PipeReader,
    wishes: Arc<Mutex<VecDeque<Wish>>>,
}

impl Company for Wishing {
    fn watched(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        vec![(self.bell.as_fd(), PollFlags::POLLIN)]
    }

    fn ready(&mut self, places: &[usize]) {
        // Once for each wish; the test lets go of its end when it has no more.
        if !places.is_empty() {
            let _ = self.bell.read(&mut [0]);
        }
    }

    fn next_wish(&mut self) -> Option<Wish> {
        self.wishes.lock().unwrap().pop_front()
    }

    fn input(&mut self, _most: usize) -> Option<Vec<u8>> {
        None
    }

    fn input_ended(&self) -> bool {
        false
    }

    fn heard(&mut self, _stream: Stream, _bytes: &[u8]) {}

    fn told(&mut self, _event: &Event) {}
}

type Shared<T> = Arc<(Mutex<T>, Condvar)>;

/// Waits until `condition` gives something; a test that waits longer than this is broken.
fn wait_until<T, R>(shared: &Shared<T>, condition: impl Fn(&T) -> Option<R>) -> R {
    let (lock, changed) = &**shared;
    let mut state = lock.lock().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(result) = condition(&state) {
            return result;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing came within a minute");
        state = changed.wait_timeout(state, left).unwrap().0;
    }
}

fn change<T>(shared: &Shared<T>, how: impl FnOnce(&mut T)) {
    how(&mut shared.0.lock().unwrap());
    shared.1.notify_all();
}

/// The machine's end of the control socket, played by threads.
pub struct FakeMachine {
    socket: Arc<OwnedFd>,
    child: Option<Arc<Mutex<Child>>>,
}

impl FakeMachine {
    /// A machine whose guest is `child`, or one in which nothing happens.
    fn start(
        socket: OwnedFd,
        child: Option<Child>,
        saves: Vec<Report>,
        seen: Shared<Seen>,
    ) -> Self {
        let socket = Arc::new(socket);
        let stopped = Arc::new(Mutex::new(false));
        let child = child.map(|child| Arc::new(Mutex::new(child)));
        if let Some(child) = child.clone() {
            let (socket, stopped) = (socket.clone(), stopped.clone());
            thread::spawn(move || {
                let pid = Pid::from_raw(i32::try_from(child.lock().unwrap().id()).unwrap());
                // Left to be reaped under the lock, so that nobody kills a stranger.
                waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
                child.lock().unwrap().wait().unwrap();
                let end = if *stopped.lock().unwrap() {
                    End::Stopped
                } else {
                    End::Reset
                };
                report(&socket, &Report::Ended(end));
            });
        }
        let machine = Self { socket, child };
        machine.answer(stopped, saves, seen);
        machine
    }

    fn answer(&self, stopped: Arc<Mutex<bool>>, saves: Vec<Report>, seen: Shared<Seen>) {
        let (socket, child) = (self.socket.clone(), self.child.clone());
        thread::spawn(move || {
            let mut buffer = vec![0; MAX_MESSAGE];
            while let Ok(n @ 1..) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                let request: Request = serde_json::from_slice(&buffer[..n]).unwrap();
                let noted = matches!(
                    request,
                    Request::Save { .. } | Request::Resume | Request::Release
                );
                if noted {
                    change(&seen, |seen| seen.requests.push(request.clone()));
                }
                match request {
                    Request::Console => report(
                        &socket,
                        &Report::Console {
                            tail: "the last line".into(),
                        },
                    ),
                    Request::Save { .. } => saves.iter().for_each(|said| report(&socket, said)),
                    Request::Resume | Request::Release => {}
                    Request::Count => report(&socket, &Report::Counted(Counted::default())),
                    Request::Stop => {
                        *stopped.lock().unwrap() = true;
                        match &child {
                            Some(child) => child.lock().unwrap().kill().unwrap(),
                            None => report(&socket, &Report::Ended(End::Stopped)),
                        }
                    }
                }
            }
        });
    }
}

fn report(socket: &OwnedFd, report: &Report) {
    let text = serde_json::to_vec(report).unwrap();
    // The session may be over already.
    let _ = send(socket.as_raw_fd(), &text, MsgFlags::MSG_NOSIGNAL);
}

/// A session about to be run.
pub struct Bench {
    opening: Opening,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stdout_reader: Option<File>,
    held: bool,
    pub limits: Limits,
    /// What the machine says when it is to be saved.
    pub saves: Vec<Report>,
}

/// A session while it runs.
pub struct Running {
    seen: Shared<Seen>,
    window: Arc<Mutex<Size>>,
    signals: PipeWriter,
    machine: FakeMachine,
    stdout_probe: Option<OwnedFd>,
    held: Shared<bool>,
    bell: PipeWriter,
    wishes: Arc<Mutex<VecDeque<Wish>>>,
}

/// A session that is over.
#[derive(Debug)]
pub struct Ran {
    pub result: Result<Outcome, SessionError>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub events: Vec<Event>,
    pub took: Duration,
    pub requests: Vec<Request>,
}

impl Ran {
    pub fn how(&self) -> How {
        self.result.as_ref().unwrap().how
    }

    pub fn code(&self) -> u8 {
        self.result.as_ref().unwrap().code()
    }
}

impl Bench {
    pub fn new(opening: impl Into<Opening>) -> Self {
        let (reader, writer) = io::pipe().unwrap();
        Self {
            opening: opening.into(),
            saves: vec![
                Report::Captured { paused: 7 },
                Report::Saved { problem: None },
            ],
            stdin: None,
            stdout: Some(writer.into()),
            stdout_reader: Some(OwnedFd::from(reader).into()),
            held: false,
            limits: Limits {
                agent: Duration::from_secs(30),
                shutdown: Duration::from_secs(30),
            },
        }
    }

    pub fn stdin(&mut self, fd: OwnedFd) {
        if let Opening::Start(start) = &mut self.opening {
            start.stdin = true;
        }
        self.stdin = Some(fd);
    }

    pub fn pipe_stdin(&mut self) -> File {
        let (reader, writer) = io::pipe().unwrap();
        self.stdin(reader.into());
        OwnedFd::from(writer).into()
    }

    pub fn stdin_clone(&self) -> OwnedFd {
        self.stdin.as_ref().unwrap().try_clone().unwrap()
    }

    pub fn stdout_to(&mut self, fd: OwnedFd) {
        self.stdout_reader = None;
        self.stdout = Some(fd);
    }

    pub fn close_stdout(&mut self) {
        self.stdout_reader = None;
    }

    /// Nobody reads the output until `release_stdout`. It holds something already, so that
    /// a write as long as the pipe would block.
    pub fn hold_stdout(&mut self) {
        let stdout = self.stdout.as_ref().unwrap();
        assert_eq!(nix::unistd::write(stdout, &b"y\n".repeat(2500)), Ok(5000));
        self.held = true;
    }

    pub fn run(self) -> Ran {
        self.run_while(|_| {})
    }

    pub fn run_while(self, meanwhile: impl FnOnce(&Running)) -> Ran {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // As the kernel starts a PID 1, whatever this test's own starter ignores.
        let child = Command::new("env")
            .args(["--default-signal", env!("HUSK_AGENT")])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        self.run_with(ours, Some(child), meanwhile)
    }

    /// Runs the session on `agent`, whatever is at its other end.
    pub fn run_with(
        self,
        agent: UnixStream,
        child: Option<Child>,
        meanwhile: impl FnOnce(&Running),
    ) -> Ran {
        let kind = SockType::SeqPacket;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let (signal_reader, signal_writer) = io::pipe().unwrap();
        let (err_reader, err_writer) = io::pipe().unwrap();
        let stdout = self.stdout.unwrap();
        let probe = self.held.then(|| stdout.try_clone().unwrap());
        let (bell, ring) = io::pipe().unwrap();
        let wishes = Arc::<Mutex<VecDeque<Wish>>>::default();
        let mut company = Wishing {
            bell,
            wishes: wishes.clone(),
        };
        let seen = Shared::default();
        let running = Running {
            seen: seen.clone(),
            bell: ring,
            wishes,
            window: Arc::new(Mutex::new(Size {
                columns: 0,
                rows: 0,
            })),
            signals: signal_writer,
            machine: FakeMachine::start(theirs, child, self.saves, seen),
            stdout_probe: probe,
            held: Arc::new((Mutex::new(self.held), Condvar::new())),
        };
        let reader = self.stdout_reader.map(|file| running.collect(file));
        let err = thread::spawn(move || read_all(err_reader));
        let streams = Streams {
            stdin: self.stdin,
            stdout: Some(stdout),
            stderr: Some(err_writer.into()),
        };
        let (opening, limits) = (self.opening, self.limits);
        let (seen, window) = (running.seen.clone(), running.window.clone());
        let began = Instant::now();
        let session = thread::spawn(move || {
            drive(
                Session {
                    agent,
                    opening,
                    greeted: false,
                    streams,
                    machine: Some(&Control(ours)),
                    company: Some(&mut company),
                    detachable: false,
                    signals: &SignalPipe(signal_reader),
                    limits,
                    window_size: &|| Some(*window.lock().unwrap()),
                },
                &mut |event| change(&seen, |seen| seen.events.push(event)),
            )
        });
        meanwhile(&running);
        let result = session.join().unwrap();
        let took = began.elapsed();
        let seen = running.seen.clone();
        drop(running);
        if let Some(reader) = reader {
            reader.join().unwrap();
        }
        let stderr = err.join().unwrap();
        let mut seen = seen.0.lock().unwrap();
        Ran {
            result,
            stdout: std::mem::take(&mut seen.stdout),
            stderr,
            events: std::mem::take(&mut seen.events),
            took,
            requests: std::mem::take(&mut seen.requests),
        }
    }
}

/// An agent that outlives its connection to the host, as in a machine that is saved and goes
/// on elsewhere: it can be called again.
pub struct Lasting {
    pub child: Child,
    pub link: UnixStream,
    calls: UnixListener,
    folder: tempfile::TempDir,
}

impl Lasting {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let calls = UnixListener::bind(folder.path().join("calls")).unwrap();
        let (link, theirs) = UnixStream::pair().unwrap();
        let child = Command::new("env")
            .args(["--default-signal", env!("HUSK_AGENT")])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(calls.try_clone().unwrap())))
            .spawn()
            .unwrap();
        Self {
            child,
            link,
            calls,
            folder,
        }
    }

    /// The connection its agent makes when it lost the one before.
    pub fn call(&self) -> UnixStream {
        assert!(self.calls.local_addr().is_ok());
        UnixStream::connect(self.folder.path().join("calls")).unwrap()
    }
}

fn read_all(mut reader: impl io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

impl Running {
    fn collect(&self, mut stdout: File) -> thread::JoinHandle<()> {
        let (seen, held) = (self.seen.clone(), self.held.clone());
        thread::spawn(move || {
            wait_until(&held, |held| (!held).then_some(()));
            let mut chunk = [0; 16384];
            while let Ok(n @ 1..) = stdout.read(&mut chunk) {
                change(&seen, |seen| seen.stdout.extend_from_slice(&chunk[..n]));
            }
        })
    }

    pub fn wait_for_output(&self, end: &str) {
        wait_until(&self.seen, |seen| {
            seen.stdout.ends_with(end.as_bytes()).then_some(())
        });
    }

    pub fn wait_for_start(&self) -> u32 {
        wait_until(&self.seen, |seen| {
            seen.events.iter().find_map(|event| match event {
                Event::Started { pid } => Some(*pid),
                _ => None,
            })
        })
    }

    /// The company's.
    pub fn wish(&self, wish: Wish) {
        self.wishes.lock().unwrap().push_back(wish);
        (&self.bell).write_all(&[0]).unwrap();
    }

    /// Until so many snapshots came to something; what it was.
    pub fn wait_for_saved(&self, count: usize) -> Vec<Result<Saved, String>> {
        wait_until(&self.seen, |seen| {
            let saved = seen.events.iter().filter_map(|event| match event {
                Event::Saved(outcome) => Some(outcome.clone()),
                _ => None,
            });
            let saved: Vec<_> = saved.collect();
            (saved.len() >= count).then_some(saved)
        })
    }

    /// Until the machine said its last word.
    pub fn wait_for_end(&self) {
        wait_until(&self.seen, |seen| {
            let ended = |event: &Event| matches!(event, Event::Report(Report::Ended(_)));
            seen.events.iter().any(ended).then_some(())
        });
    }

    /// Until the pipe that is standard output takes no more.
    pub fn wait_for_full_stdout(&self) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let probe = self.stdout_probe.as_ref().unwrap();
        loop {
            let mut fds = [PollFd::new(probe.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut fds, PollTimeout::ZERO) == Ok(0) {
                return;
            }
            thread::yield_now();
        }
    }

    pub fn release_stdout(&self) {
        change(&self.held, |held| *held = false);
    }

    pub fn signal(&self, number: u8) {
        (&self.signals).write_all(&[number]).unwrap();
    }

    pub fn set_window(&self, size: Size) {
        *self.window.lock().unwrap() = size;
    }

    /// As a guest that resets itself.
    pub fn kill_machine(&self) {
        let child = self.machine.child.as_ref().unwrap();
        child.lock().unwrap().kill().unwrap();
    }

    pub fn report(&self, what: &Report) {
        report(&self.machine.socket, what);
    }
}
