// SPDX-License-Identifier: Apache-2.0
//! Named volumes: what is on them stays, through the guest's end and a machine's violent one.

use crate::support::husk::{Host, Husk};
use crate::support::{self, Outcome};
use nix::sys::signal::Signal;
use std::path::PathBuf;

/// A data folder of the test's own.
pub struct Data(tempfile::TempDir);

impl Data {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub fn sh(&self, host: &Host, script: &str) -> Husk {
        let path = self.0.path().to_str().expect("a path");
        host.sh(script).env("HUSK_DATA_DIR", path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("volumes/{name}.img"))
    }

    fn volume(&self, args: &[&str]) -> Outcome {
        let mut command = support::husk();
        command.env("HUSK_DATA_DIR", self.0.path()).arg("volume");
        support::finish(command.args(args))
    }
}

#[test]
fn a_volume_is_free_when_its_machine_is_said_to_be_over() {
    let Some(host) = Host::find() else { return };
    let data = Data::new();
    for round in 0..5 {
        let script = "cat /d/row 2>/dev/null; echo again > /d/row";
        let expected = if round == 0 { "" } else { "again\n" };
        let ended = data.sh(&host, script).options(&["-v", "pg:/d"]).end();
        ended.is(0, expected, "");
        let list = data.volume(&["ls", "--format", "json"]);
        let list: serde_json::Value = serde_json::from_str(&list.stdout).expect("JSON");
        assert_eq!(list[0]["in_use"], false, "{list}");
    }
    let removed = data.volume(&["rm", "pg"]);
    assert_eq!(removed.code, 0, "{removed:?}");
}

#[test]
fn a_volume_keeps_what_was_written() {
    let Some(host) = Host::find() else { return };
    let data = Data::new();
    let volume = ["-v", "pg:/var/lib/pg"];
    let write = "ls -a /var/lib/pg | wc -l; echo kept > /var/lib/pg/row";
    data.sh(&host, write)
        .options(&volume)
        .end()
        .is(0, "2\n", "");
    let read = "cat /var/lib/pg/row; df /var/lib/pg | busybox tail -n1 | cut -d' ' -f1";
    data.sh(&host, read)
        .options(&volume)
        .end()
        .is(0, "kept\n/dev/vdb\n", "");
    let locked = "cat /d/row; echo no > /d/row; echo $?";
    let ended = data.sh(&host, locked).options(&["-v", "pg:/d:ro"]).end();
    assert_eq!((ended.code, &*ended.text()), (0, "kept\n1\n"), "{ended:?}");
    // A disk that was put away in order needs no repair.
    let path = std::env::var("PATH").unwrap_or_default();
    let check = std::process::Command::new("e2fsck")
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .arg("-fn")
        .arg(data.path("pg"))
        .output();
    let check = check.expect("e2fsprogs is installed");
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn what_was_synced_survives_a_machine_that_is_killed() {
    let Some(host) = Host::find() else { return };
    let data = Data::new();
    let script = "for n in 1 2 3; do echo $n >> /d/log; sync; done; echo synced; \
        while :; do echo more >> /d/noise; done";
    let started = data.sh(&host, script).options(&["-v", "db:/d"]).start();
    started.running.wait_for("synced\n");
    // Who else wants to write has to wait for its end.
    let second = data.sh(&host, "true").options(&["-v", "db:/d"]).end();
    assert_eq!(second.code, 125, "{second:?}");
    assert!(
        second.stderr.contains("volume 'db' is in use"),
        "{second:?}"
    );
    started.running.signal(Signal::SIGKILL);
    started.running.finish();
    let ended = data.sh(&host, "cat /d/log").options(&["-v", "db:/d"]).end();
    ended.is(0, "1\n2\n3\n", "");
}

#[test]
fn memory_can_be_mounted_and_has_a_limit() {
    let Some(host) = Host::find() else { return };
    let script = "dd if=/dev/zero of=/t/a/x bs=1M count=5 2>/dev/null; echo $?; wc -c < /t/a/x; \
        touch /y 2>/dev/null; echo $?";
    let options = ["--tmpfs", "/t/a:size=4m", "--read-only"];
    host.sh(script)
        .options(&options)
        .end()
        .is(0, "1\n4194304\n1\n", "");
}

#[test]
fn volumes_are_made_listed_and_removed() {
    let data = Data::new();
    assert_eq!(data.volume(&["ls", "--format", "json"]).stdout, "[]\n");
    let made = data.volume(&["create", "--size", "64m", "one"]);
    assert_eq!((made.code, &*made.stdout), (0, "one\n"), "{made:?}");
    let again = data.volume(&["create", "one"]);
    assert_eq!(
        (again.code, &*again.stderr),
        (1, "husk: there is a volume 'one' already\n")
    );
    let list = data.volume(&["ls"]).stdout;
    assert!(
        list.starts_with("NAME ") && list.contains("64 MiB"),
        "{list}"
    );
    let told: serde_json::Value =
        serde_json::from_str(&data.volume(&["inspect", "one"]).stdout).expect("JSON");
    assert_eq!(
        (&told[0]["size"], &told[0]["in_use"]),
        (&(64 << 20).into(), &false.into())
    );
    for name in ["..", "a/b", ""] {
        assert_eq!(data.volume(&["create", "--", name]).code, 1, "{name}");
    }
    assert_eq!(data.volume(&["create", "--size", "1m", "small"]).code, 1);
    assert_eq!(data.volume(&["rm", "one"]).code, 0);
    let gone = data.volume(&["rm", "one"]);
    assert_eq!(gone.code, 1);
    assert!(gone.stderr.contains("there is no volume 'one'"), "{gone:?}");
}

#[test]
fn what_cannot_be_mounted_is_said_before_anything_starts() {
    let Some(host) = Host::find() else { return };
    let options = [
        "-v",
        "a b:/x",
        "-v",
        "/nowhere",
        "--tmpfs",
        "x",
        "--disk-size",
        "0",
        "--disk-iops",
        "x",
        "-v",
        "d:/same",
        "-v",
        "e:/same/",
    ];
    let ended = host.run(&["true"]).options(&options).end();
    assert_eq!(ended.code, 125, "{ended:?}");
    for part in [
        "--volume a b:/x: not a name for a volume",
        "--volume /nowhere: it does not say where to mount it",
        "--tmpfs x: a path of the guest starts with '/'",
        "--disk-size 0: a disk has 16 MiB to 16 TiB",
        "--disk-iops x: not a number of requests",
        "two things are to be mounted at /same",
    ] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
}
