// SPDX-License-Identifier: Apache-2.0
//! The session's state and its loop, the operator's side and the machine's.

mod agent;
mod aside;
mod reborn;
mod saving;

use super::company::Company;
use super::streams::{Input, Output, Written};
use super::{
    Event, How, Limits, Machine, Opening, Outcome, Session, SessionError, Signals, Streams,
};
use crate::control::{End, Report, Request};
use husk_protocol::{ByteQueue, Decoder, MAX_CHUNK, Message, SendWindow, Size, Step, Stream};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use saving::Saves;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Beyond this much waiting for the agent, input is not read and stays where it is.
const MAX_BACKLOG: usize = 64 * 1024;
/// How long the machine's process may take for an answer that costs it nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// How far a session is. Each stage but `Run` and `Over` has a deadline, which leads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The agent was not heard yet.
    Boot,
    /// A restored machine takes its identity, step by step.
    Reborn,
    Run,
    /// The agent hung up; the machine may be about to say why.
    Lost,
    /// The session failed; the console's last lines are on their way.
    Console,
    /// The agent was asked to end the machine.
    Shutdown,
    /// The machine's process was asked to.
    Stop,
    Over,
}

/// What poll watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    Signals,
    Machine,
    Agent,
    Input,
    Output(usize),
    Company(usize),
}

/// A stop that was asked for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    until: Instant,
    signal: u8,
    killed: bool,
}

pub struct Talk<'a> {
    agent: UnixStream,
    machine: Option<&'a dyn Machine>,
    signals: &'a dyn Signals,
    limits: Limits,
    window_size: &'a dyn Fn() -> Option<Size>,
    on_event: &'a mut dyn FnMut(Event),
    stage: Stage,
    deadline: Option<Instant>,
    /// The frame of the opening, until the agent is up; empty if it went before.
    greeting: Vec<u8>,
    /// Whether the machine was restored with its process.
    reborn: bool,
    /// Until it is known what kind of streams the process has.
    streams: Option<Streams>,
    /// Those of a new identity that the agent has not acknowledged.
    steps: &'static [Step],
    saves: Saves,
    /// The agent was heard.
    greeted: bool,
    agent_alive: bool,
    machine_alive: bool,
    started: bool,
    wants_kernel_log: bool,
    kernel_log: usize,
    /// Whether a SIGINT or SIGTERM was forwarded.
    asked_to_end: bool,
    company: Option<&'a mut dyn Company>,
    /// The process's input, where the company provides it.
    aside: Option<(Stream, SendWindow)>,
    /// When a process that was asked to stop is killed, and then its machine.
    patience: Option<Patience>,
    detachable: bool,
    /// The last byte of input was the first of the two that detach.
    half_detached: bool,
    decoder: Decoder,
    out: ByteQueue,
    input: Option<Input>,
    outputs: Vec<Output>,
    scratch: Box<[u8; MAX_CHUNK]>,
    console: String,
    end: Option<End>,
    unwritten: Option<io::Error>,
    verdict: Option<Result<How, SessionError>>,
}

impl<'a> Talk<'a> {
    pub fn new(
        session: Session<'a>,
        on_event: &'a mut dyn FnMut(Event),
    ) -> Result<Self, SessionError> {
        let Session {
            opening, streams, ..
        } = session;
        let wants_kernel_log = matches!(&opening, Opening::Start(start) if start.kernel_log);
        let reborn = matches!(opening, Opening::Reborn(_));
        let steps = reborn::steps(&opening);
        let own = match &opening {
            Opening::Start(start) => Some((start.terminal.is_some(), start.stdin)),
            // Its agent says what it has.
            Opening::Reborn(_) => None,
        };
        let mut greeting = Vec::new();
        if !session.greeted {
            let encoded = opening.message().encode(&mut greeting);
            encoded.map_err(|_| SessionError::TooLong)?;
        }
        let mut talk = Self {
            agent: session.agent,
            machine: session.machine,
            company: session.company,
            aside: None,
            patience: None,
            detachable: session.detachable,
            half_detached: false,
            signals: session.signals,
            limits: session.limits,
            window_size: session.window_size,
            on_event,
            stage: Stage::Boot,
            deadline: Instant::now().checked_add(session.limits.agent),
            greeting,
            reborn,
            streams: None,
            steps,
            saves: Saves::default(),
            greeted: false,
            agent_alive: true,
            machine_alive: session.machine.is_some(),
            started: false,
            wants_kernel_log,
            kernel_log: 0,
            asked_to_end: false,
            decoder: Decoder::new(),
            out: ByteQueue::new(),
            input: None,
            outputs: Vec::new(),
            scratch: Box::new([0; MAX_CHUNK]),
            console: String::new(),
            end: None,
            unwritten: None,
            verdict: None,
        };
        match own {
            Some((terminal, stdin)) => talk.join(streams, terminal, stdin),
            None => talk.streams = Some(streams),
        }
        Ok(talk)
    }

    /// Joins the operator's streams to the process's.
    fn join(&mut self, streams: Streams, terminal: bool, stdin: bool) {
        let stream = match terminal {
            true => Stream::Terminal,
            false => Stream::Stdin,
        };
        let input = streams.stdin.filter(|_| stdin);
        let aside = stdin && input.is_none() && self.company.is_some();
        self.aside = aside.then(|| (stream, SendWindow::new()));
        self.input = input.map(|fd| Input::new(stream, fd));
        self.outputs = match terminal {
            true => vec![Output::new(Stream::Terminal, streams.stdout)],
            false => vec![
                Output::new(Stream::Stdout, streams.stdout),
                Output::new(Stream::Stderr, streams.stderr),
            ],
        };
    }

    pub fn run(mut self) -> Result<Outcome, SessionError> {
        while self.stage != Stage::Over || !self.outputs.iter().all(Output::is_flushed) {
            self.flush();
            // An agent that is gone shows itself here too; without it nothing might wake us.
            if self.stage == Stage::Over && self.outputs.iter().all(Output::is_flushed) {
                break;
            }
            let mut company = Vec::new();
            for ready in self.wait()? {
                match ready {
                    Watched::Company(place) => company.push(place),
                    Watched::Signals => self.read_signals(),
                    Watched::Machine => self.hear_machine(),
                    Watched::Agent => self.hear_agent(),
                    Watched::Input => self.read_input(),
                    Watched::Output(i) => self.write_output(i),
                }
            }
            self.serve_company(&company);
            if self.deadline.is_some_and(|at| at <= Instant::now()) {
                self.time_out();
            }
            if self.patience.is_some_and(|p| p.until <= Instant::now()) {
                self.lose_patience();
            }
            if self
                .saves
                .until()
                .is_some_and(|until| until <= Instant::now())
            {
                self.give_up_saving();
            }
        }
        self.end_saving();
        let how = self.verdict.unwrap_or(Err(SessionError::MachineLost))?;
        Ok(Outcome {
            how,
            end: self.end,
            unwritten: self.unwritten,
        })
    }

    /// Waits until something is ready or the deadline is reached.
    fn wait(&self) -> Result<Vec<Watched>, SessionError> {
        let (reading, writing) = (PollFlags::POLLIN, PollFlags::POLLOUT);
        let mut watched = vec![(Watched::Signals, self.signals.as_fd(), reading)];
        if let Some(machine) = self.machine.filter(|_| self.machine_alive) {
            watched.push((Watched::Machine, machine.as_fd(), reading));
        }
        if self.agent_alive {
            let flags = if self.out.is_empty() {
                reading
            } else {
                reading | writing
            };
            watched.push((Watched::Agent, self.agent.as_fd(), flags));
        }
        let room = self.agent_alive && self.started && self.out.len() < MAX_BACKLOG;
        if let Some(input) = self.input.as_ref().filter(|i| room && i.window.left() > 0) {
            watched.push((Watched::Input, input.fd.as_fd(), reading));
        }
        for (i, output) in self.outputs.iter().enumerate() {
            if let Some(fd) = output.fd.as_ref().filter(|_| !output.is_flushed()) {
                watched.push((Watched::Output(i), fd.as_fd(), writing));
            }
        }
        if let Some(company) = &self.company {
            let list = company.watched().into_iter().enumerate();
            watched.extend(list.map(|(i, (fd, flags))| (Watched::Company(i), fd, flags)));
        }
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            .map(|&(_, fd, flags)| PollFd::new(fd, flags))
            .collect();
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(SessionError::Wait(errno.into())),
        }
        Ok(watched
            .iter()
            .zip(&fds)
            // A descriptor poll cannot watch is read or written all the same: the error
            // that gives ends its stream.
            .filter(|(_, fd)| fd.revents().is_none_or(|revents| !revents.is_empty()))
            .map(|((what, ..), _)| *what)
            .collect())
    }

    /// Rounded up, so that a wait that ends has reached its deadline.
    fn timeout(&self) -> PollTimeout {
        let times = [
            self.deadline,
            self.patience.map(|patience| patience.until),
            self.saves.until(),
        ];
        let Some(deadline) = times.into_iter().flatten().min() else {
            return PollTimeout::NONE;
        };
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn enter(&mut self, stage: Stage, limit: Option<Duration>) {
        self.stage = stage;
        self.deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    }

    fn time_out(&mut self) {
        match self.stage {
            Stage::Boot => {
                let limit = self.limits.agent;
                let console = String::new();
                self.fail(SessionError::NoAgent { limit, console });
            }
            Stage::Reborn => self.lose_rebirth(),
            Stage::Lost => self.fail(SessionError::AgentLost {
                console: String::new(),
            }),
            Stage::Console | Stage::Shutdown => self.stop(),
            Stage::Stop | Stage::Run | Stage::Over => self.enter(Stage::Over, None),
        }
    }

    /// The session's result is an error, told with the console's last lines.
    fn fail(&mut self, error: SessionError) {
        self.verdict.get_or_insert(Err(error));
        if self.machine.is_none() {
            return self.enter(Stage::Over, None);
        }
        if self.stage != Stage::Stop && self.stage != Stage::Over {
            self.ask(&Request::Console);
            self.enter(Stage::Console, Some(PATIENCE));
        }
    }

    fn stop(&mut self) {
        self.patience = None;
        if self.machine.is_none() {
            return self.enter(Stage::Over, None);
        }
        self.ask(&Request::Stop);
        self.enter(Stage::Stop, Some(PATIENCE));
    }

    /// What cannot be asked shows itself as the end of the control socket.
    fn ask(&self, request: &Request) {
        if let Some(machine) = self.machine {
            let _ = machine.send(request);
        }
    }

    fn tell(&mut self, message: &Message<'_>) {
        // All but Start, which was encoded at the outset, fit their frames.
        let _ = message.encode(self.out.tail());
    }

    fn note(&mut self, event: Event) {
        if let Some(company) = &mut self.company {
            company.told(&event);
        }
        (self.on_event)(event);
    }

    // --- the operator's side ---

    fn read_signals(&mut self) {
        while let Some(number) = self.signals.next() {
            match Signal::try_from(i32::from(number)) {
                Ok(Signal::SIGWINCH) => {
                    if let Some(size) = (self.window_size)() {
                        self.tell(&Message::Resize(size));
                    }
                }
                Ok(Signal::SIGINT | Signal::SIGTERM) => self.asked_to_end(number),
                // Without a process yet there is nobody else for whom they could be.
                Ok(Signal::SIGHUP | Signal::SIGQUIT) if !self.started => self.asked_to_end(number),
                Ok(_) => self.tell(&Message::Signal { number }),
                Err(_) => {}
            }
        }
    }

    fn asked_to_end(&mut self, number: u8) {
        let running = self.started && self.verdict.is_none() && self.agent_alive;
        if running && !self.asked_to_end {
            self.asked_to_end = true;
            self.tell(&Message::Signal { number });
            return;
        }
        self.verdict
            .get_or_insert(Ok(How::Killed { signal: number }));
        for output in &mut self.outputs {
            output.abandon();
        }
        if self.stage != Stage::Over && self.stage != Stage::Stop {
            self.stop();
        }
    }

    fn read_input(&mut self) {
        let Some(input) = &mut self.input else {
            return;
        };
        let stream = input.stream;
        match input.read(&mut self.scratch) {
            None => {}
            Some(0) => {
                self.input = None;
                self.tell(&Message::Eof { stream });
            }
            Some(n) if self.detaches(n) => {
                self.verdict.get_or_insert(Ok(How::Detached));
                self.enter(Stage::Over, None);
            }
            Some(n) => {
                let bytes = self.scratch.get(..n).unwrap_or_default();
                let _ = Message::Data { stream, bytes }.encode(self.out.tail());
            }
        }
    }

    fn write_output(&mut self, i: usize) {
        let Some(output) = self.outputs.get_mut(i) else {
            return;
        };
        let stream = output.stream;
        match output.write() {
            Written::Some(None) => {}
            Written::Some(Some(bytes)) => self.tell(&Message::Credit { stream, bytes }),
            Written::Broken(error) => {
                if self.unwritten.is_none() {
                    self.unwritten = error;
                }
                self.tell(&Message::Broken { stream });
            }
        }
    }

    // --- the machine's side ---

    fn hear_machine(&mut self) {
        let report = match self.machine.map(Machine::recv) {
            Some(Ok(Some(report))) => report,
            _ => {
                self.machine_alive = false;
                self.hear_last_words();
                self.verdict.get_or_insert(Err(SessionError::MachineLost));
                self.add_console();
                return self.enter(Stage::Over, None);
            }
        };
        self.note(Event::Report(report.clone()));
        match report {
            Report::Captured { paused } => self.captured(paused),
            Report::Saved { problem } => self.saved(problem),
            Report::Mark { .. }
            | Report::Note { .. }
            | Report::Kernel(_)
            | Report::Counted(_)
            | Report::RoundTrips(_)
            | Report::Learned => {}
            Report::Console { tail } => {
                self.console = tail;
                if self.stage == Stage::Console {
                    self.stop();
                }
            }
            Report::Panicked { message } => {
                let console = String::new();
                self.fail(SessionError::Panicked { message, console });
            }
            Report::Ended(end) => {
                self.hear_last_words();
                self.end = Some(end.clone());
                let console = String::new();
                self.verdict
                    .get_or_insert(Err(SessionError::Ended { end, console }));
                self.add_console();
                self.enter(Stage::Over, None);
            }
        }
    }

    /// What the agent said before the machine ended may still be on its way.
    fn hear_last_words(&mut self) {
        while self.agent_alive && self.receive() {}
    }

    fn add_console(&mut self) {
        if let Some(Err(
            SessionError::NoAgent { console, .. }
            | SessionError::Ended { console, .. }
            | SessionError::Panicked { console, .. }
            | SessionError::AgentLost { console },
        )) = &mut self.verdict
        {
            *console = std::mem::take(&mut self.console);
        }
    }
}
