// SPDX-License-Identifier: Apache-2.0
//! Machines on one private network reach each other by name, and nobody else does.

use crate::support::finish;
use crate::support::husk::{Host, Husk, Started};
use std::path::Path;

const SERVE: &str = "echo up; while echo \"from $HOSTNAME\" | busybox nc -l -p 80; do :; done";

/// Members of one network meet in one runtime folder.
fn member(husk: Husk, folder: &Path, network: &str, name: &str) -> Husk {
    let words = ["--network", network, "--hostname", name];
    husk.options(&words).runtime_dir(folder.to_owned())
}

fn serving(husk: Husk) -> Started {
    let started = husk.start();
    started.running.wait_for("up\n");
    started
}

#[test]
fn members_find_each_other_by_name_and_others_find_nobody() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let db = serving(member(host.sh(SERVE), folder.path(), "net:blue", "db"));
    let ask = "busybox nc -w 5 db 80; busybox ping -c 1 -W 2 db >/dev/null && echo echo; \
        busybox nc -w 2 nobody 80 2>/dev/null || echo nobody";
    let web = member(host.sh(ask), folder.path(), "net:blue", "web").end();
    web.is(0, "from db\necho\nnobody\n", "");

    // By name and by address, from another network and from none.
    let ask =
        "for to in db 10.0.3.2 10.0.3.3; do busybox nc -w 2 $to 80 2>/dev/null; done; echo alone";
    member(host.sh(ask), folder.path(), "net:red", "web")
        .end()
        .is(0, "alone\n", "");
    let stranger = host.sh(ask).options(&["--network", "open"]);
    stranger.end().is(0, "alone\n", "");

    // One name, one machine.
    let twin = member(host.sh("true"), folder.path(), "net:blue", "db").end();
    assert_eq!(twin.code, 125, "{twin:?}");
    assert!(twin.stderr.contains("is called db"), "{twin:?}");

    db.running.signal(nix::sys::signal::Signal::SIGTERM);
    db.end();
    let left = crate::support::leftovers::files(folder.path());
    assert!(left.iter().all(|path| path.is_dir()), "{left:?}");
}

/// A member that sends in another's name is not heard.
#[test]
fn no_member_bears_anothers_address() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let db = serving(member(host.sh(SERVE), folder.path(), "net:blue", "db"));
    let spoof = "busybox ip addr add 10.0.3.9/24 dev eth0; busybox ip addr del 10.0.3.3/24 dev eth0; \
        busybox nc -w 2 10.0.3.2 80 2>/dev/null; echo unheard";
    member(host.sh(spoof), folder.path(), "net:blue", "web")
        .end()
        .is(0, "unheard\n", "");
    db.running.signal(nix::sys::signal::Signal::SIGTERM);
    db.end();
}

#[test]
fn a_member_that_was_killed_leaves_its_place_to_the_next() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let db = serving(member(host.sh(SERVE), folder.path(), "net:blue", "db"));
    db.running.signal(nix::sys::signal::Signal::SIGKILL);
    db.end();
    let again = member(host.sh("hostname"), folder.path(), "net:blue", "db").end();
    again.is(0, "db\n", "");
    // Whoever asks first clears up after it.
    let mut ps = crate::support::husk();
    finish(ps.arg("ps").env("XDG_RUNTIME_DIR", folder.path()));
    let left = crate::support::leftovers::files(folder.path());
    assert!(left.iter().all(|path| path.is_dir()), "{left:?}");
}
