// SPDX-License-Identifier: Apache-2.0
//! Starts that go on from a template: what they share with it, and what they must not.

use crate::support::daily::Daily;
use crate::support::husk::{Host, Husk};
use crate::support::kernels::{self, HALTS};
use crate::support::leftovers::{self, eventually};
use crate::support::{finish, ports};
use ::husk::image::Digest;
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What no two machines may have alike, and a line for what they share.
const SELF: &str = "cat /proc/sys/kernel/random/uuid; busybox od -An -tx8 -N32 /dev/urandom; \
    busybox mktemp -u; echo same";

fn templates(cache: &Path) -> Vec<PathBuf> {
    let Ok(list) = std::fs::read_dir(cache.join("templates")) else {
        return Vec::new();
    };
    let list = list.map(|entry| entry.expect("an entry").path());
    list.filter(|path| path.is_dir()).collect()
}

/// The names of a start's steps.
fn steps(husk: Husk) -> Vec<String> {
    let ended = husk.options(&["--trace=json"]).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    let line = ended.stderr.lines().last().expect("a trace");
    let trace: Value = serde_json::from_str(line).expect("JSON");
    let marks = trace["marks"].as_array().expect("marks").iter();
    marks
        .map(|mark| mark["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn verb(cache: &Path, words: &[&str]) -> crate::support::Outcome {
    let mut husk = crate::support::husk();
    finish(
        husk.env("HUSK_CACHE_DIR", cache)
            .arg("template")
            .args(words),
    )
}

#[test]
fn starts_after_the_first_go_on_from_its_template_and_share_no_future() {
    let Some(host) = Host::find() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let start = || host.sh(SELF).cache(cache.path().to_owned());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let text = start().end().text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(lines[4], "same");
        for line in &lines[..4] {
            assert!(seen.insert((*line).to_owned()), "{line} came twice");
        }
    }
    assert_eq!(templates(cache.path()).len(), 1);
    let warm = steps(start());
    let has = |steps: &[String], name: &str| steps.iter().any(|step| step == name);
    assert!(has(&warm, "processors restored") && !has(&warm, "kernel loaded"));
    let cold = steps(start().options(&["--cold"]));
    assert!(has(&cold, "kernel loaded") && !has(&cold, "processors restored"));
    // Another shape is another template.
    start().options(&["-c", "2"]).end();
    assert_eq!(templates(cache.path()).len(), 2);
}

#[test]
fn a_template_that_is_not_whole_is_made_anew() {
    let Some(host) = Host::find() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let start = || host.sh("echo up").cache(cache.path().to_owned());
    start().end().is(0, "up\n", "");
    let template = templates(cache.path()).remove(0);
    let state = template.join("state");
    let whole = std::fs::read(&state).expect("a state");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let cut = &whole[..whole.len() - 1];
    for broken in [&flipped[..], cut, &[]] {
        std::fs::write(&state, broken).expect("written");
        start().end().is(0, "up\n", "");
        let now = std::fs::read(&state).expect("a state");
        assert!(now != broken, "it was made anew");
    }
    for name in ["state", "memory", "seal.json"] {
        std::fs::remove_file(template.join(name)).expect("there");
        start().end().is(0, "up\n", "");
    }
    let memory = std::fs::File::options()
        .write(true)
        .open(template.join("memory"));
    memory.expect("there").set_len(4096).expect("cut");
    start().end().is(0, "up\n", "");
}

#[test]
fn a_flipped_bit_of_a_templates_memory_is_found() {
    let Some(host) = Host::find() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let start = || host.sh("echo up").cache(cache.path().to_owned());
    start().end().is(0, "up\n", "");
    let path = templates(cache.path()).remove(0).join("memory");
    let inode = || path.metadata().expect("a memory").ino();
    let first = inode();
    let memory = File::options().read(true).write(true).open(&path);
    let memory = memory.expect("there");
    // Another time alone is no other memory: it is read, once, and found the same.
    memory.set_modified(SystemTime::UNIX_EPOCH).expect("mine");
    for _ in 0..2 {
        start().end().is(0, "up\n", "");
        assert_eq!(inode(), first);
    }
    let mut byte = [0];
    memory.read_exact_at(&mut byte, 300 << 20).expect("memory");
    memory
        .write_all_at(&[byte[0] ^ 4], 300 << 20)
        .expect("written");
    start().end().is(0, "up\n", "");
    assert_ne!(inode(), first, "it was made anew");
}

#[test]
fn templates_are_listed_and_removed() {
    let Some(host) = Host::find() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let none = verb(cache.path(), &["ls", "--format", "json"]);
    assert_eq!((none.code, none.stdout.trim()), (0, "[]"), "{none:?}");
    host.sh("true")
        .cache(cache.path().to_owned())
        .end()
        .is(0, "", "");
    let list = verb(cache.path(), &["ls", "--format", "json"]);
    let list: Value = serde_json::from_str(&list.stdout).expect("JSON");
    assert_eq!(list[0]["cpus"], 1);
    assert_eq!(list[0]["memory"], 512 << 20);
    let disk = list[0]["disk"].as_u64().expect("a number");
    assert!(disk > 1 << 20 && disk < 64 << 20, "{disk}");
    let key = list[0]["key"].as_str().expect("a key");
    assert!(verb(cache.path(), &["ls"]).stdout.contains(key));
    let removed = verb(cache.path(), &["rm", key]);
    assert_eq!((removed.code, removed.stderr.as_str()), (0, ""));
    assert!(templates(cache.path()).is_empty());
    for word in [key, "..", "nothing"] {
        let missing = verb(cache.path(), &["rm", word]);
        assert_eq!(missing.code, 1, "{missing:?}");
        assert!(
            missing.stderr.contains("there is no template"),
            "{missing:?}"
        );
    }
}

/// Gives a template another state, and the seal that goes with it: as if it had been made so.
fn forge_state(template: &Path, state: &[u8]) {
    let seal = template.join("seal.json");
    let text = std::fs::read(&seal).expect("a seal");
    let mut sealed: Value = serde_json::from_slice(&text).expect("JSON");
    sealed["state"] = serde_json::to_value(Digest::of(state)).expect("a digest");
    std::fs::write(template.join("state"), state).expect("written");
    std::fs::write(seal, sealed.to_string()).expect("written");
}

/// Gives it a memory in which there is nothing.
fn forge_memory(template: &Path) {
    let path = template.join("memory");
    let length = path.metadata().expect("a memory").len();
    let memory = File::create(&path).expect("mine");
    memory.set_len(length).expect("room");
    let meta = memory.metadata().expect("there");
    let seal = template.join("seal.json");
    let text = std::fs::read(&seal).expect("a seal");
    let mut sealed: Value = serde_json::from_slice(&text).expect("JSON");
    sealed["stamp"] = serde_json::json!({
        "device": meta.dev(),
        "inode": meta.ino(),
        "length": meta.len(),
        "modified": [meta.mtime(), meta.mtime_nsec()],
        "changed": [meta.ctime(), meta.ctime_nsec()],
    });
    std::fs::write(seal, sealed.to_string()).expect("written");
}

/// What a whole template is that no machine can begin with.
fn spoil(cache: &Path, how: usize) {
    let template = templates(cache).remove(0);
    match how {
        0 => forge_memory(&template),
        _ => {
            let state = std::fs::read(template.join("state")).expect("a state");
            forge_state(&template, &state[..state.len() / 2]);
        }
    }
}

#[test]
fn a_run_whose_template_is_no_good_is_booted_and_the_template_discarded() {
    let Some(host) = Host::find() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    // What is typed is still there for the second.
    let start = |options: &[&str]| {
        let input = crate::support::process::Input::Bytes(b"typed\n".to_vec());
        let husk = host.sh("cat").input(input).options(&["-i"]);
        husk.options(options).cache(cache.path().to_owned()).end()
    };
    start(&[]).is(0, "typed\n", "");
    for how in 0..2 {
        spoil(cache.path(), how);
        let ended = start(&[]);
        assert_eq!((ended.code, ended.text().as_str()), (0, "typed\n"));
        let said: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(said.len(), 1, "{ended:?}");
        let line = "husk: the guest is booted, its template is discarded: ";
        assert!(said[0].starts_with(line), "{ended:?}");
        assert!(templates(cache.path()).is_empty(), "it is discarded");
        // And made anew by the next.
        start(&[]).is(0, "typed\n", "");
        assert_eq!(templates(cache.path()).len(), 1);
    }
    spoil(cache.path(), 1);
    start(&["--quiet"]).is(0, "typed\n", "");
    // A start that fails for what it is asked to do has nothing to do with its template.
    start(&[]).is(0, "typed\n", "");
    let missing = host.run(&["/none"]).cache(cache.path().to_owned()).end();
    assert_eq!(missing.code, 127, "{missing:?}");
    assert_eq!(templates(cache.path()).len(), 1);
}

#[test]
fn a_detached_run_whose_template_is_no_good_is_booted() {
    let Some(daily) = Daily::find() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let volume = tempfile::tempdir().expect("a folder");
    let volume = format!("{}:/kept", volume.path().display());
    let port = ports::free_port();
    let publish = format!("{port}:80");
    let options = ["-d", "--name", "one", "-v", &volume, "-p", &publish];
    let words = daily.words(&options, "echo up; sleep 600");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = || finish(daily.command(&words).env("HUSK_CACHE_DIR", cache.path()));
    let first = run();
    assert_eq!((first.code, first.stderr.as_str()), (0, ""), "{first:?}");
    daily.does(&["rm", "-f", "one"]);
    for how in 0..2 {
        spoil(cache.path(), how);
        // Its name, its directory and its port are free for the second machine.
        let ended = run();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains("template is discarded"), "{ended:?}");
        assert!(templates(cache.path()).is_empty());
        assert_eq!(daily.does(&["ps", "-aq"]).lines().count(), 1);
        daily.wait_for("one", "up");
        daily.does(&["rm", "-f", "one"]);
        assert!(daily.left().is_empty(), "{:?}", daily.left());
        run();
        daily.does(&["rm", "-f", "one"]);
    }
}

#[test]
fn who_makes_one_template_does_not_wait_for_another() {
    let Some(host) = Host::find() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = folder.path().join("kernel");
    kernels::write(&kernel, &HALTS);
    let stuck = host.run(&["true"]).kernel(&kernel);
    let stuck = stuck.cache(cache.path().to_owned()).start();
    let list = || templates(cache.path());
    let being_made = || list().iter().any(|path| path.join("state").exists());
    assert!(eventually(being_made));
    let making = list().remove(0);
    host.sh("echo up")
        .cache(cache.path().to_owned())
        .end()
        .is(0, "up\n", "");
    assert!(making.join("state").exists(), "nobody took it away");
    assert_eq!(list().len(), 2);
    stuck.running.signal(nix::sys::signal::Signal::SIGKILL);
    let _ = stuck.running.finish();
    // What it left goes with the next that is made.
    let other = host.sh("echo up").options(&["-c", "2"]);
    other.cache(cache.path().to_owned()).end().is(0, "up\n", "");
    assert!(!making.exists());
    let locks = leftovers::files(&cache.path().join("templates"));
    let locks = locks
        .iter()
        .filter(|path| path.to_string_lossy().contains("/lock-"));
    assert_eq!(locks.count(), 0);
}
