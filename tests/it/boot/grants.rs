// SPDX-License-Identifier: Apache-2.0
//! Snapshots that came from elsewhere: what they want of this host is said, and given only to
//! those that are granted it.

use super::snapshots::Kept;
use ::husk::image::Digest;
use serde_json::{Value, json};
use std::fs;

#[test]
fn an_imported_snapshot_gets_of_the_host_what_it_is_granted() {
    let Some(kept) = Kept::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).expect("a folder");
    fs::write(shared.join("file"), "of the host\n").expect("room");
    let volume = format!("{}:/shared", shared.display());
    let options = ["--name", "parent", "-m", "128m", "--network", "open"];
    let options = [&options[..], &["-v", &volume]].concat();
    kept.detach(&options, "echo ready; sleep 600");
    kept.daily.wait_for("parent", "ready");
    kept.does(&["snapshot", "own", "parent"]);
    kept.does(&["rm", "-f", "parent"]);
    let file = folder.path().join("stream").display().to_string();
    kept.does(&["snapshot", "export", "own", &file]);
    kept.does(&["snapshot", "import", "--name", "other", &file]);
    // Of this host it needs no leave.
    kept.does(&["restore", "-d", "--name", "copy", "own"]);
    kept.does(&["rm", "-f", "copy"]);

    let wants = format!(
        "the directory {}, to write to; all of the host's network",
        shared.display()
    );
    for detached in [&["-d"][..], &[]] {
        let words = [&["restore"], detached, &["other"]].concat();
        let refused = kept.husk(&words);
        assert_eq!((refused.code, refused.stdout.as_str()), (125, ""));
        let lines: Vec<&str> = refused.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{refused:?}");
        assert!(lines[0].contains("was imported"), "{refused:?}");
        assert!(lines[0].ends_with(&wants), "{refused:?}");
        assert!(lines[1].contains("--grant"), "{refused:?}");
        assert_eq!(kept.does(&["ps", "-aq"]), "");
    }
    kept.does(&["restore", "--grant", "-d", "--name", "copy", "other"]);
    let script = "cat /shared/file; echo of the guest > /shared/new";
    assert_eq!(
        kept.does(&["exec", "copy", "sh", "-c", script]),
        "of the host\n"
    );
    let new = fs::read_to_string(shared.join("new")).expect("there");
    assert_eq!(new, "of the guest\n");
    kept.does(&["rm", "-f", "copy"]);
}

#[test]
fn a_snapshot_that_says_what_no_command_line_takes_is_refused() {
    let Some(kept) = Kept::find() else { return };
    kept.detach(&["--name", "parent", "-m", "128m"], "sleep 600");
    kept.does(&["snapshot", "--stop", "one", "parent"]);
    kept.does(&["rm", "parent"]);
    let folder = kept.snapshot("one");
    let whole = fs::read(folder.join("manifest.json")).expect("a manifest");
    let places = [
        ("/request/storage/iops", json!(0)),
        ("/request/hostname", json!("a b")),
        ("/request/network/mode", json!({"Tap": "../t"})),
        ("/request/timeout/secs", json!(u64::MAX)),
    ];
    for (place, value) in places {
        let mut manifest: Value = serde_json::from_slice(&whole).expect("JSON");
        let found = manifest.pointer_mut(&format!("/blueprint{place}"));
        *found.expect("there") = value;
        let bytes = serde_json::to_vec(&manifest).expect("JSON");
        let digest = Digest::of(&bytes);
        fs::write(folder.join("manifest.json"), bytes).expect("mine");
        fs::write(folder.join("digest"), format!("{digest}\n")).expect("mine");
        let refused = kept.husk(&["restore", "-d", "one"]);
        assert_eq!((refused.code, refused.stdout.as_str()), (125, ""));
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        let what = "husk: snapshot 'one' says of its machine what none has: ";
        assert!(refused.stderr.starts_with(what), "{refused:?}");
        assert_eq!(kept.does(&["ps", "-aq"]), "");
    }
}

#[test]
fn the_serial_port_goes_on_as_it_was() {
    let Some(kept) = Kept::find() else { return };
    kept.detach(&["--name", "parent", "-m", "128m"], "sleep 600");
    kept.does(&["snapshot", "--stop", "one", "parent"]);
    kept.does(&["restore", "-d", "--name", "copy", "one"]);
    kept.does(&["snapshot", "--stop", "two", "copy"]);
    let port = |name: &str| {
        let state = fs::File::open(kept.snapshot(name).join("state")).expect("a state");
        let state = ::husk::machine::MachineState::read(&state);
        state.expect("its own").serial
    };
    assert_eq!(port("one"), port("two"));
    // As the kernel's early console set it: 115200, 8N1.
    assert_eq!((port("two").divisor, port("two").line_control), ([1, 0], 3));
}
