// SPDX-License-Identifier: Apache-2.0
//! Restores, one after the other: machines of one, two and four processors that work as hard
//! as they can, directories they hold, and a host on which nothing gathers.

use super::snapshots::Kept;
use crate::support::husk::{Host, Husk};
use crate::support::leftovers::eventually;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Restores in a row; `HUSK_TEST_RESTORES` names another number.
const RESTORES: usize = 24;

fn count() -> usize {
    let named = std::env::var("HUSK_TEST_RESTORES").ok();
    named.map_or(RESTORES, |text| text.parse().expect("a number"))
}

fn descriptors() -> usize {
    let list = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    list.count()
}

/// All below, with lengths: a template that grew or was made anew would show.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut list = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let (path, meta) = (entry.path(), entry.metadata().expect("an entry"));
        match meta.is_dir() {
            true => list.extend(files(&path)),
            false => list.push((path, meta.len())),
        }
    }
    list.sort();
    list
}

/// With so many processors; what it says is that they all work.
fn worker(host: &Host, cpus: usize, script: &str) -> Husk {
    let husk = host.sh(&format!("nproc && {script}"));
    husk.options(&["-c", &cpus.to_string(), "-m", "128m"])
}

#[track_caller]
fn works(husk: Husk, cpus: usize, said: &str) {
    let ended = husk.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    let text = ended.text();
    let (first, rest) = text.split_once('\n').expect("lines");
    assert_eq!(first, cpus.to_string(), "{text}");
    assert!(rest.contains(said), "{text}");
}

#[test]
fn restores_in_a_row_never_fail_and_nothing_gathers() {
    let Some(host) = Host::find() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let all = [1, 2, 4];
    let start = |cpus: usize| {
        let husk = worker(&host, cpus, "husk-probe threads 4 200");
        works(
            husk.cache(cache.path().to_owned()),
            cpus,
            "4 threads added 200 each",
        );
    };
    // Makes the templates, and what else is made once.
    all.into_iter().for_each(start);
    let templates = cache.path().join("templates");
    let (before, open) = (files(&templates), descriptors());
    for round in 0..count() {
        start(all[round % all.len()]);
    }
    assert!(files(&templates) == before, "templates stay as they are");
    // Other tests' files come and go meanwhile; a leak is one for each restore.
    let gathered = descriptors().saturating_sub(open);
    assert!(gathered < count().max(8), "{gathered} descriptors");
}

#[test]
fn locks_clocks_and_vectors_hold_on_restored_processors() {
    let Some(host) = Host::find() else { return };
    for cpus in [1, 2, 4] {
        let husk = worker(&host, cpus, "husk-probe torture 500");
        works(husk, cpus, "threads held through");
        let script = "husk-probe vectors 4 40 && husk-probe signals 20 && husk-probe epoll";
        works(worker(&host, cpus, script), cpus, "20 signals");
    }
}

/// Ended well, and said so.
#[track_caller]
fn ended(kept: &Kept, machine: &str, said: &str) {
    let waited = kept.husk(&["wait", machine]);
    let log = kept.log(machine);
    assert_eq!(
        (waited.code, waited.stdout.trim()),
        (0, "0"),
        "{machine}: {log}{waited:?}"
    );
    assert!(log.contains(said), "{machine}: {log}");
}

#[test]
fn torture_under_way_goes_on_in_the_machine_its_snapshot_and_its_forks() {
    let Some(kept) = Kept::find() else { return };
    for cpus in ["1", "2", "4"] {
        let name = format!("tortured-{cpus}");
        let options = ["--name", &name, "-c", cpus, "-m", "128m"];
        // Tortured until its own machine is told to be done, however long all this takes.
        let script = "echo began; until [ -e /go ]; do husk-probe torture 1000 || exit 1; done; \
            echo held";
        kept.detach(&options, script);
        assert!(eventually(|| kept.log(&name).contains("began")));
        kept.does(&["snapshot", &name, &name]);
        let copies = kept.does(&["fork", "-n", "2", &name]);
        let restored = kept.does(&["restore", "-d", &name]);
        let again = kept.does(&["restore", "-d", &name]);
        let machines = copies
            .lines()
            .chain([restored.trim_end(), &name, again.trim_end()]);
        for machine in machines {
            // At least what was under way, and one more.
            let rounds = || kept.log(machine).matches("threads held through").count();
            assert!(
                eventually(|| rounds() > 1),
                "{machine}: {}",
                kept.log(machine)
            );
            // What it brings about may be the machine's end under it.
            let told = kept.husk(&["exec", machine, "touch", "/go"]);
            let cut = told.stderr == "husk: the machine ended before the command did\n";
            assert!(told.code == 0 || cut, "{told:?}");
            ended(&kept, machine, "held\n");
        }
    }
}

#[test]
fn a_restored_machine_holds_the_files_of_a_directory_that_it_held() {
    let Some(kept) = Kept::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(path("sub")).expect("a folder");
    for (name, text) in [
        ("kept", "as it was\n"),
        ("gone", "not for long\n"),
        ("sub/inner", "inner\n"),
    ] {
        std::fs::write(path(name), text).expect("a file");
    }
    let script = "cd /share/sub; exec 3</share/kept 4</share/gone 5>>/share/written; echo ready; \
        until [ -e /go ]; do sleep 0.1; done; \
        cat <&3; cat <&4 || echo stale; echo $(hostname) >&5; cat inner; echo done; sleep 600";
    let volume = format!("{}:/share", folder.path().display());
    let options = ["--name", "shared", "-m", "128m", "-v", &volume];
    kept.detach(&options, script);
    assert!(eventually(|| kept.log("shared").contains("ready")));
    kept.does(&["snapshot", "holding", "shared"]);
    std::fs::remove_file(path("gone")).expect("there");
    kept.does(&["restore", "-d", "--name", "other", "holding"]);
    for (name, gone) in [("other", "stale"), ("shared", "not for long")] {
        kept.does(&["exec", name, "touch", "/go"]);
        assert!(
            eventually(|| kept.log(name).contains("done")),
            "{}",
            kept.log(name)
        );
        let log = kept.log(name);
        assert!(log.contains("as it was\n"), "{log}");
        assert!(log.contains(gone) && log.contains("inner\n"), "{log}");
        // Each by its own name, and both where they had opened it: a guest appends by itself.
        let written = std::fs::read_to_string(path("written")).expect("there");
        assert!(written.starts_with(name), "{written}");
    }
    kept.does(&["rm", "-f", "shared", "other"]);
}

/// Descriptors of a machine's owner and of its own process.
fn held(kept: &Kept, machine: &str) -> Vec<usize> {
    let said = kept.does(&["inspect", machine]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let count = |name: &str| {
        let pid = said[0]["state"][name].as_i64().expect("a pid");
        let list = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
        list.count()
    };
    ["owner_pid", "machine_pid"].map(count).to_vec()
}

#[test]
fn a_machine_that_is_forked_again_and_again_keeps_nothing_of_it() {
    let Some(kept) = Kept::find() else { return };
    let script = "i=0; while :; do i=$((i+1)); echo count $i; sleep 0.2; done";
    kept.detach(&["--name", "parent", "-m", "128m", "-c", "2"], script);
    kept.goes_on("parent");
    let mut first = None;
    for _ in 0..count().div_ceil(4) {
        let copies = kept.does(&["fork", "-n", "2", "parent"]);
        let words: Vec<&str> = ["rm", "-f"].into_iter().chain(copies.lines()).collect();
        kept.does(&words);
        // A connection that is just ending is none that stays.
        let first = first.get_or_insert_with(|| held(&kept, "parent"));
        let mut now = Vec::new();
        let stays = || {
            now = held(&kept, "parent");
            now.iter().zip(&*first).all(|(now, first)| now <= first)
        };
        assert!(eventually(stays), "{first:?} {now:?}");
    }
    kept.goes_on("parent");
    kept.does(&["rm", "-f", "parent"]);
}
