// SPDX-License-Identifier: Apache-2.0
//! `-t`: the guest's terminal is the host's, keys and size; afterwards the host's is as it was.

use crate::support::husk::Host;
use crate::support::leftovers::{check_orphans, files};
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
