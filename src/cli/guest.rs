// SPDX-License-Identifier: Apache-2.0
//! A session of this terminal with a process in a machine that is already there. Main thread.

use super::output::{ExitStatus, Failure, Problem};
use super::signals::Signals;
use super::terminal;
use crate::instance::session::{self, How, Limits, Outcome, Session, SessionError, Streams};
use anyhow::Context as _;
use husk_protocol::{Size, Start, Terminal};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// From the connection to the agent's first word: it is up, and only has to be scheduled.
const ANSWER: Duration = Duration::from_secs(30);

/// A process of a guest that was asked for.
pub struct Call {
    pub stream: UnixStream,
    pub start: Start,
    /// Whether `start` went with the call.
    pub greeted: bool,
}

/// This terminal's size and kind, for a process that gets one.
pub fn this_terminal() -> Terminal {
    Terminal {
        size: window_size().unwrap_or(Size {
            columns: 80,
            rows: 24,
        }),
        term: std::env::var("TERM").unwrap_or_default(),
    }
}

pub fn window_size() -> Option<Size> {
    terminal::window_size().map(|(rows, columns)| Size { columns, rows })
}

/// This process's own streams, as descriptors of the session's own.
pub fn streams(stdin: bool) -> anyhow::Result<Streams> {
    Ok(Streams {
        stdin: match stdin {
            true => Some(
                io::stdin()
                    .as_fd()
                    .try_clone_to_owned()
                    .context("standard input")?,
            ),
            false => None,
        },
        stdout: Some(
            io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .context("standard output")?,
        ),
        stderr: Some(
            io::stderr()
                .as_fd()
                .try_clone_to_owned()
                .context("standard error")?,
        ),
    })
}

/// What a session came to: the process's code, or that somebody left.
pub fn converse(call: Call, streams: Streams, detachable: bool) -> Result<ExitStatus, Failure> {
    let signals = Signals::catch().context("cannot catch signals")?;
    let raw = match call.start.terminal.is_some() && streams.stdin.is_some() {
        true => terminal::raw_stdin().context("cannot use the terminal")?,
        false => None,
    };
    let result = drive(call, streams, &signals, detachable);
    drop(raw);
    let outcome = result.map_err(|error| failure(&error))?;
    if let Some(error) = &outcome.unwritten {
        let problem = Problem::new("the command's output could not be written");
        return Err(problem.because(error).into());
    }
    Ok(match outcome.how {
        How::Detached => ExitStatus::Success,
        How::Exited(_) | How::Killed { .. } => ExitStatus::Code(outcome.code()),
    })
}

pub fn drive(
    call: Call,
    streams: Streams,
    signals: &Signals,
    detachable: bool,
) -> Result<Outcome, SessionError> {
    session::drive(
        Session {
            agent: call.stream,
            opening: call.start.into(),
            greeted: call.greeted,
            streams,
            machine: None,
            signals,
            limits: Limits {
                agent: ANSWER,
                shutdown: Duration::ZERO,
            },
            window_size: &window_size,
            company: None,
            detachable,
        },
        &mut |_| {},
    )
}

pub fn failure(error: &SessionError) -> Failure {
    let problem = match error {
        SessionError::AgentLost { .. } => Problem::new("the machine ended, or hung up"),
        other => Problem::of(other),
    };
    Failure {
        status: ExitStatus::Code(error.code()),
        problems: vec![problem],
    }
}

/// Runs a process whose output is for husk itself: its exit code, and what it wrote, of
/// which no more than `most` bytes are taken. What it complains of goes to standard error.
pub fn capture(call: Call, most: usize) -> Result<(u8, Vec<u8>), Failure> {
    let signals = Signals::catch().context("cannot catch signals")?;
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let streams = Streams {
        stdin: None,
        stdout: Some(writer.into()),
        ..streams(false)?
    };
    let limit = u64::try_from(most).unwrap_or(u64::MAX);
    let (result, text) = std::thread::scope(|scope| {
        // The reader goes when it has enough: the rest is a closed pipe's.
        let reading = scope.spawn(move || {
            let mut text = Vec::new();
            let _ = reader.take(limit).read_to_end(&mut text);
            text
        });
        let result = drive(call, streams, &signals, false);
        (result, reading.join().unwrap_or_default())
    });
    let outcome = result.map_err(|error| failure(&error))?;
    Ok((outcome.code(), text))
}
