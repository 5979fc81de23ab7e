// SPDX-License-Identifier: Apache-2.0
//! Further commands in a machine that runs.

use crate::support::daily::Daily;
use crate::support::leftovers::eventually;
use crate::support::process::Input;
use crate::support::pty::Pty;
use nix::sys::signal::Signal;

const FOREVER: &str = "echo ready; while :; do sleep 0.2; done";

#[test]
fn a_further_command_has_streams_a_code_and_surroundings_of_its_own() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box", "-e", "A=1", "-w", "/tmp/work"], FOREVER);
    let both = daily.husk(&["exec", "box", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (both.code, both.stdout.as_str(), both.stderr.as_str()),
        (7, "out\n", "err\n")
    );
    let killed = daily.husk(&["exec", "box", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 137, "{killed:?}");
    let missing = daily.husk(&["exec", "box", "no-such-command"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(missing.stderr.contains("command not found"), "{missing:?}");

    let inherited = daily.does(&["exec", "box", "sh", "-c", "echo $A $(pwd) $(id -u)"]);
    assert_eq!(inherited, "1 /tmp/work 0\n");
    let own = daily.does(&[
        "exec",
        "-e",
        "A=2",
        "-w",
        "/",
        "-u",
        "1000:1000",
        "box",
        "sh",
        "-c",
        "echo $A $(pwd) $(id -u):$(id -g)",
    ]);
    assert_eq!(own, "2 / 1000:1000\n");
    // The machine's own command has noticed nothing of it.
    assert_eq!(daily.husk(&["logs", "box"]).stdout, "ready\n");
}

#[test]
fn many_commands_run_at_once_and_none_waits_for_another() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box"], FOREVER);
    // One that reads nothing and one that writes what nobody reads are in nobody's way.
    let full = daily.start(
        &["exec", "-i", "box", "sleep", "600"],
        Input::Bytes(vec![b'x'; 4 << 20]),
    );
    let many: Vec<_> = (0..20)
        .map(|i| {
            let words = [
                "exec",
                "-i",
                "box",
                "sh",
                "-c",
                "n=$(wc -c); echo $n; exit $0",
                &i.to_string(),
            ];
            daily.start(&words, Input::Bytes(vec![b'x'; 100_000 + i]))
        })
        .collect();
    for (i, running) in many.into_iter().enumerate() {
        let code = i32::try_from(i).expect("small");
        running.finish().is(code, &format!("{}\n", 100_000 + i), "");
    }
    full.signal(Signal::SIGTERM);
    assert_eq!(full.finish().code, 143);
}

#[test]
fn much_data_arrives_whole_in_both_directions() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box"], FOREVER);
    let data: Vec<u8> = (0..8_000_000u32)
        .map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    let running = daily.start(&["exec", "-i", "box", "cat"], Input::Bytes(data.clone()));
    let ended = running.finish();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(
        ended.stdout == data,
        "{} bytes of {}",
        ended.stdout.len(),
        data.len()
    );
}

#[test]
fn a_further_command_may_have_a_terminal() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box"], FOREVER);
    let mut pty = Pty::new(31, 97);
    let running = pty.start_command(&daily.command(&["exec", "-it", "box", "sh"]));
    pty.types(b"stty size; tty\r");
    running.wait_for("31 97");
    pty.resize(33, 99);
    pty.types(b"stty size\r");
    running.wait_for("33 99");
    // An interrupt is for what runs in it, not for the shell or the machine.
    pty.types(b"echo g''o; sleep 600\r");
    running.wait_for("\ngo");
    pty.types(b"\x03");
    pty.types(b"exit 6\r");
    assert_eq!(running.finish().code, 6);
    assert!(!pty.is_raw(), "the terminal is given back");
}

#[test]
fn a_command_whose_client_vanished_is_hung_up_on() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box"], FOREVER);
    let running = daily.start(
        &["exec", "box", "sh", "-c", "echo ready; exec sleep 4242"],
        Input::Nothing,
    );
    running.wait_for("ready\n");
    assert!(daily.does(&["top", "box"]).contains("sleep 4242"));
    running.signal(Signal::SIGKILL);
    running.finish();
    assert!(eventually(|| !daily
        .does(&["top", "box"])
        .contains("sleep 4242")));
}

#[test]
fn a_command_ends_with_its_machine() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box"], FOREVER);
    let running = daily.start(
        &["exec", "box", "sh", "-c", "echo ready; exec sleep 600"],
        Input::Nothing,
    );
    running.wait_for("ready\n");
    daily.does(&["kill", "box"]);
    let ended = running.finish();
    assert!(ended.code == 137, "{} {}", ended.code, ended.stderr);
    assert_eq!(daily.does(&["wait", "box"]), "137\n");
    let late = daily.husk(&["exec", "box", "true"]);
    assert_eq!(late.code, 125, "{late:?}");
    assert!(late.stderr.contains("does not run"), "{late:?}");
}

#[test]
fn processes_and_costs_are_told() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(
        &["--name", "box", "-m", "128m"],
        "echo ready; exec sleep 4243",
    );
    let table = daily.does(&["top", "box"]);
    assert!(
        table.starts_with("PID") && table.contains("sleep 4243"),
        "{table}"
    );
    assert!(!table.contains("kthreadd"), "{table}");
    let mut list: Vec<serde_json::Value> = Vec::new();
    // What tells of the guest's memory is a device that it finds a second after its start.
    assert!(eventually(|| {
        let text = daily.does(&["stats", "--format", "json"]);
        list = serde_json::from_str(&text).expect("JSON");
        list[0]["guest_memory_total"].is_u64()
    }));
    let row = &list[0];
    let number = |name: &str| row[name].as_u64().expect("a number");
    assert_eq!(number("memory_limit"), 128 << 20);
    let resident = number("memory_unique") + number("memory_shared");
    assert!(resident > 4 << 20 && resident < 160 << 20, "{row}");
    assert!(number("threads") >= 2, "{row}");
    let (total, free) = (number("guest_memory_total"), number("guest_memory_free"));
    assert!(total > 64 << 20 && total <= 128 << 20, "{row}");
    assert!(free > 8 << 20 && free < total, "{row}");
    assert!(daily.does(&["stats", "box"]).contains("box"));
}
