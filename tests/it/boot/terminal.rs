// SPDX-License-Identifier: Apache-2.0
//! `-t`: the guest's terminal is the host's, keys and size; afterwards the host's is as it was.

use super::snapshots::Kept;
use crate::support::husk::Host;
use crate::support::leftovers::{check_orphans, eventually, files};
use crate::support::process::Running;
use crate::support::pty::Pty;

/// Echoes lines until one says "raw", then shows the next key as it comes.
const GUEST: &str = "
    trap 'echo resized $(stty size)' WINCH
    trap 'echo interrupted' INT
    tty; stty size; echo ready
    while [ \"$line\" != raw ]; do read -r line && echo \"<$line>\"; done
    stty raw -echo; echo any key
    dd bs=1 count=1 2>/dev/null | od -An -tx1
    echo -n last; dd bs=1 count=1 >/dev/null 2>&1
    exit 3";

#[test]
fn a_terminal_is_handed_on() {
    let Some(host) = Host::find() else { return };
    let mut pty = Pty::new(40, 100);
    let before = pty.modes();
    let husk = host.sh(GUEST).options(&["-i", "-t"]).env("TERM", "linux");
    let (running, scratch) = pty.start(husk);
    running.wait_for("ready");
    assert!(pty.is_raw(), "keys go to the guest, not to this terminal");
    running.wait_for("/dev/pts/0\r\n40 100\r\nready\r\n");

    pty.types(b"hello\r");
    running.wait_for("hello\r\n<hello>\r\n");
    pty.resize(50, 120);
    running.wait_for("resized 50 120\r\n");
    // The guest's terminal makes a signal of it, for the guest.
    pty.types(b"\x03");
    running.wait_for("interrupted\r\n");
    pty.types(b"raw\r");
    running.wait_for("any key");
    // And where the guest's terminal is raw it is a key like any other.
    pty.types(b"\x03");
    running.wait_for(" 03");
    running.wait_for("last");
    pty.types(b"q");

    let ended = running.finish();
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(pty.modes() == before, "the terminal is not as it was");
    check_orphans();
    assert!(files(scratch.path()).is_empty());
}

#[test]
fn a_terminal_goes_on_in_a_restored_machine_with_the_size_of_who_looks() {
    let Some(kept) = Kept::find() else { return };
    let script = "trap 'echo interrupted' INT; trap 'echo resized $(stty size)' WINCH; echo ready; \
        while :; do read -r line && echo \"<$line> $(stty size)\"; done";
    let options = ["-i", "-t", "--name", "parent", "-m", "128m"];
    kept.detach(&options, script);
    kept.daily.wait_for("parent", "ready");
    let looks = |words: &[&str], rows: u16, columns: u16, hello: &str| {
        let mut pty = Pty::new(rows, columns);
        let before = pty.modes();
        let running = pty.start_command(&kept.command(words));
        assert!(eventually(|| pty.is_raw()), "the keys are not the guest's");
        pty.types(format!("{hello}\r").as_bytes());
        running.wait_for(&format!("<{hello}> {rows} {columns}\r\n"));
        pty.resize(rows + 1, columns + 2);
        let resized = format!("resized {} {}\r\n", rows + 1, columns + 2);
        running.wait_for(&resized);
        pty.types(b"\x03");
        running.wait_for("interrupted\r\n");
        (pty, before, running)
    };
    let leaves = |(mut pty, before, running): (Pty, _, Running)| {
        pty.types(b"\x10\x11");
        let ended = running.finish();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(pty.modes() == before, "the terminal is not as it was");
    };
    leaves(looks(&["attach", "parent"], 40, 100, "one"));
    kept.does(&["snapshot", "--stop", "kept", "parent"]);
    // Detached, and looked at from a terminal of another size.
    kept.does(&["restore", "-d", "--name", "copy", "kept"]);
    leaves(looks(&["attach", "copy"], 33, 99, "two"));
    kept.does(&["rm", "-f", "copy"]);
    // In the foreground of one.
    let (pty, before, running) = looks(&["restore", "--name", "here", "kept"], 21, 77, "three");
    kept.does(&["kill", "here"]);
    let ended = running.finish();
    assert_eq!(ended.code, 137, "{ended:?}");
    assert!(pty.modes() == before, "the terminal is not as it was");
}
