// SPDX-License-Identifier: Apache-2.0
//! Starts that go on from a template: what they share with it, and what they must not.

use crate::support::finish;
use crate::support::husk::{Host, Husk};
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
