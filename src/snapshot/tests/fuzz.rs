// SPDX-License-Identifier: Apache-2.0
//! Whatever bytes are in the place of a manifest, a list of pages, a state or a stream: an
//! answer, and no panic.

use super::made::{self, Kept};
use super::*;
use crate::machine::MachineState;
use crate::snapshot::pages;
use crate::units::Variant;
use proptest::prelude::*;
use std::io::Seek as _;

/// Bytes like those of `good`, but for what somebody did to them.
fn like(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..8);
    edits.prop_map(move |edits| {
        let mut bytes = good.clone();
        for (at, byte, how) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

fn state_bytes() -> Vec<u8> {
    let file = tempfile::tempfile().unwrap();
    state(Variant::Ring3).write(&file).unwrap();
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Reads a state as a restore would, and asks of it all that is asked.
fn look(bytes: &[u8]) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.rewind().unwrap();
    if let Ok(state) = MachineState::read(&file) {
        let _ = Shape::of(&state);
        let needs = cpu::needs(&state).unwrap();
        assert!(cpu::matches(&state, &needs));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_manifest_of_any_bytes(bytes in like(made_manifest())) {
        if let Ok(manifest) = Manifest::read(&bytes) {
            // What is accepted can be written, and is the same again.
            let again = Manifest::read(&manifest.write().unwrap()).unwrap();
            prop_assert_eq!(again, manifest);
        }
    }

    #[test]
    fn a_list_of_pages_of_any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        pages in any::<u64>(),
    ) {
        if let Some(runs) = pages::decode(&bytes, pages) {
            prop_assert_eq!(pages::encode(&runs), bytes);
        }
    }

    #[test]
    fn lists_of_pages_are_in_order_and_apart(
        words in prop::collection::vec((0u64..64, 0u64..8), 0..8),
    ) {
        let runs: Vec<Run> = words.iter().map(|&(start, count)| run(start, count)).collect();
        let apart = runs.windows(2).all(|two| two[0].start + two[0].count <= two[1].start);
        let within = runs.iter().all(|run| run.count > 0 && run.start + run.count <= 64);
        let found = pages::decode(&pages::encode(&runs), 64);
        prop_assert_eq!(found.is_some(), apart && within);
    }

    #[test]
    fn a_state_of_any_bytes(bytes in like(state_bytes())) {
        look(&bytes);
    }
}

fn made_manifest() -> Vec<u8> {
    let kept = Kept::new();
    let base = kept.whole("base", 1);
    kept.since("a", &base, &[(run(1, 1), 1)]);
    fs::read(kept.path("a", "manifest.json")).unwrap()
}

#[test]
fn a_state_that_claims_more_than_there_is_takes_no_memory_for_it() {
    // postcard's lengths are of any size: one that is not borne out by bytes is refused.
    let good = state_bytes();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes.splice(
            at..at,
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        );
        look(&bytes);
        look(&good[..at]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_stream_of_any_bytes(bytes in like(stream())) {
        let kept = Kept::new();
        let taken = kept.store.import(&mut &bytes[..], &Import::default(), &mut |_| {});
        match taken {
            Ok(name) => {
                kept.store.verify(&name).unwrap();
            }
            Err(_) => prop_assert!(inside(&kept).iter().all(|name| name == ".lock")),
        }
    }
}

fn stream() -> Vec<u8> {
    let kept = Kept::new();
    made::small(&kept, "a");
    let mut bytes = Vec::new();
    kept.store
        .export("a", &mut bytes, false, &mut |_| {})
        .unwrap();
    bytes
}
