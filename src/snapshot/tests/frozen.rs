// SPDX-License-Identifier: Apache-2.0
//! One snapshot of each format, made once and for all: what this husk reads, it reads the same
//! tomorrow. `tests/golden/snapshot-v1` holds two streams, of a whole snapshot and of one that
//! builds on it; their state is a real machine's.
//!
//! The state is of `husk snapshot` of a machine of two processors and 64 MiB, with a disk, a
//! network, and no process but `sleep`. Who changes `MachineState`, or what a manifest has, makes a new format, and its frozen
//! snapshot beside the others: HUSK_FROZEN_STATE=SNAPSHOT/state cargo test --lib frozen.

use super::made::{self, Kept};
use super::*;
use crate::machine::MachineState;
use serde_json::{Value, json};
use std::path::PathBuf;

fn folder() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join(format!("tests/golden/snapshot-v{FORMAT}"))
}

fn stream(name: &str) -> Vec<u8> {
    fs::read(folder().join(format!("{name}.husk"))).unwrap()
}

/// The state of a machine on a processor of no name, bound to no host.
fn anonymous(path: &str) -> MachineState {
    let mut state = MachineState::read(&File::open(path).unwrap()).unwrap();
    for cpu in &mut state.cpus {
        let names = 0x8000_0002..=0x8000_0004;
        let parts = cpu.cpuid.iter_mut();
        for part in parts.filter(|leaf| names.contains(&leaf.function)) {
            let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
            let text = [word(b"A pr"), word(b"oces"), word(b"sor "), 0];
            [part.eax, part.ebx, part.ecx, part.edx] = match part.function & 1 {
                0 if part.function == 0x8000_0002 => text,
                _ => [0; 4],
            };
        }
    }
    state
}

/// Writes the frozen streams anew.
fn freeze(state: &MachineState) {
    let kept = Kept::new();
    let begin = |name: &str| {
        let draft = kept.store.draft(name).unwrap();
        state.write(&draft.create(STATE).unwrap()).unwrap();
        let memory = draft.create(MEMORY).unwrap();
        memory.set_len(state.memory).unwrap();
        (draft, memory)
    };
    let (draft, memory) = begin("base");
    for page in [0, 256, 257, 4000] {
        let text = format!("page {page} of the frozen machine\n");
        memory.write_all_at(text.as_bytes(), page * PAGE).unwrap();
    }
    let drive = draft.create(&disk(0)).unwrap();
    drive.set_len(1 << 20).unwrap();
    drive.write_all_at(b"a frozen disk\n", 512).unwrap();
    draft
        .commit(made::about(), None, json!({"argv": ["sleep", "9"]}))
        .unwrap();
    nowhere(&kept, "base");
    let base = kept.store.get("base").unwrap();
    let (draft, memory) = begin("child");
    memory.write_all_at(b"changed\n", 257 * PAGE).unwrap();
    draft.pages(&[run(256, 2), run(9000, 1)]).unwrap();
    draft
        .commit(made::about(), Some(&base), Value::Null)
        .unwrap();
    nowhere(&kept, "child");
    for name in ["base", "child"] {
        let mut bytes = Vec::new();
        kept.store
            .export(name, &mut bytes, true, &mut |_| {})
            .unwrap();
        fs::create_dir_all(folder()).unwrap();
        fs::write(folder().join(format!("{name}.husk")), bytes).unwrap();
    }
}

/// Takes the host it was made on out of a manifest.
fn nowhere(kept: &Kept, name: &str) {
    let path = kept.path(name, "manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    if !manifest["needs"]["bound"].is_null() {
        manifest["needs"]["bound"] = json!({"processor": "a processor", "boot": "a boot"});
    }
    let bytes = serde_json::to_vec_pretty(&manifest).unwrap();
    fs::write(path, &bytes).unwrap();
    let digest = crate::image::Digest::of(&bytes);
    fs::write(kept.path(name, "digest"), format!("{digest}\n")).unwrap();
}

fn text(file: &File, at: u64) -> String {
    let mut bytes = [0; 64];
    file.read_exact_at(&mut bytes, at).unwrap();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(64);
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

#[test]
fn the_frozen_snapshot_is_read_as_on_its_first_day() {
    if let Some(path) = std::env::var_os("HUSK_FROZEN_STATE") {
        freeze(&anonymous(path.to_str().unwrap()));
    }
    let kept = Kept::new();
    for name in ["base", "child"] {
        let how = Import::default();
        let taken = kept.store.import(&mut &stream(name)[..], &how, &mut |_| {});
        assert_eq!(taken.unwrap(), name);
    }
    let child = kept.store.verify("child").unwrap();
    let [base, changed] = &child.memory[..] else {
        panic!("two layers: {:?}", child.memory);
    };
    assert_eq!(
        text(&base.file, 256 * PAGE),
        "page 256 of the frozen machine\n"
    );
    assert_eq!(text(&changed.file, 257 * PAGE), "changed\n");
    assert_eq!(
        changed.runs.as_deref(),
        Some(&[run(256, 2), run(9000, 1)][..])
    );
    let state = MachineState::read(&child.state).unwrap();
    assert_eq!((state.memory, state.cpus.len()), (64 << 20, 2));
    let kinds: Vec<u32> = state.devices.iter().map(|device| device.device).collect();
    assert_eq!(kinds, [19, 4, 2, 1, 5]);
    assert_eq!(child.manifest.needs.model, "A processor");
    let base = kept.store.get("base").unwrap();
    assert_eq!(text(&base.disks[0], 512), "a frozen disk\n");
    assert_eq!(base.manifest.blueprint["argv"][1], "9");
    // It goes as it came.
    for name in ["base", "child"] {
        let mut bytes = Vec::new();
        kept.store
            .export(name, &mut bytes, true, &mut |_| {})
            .unwrap();
        assert!(bytes == stream(name), "{name}");
    }
    kept.store.flatten("child").unwrap();
    let flat = kept.store.get("child").unwrap();
    assert_eq!(text(&flat.memory[0].file, 256 * PAGE), "");
    assert_eq!(text(&flat.memory[0].file, 257 * PAGE), "changed\n");
    assert_eq!(
        text(&flat.memory[0].file, 4000 * PAGE),
        "page 4000 of the frozen machine\n"
    );
}

#[test]
fn a_flipped_bit_of_a_frozen_stream_is_found() {
    // Of the packed stream; where packing has slack, what comes out is the same.
    let whole = stream("base");
    let kept = Kept::new();
    let how = Import {
        replace: true,
        ..Import::default()
    };
    kept.store
        .import(&mut &whole[..], &how, &mut |_| {})
        .unwrap();
    let digest = kept.store.get("base").unwrap().digest;
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        if kept
            .store
            .import(&mut &bytes[..], &how, &mut |_| {})
            .is_ok()
        {
            assert_eq!(kept.store.get("base").unwrap().digest, digest, "byte {at}");
        }
    }
    kept.store.verify("base").unwrap();
}
