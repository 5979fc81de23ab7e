// SPDX-License-Identifier: Apache-2.0
//! The exit code of `husk run` is the command's own, as a shell would have it.

use crate::support::husk::Host;

#[test]
fn a_command_that_succeeds_is_0() {
    let Some(host) = Host::find() else { return };
    host.run(&["true"]).end().is(0, "", "");
}

#[test]
fn a_command_that_fails_keeps_its_code_and_its_words() {
    let Some(host) = Host::find() else { return };
    let script = "echo said; echo complained >&2; exit 7";
    host.sh(script).end().is(7, "said\n", "complained\n");
}

#[test]
fn a_command_a_signal_killed_is_128_more() {
    let Some(host) = Host::find() else { return };
    host.sh("kill -SEGV $$").end().is(128 + 11, "", "");
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let Some(host) = Host::find() else { return };
    let ended = host.run(&["no-such-command"]).end();
    assert_eq!((ended.code, ended.text().as_str()), (127, ""), "{ended:?}");
    assert!(ended.stderr.starts_with("husk: "), "{ended:?}");
    assert!(ended.stderr.contains("no-such-command"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

#[test]
fn a_command_that_cannot_be_run_is_126() {
    let Some(host) = Host::find() else { return };
    let ended = host.run(&["/bin/no-program"]).end();
    assert_eq!((ended.code, ended.text().as_str()), (126, ""), "{ended:?}");
    assert!(ended.stderr.starts_with("husk: "), "{ended:?}");
    assert!(ended.stderr.contains("/bin/no-program"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}
