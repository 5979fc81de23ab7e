// SPDX-License-Identifier: Apache-2.0
//! Snapshots that build on others.

use super::made::{Kept, PAGES_OF_MEMORY, run, state};
use super::*;
use crate::snapshot::chain::MAX_DEPTH;
use proptest::prelude::*;

/// The memory as a machine would see it.
fn memory(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(PAGES_OF_MEMORY * PAGE).unwrap()];
    for layer in &snapshot.memory {
        let whole = vec![run(0, PAGES_OF_MEMORY)];
        for run in layer.runs.as_ref().unwrap_or(&whole) {
            let start = usize::try_from(run.start * PAGE).unwrap();
            let end = start + usize::try_from(run.count * PAGE).unwrap();
            let place = &mut bytes[start..end];
            layer.file.read_exact_at(place, run.start * PAGE).unwrap();
        }
    }
    bytes
}

#[test]
fn a_chain_is_its_layers_one_over_the_other_and_flat_it_is_the_same() {
    let kept = Kept::new();
    let base = kept.whole("base", 1);
    let middle = kept.since("middle", &base, &[(run(7, 1), 0), (run(100, 2), 2)]);
    let top = kept.since("top", &middle, &[(run(101, 1), 3), (run(4095, 1), 0)]);
    assert_eq!(top.memory.len(), 3);
    let before = memory(&top);
    let page = |bytes: &[u8], page: usize| bytes[page * 4096];
    let seen = [0, 7, 8, 100, 101, 4095].map(|number| page(&before, number));
    assert_eq!(seen, [1, 0, 1, 2, 3, 0]);
    assert_eq!(kept.store.children("base").unwrap(), ["middle"]);

    assert!(kept.store.flatten("top").unwrap());
    let flat = kept.store.get("top").unwrap();
    assert_eq!((flat.memory.len(), &flat.manifest.parent), (1, &None));
    assert!(memory(&flat) == before);
    assert_eq!(flat.manifest.created, top.manifest.created);
    assert!(!flat.path.join(PAGES).exists());
    assert!(!kept.store.flatten("top").unwrap(), "it is flat");
    kept.store.remove("middle").unwrap();
    kept.store.remove("base").unwrap();
    kept.store.verify("top").unwrap();
    assert_eq!(inside(&kept), [".lock", "top"]);
}

#[test]
fn who_is_built_on_stays() {
    let kept = Kept::new();
    let base = kept.whole("base", 1);
    kept.since("b", &base, &[]);
    kept.since("a", &base, &[]);
    let told = kept.store.remove("base").unwrap_err();
    assert_eq!(
        told.to_string(),
        "snapshot 'base' cannot be removed: a, b build on it"
    );
    assert!(told.hint().unwrap().contains("flatten a"), "{told:?}");
    let draft = kept.store.draft("base").unwrap();
    state(crate::units::Variant::Ring0)
        .write(&draft.create(STATE).unwrap())
        .unwrap();
    let empty = draft.create(MEMORY).unwrap();
    empty.set_len(PAGES_OF_MEMORY * PAGE).unwrap();
    let told = draft.commit(made::about(), None, serde_json::Value::Null);
    let told = told.unwrap_err().to_string();
    assert!(
        told.contains("cannot be replaced: a, b build on it"),
        "{told}"
    );
    let top = kept.since("top", &kept.store.get("a").unwrap(), &[]);
    let told = kept.store.flatten("a").unwrap_err().to_string();
    assert!(
        told.contains("cannot be flattened: top builds on it"),
        "{told}"
    );
    drop(top);
    kept.store.remove("b").unwrap();
    kept.store.remove("top").unwrap();
    kept.store.remove("a").unwrap();
    kept.store.remove("base").unwrap();
}

#[test]
fn a_parent_that_is_gone_or_another_is_said() {
    let kept = Kept::new();
    let base = kept.whole("base", 1);
    kept.since("child", &base, &[(run(1, 1), 9)]);
    let place = kept.root().join("base");
    let away = kept.data.path().join("away");
    fs::rename(&place, &away).unwrap();
    assert_eq!(
        refused(&kept, "child"),
        "snapshot 'child' builds on snapshot 'base', which is not there"
    );
    kept.whole("base", 1);
    assert_eq!(
        refused(&kept, "child"),
        "snapshot 'child' builds on a snapshot 'base' that is not there any more: this one is \
         another"
    );
    // Which nothing builds on.
    kept.store.remove("base").unwrap();
    fs::rename(&away, &place).unwrap();
    kept.store.get("child").unwrap();
    let memory = File::options()
        .write(true)
        .open(place.join(MEMORY))
        .unwrap();
    memory.write_all_at(b"!", 77).unwrap();
    assert_eq!(
        refused(&kept, "child"),
        "snapshot 'child' builds on snapshot 'base', which is damaged: its file 'memory' is not \
         what was saved"
    );
    // A parent's own state and disks are not the child's concern.
    memory.write_all_at(&[1], 77).unwrap();
    fs::remove_file(place.join("disk-0")).unwrap();
    kept.store.get("child").unwrap();
    assert!(refused(&kept, "base").contains("'disk-0' is missing"));
}

#[test]
fn a_chain_has_an_end() {
    let kept = Kept::new();
    let mut last = kept.whole("s0", 1);
    for number in 1..=MAX_DEPTH {
        last = kept.since(&format!("s{number}"), &last, &[(run(1, 1), 2)]);
    }
    assert_eq!(last.memory.len(), MAX_DEPTH + 1);
    let draft = kept.store.draft("more").unwrap();
    for name in [STATE, MEMORY, PAGES] {
        let mut to = draft.create(name).unwrap();
        let mut from = File::open(last.path.join(name)).unwrap();
        std::io::copy(&mut from, &mut to).unwrap();
    }
    let told = draft.commit(made::about(), Some(&last), serde_json::Value::Null);
    let told = told.unwrap_err().to_string();
    assert_eq!(told, "snapshot 'more' builds on more than 16 others");
    kept.store.flatten(&last.name).unwrap();
    assert_eq!(kept.store.get(&last.name).unwrap().memory.len(), 1);
}

#[test]
fn a_chain_that_bites_its_tail_is_refused() {
    // Digests forbid it: by hand, with a digest that is not one.
    let kept = Kept::new();
    let base = kept.whole("base", 1);
    kept.since("a", &base, &[]);
    let path = kept.path("a", "manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace("\"base\"", "\"a\"");
    fs::write(&path, &text).unwrap();
    let digest = crate::image::Digest::of(text.as_bytes());
    fs::write(kept.path("a", "digest"), format!("{digest}\n")).unwrap();
    assert!(refused(&kept, "a").contains("another"));
}

fn layers() -> impl Strategy<Value = Vec<Vec<(Run, u8)>>> {
    // Gaps and lengths, so that runs are in order and apart.
    let layer = prop::collection::vec((0u64..40, 1u64..6, 0u8..4), 0..12).prop_map(|runs| {
        let mut at = 0;
        let mut list = Vec::new();
        for (gap, count, fill) in runs {
            let start = at + gap;
            at = start + count;
            list.push((run(start, count), fill));
        }
        list
    });
    prop::collection::vec(layer, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Whatever changed over whatever, flat it reads the same.
    #[test]
    fn flattening_changes_no_byte(layers in layers()) {
        let kept = Kept::new();
        let mut last = kept.whole("base", 7);
        for (number, layer) in layers.iter().enumerate() {
            last = kept.since(&format!("l{number}"), &last, layer);
        }
        let before = memory(&last);
        prop_assert!(kept.store.flatten(&last.name).unwrap());
        prop_assert!(memory(&kept.store.get(&last.name).unwrap()) == before);
    }
}
