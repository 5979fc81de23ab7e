// SPDX-License-Identifier: Apache-2.0
//! Processes of a machine that are killed at bad moments: it shows as exited, and nothing
//! is left of it.

use crate::support::daily::{Daily, lives, slay};
use crate::support::finish;
use crate::support::leftovers::{children, eventually};
use crate::support::ports::free_port;
use crate::support::process::Input;
use nix::sys::signal::Signal;
use std::time::Duration;

const FOREVER: &str = "echo ready; while :; do sleep 0.2; done";

fn has_sockets(daily: &Daily) -> bool {
    let socket = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "sock");
    daily.left().iter().any(socket)
}

#[test]
fn a_machine_whose_owner_is_killed_shows_as_exited() {
    let Some(daily) = Daily::find() else { return };
    let id = daily.detach(&["--name", "box"], FOREVER);
    let (owner, machine) = (
        daily.pid("box", "owner_pid"),
        daily.pid("box", "machine_pid"),
    );
    assert!(has_sockets(&daily));
    let waiting = daily.start(&["wait", "box"], Input::Nothing);
    let events = daily.start(&["events", "-f"], Input::Nothing);
    events.wait_for("start");
    slay(owner);
    assert!(eventually(|| !lives(machine)), "the machine lives on");
    waiting.finish().is(0, "137\n", "");
    // Who follows hears of it without being asked.
    events.wait_for("die");
    events.signal(Signal::SIGKILL);
    events.finish();
    let table = daily.does(&["ps", "-a"]);
    assert!(
        table.contains(&id) && table.contains("exited (137)"),
        "{table}"
    );
    assert!(!has_sockets(&daily), "{:?}", daily.left());
    let stopped = daily.does(&["stop", "box"]);
    assert_eq!(stopped, "box\n", "it is stopped");
    daily.does(&["rm", "box"]);
    assert!(daily.left().is_empty(), "{:?}", daily.left());
}

#[test]
fn a_machine_that_is_killed_is_told_of_by_its_owner() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box"], FOREVER);
    let (owner, machine) = (
        daily.pid("box", "owner_pid"),
        daily.pid("box", "machine_pid"),
    );
    slay(machine);
    assert_eq!(daily.does(&["wait", "box"]), "125\n");
    assert!(eventually(|| !lives(owner)), "the owner lives on");
    let state = daily.inspect("box")["state"].clone();
    assert!(
        state["error"]
            .as_str()
            .is_some_and(|text| text.contains("gone")),
        "{state}"
    );
    assert!(!has_sockets(&daily), "{:?}", daily.left());
}

#[test]
fn one_of_which_nothing_is_kept_is_swept_away_whole() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--rm", "--name", "box"], FOREVER);
    let machine = daily.pid("box", "machine_pid");
    slay(daily.pid("box", "owner_pid"));
    assert_eq!(daily.does(&["ps", "-aq"]), "");
    assert!(daily.left().is_empty(), "{:?}", daily.left());
    assert!(eventually(|| !lives(machine)), "the machine lives on");
    // Its name is free.
    daily.detach(&["--rm", "--name", "box"], FOREVER);
}

/// At whatever instant of its start the owner is killed, the next look finds nothing alive
/// and nothing in the way of the next start.
#[test]
fn an_owner_killed_while_it_starts_leaves_nothing() {
    let Some(daily) = Daily::find() else { return };
    for delay in [0, 1, 2, 4, 6, 8, 10, 15, 20, 30, 45, 60] {
        let words = daily.words(&["--name", "box"], "true");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let running = daily.start(&words, Input::Nothing);
        // The instant is what is tried here; none is waited for.
        std::thread::sleep(Duration::from_millis(delay));
        running.signal(Signal::SIGKILL);
        running.finish();
        assert_eq!(daily.does(&["ps", "-aq"]), "", "after {delay} ms");
        assert!(
            daily.left().is_empty(),
            "after {delay} ms: {:?}",
            daily.left()
        );
    }
    crate::support::leftovers::check_orphans();
}

/// Of a machine with everything there is beside it: whichever of its processes is killed, what
/// depended on that is an error, and nothing is left of it once it is over.
#[test]
fn whichever_process_is_killed_nothing_is_left() {
    let Some(daily) = Daily::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let share = folder.path().join("share");
    std::fs::create_dir(&share).expect("a folder");
    std::fs::write(share.join("page"), "page").expect("a file");
    let port = free_port();
    let (publish, vsock) = (format!("{port}:80"), folder.path().join("vsock"));
    let mount = format!("{}:/host", share.display());
    let options = [
        "-d",
        "--name",
        "box",
        "-p",
        &publish,
        "-v",
        &mount,
        "-v",
        "kept:/data",
    ];
    let options = [&options[..], &["--vsock", vsock.to_str().expect("a path")]].concat();
    let data = |words: &[&str]| {
        let mut command = daily.command(words);
        finish(command.env("HUSK_DATA_DIR", folder.path().join("data")))
    };
    for (victim, code) in [
        ("vmm", "125"),
        ("share", "0"),
        ("net", "0"),
        ("owner", "137"),
    ] {
        let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done";
        let words = daily.words(&options, script);
        let started = data(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(started.code, 0, "{victim}: {started:?}");
        daily.wait_for("box", "ready");
        let told = daily.inspect("box");
        assert_eq!(told["mounts"][0]["source"], share.to_str().expect("a path"));
        assert_eq!(told["mounts"][1]["kind"], "volume");
        assert_eq!(told["ports"][0]["host"], port);
        let owner = daily.pid("box", "owner_pid");
        let all = children(owner);
        let pid = match victim {
            "owner" => owner,
            verb => *all.iter().find(|pid| is_verb(**pid, verb)).expect(verb),
        };
        slay(pid);
        if code == "0" {
            // The guest lives, with an error where there was a directory.
            let cat = daily.husk(&["exec", "box", "cat", "/host/page"]);
            match victim {
                "share" => assert!(cat.stderr.contains("rror"), "{cat:?}"),
                _ => assert_eq!(cat.stdout, "page", "{cat:?}"),
            }
            daily.does(&["stop", "box"]);
        }
        assert_eq!(
            daily.does(&["wait", "box"]),
            format!("{code}\n"),
            "{victim}"
        );
        let gone = || !lives(owner) && !all.iter().any(|pid| lives(*pid));
        assert!(eventually(gone), "{victim}: something lives on");
        assert_eq!(daily.does(&["ps", "-q"]), "", "{victim}");
        assert!(!has_sockets(&daily), "{victim}: {:?}", daily.left());
        assert!(vsock.symlink_metadata().is_err(), "{victim}: its socket");
        std::net::TcpListener::bind(("127.0.0.1", port)).expect("its port is free");
        daily.does(&["rm", "box"]);
        assert!(daily.left().is_empty(), "{victim}: {:?}", daily.left());
    }
    // Nobody holds the volume.
    let removed = data(&["volume", "rm", "kept"]);
    assert_eq!(removed.code, 0, "{removed:?}");
}

fn is_verb(pid: nix::unistd::Pid, verb: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(verb.as_bytes())
}

#[test]
fn a_machine_that_hangs_is_ended_by_its_owner() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box"], FOREVER);
    let machine = daily.pid("box", "machine_pid");
    nix::sys::signal::kill(machine, Signal::SIGSTOP).expect("it is there");
    assert_eq!(daily.does(&["stop", "-t", "200ms", "box"]), "box\n");
    assert_eq!(daily.does(&["wait", "box"]), "137\n");
    assert!(eventually(|| !lives(machine)), "the machine lives on");
}

#[test]
fn one_that_is_stopped_in_its_tracks_is_still_removed() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box"], FOREVER);
    let (owner, machine) = (
        daily.pid("box", "owner_pid"),
        daily.pid("box", "machine_pid"),
    );
    nix::sys::signal::kill(owner, Signal::SIGSTOP).expect("it is there");
    assert_eq!(
        daily.does(&["ps", "-q"]).lines().count(),
        1,
        "a list waits for nobody"
    );
    assert_eq!(daily.does(&["rm", "-f", "box"]), "box\n");
    assert!(!lives(owner));
    assert!(eventually(|| !lives(machine)), "the machine lives on");
    assert!(daily.left().is_empty(), "{:?}", daily.left());
}
