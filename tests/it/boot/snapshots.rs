// SPDX-License-Identifier: Apache-2.0
//! Running machines that are saved, restored and forked: what goes on, what is shared, and
//! what must not be.

use crate::support::daily::Daily;
use crate::support::leftovers::eventually;
use crate::support::process::Input;
use serde_json::Value;
use std::collections::BTreeSet;

/// Counts in its memory, where a file says to go on; says who it is.
const COUNTS: &str = "i=0; echo began; while :; do i=$((i+1)); echo count $i; sleep 0.2; done";

/// Snapshots of a test, in a folder of its own.
pub(super) struct Kept {
    pub(super) daily: Daily,
    data: tempfile::TempDir,
}

impl Kept {
    pub(super) fn find() -> Option<Self> {
        Some(Self {
            daily: Daily::find()?,
            data: tempfile::tempdir().expect("a folder"),
        })
    }

    pub(super) fn command(&self, words: &[&str]) -> std::process::Command {
        let mut command = self.daily.command(words);
        command.env("HUSK_DATA_DIR", self.data.path());
        command
    }

    pub(super) fn husk(&self, words: &[&str]) -> crate::support::Outcome {
        crate::support::finish(&mut self.command(words))
    }

    /// What it says; it must do what it is asked.
    #[track_caller]
    pub(super) fn does(&self, words: &[&str]) -> String {
        let outcome = self.husk(words);
        assert_eq!((outcome.code, &*outcome.stderr), (0, ""), "{outcome:?}");
        outcome.stdout
    }

    #[track_caller]
    pub(super) fn detach(&self, options: &[&str], script: &str) -> String {
        let words = self.daily.words(&[&["-d"], options].concat(), script);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.does(&words).trim_end().to_owned()
    }

    /// The folder of one.
    pub(super) fn snapshot(&self, name: &str) -> std::path::PathBuf {
        self.data.path().join("snapshots").join(name)
    }

    pub(super) fn log(&self, machine: &str) -> String {
        self.husk(&["logs", machine]).stdout
    }

    /// The last number it counted to.
    fn count(&self, machine: &str) -> u32 {
        let log = self.log(machine);
        let last = log
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("count "));
        last.map_or(0, |number| number.parse().expect("a number"))
    }

    #[track_caller]
    pub(super) fn goes_on(&self, machine: &str) {
        let before = self.count(machine);
        assert!(
            eventually(|| self.count(machine) > before + 2),
            "{machine} stands still at {before}: {}",
            self.log(machine)
        );
    }
}

#[test]
fn a_machine_goes_on_after_its_snapshot_and_another_from_it() {
    let Some(kept) = Kept::find() else { return };
    for cpus in ["1", "2", "4"] {
        let name = format!("m{cpus}");
        kept.detach(&["--name", &name, "-c", cpus, "-m", "128m"], COUNTS);
        assert!(eventually(|| kept.count(&name) > 3));
        // The machine counts on while its memory is written, for as long as that takes.
        let before = kept.count(&name);
        let told = kept.does(&["snapshot", "--format", "json", &name, &name]);
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert!(told["paused"].as_u64().is_some_and(|paused| paused > 0));
        kept.goes_on(&name);
        let copy = kept.does(&["restore", "-d", "--name", &format!("{name}-copy"), &name]);
        let copy = copy.trim_end();
        kept.goes_on(copy);
        // From where it was saved, and not from the beginning.
        let log = kept.log(copy);
        let first = log.lines().find_map(|line| line.strip_prefix("count "));
        let first: u32 = first.expect("it counts").parse().expect("a number");
        assert!(!log.contains("began") && first > before, "{first} {before}");
        kept.goes_on(&name);
        // What the first one wrote to is there at once for those that come later.
        let shown = kept
            .data
            .path()
            .join("snapshots")
            .join(&name)
            .join("working-set");
        assert!(eventually(|| shown.exists()), "{}", shown.display());
        let other = kept.does(&["restore", "-d", &name]);
        kept.goes_on(other.trim_end());
        kept.does(&["rm", "-f", &name, copy, other.trim_end()]);
    }
}

#[test]
fn copies_are_machines_of_their_own() {
    let Some(kept) = Kept::find() else { return };
    kept.detach(&["--name", "parent", "-m", "128m"], COUNTS);
    assert!(eventually(|| kept.count("parent") > 1));
    let ids = kept.does(&["fork", "-n", "3", "--name", "copy", "parent"]);
    assert_eq!(ids.lines().count(), 3, "{ids}");
    kept.goes_on("parent");
    let mut seen = BTreeSet::new();
    for name in ["parent", "copy-1", "copy-2", "copy-3"] {
        kept.goes_on(name);
        let said = kept.does(&[
            "exec",
            name,
            "sh",
            "-c",
            "hostname; cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; \
             busybox od -An -tx8 -N16 /dev/urandom",
        ]);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 4, "{said}");
        for line in lines {
            assert!(seen.insert(line.to_owned()), "{line} came twice");
        }
    }
    // Each ends for itself.
    kept.does(&["rm", "-f", "copy-2"]);
    kept.goes_on("parent");
    kept.goes_on("copy-3");
    let left = kept.husk(&["ps", "-q"]).stdout;
    assert_eq!(left.lines().count(), 3, "{left}");
    // One that is not there keeps nobody from removing the others.
    let removed = kept.husk(&["rm", "-f", "parent", "nobody", "copy-1", "copy-3"]);
    assert_eq!(removed.stdout, "parent\ncopy-1\ncopy-3\n");
    assert!(
        removed.code == 1 && removed.stderr.contains("'nobody'"),
        "{removed:?}"
    );
    assert_eq!(kept.husk(&["ps", "-aq"]).stdout, "");
}

#[test]
fn a_machine_that_is_stopped_by_its_snapshot_goes_on_as_another() {
    let Some(kept) = Kept::find() else { return };
    kept.detach(&["--name", "one", "-m", "128m"], COUNTS);
    assert!(eventually(|| kept.count("one") > 3));
    kept.does(&["snapshot", "--stop", "ready", "one"]);
    assert_eq!(kept.husk(&["ps", "-q"]).stdout, "");
    let last = kept.count("one");
    let mut running = crate::support::process::Running::start(
        &mut kept.command(&["restore", "--quiet", "ready"]),
        Input::Nothing,
    );
    running.wait_for(&format!("count {}\n", last + 3));
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.signal(nix::sys::signal::Signal::SIGTERM);
    let _ = &mut running;
    let ended = running.finish();
    assert!(!ended.text().contains("began"), "{ended:?}");
    // What is there is listed, and its name is not taken twice.
    let list = kept.does(&["snapshots"]);
    assert!(list.contains("ready") && list.contains("128"), "{list}");
    let again = kept.husk(&["snapshot", "ready", "one"]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.stderr.contains("there is a snapshot 'ready' already"));
}

#[test]
fn disks_are_as_they_were_and_each_machine_has_its_own() {
    let Some(kept) = Kept::find() else { return };
    let script = "echo old > /data/file; echo there > /root-file; sync; echo ready; \
        until [ -e /go ]; do sleep 0.1; done; cat /data/file /root-file; sleep 600";
    let options = [
        "--name",
        "disks",
        "-v",
        "vol:/data",
        "--disk-size",
        "256m",
        "-m",
        "128m",
    ];
    kept.detach(&options, script);
    assert!(eventually(|| kept.log("disks").contains("ready")));
    kept.does(&["snapshot", "with-disks", "disks"]);
    kept.does(&["exec", "disks", "sh", "-c", "echo new > /data/file; sync"]);
    for name in ["a", "b"] {
        kept.does(&["restore", "-d", "--name", name, "with-disks"]);
        kept.does(&[
            "exec",
            name,
            "sh",
            "-c",
            &format!("echo {name} >> /data/file; touch /go"),
        ]);
        let expected = format!("ready\nold\n{name}\nthere\n");
        assert!(
            eventually(|| kept.log(name).ends_with(&expected[6..])),
            "{}",
            kept.log(name)
        );
    }
    kept.does(&["exec", "disks", "touch", "/go"]);
    assert!(eventually(|| kept.log("disks").ends_with("new\nthere\n")));
    kept.does(&["rm", "-f", "disks", "a", "b"]);
}

/// What a service wrote and never had synced is in its memory, which goes into the snapshot; a
/// volume belongs to whoever mounts it next.
#[test]
fn a_volume_has_what_was_written_before_its_machine_was_stopped_by_a_snapshot() {
    let Some(kept) = Kept::find() else { return };
    let script = "echo written > /data/row; echo ready; exec sleep 600";
    kept.detach(&["--name", "db", "-v", "vol:/data", "-m", "128m"], script);
    assert!(eventually(|| kept.log("db").contains("ready")));
    kept.does(&["snapshot", "--stop", "stopped", "db"]);
    let words = kept
        .daily
        .words(&["--rm", "-v", "vol:/data"], "cat /data/row");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(kept.does(&words), "written\n");
}

#[test]
fn changes_alone_are_kept_in_chains_and_a_chain_is_made_flat() {
    let Some(kept) = Kept::find() else { return };
    kept.detach(&["--name", "one", "-m", "128m"], COUNTS);
    assert!(eventually(|| kept.count("one") > 3));
    kept.does(&["snapshot", "--stop", "first", "one"]);
    let mut parent = "first".to_owned();
    for generation in 1..4 {
        let name = format!("next-{generation}");
        kept.does(&["restore", "-d", "--name", &name, &parent]);
        kept.goes_on(&name);
        kept.does(&["snapshot", "--diff", "--stop", &name, &name]);
        parent = name;
    }
    let size = |name: &str| {
        let list: Value =
            serde_json::from_str(&kept.does(&["snapshots", "--format", "json"])).expect("JSON");
        let list = list.as_array().expect("a list").clone();
        let found = list.iter().find(|entry| entry["name"] == name).cloned();
        found.expect("it is listed")["size"]
            .as_u64()
            .expect("a size")
    };
    assert!(
        size("next-3") * 2 < size("first"),
        "{} {}",
        size("next-3"),
        size("first")
    );
    let refused = kept.husk(&["snapshot", "rm", "first"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    kept.does(&["restore", "-d", "--name", "chained", "next-3"]);
    kept.goes_on("chained");
    kept.does(&["snapshot", "flatten", "next-3"]);
    kept.does(&["snapshot", "rm", "next-1", "next-2", "first"]);
    kept.does(&["restore", "-d", "--name", "flat", "next-3"]);
    kept.goes_on("flat");
    kept.goes_on("chained");
    kept.does(&["rm", "-f", "chained", "flat"]);
}

#[test]
fn published_ports_lead_to_each_machine_for_itself() {
    let Some(kept) = Kept::find() else { return };
    let port = crate::support::ports::free_port();
    let publish = format!("{port}:80");
    let script = "mkdir /www; cp /etc/motd /www/index.html; busybox httpd -f -p 80 -h /www";
    kept.detach(&["--name", "web", "-m", "128m", "-p", &publish], script);
    let get = |port: u64| {
        use std::io::{Read as _, Write as _};
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", u16::try_from(port).ok()?)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.contains("as it was").then_some(())
    };
    assert!(eventually(|| get(port.into()).is_some()));
    let ids = kept.does(&["fork", "-n", "2", "web"]);
    for id in ids.lines() {
        let text = kept.does(&["inspect", id]);
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let own = list[0]["ports"][0]["host"].as_u64().expect("a port");
        assert_ne!(own, u64::from(port));
        assert!(eventually(|| get(own).is_some()), "{text}");
    }
    assert!(get(port.into()).is_some());
}
