// SPDX-License-Identifier: Apache-2.0
//! Who a machine is that goes on from a snapshot: `docs/identity.md`, hazard by hazard.

use super::snapshots::Kept;
use crate::support::leftovers::eventually;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Makes a file longer, as fast as it can: whatever runs of it is seen. Never shorter, since
/// it may be stopped between any two calls.
const COUNTS: &str = "echo began; while :; do echo >> /count; done";

/// A hook of the image's, which the service itself puts there.
fn hook(name: &str, script: &str) -> String {
    let folder = "/etc/husk/reborn.d";
    format!(
        "busybox mkdir -p {folder}; printf '%s\\n' '#!/bin/sh' '{script}' > {folder}/{name}; \
         busybox chmod 755 {folder}/{name}; "
    )
}

/// A process for each processor but one that never lets go of it.
fn busy(cpus: &str) -> String {
    let others = cpus.parse::<usize>().expect("a number") - 1;
    "husk-probe spin & ".repeat(others)
}

impl Kept {
    /// What a shell script says in a machine.
    #[track_caller]
    fn asks(&self, machine: &str, script: &str) -> String {
        self.does(&["exec", machine, "sh", "-c", script])
    }

    #[track_caller]
    fn waits_for(&self, machine: &str, text: &str) {
        let said = eventually(|| self.log(machine).contains(text));
        assert!(said, "no {text:?} in {:?}", self.log(machine));
    }
}

#[test]
fn nothing_of_the_image_runs_before_the_machine_is_its_own() {
    ["1", "2", "4"].into_iter().for_each(nothing_runs);
}

fn nothing_runs(cpus: &str) {
    let Some(kept) = Kept::find() else { return };
    // Beside the file, what a process says that reads its generation again and again.
    let script = format!(
        "sh -c \"{}\" & while read was name < /dev/husk/generation; do echo $was; \
         [ $was = 0 ] || break; done; sleep 600",
        COUNTS.replace('$', "\\$")
    );
    let script = format!("{}{script}", busy(cpus));
    kept.detach(&["--name", "parent", "-m", "128m", "-c", cpus], &script);
    kept.waits_for("parent", "0\n0\n");
    kept.does(&["snapshot", "--stop", "one", "parent"]);
    kept.does(&["restore", "-d", "--name", "copy", "one"]);
    kept.waits_for("copy", "1\n");
    let log = kept.log("copy");
    // It may have read the line, and not said it yet.
    let stale = log.lines().filter(|line| *line == "0").count();
    assert!(stale <= 1, "it ran {stale} times as the machine it was");
    kept.does(&["rm", "-f", "parent", "copy"]);
}

#[test]
fn hooks_run_while_all_else_stands_still() {
    ["1", "2", "4"].into_iter().for_each(hooks_run);
}

fn hooks_run(cpus: &str) {
    let Some(kept) = Kept::find() else { return };
    let looks = "wc -c < /count >> /seen; sleep 0.5; wc -c < /count >> /seen; \
                 echo $HUSK_GENERATION >> /seen; cat /sys/fs/cgroup/husk/cgroup.events >> /seen";
    let script = [
        hook("20-second", "echo second >> /seen"),
        hook("10-first", looks),
        // Not a program.
        "echo exit 1 > /etc/husk/reborn.d/README; ".to_owned(),
        busy(cpus),
        COUNTS.to_owned(),
    ];
    let options = ["--name", "parent", "-m", "128m", "-c", cpus];
    kept.detach(&options, &script.concat());
    kept.waits_for("parent", "began");
    assert!(eventually(
        || kept.asks("parent", "wc -c < /count").len() > 2
    ));
    kept.does(&["snapshot", "one", "parent"]);
    assert_eq!(
        kept.asks("parent", "ls /seen 2>/dev/null || echo none"),
        "none\n"
    );
    kept.does(&["restore", "-d", "--name", "copy", "one"]);
    let seen = kept.asks("copy", "cat /seen; cat /dev/husk/generation");
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0], lines[1], "it counted: {seen}");
    assert_eq!(lines[3..6], ["populated 1", "frozen 1", "second"], "{seen}");
    assert_eq!(lines[6], format!("1 {}", lines[2]), "{seen}");
    let before = kept.asks("copy", "wc -c < /count");
    assert!(eventually(|| kept.asks("copy", "wc -c < /count") != before));
    kept.does(&["rm", "-f", "parent", "copy"]);
}

#[test]
fn a_hook_that_fails_ends_the_machine() {
    let Some(kept) = Kept::find() else { return };
    let script = hook("10-refuses", "echo no key here >&2; exit 3") + COUNTS;
    kept.detach(&["--name", "parent", "-m", "128m"], &script);
    kept.waits_for("parent", "began");
    kept.does(&["snapshot", "one", "parent"]);
    let refused = kept.husk(&["restore", "-d", "--name", "copy", "one"]);
    assert_eq!(refused.code, 125, "{refused:?}");
    let why = "reborn.d: 10-refuses ended with code 3: no key here";
    assert!(refused.stderr.contains(why), "{refused:?}");
    assert_eq!(
        kept.does(&["ps", "-q"]).lines().count(),
        1,
        "the parent runs"
    );
    kept.does(&["rm", "-f", "parent"]);
}

#[test]
fn each_copy_is_a_machine_of_its_own() {
    let Some(kept) = Kept::find() else { return };
    let script = ": > /etc/machine-id; echo 192.0.2.1 kept >> /etc/hosts; echo ready; sleep 600";
    kept.detach(
        &[
            "--name",
            "parent",
            "--network",
            "net:husktest",
            "-m",
            "128m",
        ],
        script,
    );
    kept.waits_for("parent", "ready");
    kept.does(&["fork", "-n", "2", "--name", "copy", "parent"]);
    let looks = "cat /proc/sys/kernel/random/boot_id /dev/husk/generation; hostname; \
        cat /sys/class/net/eth0/address; busybox ip -4 -o addr show eth0; \
        cat /proc/sys/kernel/random/uuid; busybox od -An -tx8 -N16 /dev/urandom; \
        cat /etc/machine-id; date +%s; cat /etc/hosts";
    let mut seen: Vec<Vec<String>> = Vec::new();
    for name in ["parent", "copy-1", "copy-2"] {
        let said = kept.asks(name, looks);
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time");
        let lines: Vec<String> = said.lines().map(str::to_owned).collect();
        // The parent made its machine id itself, an empty one.
        let id = usize::from(name != "parent");
        let clock: u64 = lines[7 + id].parse().expect("a time");
        assert!(since.as_secs().abs_diff(clock) <= 2, "{said}");
        assert!(said.ends_with("192.0.2.1 kept\n"), "{said}");
        assert_eq!(said.matches("localhost").count(), 3, "{said}");
        assert!(said.contains(&format!("localhost {}", lines[2])), "{said}");
        seen.push(lines[..7 + id].to_vec());
    }
    for (place, what) in seen[1].iter().enumerate() {
        let others = seen.iter().filter(|lines| lines.get(place) == Some(what));
        assert_eq!(others.count(), 1, "{what} is of two machines: {seen:?}");
    }
    assert_eq!(seen[1][7].len(), 32, "{seen:?}");
    kept.does(&["rm", "-f", "parent", "copy-1", "copy-2"]);
}

#[test]
fn a_connection_of_before_is_reset_and_what_listens_stays() {
    let Some(kept) = Kept::find() else { return };
    let port = crate::support::ports::free_port();
    let publish = format!("{port}:80");
    let script = "while :; do busybox nc -l -p 80 -e sh -c \
        'echo hello; cat; echo over $? > /over' ; done";
    let options = ["--name", "parent", "-m", "128m", "-p", &publish];
    kept.detach(&options, script);
    let hello = |port: u16| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .ok()?;
        let mut said = [0; 6];
        stream.read_exact(&mut said).ok()?;
        Some(stream)
    };
    let mut client = None;
    assert!(eventually(|| {
        client = hello(port);
        client.is_some()
    }));
    let mut client = client.expect("it was just there");
    let ids = kept.does(&["fork", "parent"]);
    let copy = ids.trim();
    // The copy's end of it is reset, and the next client is served.
    let over = || kept.asks(copy, "cat /over 2>/dev/null || true");
    assert!(
        eventually(|| over().starts_with("over")),
        "{:?}",
        kept.log(copy)
    );
    let list: serde_json::Value =
        serde_json::from_str(&kept.does(&["inspect", copy])).expect("JSON");
    let own = list[0]["ports"][0]["host"].as_u64().expect("a port");
    let own = u16::try_from(own).expect("a port");
    assert!(eventually(|| hello(own).is_some()));
    // The parent's goes on.
    client.write_all(b"still\n").expect("it is there");
    let mut said = [0; 6];
    client.read_exact(&mut said).expect("an echo");
    assert_eq!(&said, b"still\n");
    kept.does(&["rm", "-f", "parent", copy]);
}

#[test]
fn further_processes_lose_their_client() {
    let Some(kept) = Kept::find() else { return };
    kept.detach(&["--name", "parent", "-m", "128m"], "echo ready; sleep 600");
    kept.waits_for("parent", "ready");
    // A shell whose child is hung up complains, to nobody who hears it then.
    let script =
        "exec 2>/dev/null; trap 'echo hup > /hup; exit' HUP; echo up; while :; do sleep 0.1; done";
    let words = ["exec", "parent", "sh", "-c", script];
    let input = crate::support::process::Input::Nothing;
    let further = crate::support::process::Running::start(&mut kept.command(&words), input);
    further.wait_for("up\n");
    kept.does(&["snapshot", "one", "parent"]);
    kept.does(&["restore", "-d", "--name", "copy", "one"]);
    let hup = |machine| kept.asks(machine, "cat /hup 2>/dev/null || true");
    assert!(eventually(|| hup("copy") == "hup\n"));
    assert_eq!(hup("parent"), "");
    kept.does(&["rm", "-f", "parent", "copy"]);
    further.finish();
}

#[test]
fn groups_of_the_images_own_stand_still_too_and_stay_as_they_were() {
    let Some(kept) = Kept::find() else { return };
    let script = "cd /sys/fs/cgroup; busybox mkdir mine cold; \
        sh -c 'echo 0 > mine/cgroup.procs; while :; do echo >> /count; done' & \
        sh -c 'echo 0 > cold/cgroup.procs; exec sleep 600' & sleep 0.5; \
        echo 1 > cold/cgroup.freeze; echo ready; sleep 600";
    kept.detach(&["--name", "parent", "-m", "128m"], script);
    kept.waits_for("parent", "ready");
    for machine in ["parent", "copy"] {
        if machine == "copy" {
            kept.does(&["snapshot", "one", "parent"]);
            kept.does(&["restore", "-d", "--name", "copy", "one"]);
        }
        let frozen = kept.asks(
            machine,
            "cd /sys/fs/cgroup; cat mine/cgroup.freeze cold/cgroup.freeze husk/cgroup.freeze",
        );
        assert_eq!(frozen, "0\n1\n0\n", "{machine}");
        let before = kept.asks(machine, "wc -c < /count");
        assert!(eventually(|| kept.asks(machine, "wc -c < /count") != before));
    }
    assert_eq!(
        kept.asks("parent", "cat /sys/fs/cgroup/cold/cgroup.freeze"),
        "1\n"
    );
    kept.does(&["rm", "-f", "parent", "copy"]);
}

#[test]
fn a_process_that_cannot_be_stopped_is_named_and_all_goes_on() {
    let Some(kept) = Kept::find() else { return };
    let script = format!("echo $$ > /sys/fs/cgroup/cgroup.procs; echo $$ > /pid; {COUNTS}");
    kept.detach(&["--name", "parent", "-m", "128m"], &script);
    kept.waits_for("parent", "began");
    let pid = kept.asks("parent", "cat /pid");
    let refused = kept.husk(&["snapshot", "one", "parent"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let why = format!(
        "process {} was moved into the root control group",
        pid.trim()
    );
    assert!(refused.stderr.contains(&why), "{refused:?}");
    let before = kept.asks("parent", "wc -c < /count");
    assert!(eventually(
        || kept.asks("parent", "wc -c < /count") != before
    ));
    // Where it can be stopped, it is.
    kept.asks("parent", "cat /pid > /sys/fs/cgroup/husk/cgroup.procs");
    kept.does(&["snapshot", "one", "parent"]);
    kept.does(&["rm", "-f", "parent"]);
}

#[test]
fn a_root_that_takes_no_writes_has_new_names_too() {
    let Some(kept) = Kept::find() else { return };
    let options = ["--name", "parent", "--read-only", "-m", "128m"];
    kept.detach(&options, "echo ready; sleep 600");
    kept.waits_for("parent", "ready");
    kept.does(&["snapshot", "one", "parent"]);
    kept.does(&[
        "restore",
        "-d",
        "--name",
        "copy",
        "--hostname",
        "other",
        "one",
    ]);
    let said = kept.asks("copy", "hostname; cat /etc/hostname /etc/hosts");
    assert!(
        said.starts_with("other\nother\n127.0.0.1\tlocalhost other\n"),
        "{said}"
    );
    // And once more.
    kept.does(&["snapshot", "two", "copy"]);
    kept.does(&[
        "restore",
        "-d",
        "--name",
        "third",
        "--hostname",
        "third",
        "two",
    ]);
    let said = kept.asks("third", "hostname; cat /etc/hosts /dev/husk/generation");
    assert!(
        said.starts_with("third\n127.0.0.1\tlocalhost third\n"),
        "{said}"
    );
    assert!(
        said.lines()
            .last()
            .is_some_and(|line| line.starts_with("2 ")),
        "{said}"
    );
    kept.does(&["rm", "-f", "parent", "copy", "third"]);
}

#[test]
fn every_processor_of_a_copy_has_random_numbers_of_its_own() {
    for cpus in ["2", "4"] {
        let Some(kept) = Kept::find() else { return };
        let options = ["--name", "parent", "-m", "128m", "-c", cpus];
        kept.detach(&options, "echo ready; sleep 600");
        kept.waits_for("parent", "ready");
        // So that each has a generator that was seeded before.
        let draws = format!(
            "for cpu in $(busybox seq 0 $(({cpus} - 1))); do busybox taskset -c $cpu \
             busybox od -An -tx8 -N16 /dev/urandom; done; cat /dev/husk/generation; nproc"
        );
        let count: usize = cpus.parse().expect("a number");
        let mut seen = std::collections::BTreeSet::new();
        kept.asks("parent", &draws);
        kept.does(&["snapshot", "one", "parent"]);
        kept.does(&["restore", "-d", "--name", "copy-1", "one"]);
        kept.does(&["fork", "-n", "2", "--name", "copy-2", "parent"]);
        for name in ["parent", "copy-1", "copy-2-1", "copy-2-2"] {
            let said = kept.asks(name, &draws);
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(lines.len(), count + 2, "{said}");
            assert_eq!(lines[count + 1], cpus, "{said}");
            for line in &lines[..=count] {
                assert!(seen.insert((*line).to_owned()), "{line} came twice");
            }
        }
        kept.does(&["rm", "-f", "parent", "copy-1", "copy-2-1", "copy-2-2"]);
    }
}
