// SPDX-License-Identifier: Apache-2.0
//! Restores, one after the other: machines of one, two and four processors that work as hard
//! as they can, and a host on which nothing gathers.

use crate::support::husk::{Host, Husk};
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
