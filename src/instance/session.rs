// SPDX-License-Identifier: Apache-2.0
//! The host's half of a session: joins the operator's streams, signals and terminal to the
//! process in the guest, and sees the machine through to its end.
//!
//! One loop on the thread that calls `drive`, which waits in poll only: a blocked output,
//! a full input or a silent guest never keeps a signal from being obeyed. Descriptors that
//! are shared with other programs are left in the mode they have. What the guest sends is
//! hostile: it can end its session, and fill `WINDOW` bytes per stream here, no more.

mod company;
mod streams;
mod talk;
#[cfg(test)]
mod tests;

pub use company::{Company, SaveOrder, Wish};

use crate::control::{End, Report, Request};
use husk_protocol::{
    Exit, Failure, Hello, LogRecord, Malformed, Message, Rebirth, Size, Start, Step, VERSION,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The control socket of a machine.
pub trait Machine: AsFd {
    fn send(&self, request: &Request) -> io::Result<()>;
    /// A `Request::Save`, with the files it is saved into.
    fn save(&self, request: &Request, files: &[BorrowedFd<'_>]) -> io::Result<()>;
    /// The next report; called when the descriptor is readable. `None`: the process is gone.
    fn recv(&self) -> io::Result<Option<Report>>;
}

/// Signals that were sent to husk, as a descriptor and what is behind it.
pub trait Signals: AsFd {
    /// The number of the next one, without waiting.
    fn next(&self) -> Option<u8>;
}

/// Where the process's streams end on the host.
pub struct Streams {
    /// `None` if input is not forwarded.
    pub stdin: Option<OwnedFd>,
    /// With a terminal, its whole output. Without it the company alone hears.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the call of `drive` to the agent's first message.
    pub agent: Duration,
    /// From the request to shut down to the machine's end, before it is stopped. Zero: its guest
    /// has nothing left to write, and is not asked.
    pub shutdown: Duration,
}

/// How the guest comes to have a process.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a session has one, and a start is the common kind"
)]
pub enum Opening {
    /// It is started.
    Start(Start),
    /// It runs already, in a machine that was restored and stands still; this the machine is to
    /// become before it goes on.
    Reborn(Box<Rebirth>),
}

impl From<Start> for Opening {
    fn from(start: Start) -> Self {
        Self::Start(start)
    }
}

impl Opening {
    /// As the agent is told.
    #[must_use]
    pub fn message(self) -> Message<'static> {
        match self {
            Self::Start(start) => Message::Start(start),
            Self::Reborn(rebirth) => Message::Reborn(*rebirth),
        }
    }
}

/// What a session consists of.
pub struct Session<'a> {
    /// The connection the agent's own is joined to.
    pub agent: UnixStream,
    pub opening: Opening,
    /// A `Start` is on its way already, sent with the call to an agent of this version.
    pub greeted: bool,
    pub streams: Streams,
    /// None for a further process, of a machine that is another session's: this one neither
    /// ends it nor hears of it.
    pub machine: Option<&'a dyn Machine>,
    /// Blocked for every thread of this process, so that they are seen here only.
    pub signals: &'a dyn Signals,
    pub limits: Limits,
    /// The terminal's size now, asked for when it changed.
    pub window_size: &'a dyn Fn() -> Option<Size>,
    /// Who else takes part.
    pub company: Option<&'a mut dyn Company>,
    /// Whether Ctrl-P Ctrl-Q on the input leaves the process to itself.
    pub detachable: bool,
}

/// What happened, at the moment it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    AgentUp(Hello),
    Started {
        pid: u32,
    },
    Exited(Exit),
    KernelLog(Vec<LogRecord>),
    Report(Report),
    /// What became of a `Wish::Save`, one for each and in their order; or why nothing did, in
    /// one line.
    Saved(Result<Saved, String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// For how many nanoseconds the machine stood still.
    pub paused: u64,
}

/// How a process that ran came to its end.
#[derive(Debug)]
pub struct Outcome {
    pub how: How,
    /// The machine's own last word; `None` if it had to be given up on.
    pub end: Option<End>,
    /// Output that could not be written, other than to a closed pipe: a full disk.
    pub unwritten: Option<io::Error>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Exited(Exit),
    /// The machine was stopped under it, by the operator's second such signal.
    Killed {
        signal: u8,
    },
    /// It runs on, and the operator left.
    Detached,
}

impl Outcome {
    /// The exit code that says so, as shells have it.
    pub fn code(&self) -> u8 {
        match self.how {
            How::Exited(Exit::Code(code)) => code,
            How::Exited(Exit::Signal(signal)) | How::Killed { signal } => 128 | signal,
            How::Detached => 0,
        }
    }
}

/// SIGKILL: what a process that ends with its machine can have heard of it.
const KILLED: u8 = 9;

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("{}", command(.0))]
    Command(Failure),
    #[error("the guest's agent did not answer within {} s", .limit.as_secs_f32())]
    NoAgent { limit: Duration, console: String },
    #[error("the machine ended before its process did: {}", ended(.end))]
    Ended { end: End, console: String },
    #[error("the guest's kernel panicked: {message}")]
    Panicked { message: String, console: String },
    #[error("the guest's agent hung up")]
    AgentLost { console: String },
    /// Of a further process: what ended it was the end of everything.
    #[error("the machine ended before the command did")]
    EndedUnder,
    #[error("the machine's process is gone without a word")]
    MachineLost,
    #[error("the guest's agent speaks version {0} of the protocol, and husk {VERSION}")]
    Version(u16),
    #[error("the restored machine cannot become its own, {}: {}", .step.name(), command(.failure))]
    Identity { step: Step, failure: Failure },
    #[error("the restored machine's agent said nothing of {} within {} s", .step.name(), .limit.as_secs_f32())]
    Unacknowledged { step: Step, limit: Duration },
    /// What the machine was started for, and what is in it, are not the same.
    #[error("the guest has {0}")]
    Otherwise(&'static str),
    #[error("the guest's agent does not keep to the protocol")]
    Protocol(#[source] Malformed),
    #[error("the command, its arguments and its environment are longer than 1 MiB together")]
    TooLong,
    #[error("waiting for the machine")]
    Wait(#[source] io::Error),
}

impl SessionError {
    /// 126 and 127 as shells have them, 137 for a command whose machine was ended under it,
    /// 125 for what else is not the command's fault.
    pub fn code(&self) -> u8 {
        match self {
            Self::Command(failure) => failure.code,
            Self::EndedUnder => 128 | KILLED,
            _ => 125,
        }
    }

    /// The last lines of the guest's console, where they tell more.
    pub fn console(&self) -> Option<&str> {
        match self {
            Self::NoAgent { console, .. }
            | Self::Ended { console, .. }
            | Self::Panicked { console, .. }
            | Self::AgentLost { console } => Some(console),
            _ => None,
        }
    }
}

fn ended(end: &End) -> String {
    match end {
        End::PowerOff => "it switched itself off".into(),
        End::Reset => "it reset itself".into(),
        End::TripleFault { rip: Some(rip) } => format!("a triple fault at {rip:#x}"),
        End::TripleFault { rip: None } => "a triple fault".into(),
        End::Stopped => "it was stopped".into(),
        End::Unhandled { message } => message.clone(),
        End::Failed { message } => message.clone(),
    }
}

fn command(failure: &Failure) -> String {
    // The guest's words go to a terminal: none of them may be an escape sequence.
    let message: String = failure
        .message
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    match failure.errno {
        0 => message,
        errno => {
            let reason = nix::errno::Errno::from_raw(i32::from(errno));
            format!("{message}: {}", reason.desc())
        }
    }
}

/// Runs a session from the machine's boot to its end.
///
/// The first SIGINT or SIGTERM is forwarded like any other signal; the second, or one that
/// comes before there is a process, stops the machine. `on_event` must not block.
pub fn drive<'a>(
    session: Session<'a>,
    on_event: &'a mut dyn FnMut(Event),
) -> Result<Outcome, SessionError> {
    talk::Talk::new(session, on_event)?.run()
}
