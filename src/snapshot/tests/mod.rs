// SPDX-License-Identifier: Apache-2.0
//! The store with snapshots made by its own hand: what is whole is found, what is not is
//! refused with the reason, and nothing is left behind.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

mod chains;
mod damage;
mod formats;
mod frozen;
mod fuzz;
mod hosts;
mod made;
mod streams;

use super::*;
use made::{Kept, run, state};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

/// Everything in the store's folder; nothing, before there is one.
fn inside(kept: &Kept) -> Vec<String> {
    let entries = fs::read_dir(kept.root()).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// The reason why there is no such snapshot to be had.
fn refused(kept: &Kept, name: &str) -> String {
    kept.store.get(name).unwrap_err().to_string()
}

#[test]
fn a_snapshot_is_kept_found_replaced_and_removed() {
    let kept = Kept::new();
    assert_eq!(kept.store.list().unwrap().len(), 0);
    assert!(!kept.root().exists(), "looking makes nothing");
    assert!(matches!(
        kept.store.get("a"),
        Err(SnapshotError::Missing(name)) if name == "a"
    ));
    let first = kept.whole("a", 1);
    assert_eq!(first.manifest.machine.cpus, 2);
    assert_eq!(first.manifest.machine.devices, [19]);
    assert_eq!(first.manifest.needs.vendor, "GenuineIntel");
    assert_eq!(first.manifest.needs.bound, None);
    assert_eq!((first.memory.len(), first.disks.len()), (1, 1));
    assert_eq!(first.memory[0].runs, None);
    let mut byte = [0];
    first.memory[0].file.read_exact_at(&mut byte, 4095).unwrap();
    assert_eq!(byte, [1]);

    let listed = kept.store.list().unwrap();
    assert_eq!(listed[0].name, "a");
    assert_eq!(listed[0].manifest.as_ref().unwrap().1, first.digest);
    assert!(listed[0].disk < 1 << 20, "holes: {}", listed[0].disk);

    let second = kept.whole("a", 2);
    assert_ne!(first.digest, second.digest);
    assert_eq!(kept.store.get("a").unwrap().digest, second.digest);
    // What was open stays what it was.
    first.memory[0].file.read_exact_at(&mut byte, 4095).unwrap();
    assert_eq!(byte, [1]);
    kept.store.remove("a").unwrap();
    assert!(matches!(
        kept.store.remove("a"),
        Err(SnapshotError::Missing(_))
    ));
    assert_eq!(inside(&kept), [".lock"]);
}

#[test]
fn only_their_owner_may_read_snapshots() {
    let kept = Kept::new();
    kept.whole("a", 1);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&kept.root()), 0o700);
    assert_eq!(mode(&kept.root().join("a")), 0o700);
    for file in fs::read_dir(kept.root().join("a")).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn names_are_those_of_machines_but_for_the_words_of_the_verb() {
    for name in ["web", "a.b-c_D9", "0", "list2", &"x".repeat(63)] {
        assert!(is_name(name), "{name}");
    }
    let long = "x".repeat(64);
    for name in [
        "", "-x", ".", "..", "a/b", "a b", "é", "a\n", "rm", "ls", &long,
    ] {
        assert!(!is_name(name), "{name}");
        let kept = Kept::new();
        assert!(matches!(
            kept.store.draft(name),
            Err(SnapshotError::Name(_))
        ));
        assert!(matches!(kept.store.get(name), Err(SnapshotError::Name(_))));
        assert!(matches!(
            kept.store.remove(name),
            Err(SnapshotError::Name(_))
        ));
    }
}

#[test]
fn a_draft_holds_files_of_a_snapshot_and_no_others() {
    let kept = Kept::new();
    let draft = kept.store.draft("a").unwrap();
    for name in ["../x", "manifest.json", "disk-32", "disk-01", ""] {
        assert!(draft.create(name).is_err(), "{name}");
    }
    // Without a memory it is none.
    state(crate::units::Variant::Ring0)
        .write(&draft.create(STATE).unwrap())
        .unwrap();
    let error = draft.commit(made::about(), None, serde_json::Value::Null);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("'memory' is missing")
    );
    assert_eq!(inside(&kept), [".lock"], "nothing is left");
}

#[test]
fn drafts_of_the_dead_are_swept_and_those_in_use_are_not() {
    let kept = Kept::new();
    let living = kept.store.draft("a").unwrap();
    // As a killed process leaves it: the folder, and no lock on it.
    let dead = kept.root().join(".draft-dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("memory"), b"x").unwrap();
    let other = kept.store.draft("b").unwrap();
    assert!(!dead.exists() && living.path().exists());
    let paths = [living.path().to_owned(), other.path().to_owned()];
    drop((living, other));
    assert!(paths.iter().all(|path| !path.exists()));
}

#[test]
fn a_draft_may_refuse_to_replace() {
    let kept = Kept::new();
    let draft = kept.store.draft("b").unwrap().only_new();
    let old = kept.whole("b", 2);
    for name in [STATE, MEMORY] {
        let from = File::open(kept.path("b", name)).unwrap();
        let mut to = draft.create(name).unwrap();
        std::io::copy(&mut &from, &mut to).unwrap();
    }
    let committed = draft.commit(made::about(), None, serde_json::Value::Null);
    assert!(matches!(committed, Err(SnapshotError::Exists(name)) if name == "b"));
    assert_eq!(kept.store.get("b").unwrap().digest, old.digest);
}

#[test]
fn many_at_once_leave_one_that_is_whole() {
    let kept = Kept::new();
    std::thread::scope(|scope| {
        for fill in 1..=4 {
            let kept = &kept;
            scope.spawn(move || {
                for _ in 0..4 {
                    kept.whole("a", fill);
                    // Whichever it is.
                    let found = kept.store.get("a").unwrap();
                    let mut byte = [0];
                    found.memory[0].file.read_exact_at(&mut byte, 0).unwrap();
                    assert!((1..=4).contains(&byte[0]));
                }
            });
        }
    });
    kept.store.verify("a").unwrap();
    kept.store.draft("sweep").unwrap();
    assert_eq!(inside(&kept), [".lock", "a"]);
}

#[test]
fn what_nobody_touched_is_not_read_again() {
    let kept = Kept::new();
    let found = kept.whole("a", 1);
    let sealed = |kept: &Kept| fs::metadata(kept.path("a", "seal.json")).unwrap().ino();
    let before = sealed(&kept);
    kept.store.get("a").unwrap();
    assert_eq!(sealed(&kept), before, "the stamps hold");
    // A file that has another time only is read, found whole, and stamped.
    let memory = File::options()
        .write(true)
        .open(found.path.join(MEMORY))
        .unwrap();
    memory
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    kept.store.get("a").unwrap();
    let after = sealed(&kept);
    assert_ne!(after, before);
    kept.store.get("a").unwrap();
    assert_eq!(sealed(&kept), after);
    // Without stamps, or with nonsense for them, all is read.
    for seal in [None, Some("{}"), Some("{\"files\":3}")] {
        match seal {
            None => fs::remove_file(kept.path("a", "seal.json")).unwrap(),
            Some(text) => fs::write(kept.path("a", "seal.json"), text).unwrap(),
        }
        kept.store.get("a").unwrap();
    }
}
