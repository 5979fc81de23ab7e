// SPDX-License-Identifier: Apache-2.0
//! Agents that are none: silent, of another version, or lying.

use super::super::{Event, How, SessionError};
use super::harness::{Bench, Ran, sh};
use super::{INT, TERM};
use crate::control::End;
use husk_protocol::{Exit, Hello, Malformed, Message, Stream, VERSION, WINDOW};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const HELLO: Message<'_> = Message::Hello(Hello {
    version: VERSION,
    started: 1,
    ready: 2,
    running: None,
});

/// Runs a session against an agent that says just this, and then stays silent.
fn told(messages: &[Message<'_>]) -> Ran {
    let mut bytes = Vec::new();
    for message in messages {
        message.encode(&mut bytes).unwrap();
    }
    told_bytes(&bytes)
}

fn told_bytes(bytes: &[u8]) -> Ran {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = theirs.write_all(&bytes);
        theirs
    });
    let mut bench = Bench::new(sh("true"));
    bench.limits.agent = Duration::from_millis(300);
    bench.limits.shutdown = Duration::from_millis(300);
    let ran = bench.run_with(ours, None, |_| {});
    writer.join().unwrap();
    ran
}

fn broken(messages: &[Message<'_>]) -> Malformed {
    match told(messages).result.unwrap_err() {
        SessionError::Protocol(malformed) => malformed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_that_never_gets_there_is_told_with_its_console() {
    let ran = told(&[]);
    let error = ran.result.unwrap_err();
    assert!(matches!(error, SessionError::NoAgent { .. }), "{error:?}");
    assert_eq!(error.console(), Some("the last line"));
    assert_eq!(error.code(), 125);
}

#[test]
fn an_interrupt_before_there_is_a_process_stops_the_machine() {
    for signal in [INT, TERM] {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let ran = Bench::new(sh("")).run_with(ours, None, |running| running.signal(signal));
        let outcome = ran.result.unwrap();
        assert_eq!(outcome.how, How::Killed { signal });
        assert_eq!(outcome.end, Some(End::Stopped));
    }
}

#[test]
fn another_version_is_refused() {
    let ran = told(&[Message::Hello(Hello {
        version: VERSION + 1,
        started: 0,
        ready: 0,
        running: None,
    })]);
    let error = ran.result.unwrap_err();
    assert!(matches!(error, SessionError::Version(v) if v == VERSION + 1));
}

#[test]
fn what_is_out_of_order_ends_the_session() {
    assert_eq!(broken(&[Message::Started { pid: 1 }]), Malformed::Order);
    assert_eq!(broken(&[HELLO, HELLO]), Malformed::Order);
    assert_eq!(
        broken(&[HELLO, Message::Exited(Exit::Code(0))]),
        Malformed::Order
    );
    assert_eq!(broken(&[HELLO, Message::Shutdown]), Malformed::Order);
    let log = Message::KernelLog {
        records: Vec::new(),
        last: true,
    };
    // Nobody asked for it.
    assert_eq!(broken(&[HELLO, log]), Malformed::Order);
    let tty = Message::Data {
        stream: Stream::Terminal,
        bytes: b"no terminal was asked for",
    };
    assert_eq!(broken(&[HELLO, tty]), Malformed::Order);
    let stdout = Stream::Stdout;
    let after_end = Message::Data {
        stream: stdout,
        bytes: b"x",
    };
    assert_eq!(
        broken(&[HELLO, Message::Eof { stream: stdout }, after_end]),
        Malformed::Order
    );
}

#[test]
fn a_stream_beyond_its_window_ends_the_session() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut bytes = Vec::new();
    HELLO.encode(&mut bytes).unwrap();
    let piece = [b'x'; 32 * 1024];
    // Twice the window, and what the pipe nobody reads may take and acknowledge.
    for _ in 0..(3 * WINDOW as usize / piece.len()) {
        let message = Message::Data {
            stream: Stream::Stdout,
            bytes: &piece,
        };
        message.encode(&mut bytes).unwrap();
    }
    let writer = std::thread::spawn(move || {
        let _ = theirs.write_all(&bytes);
        theirs
    });
    let mut bench = Bench::new(sh("true"));
    bench.hold_stdout();
    let ran = bench.run_with(ours, None, |running| {
        running.wait_for_end();
        running.release_stdout();
    });
    writer.join().unwrap();
    let error = ran.result.unwrap_err();
    assert!(
        matches!(error, SessionError::Protocol(Malformed::Window)),
        "{error:?}"
    );
    assert!(ran.stdout.len() <= 2 * WINDOW as usize);
}

#[test]
fn garbage_ends_the_session() {
    let ran = told_bytes(&[0xff; 100]);
    let error = ran.result.unwrap_err();
    assert!(matches!(
        error,
        SessionError::Protocol(Malformed::Kind(0xff))
    ));
    assert!(!ran.events.iter().any(|e| matches!(e, Event::AgentUp(_))));
}

#[test]
fn an_agent_that_does_not_end_its_machine_has_it_stopped() {
    let ran = told(&[
        HELLO,
        Message::Started { pid: 5 },
        Message::Exited(Exit::Code(4)),
    ]);
    assert_eq!(ran.code(), 4);
    assert_eq!(ran.result.unwrap().end, Some(End::Stopped));
}

#[test]
fn an_agent_that_hangs_up_is_an_error_even_if_its_machine_lives() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut bytes = Vec::new();
    HELLO.encode(&mut bytes).unwrap();
    theirs.write_all(&bytes).unwrap();
    drop(theirs);
    let ran = Bench::new(sh("true")).run_with(ours, None, |_| {});
    let error = ran.result.unwrap_err();
    assert!(matches!(error, SessionError::AgentLost { .. }), "{error:?}");
}

#[test]
fn escape_sequences_in_the_guests_words_do_not_reach_the_terminal() {
    let ran = told(&[
        HELLO,
        Message::Failed(husk_protocol::Failure {
            stage: husk_protocol::Stage::Exec,
            code: 127,
            errno: 2,
            message: "\x1b]0;owned\x07'x'\n".into(),
        }),
    ]);
    let error = ran.result.unwrap_err();
    assert_eq!(error.code(), 127);
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.ends_with(": No such file or directory"));
}
