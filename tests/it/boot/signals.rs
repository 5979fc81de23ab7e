// SPDX-License-Identifier: Apache-2.0
//! Signals sent to husk are the guest's process's; a second one to end it ends the machine.

use crate::support::husk::Host;
use nix::sys::signal::Signal;

/// busybox's shell runs a trap when the command it waits for ends, and `wait` at once.
const WAITS: &str = "echo ready; sleep 1000 & while :; do wait $!; done";

#[test]
fn signals_reach_the_command() {
    let Some(host) = Host::find() else { return };
    let traps = "trap 'echo USR1' USR1; trap 'echo HUP' HUP; trap 'echo INT; exit 5' INT; ";
    let started = host.sh(&format!("{traps}{WAITS}")).start();
    started.running.wait_for("ready\n");
    started.running.signal(Signal::SIGUSR1);
    started.running.wait_for("USR1\n");
    started.running.signal(Signal::SIGHUP);
    started.running.wait_for("HUP\n");
    started.running.signal(Signal::SIGINT);
    started.end().is(5, "ready\nUSR1\nHUP\nINT\n", "");
}

#[test]
fn a_command_that_sigterm_ends_ends_as_in_a_shell() {
    let Some(host) = Host::find() else { return };
    let started = host
        .run(&["sh", "-c", "echo ready; exec sleep 1000"])
        .start();
    started.running.wait_for("ready\n");
    started.running.signal(Signal::SIGTERM);
    started.end().is(128 + 15, "ready\n", "");
}

#[test]
fn a_second_interrupt_ends_the_machine() {
    let Some(host) = Host::find() else { return };
    let started = host.sh(&format!("trap 'echo INT' INT; {WAITS}")).start();
    started.running.wait_for("ready\n");
    started.running.signal(Signal::SIGINT);
    started.running.wait_for("INT\n");
    started.running.signal(Signal::SIGINT);
    let ended = started.end();
    assert_eq!(ended.code, 128 + 2, "{ended:?}");
    assert_eq!(ended.text(), "ready\nINT\n");
}
