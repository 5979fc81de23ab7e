// SPDX-License-Identifier: Apache-2.0
//! Sessions of further processes: the machine is another's, and its agent is played here.

use super::super::{How, Limits, Outcome, Session, SessionError, Signals, Streams, drive};
use husk_protocol::{Decoder, Exit, Hello, Malformed, Message, Start, VERSION};
use std::io::{PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

/// No signal comes.
struct Quiet(PipeReader);

impl AsFd for Quiet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Signals for Quiet {
    fn next(&self) -> Option<u8> {
        None
    }
}

fn frames(messages: &[Message<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        message.encode(&mut bytes).unwrap();
    }
    bytes
}

/// Drives a session against an agent that says these bytes, the last once it was told what
/// to start, and hangs up, or waits for the
/// host to. Returns what the host said, by the names of its messages.
fn against(
    said: Vec<u8>,
    last: Vec<u8>,
    hangs_up: bool,
) -> (Result<Outcome, SessionError>, Vec<String>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        theirs.write_all(&said).unwrap();
        let mut heard = Vec::new();
        if !last.is_empty() {
            let mut start = [0; 4096];
            let n = theirs.read(&mut start).unwrap();
            heard.extend_from_slice(&start[..n]);
            theirs.write_all(&last).unwrap();
        }
        if hangs_up {
            theirs.shutdown(std::net::Shutdown::Both).unwrap();
        }
        let _ = theirs.read_to_end(&mut heard);
        heard
    });
    let (quiet, _keep) = std::io::pipe().unwrap();
    let session = Session {
        agent: ours,
        opening: Start::default().into(),
        greeted: false,
        streams: Streams {
            stdin: None,
            stdout: None,
            stderr: None,
        },
        machine: None,
        signals: &Quiet(quiet),
        limits: Limits {
            agent: Duration::from_secs(30),
            shutdown: Duration::ZERO,
        },
        window_size: &|| None,
        company: None,
        detachable: false,
    };
    let began = Instant::now();
    let result = drive(session, &mut |_| {});
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "it waited for a limit"
    );
    let heard = agent.join().unwrap();
    let mut decoder = Decoder::new();
    decoder.space()[..heard.len()].copy_from_slice(&heard);
    decoder.filled(heard.len());
    let mut names = Vec::new();
    while let Some(message) = decoder.take().unwrap() {
        let text = format!("{message:?}");
        names.push(text.split(['(', ' ']).next().unwrap().to_owned());
    }
    (result, names)
}

fn hello() -> Message<'static> {
    Message::Hello(Hello {
        version: VERSION,
        started: 0,
        ready: 0,
        running: None,
    })
}

#[test]
fn it_ends_with_its_process_and_asks_for_no_shutdown() {
    let exited = Message::Exited(Exit::Code(3));
    let last = frames(&[Message::Started { pid: 9 }, exited]);
    let (result, heard) = against(frames(&[hello()]), last, false);
    assert_eq!(result.unwrap().how, How::Exited(Exit::Code(3)));
    assert_eq!(heard, ["Start"]);
}

#[test]
fn an_agent_that_hangs_up_ends_it_at_once() {
    for said in [frames(&[]), frames(&[hello()])] {
        let (result, _) = against(said, vec![], true);
        assert!(
            matches!(result, Err(SessionError::AgentLost { .. })),
            "{result:?}"
        );
    }
    // A command that ran was ended by what ended the agent.
    let running = frames(&[hello(), Message::Started { pid: 9 }]);
    let error = against(running, vec![], true).0.unwrap_err();
    assert!(matches!(error, SessionError::EndedUnder), "{error:?}");
    assert_eq!(error.code(), 137);
}

#[test]
fn an_agent_that_breaks_the_protocol_ends_it_too() {
    let (result, _) = against(frames(&[hello(), hello()]), vec![], false);
    assert!(
        matches!(result, Err(SessionError::Protocol(Malformed::Order))),
        "{result:?}"
    );
    let (result, _) = against(vec![0xff; 64], vec![], false);
    assert!(
        matches!(result, Err(SessionError::Protocol(_))),
        "{result:?}"
    );
    let old = Message::Hello(Hello {
        version: VERSION - 1,
        started: 0,
        ready: 0,
        running: None,
    });
    let (result, _) = against(frames(&[old]), vec![], false);
    assert!(
        matches!(result, Err(SessionError::Version(_))),
        "{result:?}"
    );
}
