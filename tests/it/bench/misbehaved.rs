// SPDX-License-Identifier: Apache-2.0
//! Contestants that hang, fail, say what they should not, flood, or leave something behind:
//! each is told, ended and cleared up after, and the others are measured all the same.

use super::{Bench, OBEY, absent, failures, outcome, read, samples};
use crate::support::leftovers::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;

const START: [&str; 6] = ["start", "--rounds", "2", "--warm-only", "--timeout", "10s"];
const EXIT: &str = "process exit";
const ANSWER: &str = "first HTTP 200 from the service";

/// Runs a script that never comes through its trial, and hands on why.
#[track_caller]
fn refused(script: &str, words: &[&str]) -> String {
    let bench = Bench::new(script);
    let (outcome, results) = bench.run(words);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    bench.check_nothing_left();
    assert_eq!(
        samples(&results, "process", EXIT).len(),
        2,
        "the others are measured"
    );
    let why = absent(&results, "bwrap").to_owned();
    assert!(
        outcome.stderr.contains("bwrap takes no part: "),
        "{outcome:?}"
    );
    assert!(!outcome.stderr.contains('\x1b'), "{outcome:?}");
    why
}

#[test]
fn one_that_behaves_is_measured() {
    let bench = Bench::new(OBEY);
    let (result, results) = bench.run(&START);
    assert_eq!(result.code, 0, "{result:?}");
    for name in ["bwrap", "process"] {
        assert_eq!(absent(&results, name), "");
        for metric in ["first byte of output", EXIT, ANSWER] {
            let samples = samples(&results, name, metric);
            assert_eq!(samples.len(), 2, "{name}, {metric}");
            assert!(samples.iter().all(|&value| value > 1000.0), "{samples:?}");
        }
        let first = samples(&results, name, "first byte of output");
        assert!(
            first
                .iter()
                .zip(samples(&results, name, EXIT))
                .all(|(a, b)| *a <= b)
        );
        let why = outcome(&results, name, "command returned")["not-offered"].as_str();
        assert!(
            why.is_some_and(|why| why.contains("no start that returns")),
            "{why:?}"
        );
    }
    assert_eq!(
        read(&bench.out()),
        results,
        "what is saved is what is printed"
    );
    bench.check_nothing_left();
}

#[test]
fn one_that_hangs_is_ended() {
    let words = ["start", "--rounds", "2", "--warm-only", "--timeout", "1s"];
    // The one that is waited for, and one that is not, which ignores what it is told.
    let why = refused(
        "(trap '' TERM; sleep MARK) & trap '' TERM; sleep MARK; sleep MARK",
        &words,
    );
    assert!(why.contains("nothing more within 1 s"), "{why}");
}

#[test]
fn one_that_fails_is_quoted() {
    let why = refused("echo 'no \x1b[2Jluck' >&2; exit 3", &START);
    assert!(why.contains("it ended with 3: no \u{fffd}[2Jluck"), "{why}");
}

#[test]
fn one_that_says_something_else_is_not_believed() {
    let why = refused("echo rubbish", &START);
    assert!(why.contains(r#"it said "rubbish\n""#), "{why}");
    // As quick as nobody else, for it does nothing.
    let why = refused("exit 0", &START);
    assert!(why.contains(r#"it said """#), "{why}");
}

#[test]
fn one_that_never_stops_talking_is_stopped() {
    let why = refused(
        "while :; do echo MARKMARKMARKMARKMARKMARKMARKMARK; done",
        &START,
    );
    assert!(why.contains("more than 1 MiB"), "{why}");
}

#[test]
fn one_that_leaves_processes_behind_is_told_of_them() {
    let why = refused(
        &format!("setsid sleep MARK >/dev/null 2>&1 &\n{OBEY}"),
        &START,
    );
    assert!(
        why.contains("it left 1 process behind, which were killed: sleep"),
        "{why}"
    );
}

#[test]
fn a_service_that_answers_otherwise_has_not_answered() {
    let words = ["start", "--rounds", "2", "--warm-only", "--timeout", "2s"];
    let script = format!("[ \"$2\" = web ] && exec sleep MARK\n{OBEY}");
    let why = refused(&script, &words);
    assert!(why.contains("nothing more within 2 s"), "{why}");
}

#[test]
fn what_fails_later_is_a_failure_and_no_sample() {
    // The trial and the warm-up are six starts; the two rounds are four.
    let script =
        format!("echo >> FOLDER/count\n[ $(wc -l < FOLDER/count) -gt 6 ] && exit 9\n{OBEY}");
    let bench = Bench::new(&script);
    let (result, results) = bench.run(&START);
    assert_eq!(result.code, 0, "{result:?}");
    assert!(samples(&results, "bwrap", EXIT).is_empty());
    assert!(samples(&results, "bwrap", ANSWER).is_empty());
    assert_eq!(failures(&results, "bwrap", EXIT), ["it ended with 9"; 2]);
    assert_eq!(
        failures(&results, "bwrap", ANSWER),
        ["it ended with 9 before it answered"; 2]
    );
    assert_eq!(samples(&results, "process", ANSWER).len(), 2);
    bench.check_nothing_left();
}

#[test]
fn churn_of_one_that_fails_later_ends() {
    let script =
        format!("echo >> FOLDER/count\n[ $(wc -l < FOLDER/count) -gt 6 ] && exit 9\n{OBEY}");
    let bench = Bench::new(&script);
    let (result, results) = bench.run(&["churn", "--rounds", "1", "--concurrency", "2"]);
    assert_eq!(result.code, 0, "{result:?}");
    assert!(!samples(&results, "process", "starts and stops").is_empty());
    let failures = failures(&results, "bwrap", "starts and stops");
    assert!(
        failures.iter().any(|why| why.contains("ended with 9")),
        "{failures:?}"
    );
    bench.check_nothing_left();
}

#[test]
fn what_was_measured_until_ctrl_c_is_kept() {
    let bench = Bench::new(OBEY);
    let talk = bench.folder.path().join("talk");
    let mut command = bench.command(&["start", "--rounds", "100000", "--warm-only"]);
    command.stdout(File::create(bench.folder.path().join("data")).expect("a file"));
    command.stderr(File::create(&talk).expect("a file"));
    let mut child = command.spawn().expect("husk starts");
    let pid = Pid::from_raw(child.id().try_into().expect("a process id"));
    let said = || std::fs::read_to_string(&talk).unwrap_or_default();
    assert!(eventually(|| said().contains("round 3")), "{}", said());
    kill(pid, Signal::SIGINT).expect("it runs");
    assert_eq!(
        child.wait().expect("it ends").code(),
        Some(130),
        "{}",
        said()
    );
    let results = read(&bench.out());
    let samples = samples(&results, "bwrap", EXIT).len();
    assert!(samples >= 2, "{samples} samples");
    bench.check_nothing_left();
}

#[test]
fn the_folder_of_a_benchmark_that_was_killed_goes_with_the_next() {
    let bench = Bench::new(OBEY);
    let talk = bench.folder.path().join("talk");
    let mut command = bench.command(&["start", "--rounds", "100000", "--warm-only"]);
    command.stderr(File::create(&talk).expect("a file"));
    let mut child = command.spawn().expect("husk starts");
    let said = || std::fs::read_to_string(&talk).unwrap_or_default();
    assert!(eventually(|| said().contains("round 1")), "{}", said());
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let work = bench.folder.path().join("cache/bench");
    assert_eq!(std::fs::read_dir(&work).expect("it was there").count(), 1);
    let (result, _) = bench.run(&START);
    assert_eq!(result.code, 0, "{result:?}");
    bench.check_nothing_left();
}
