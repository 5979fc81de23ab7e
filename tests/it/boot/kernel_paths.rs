// SPDX-License-Identifier: Apache-2.0
//! The ways into the guest's kernel and back that a kernel in another ring may get wrong:
//! traced steps, forks, signals, vector state, futexes, mappings, readiness, rings, and memory that
//! runs out. `guest/probe` asks, in one guest for all that is quick; tests/pvm has the long forms.

use crate::support::husk::Host;

/// Runs the probe's questions one after the other, each with its own verdict.
#[track_caller]
fn ask(host: &Host, cpus: &str, questions: &[&str]) {
    let each = |question: &&str| {
        format!("husk-probe {question} >/tmp/said 2>&1 || {{ echo '{question}:'; cat /tmp/said; }}")
    };
    let script: Vec<String> = questions.iter().map(each).collect();
    let husk = host
        .sh(&script.join("\n"))
        .options(&["-c", cpus, "-m", "128m"]);
    husk.end().is(0, "", "");
}

#[test]
fn steps_breakpoints_and_system_calls_of_a_traced_process() {
    let Some(host) = Host::find() else { return };
    ask(&host, "1", &["traced"]);
}

#[test]
fn signals_leave_registers_as_they_were_and_forks_memory() {
    let Some(host) = Host::find() else { return };
    ask(&host, "1", &["signals 60", "forks 40"]);
}

#[test]
fn mappings_readiness_and_rings_of_one_processor() {
    let Some(host) = Host::find() else { return };
    ask(&host, "1", &["mappings", "epoll", "uring 5"]);
}

#[test]
fn threads_of_two_processors_share_a_futex() {
    let Some(host) = Host::find() else { return };
    ask(&host, "2", &["threads 4 100", "vectors 3 300"]);
}

/// The killer must end who takes all memory, say so, and leave a machine that works.
#[test]
fn memory_that_runs_out_costs_the_process_that_took_it() {
    let Some(host) = Host::find() else { return };
    // Two that fit one by one, so that the kernel does not refuse them from the start.
    let script = "husk-probe touch 30 & husk-probe touch 30 & wait; \
                  busybox dmesg | grep -c 'Out of memory: Killed process .*husk-probe'; husk-probe touch 4";
    let ended = host.sh(script).options(&["-m", "48m"]).end();
    assert!(ended.text().ends_with("\n4 MiB hold\n"), "{ended:?}");
    let kills = ended
        .text()
        .lines()
        .rev()
        .nth(1)
        .and_then(|line| line.parse::<usize>().ok());
    assert!(kills.is_some_and(|kills| kills > 0), "{ended:?}");
    assert_eq!(ended.code, 0, "{ended:?}");
}
