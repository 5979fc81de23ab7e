// SPDX-License-Identifier: Apache-2.0
//! A machine that runs detached, from its start to its removal.

use crate::support::daily::Daily;
use crate::support::process::Input;
use crate::support::pty::Pty;

const TICKS: &str = "i=0; while [ $i -lt 600 ]; do echo tick $i; i=$((i+1)); sleep 1; done";

#[test]
fn a_machine_is_started_looked_at_stopped_and_removed() {
    let Some(daily) = Daily::find() else { return };
    let options = [
        "--name",
        "web",
        "--label",
        "tier=front",
        "-m",
        "128m",
        "-e",
        "A=b",
    ];
    let id = daily.detach(&options, TICKS);
    let table = daily.does(&["ps"]);
    assert!(
        table.contains(&id) && table.contains("web") && table.contains("up "),
        "{table}"
    );
    daily.wait_for("web", "tick 0");

    let document = daily.inspect("web");
    assert_eq!(document["id"], id.as_str());
    assert_eq!(document["state"]["status"], "running");
    assert_eq!(document["guest"]["memory"], 128 << 20);
    assert_eq!(document["process"]["env"][0], "A=b");
    assert_eq!(document["labels"]["tier"], "front");
    assert!(
        document["guest"]["kernel"]
            .as_str()
            .is_some_and(|path| path.contains("vmlinux"))
    );

    // The beginning of its id is as good as its name.
    assert_eq!(daily.inspect(&id[..5])["name"], "web");
    assert_eq!(
        daily.does(&["ps", "-q", "--filter", "label=tier=front"]),
        format!("{id}\n")
    );
    assert_eq!(daily.does(&["ps", "-q", "--filter", "label=tier=back"]), "");

    let running = daily.husk(&["rm", "web"]);
    assert_eq!(
        (running.code, running.stdout.as_str()),
        (1, ""),
        "{running:?}"
    );
    assert!(running.stderr.contains("runs"), "{running:?}");

    assert_eq!(daily.does(&["stop", "web"]), "web\n");
    assert_eq!(daily.does(&["ps", "-q"]), "");
    let list: serde_json::Value =
        serde_json::from_str(&daily.does(&["ps", "-a", "--format", "json"])).expect("JSON");
    assert_eq!(
        (&list[0]["status"], &list[0]["exit_code"]),
        (&"exited".into(), &143.into())
    );
    assert!(
        daily.does(&["logs", "web"]).starts_with("tick 0\n"),
        "kept after its end"
    );
    assert_eq!(daily.does(&["rm", "web"]), "web\n");
    assert!(daily.left().is_empty(), "{:?}", daily.left());

    let events: Vec<String> = daily
        .does(&["events", "--format", "json"])
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|event| event["what"].as_str().expect("a word").to_owned())
        .collect();
    assert_eq!(events, ["create", "start", "stop", "die", "remove"]);
}

#[test]
fn a_name_is_one_machines() {
    let Some(daily) = Daily::find() else { return };
    let id = daily.detach(&["--name", "web"], TICKS);
    for options in [&["-d", "--name", "web"][..], &["--name", "web"]] {
        let words = daily.words(options, "true");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let second = daily.husk(&words);
        assert_eq!(
            (second.code, second.stdout.as_str()),
            (125, ""),
            "{second:?}"
        );
        let said = format!("husk: the name 'web' is taken by machine {id}\n");
        assert!(second.stderr.starts_with(&said), "{second:?}");
    }
    assert_eq!(daily.does(&["rm", "-f", "web"]), "web\n");
    assert!(daily.left().is_empty(), "{:?}", daily.left());
}

#[test]
fn a_start_that_fails_is_told_and_leaves_nothing() {
    let Some(daily) = Daily::find() else { return };
    let mut words = daily.words(&["-d", "--name", "web"], "");
    words.truncate(words.len() - 3);
    words.push("no-such-command".into());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let failed = daily.husk(&words);
    assert_eq!(
        (failed.code, failed.stdout.as_str()),
        (127, ""),
        "{failed:?}"
    );
    assert!(
        failed
            .stderr
            .contains("'no-such-command': command not found"),
        "{failed:?}"
    );
    assert!(daily.left().is_empty(), "{:?}", daily.left());
}

#[test]
fn a_machine_that_is_not_kept_goes_with_its_command() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--rm", "--name", "once"], "read line; exit 3");
    let waiting = daily.husk(&["wait", "once"]);
    // Without input it ends at once: here or before we asked.
    assert!(
        waiting.stdout == "3\n" || waiting.stderr.contains("no machine"),
        "{waiting:?}"
    );
    assert!(daily.left().is_empty(), "{:?}", daily.left());
}

#[test]
fn logs_are_followed_cut_and_dated() {
    let Some(daily) = Daily::find() else { return };
    let script = "echo one; echo oops >&2; echo two; sleep 2; echo three; printf end; exit 4";
    daily.detach(&["--name", "talk"], script);
    let followed = daily.husk(&["logs", "-f", "talk"]);
    assert_eq!(followed.stdout, "one\ntwo\nthree\nend", "{followed:?}");
    assert_eq!(followed.stderr, "oops\n");
    assert_eq!(daily.does(&["wait", "talk"]), "4\n");
    assert_eq!(
        daily.husk(&["logs", "-n", "2", "talk"]).stdout,
        "three\nend"
    );
    assert_eq!(
        daily
            .husk(&["logs", "--since", "2100-01-01T00:00:00Z", "talk"])
            .stdout,
        ""
    );
    let dated = daily.husk(&["logs", "-t", "-n", "1", "talk"]).stdout;
    assert!(
        dated.starts_with("20") && dated.ends_with("Z end"),
        "{dated}"
    );
}

#[test]
fn signals_reach_the_command_and_a_deaf_one_is_killed() {
    let Some(daily) = Daily::find() else { return };
    let script = "trap 'echo usr1' USR1; trap '' TERM; echo ready; while :; do sleep 0.2; done";
    daily.detach(&["--name", "deaf"], script);
    daily.wait_for("deaf", "ready");
    assert_eq!(daily.does(&["kill", "-s", "USR1", "deaf"]), "deaf\n");
    daily.wait_for("deaf", "usr1");
    assert_eq!(daily.does(&["stop", "-t", "300ms", "deaf"]), "deaf\n");
    assert_eq!(daily.does(&["wait", "deaf"]), "137\n");
    let gone = daily.husk(&["kill", "deaf"]);
    assert_eq!(gone.code, 1, "{gone:?}");

    daily.detach(
        &["--name", "own", "--stop-signal", "USR2"],
        "trap 'exit 9' USR2; echo ready; while :; do sleep 0.2; done",
    );
    daily.wait_for("own", "ready");
    daily.does(&["stop", "own"]);
    assert_eq!(daily.does(&["wait", "own"]), "9\n");
}

#[test]
fn waiting_ends_with_the_machine() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["-i", "--name", "box"], "read line; exit 5");
    let waiting = daily.start(&["wait", "box"], Input::Nothing);
    let attached = daily.start(&["attach", "box"], Input::Bytes(b"go\n".to_vec()));
    assert_eq!(attached.finish().code, 5);
    waiting.finish().is(0, "5\n", "");
}

#[test]
fn who_attaches_types_hears_and_leaves() {
    let Some(daily) = Daily::find() else { return };
    let script = "echo up; while read line; do echo \"got $line\"; done";
    daily.detach(&["-it", "--name", "box"], script);
    daily.wait_for("box", "up");
    let mut pty = Pty::new(40, 100);
    let running = pty.start_command(&daily.command(&["attach", "box"]));
    // What the terminal echoes comes first.
    pty.types(b"hello\r");
    running.wait_for("got hello");
    pty.types(b"\x10\x11");
    assert_eq!(running.finish().code, 0, "it left");
    assert_eq!(daily.inspect("box")["state"]["status"], "running");
    assert!(daily.husk(&["logs", "box"]).stdout.contains("got hello"));

    let mut pty = Pty::new(40, 100);
    let running = pty.start_command(&daily.command(&["attach", "box"]));
    pty.types(b"again\r");
    running.wait_for("got again");
    pty.types(b"\x04");
    assert_eq!(running.finish().code, 0);
    assert_eq!(daily.does(&["wait", "box"]), "0\n");
}

#[test]
fn a_machine_in_the_foreground_is_one_like_others() {
    let Some(daily) = Daily::find() else { return };
    let words = daily.words(
        &["--name", "fore"],
        "echo ready; while :; do sleep 0.2; done",
    );
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let running = daily.start(&words, Input::Nothing);
    running.wait_for("ready\n");
    assert!(daily.does(&["ps"]).contains("fore"));
    assert_eq!(daily.does(&["exec", "fore", "echo", "hi"]), "hi\n");
    let logs = daily.husk(&["logs", "fore"]);
    assert_eq!(logs.code, 1, "{logs:?}");
    assert_eq!(daily.does(&["stop", "fore"]), "fore\n");
    assert_eq!(running.finish().code, 143);
    assert!(daily.left().is_empty(), "{:?}", daily.left());
}
