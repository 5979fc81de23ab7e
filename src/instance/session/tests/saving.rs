// SPDX-License-Identifier: Apache-2.0
//! Snapshots of a machine that runs, and machines that go on from one: with the real agent, and
//! with agents that lie.

use super::super::{Event, How, Opening, SaveOrder, Saved, SessionError, Wish};
use super::harness::{Bench, Lasting, Ran, sh};
use crate::control::{End, Report, Request};
use husk_protocol::{
    Decoder, Exit, Failure, Hello, Malformed, Message, Rebirth, Running, Stage, Step, Stream,
    VERSION,
};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

fn save(hold: bool) -> Wish {
    let file = || tempfile::tempfile().unwrap().into();
    Wish::Save(SaveOrder {
        files: vec![file(), file()],
        hold,
        changes: false,
    })
}

fn reborn() -> Opening {
    Opening::Reborn(Box::new(Rebirth {
        seed: vec![7; 64],
        ..Rebirth::default()
    }))
}

const RUNNING: Running = Running {
    pid: 5,
    terminal: false,
    stdin: false,
};

fn hello(running: Option<Running>) -> Message<'static> {
    Message::Hello(Hello {
        version: VERSION,
        running,
        ..Hello::default()
    })
}

fn step(which: Step) -> Message<'static> {
    Message::Step {
        which,
        problem: None,
    }
}

/// An agent that says these first, and to whatever the host says what `answer` makes of it.
/// Ends with the connection, and gives back what it heard, by the names of the messages.
fn puppet(
    first: Vec<Message<'static>>,
    answer: impl Fn(&Message<'_>) -> Vec<Message<'static>> + Send + 'static,
) -> (UnixStream, JoinHandle<Vec<String>>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        let mut heard = Vec::new();
        let mut decoder = Decoder::new();
        let mut out = Vec::new();
        first.iter().for_each(|said| said.encode(&mut out).unwrap());
        loop {
            if theirs.write_all(&std::mem::take(&mut out)).is_err() {
                return heard;
            }
            match theirs.read(decoder.space()) {
                Ok(n @ 1..) => decoder.filled(n),
                _ => return heard,
            }
            while let Some(message) = decoder.take().unwrap() {
                let name = format!("{message:?}");
                let end = name.find(|c: char| !c.is_alphanumeric());
                heard.push(name[..end.unwrap_or(name.len())].to_owned());
                for said in answer(&message) {
                    said.encode(&mut out).unwrap();
                }
            }
        }
    });
    (ours, agent)
}

fn state(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap()[..1].to_owned()
}

fn wait_for_state(pid: u32, wanted: &str) {
    while state(pid) != wanted {
        thread::yield_now();
    }
}

#[test]
fn a_process_stands_still_while_its_machine_is_saved_and_then_goes_on() {
    let bench = Bench::new(sh(
        "trap 'exit 4' TERM; echo ready; while :; do sleep 0.02; done",
    ));
    let ran = bench.run_while(|running| {
        running.wait_for_output("ready\n");
        running.wish(save(false));
        running.wish(save(false));
        let saved = running.wait_for_saved(2);
        assert_eq!(saved, vec![Ok(Saved { paused: 7 }); 2]);
        running.signal(15);
    });
    assert_eq!(ran.code(), 4);
    let request = Request::Save {
        hold: false,
        changes: false,
    };
    assert_eq!(ran.requests, vec![request; 2]);
}

#[test]
fn a_save_that_fails_lets_the_process_go_on() {
    let mut bench = Bench::new(sh(
        "trap 'exit 4' TERM; echo ready; while :; do sleep 0.02; done",
    ));
    let problem = || Some("no space".to_owned());
    bench.saves = vec![Report::Saved { problem: problem() }];
    let ran = bench.run_while(|running| {
        running.wait_for_output("ready\n");
        running.wish(save(true));
        assert_eq!(running.wait_for_saved(1), vec![Err("no space".into())]);
        running.signal(15);
    });
    assert_eq!(ran.code(), 4);
}

#[test]
fn a_machine_that_is_held_goes_on_when_it_is_told_to() {
    // One process, which makes no others: a shell that waits for its child's first step would
    // not be stopped itself.
    let mut bench = Bench::new(sh("echo ready; exec cat"));
    let mut stdin = bench.pipe_stdin();
    let ran = bench.run_while(|running| {
        let pid = running.wait_for_start();
        running.wait_for_output("ready\n");
        // Means nothing to one that goes.
        running.wish(Wish::Resume);
        running.wish(save(true));
        running.wait_for_saved(1);
        wait_for_state(pid, "T");
        running.wish(save(false));
        let why = "it stands still since its last snapshot".to_owned();
        assert_eq!(running.wait_for_saved(2)[1], Err(why));
        running.wish(Wish::Resume);
        stdin.write_all(b"on\n").unwrap();
        running.wait_for_output("on\n");
        drop(stdin);
    });
    assert_eq!(ran.code(), 0);
    assert_eq!(ran.requests[1..], [Request::Resume]);
}

/// Saved, ended, and gone on with by another host: the process is stopped all the while.
#[test]
fn a_process_goes_on_with_another_host_after_its_new_identity_and_not_before() {
    let lasting = Lasting::start();
    let link = lasting.link.try_clone().unwrap();
    let script = "echo ready; echo lost >&2; read line; echo \"got $line\"; exit 3";
    let mut bench = Bench::new(sh(script));
    let _stdin = bench.pipe_stdin();
    let mut process = 0;
    let ran = bench.run_with(link, None, |running| {
        process = running.wait_for_start();
        running.wait_for_output("ready\n");
        running.wish(save(true));
        assert_eq!(running.wait_for_saved(1), vec![Ok(Saved { paused: 7 })]);
        // A signal takes effect when its receiver is next scheduled.
        wait_for_state(process, "T");
        running.wish(Wish::End);
    });
    assert_eq!(ran.how(), How::Killed { signal: 9 });
    assert_eq!(ran.result.unwrap().end, Some(End::Stopped));
    let call = lasting.call();
    let Lasting { child, link, .. } = lasting;
    drop(link);
    assert_eq!(state(process), "T");
    let mut bench = Bench::new(reborn());
    let mut stdin = bench.pipe_stdin();
    stdin.write_all(b"on\n").unwrap();
    let ran = bench.run_with(call, Some(child), |running| {
        assert_eq!(running.wait_for_start(), process);
    });
    assert_eq!(ran.code(), 3);
    assert_eq!(std::str::from_utf8(&ran.stdout).unwrap(), "got on\n");
    assert_eq!(ran.requests, vec![Request::Release]);
}

#[test]
fn a_process_that_stands_still_can_be_killed_and_ends_the_save_with_it() {
    let mut bench = Bench::new(sh("echo ready; exec cat"));
    let _stdin = bench.pipe_stdin();
    // A machine that never says what became of it.
    bench.saves = Vec::new();
    let ran = bench.run_while(|running| {
        let pid = running.wait_for_start();
        running.wait_for_output("ready\n");
        running.wish(save(false));
        running.wish(save(false));
        wait_for_state(pid, "T");
        running.wish(Wish::Signal(9));
        let why = Err("the machine came to its end".to_owned());
        assert_eq!(running.wait_for_saved(2), vec![why; 2]);
    });
    assert_eq!(ran.how(), How::Exited(Exit::Signal(9)));
}

#[test]
fn an_agent_that_does_not_freeze_is_given_up_on_once() {
    let answer = |message: &Message<'_>| match message {
        Message::Start(_) => vec![Message::Started { pid: 5 }],
        // Too late, and then a second time, which nobody asked for.
        Message::Thaw => vec![Message::Frozen],
        Message::Signal { .. } => vec![Message::Frozen],
        _ => Vec::new(),
    };
    let (link, agent) = puppet(vec![hello(None)], answer);
    let mut bench = Bench::new(sh(""));
    bench.limits.agent = Duration::from_millis(300);
    bench.limits.shutdown = Duration::from_millis(300);
    let ran = bench.run_with(link, None, |running| {
        running.wait_for_start();
        running.wish(save(false));
        let saved = running.wait_for_saved(1);
        let problem = saved[0].as_ref().unwrap_err();
        assert!(problem.contains("did not stand still"), "{problem}");
        running.wish(Wish::Signal(10));
    });
    let error = ran.result.unwrap_err();
    assert!(
        matches!(error, SessionError::Protocol(Malformed::Order)),
        "{error:?}"
    );
    assert_eq!(agent.join().unwrap()[1..4], ["Freeze", "Thaw", "Signal"]);
    assert!(ran.requests.is_empty(), "nothing was saved");
}

#[test]
fn a_refusal_is_told_in_clean_words_and_the_next_may_do() {
    let answer = |message: &Message<'_>| match message {
        Message::Start(_) => vec![Message::Started { pid: 5 }],
        Message::Freeze { .. } => vec![Message::Unfrozen {
            reason: format!("\x1b]0;owned\x07{}", "x".repeat(4000)),
        }],
        _ => Vec::new(),
    };
    let (link, agent) = puppet(vec![hello(None)], answer);
    let ran = Bench::new(sh("")).run_with(link, None, |running| {
        running.wait_for_start();
        for _ in 0..2 {
            running.wish(save(false));
        }
        for saved in running.wait_for_saved(2) {
            let why = saved.unwrap_err();
            assert!(
                why.len() <= 200 && !why.chars().any(char::is_control),
                "{why:?}"
            );
        }
        running.signal(15);
        running.signal(15);
    });
    assert_eq!(ran.code(), 143);
    assert_eq!(agent.join().unwrap()[1..3], ["Freeze", "Freeze"]);
}

#[test]
fn who_says_frozen_unasked_is_not_believed() {
    for said in [
        Message::Frozen,
        Message::Unfrozen {
            reason: String::new(),
        },
    ] {
        let (link, _agent) = puppet(
            vec![hello(None), Message::Started { pid: 5 }, said],
            |_| vec![],
        );
        let error = Bench::new(sh(""))
            .run_with(link, None, |_| {})
            .result
            .unwrap_err();
        assert!(
            matches!(error, SessionError::Protocol(Malformed::Order)),
            "{error:?}"
        );
    }
}

#[test]
fn a_machine_without_a_process_is_not_saved() {
    let (link, _agent) = puppet(vec![hello(None)], |_| vec![]);
    let ran = Bench::new(sh("")).run_with(link, None, |running| {
        running.wish(save(false));
        let saved = running.wait_for_saved(1);
        assert_eq!(saved, vec![Err("its command does not run".into())]);
        running.signal(15);
    });
    assert_eq!(ran.code(), 143);
}

/// What a restored machine's session comes to with an agent that says just this.
fn restored(said: Vec<Message<'static>>) -> (Ran, Vec<String>) {
    let (link, agent) = puppet(said, |_| vec![]);
    let mut bench = Bench::new(reborn());
    bench.limits.agent = Duration::from_millis(300);
    let ran = bench.run_with(link, None, |_| {});
    (ran, agent.join().unwrap())
}

#[test]
fn steps_that_are_left_out_or_out_of_order_end_the_machine() {
    let first = hello(Some(RUNNING));
    let [random, devices, clock, ..] = Step::OF_REBORN.map(step);
    let data = Message::Data {
        stream: Stream::Stdout,
        bytes: b"early",
    };
    for said in [
        vec![devices],
        vec![random.clone(), clock],
        vec![random.clone(), random.clone()],
        vec![Message::Started { pid: 5 }],
        vec![random.clone(), Message::Started { pid: 5 }],
        vec![random, data],
    ] {
        let said = [vec![first.clone()], said].concat();
        let (ran, heard) = restored(said);
        assert!(
            !ran.requests.contains(&Request::Release),
            "it is not let out"
        );
        assert!(!heard.contains(&"Thaw".to_owned()));
        let error = ran.result.unwrap_err();
        assert!(
            matches!(error, SessionError::Protocol(Malformed::Order)),
            "{error:?}"
        );
    }
}

#[test]
fn a_step_that_is_not_acknowledged_ends_the_machine() {
    let said = [hello(Some(RUNNING)), step(Step::Random)];
    let (ran, heard) = restored(said.into());
    assert!(ran.requests.is_empty() && !heard.contains(&"Thaw".to_owned()));
    let error = ran.result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the restored machine's agent said nothing of new devices within 0.3 s"
    );
}

#[test]
fn a_step_that_fails_ends_the_machine() {
    let problem = Message::Step {
        which: Step::Random,
        problem: Some(Failure {
            stage: Stage::Identity,
            code: 125,
            errno: 1,
            message: "no\x07 seed".into(),
        }),
    };
    let (ran, heard) = restored(vec![hello(Some(RUNNING)), problem]);
    assert!(ran.requests.is_empty() && !heard.contains(&"Thaw".to_owned()));
    assert!(
        ran.events
            .contains(&Event::Report(Report::Ended(End::Stopped)))
    );
    let error = ran.result.unwrap_err();
    assert_eq!(error.code(), 125);
    assert_eq!(
        error.to_string(),
        "the restored machine cannot become its own, the random generator: \
         no\u{fffd} seed: Operation not permitted"
    );
}

#[test]
fn a_machine_that_is_not_what_it_was_saved_as_is_ended() {
    let (ran, heard) = restored(vec![hello(None)]);
    let error = ran.result.unwrap_err();
    assert!(matches!(error, SessionError::Otherwise(_)), "{error:?}");
    assert!(heard.is_empty(), "it was told nothing: {heard:?}");
    let (link, _agent) = puppet(vec![hello(Some(RUNNING))], |_| vec![]);
    let error = Bench::new(sh(""))
        .run_with(link, None, |_| {})
        .result
        .unwrap_err();
    assert!(matches!(error, SessionError::Otherwise(_)), "{error:?}");
}

#[test]
fn a_start_from_a_template_has_its_steps_too() {
    let mut start = sh("");
    start.rebirth = Some(Box::default());
    let (link, _agent) = puppet(vec![hello(None), Message::Started { pid: 5 }], |_| vec![]);
    let ran = Bench::new(start.clone()).run_with(link, None, |_| {});
    let error = ran.result.unwrap_err();
    assert!(
        matches!(error, SessionError::Protocol(Malformed::Order)),
        "{error:?}"
    );
    // The real one.
    start.argv = sh("exit 6").argv;
    let ran = Bench::new(start).run();
    assert_eq!(ran.code(), 6);
    assert_eq!(ran.requests, vec![Request::Release]);
}
