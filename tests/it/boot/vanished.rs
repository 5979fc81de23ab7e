// SPDX-License-Identifier: Apache-2.0
//! A husk that is killed outright takes its machine with it, at whatever point.

use crate::support::husk::{Host, Started};
use crate::support::kernels::{self, HALTS, says};
use crate::support::leftovers::{check_orphans, children, eventually};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Kills it, and waits for its machine to be gone.
#[track_caller]
fn kill(started: Started, machine: Pid) {
    started.running.signal(Signal::SIGKILL);
    let ended = started.running.finish();
    assert_eq!(ended.code, 128 + 9, "{ended:?}");
    check_orphans();
    // An orphan's end is ours to see. On its way out it has no command line any more, so that
    // the line above misses it; only as a zombie does it hold nothing.
    let parent = nix::unistd::getpid();
    let gone = eventually(|| !children(parent).contains(&machine));
    assert!(gone, "{machine} is still there");
}

/// The process that runs its guest.
#[track_caller]
fn machine(started: &Started) -> Pid {
    let mut found = Vec::new();
    let there = eventually(|| {
        found = children(started.running.pid());
        !found.is_empty()
    });
    assert!(there, "husk starts no machine");
    found[0]
}

#[test]
fn a_husk_killed_in_mid_boot_leaves_no_machine() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = folder.path().join("kernel");
    let mut code = says("on my way\n");
    code.extend(HALTS);
    kernels::write(&kernel, &code);
    let started = host.run(&["true"]).kernel(&kernel).start();
    let machine = machine(&started);
    kill(started, machine);
}

#[test]
fn a_husk_killed_while_its_command_runs_leaves_no_machine() {
    let Some(host) = Host::find() else { return };
    let started = host
        .run(&["sh", "-c", "echo ready; exec husk-probe spin"])
        .start();
    started.running.wait_for("ready\n");
    let machine = machine(&started);
    kill(started, machine);
}
