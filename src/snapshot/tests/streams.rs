// SPDX-License-Identifier: Apache-2.0
//! Snapshots that travel, and streams of people who mean harm.

use super::made::{self, Kept};
use super::*;
use std::collections::BTreeMap;
use std::io::Write as _;

/// An entry of an archive: its name, kind, claimed length, and bytes.
type Piece = (String, tar::EntryType, u64, Vec<u8>);

fn export(kept: &Kept, name: &str, compress: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let exported = kept.store.export(name, &mut bytes, compress, &mut |_| {});
    exported.unwrap();
    bytes
}

fn import(kept: &Kept, bytes: &[u8]) -> Result<String, SnapshotError> {
    let how = Import::default();
    kept.store.import(&mut &bytes[..], &how, &mut |_| {})
}

fn pieces(bytes: &[u8]) -> Vec<Piece> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let kind = entry.header().entry_type();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            (name, kind, bytes.len() as u64, bytes)
        })
        .collect()
}

fn packed(pieces: &[Piece]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, length, bytes) in pieces {
        let mut header = tar::Header::new_ustar();
        // As it is: `set_path` would refuse what is tried here.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(*length);
        header.set_mode(0o644);
        header.set_entry_type(*kind);
        header.as_old_mut().linkname[..11].copy_from_slice(b"/etc/passwd");
        header.set_cksum();
        out.write_all(header.as_bytes()).unwrap();
        out.write_all(bytes).unwrap();
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn same(one: &Snapshot, two: &Snapshot) {
    assert_eq!((one.digest, &one.manifest), (two.digest, &two.manifest));
}

#[test]
fn what_travels_arrives() {
    let from = Kept::new();
    let base = from.whole("base", 1);
    let child = from.since("child", &base, &[(run(7, 2), 0), (run(100, 2), 2)]);
    for compress in [false, true] {
        let to = Kept::new();
        let stream = export(&from, "base", compress);
        assert_eq!(stream.starts_with(b"base/"), !compress);
        assert!(stream.len() < 100_000, "holes do not travel");
        let second = export(&from, "child", compress);
        let told = import(&to, &second).unwrap_err();
        assert_eq!(
            told.to_string(),
            "snapshot 'child' builds on snapshot 'base', which is not there"
        );
        assert!(told.hint().unwrap().contains("import 'base' first"));
        assert_eq!(import(&to, &stream).unwrap(), "base");
        assert_eq!(import(&to, &second).unwrap(), "child");
        assert!(
            to.store.get("child").unwrap().imported,
            "nobody here made it"
        );
        same(&to.store.verify("base").unwrap(), &base);
        same(&to.store.verify("child").unwrap(), &child);
        assert!(to.store.list().unwrap()[0].disk < 1 << 20, "holes arrive");
        assert!(matches!(
            import(&to, &stream),
            Err(SnapshotError::Exists(name)) if name == "base"
        ));
        // One whole, by another name, and in the place of another.
        let how = Import {
            name: Some("other".into()),
            replace: true,
        };
        for _ in 0..2 {
            to.store
                .import(&mut &stream[..], &how, &mut |_| {})
                .unwrap();
        }
        assert_eq!(inside(&to), [".lock", "base", "child", "other"]);
        // The same bytes again, whoever sends them.
        assert!(export(&to, "child", compress) == second);
    }
}

#[test]
fn a_page_at_the_end_of_a_disk_may_be_short() {
    let from = Kept::new();
    let draft = from.store.draft("a").unwrap();
    state(crate::units::Variant::Ring0)
        .write(&draft.create(STATE).unwrap())
        .unwrap();
    let memory = draft.create(MEMORY).unwrap();
    memory.set_len(made::PAGES_OF_MEMORY * PAGE).unwrap();
    let drive = draft.create(&disk(0)).unwrap();
    drive.write_all_at(b"end", 3 * PAGE + 5).unwrap();
    draft
        .commit(made::about(), None, serde_json::Value::Null)
        .unwrap();
    let to = Kept::new();
    import(&to, &export(&from, "a", false)).unwrap();
    let disk = &to.store.get("a").unwrap().disks[0];
    assert_eq!(disk.metadata().unwrap().len(), 3 * PAGE + 8);
}

#[test]
fn a_stream_that_ends_early_is_refused_wherever_it_does() {
    let from = Kept::new();
    made::small(&from, "a");
    let stream = export(&from, "a", false);
    let packed = export(&from, "a", true);
    let to = Kept::new();
    // Behind the last file there are only blocks of zeros.
    let end = stream.len() - 1024;
    for cut in (0..end).step_by(97).chain([end - 1]) {
        let told = import(&to, &stream[..cut]).unwrap_err();
        assert!(matches!(told, SnapshotError::Stream(_)), "{cut}: {told}");
        let left = inside(&to);
        assert!(left.is_empty() || left == [".lock"], "{left:?}");
    }
    for cut in (0..packed.len() - 8).step_by(13) {
        assert!(import(&to, &packed[..cut]).is_err(), "{cut}");
    }
    import(&to, &stream[..end]).unwrap();
}

#[test]
fn hostile_streams_are_refused_and_leave_nothing() {
    use tar::EntryType;
    let from = Kept::new();
    from.whole("a", 1);
    let good = pieces(&export(&from, "a", false));
    let names: Vec<&str> = good.iter().map(|piece| piece.0.as_str()).collect();
    assert_eq!(
        names,
        [
            "a/manifest.json",
            "a/digest",
            "a/state",
            "a/memory.map",
            "a/memory.data",
            "a/disk-0.map",
            "a/disk-0.data"
        ]
    );
    import(&Kept::new(), &packed(&good)).unwrap();
    let to = Kept::new();
    let refused = |what: &str, pieces: &[Piece], reason: &str| {
        let told = import(&to, &packed(pieces)).unwrap_err().to_string();
        assert!(told.contains(reason), "{what}: {told}");
        let left = inside(&to);
        assert!(left.is_empty() || left == [".lock"], "{what}: {left:?}");
        let beside = fs::read_dir(to.data.path()).unwrap().count();
        assert!(beside <= 1, "{what}: something is outside");
    };
    let with = |at: usize, change: &dyn Fn(&mut Piece)| {
        let mut pieces = good.clone();
        change(&mut pieces[at]);
        pieces
    };
    for at in 0..good.len() {
        for name in [
            "../x",
            "/etc/x",
            "a/../../x",
            "x",
            "",
            "a/",
            "b/state",
            "a//state",
        ] {
            let pieces = with(at, &|piece| name.clone_into(&mut piece.0));
            refused(name, &pieces, "where");
        }
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Directory,
            EntryType::Fifo,
            EntryType::Char,
            EntryType::GNUSparse,
            EntryType::GNULongName,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
        ] {
            let pieces = with(at, &|piece| piece.1 = kind);
            refused(&format!("{kind:?}"), &pieces, "no plain file");
        }
        for length in [0, 1, 1 << 33] {
            let pieces = with(at, &|piece| piece.2 = length);
            refused(&format!("{length}"), &pieces, "");
        }
        let flipped = with(at, &|piece| {
            let middle = piece.3.len() / 2;
            piece.3[middle] ^= 1;
        });
        refused("a flipped bit", &flipped, "");
        let mut missing = good.clone();
        missing.remove(at);
        refused("missing", &missing, "");
        let mut twice = good.clone();
        twice.insert(at, good[at].clone());
        refused("twice", &twice, "");
    }
    let mut more = good.clone();
    more.push(("a/seal.json".into(), EntryType::Regular, 2, b"{}".to_vec()));
    refused("one more", &more, "more files");
    let gone = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    for map in [
        vec![0, 1 << 50],
        vec![1 << 50, 1],
        vec![u64::MAX, 2],
        vec![5, 2, 6, 1],
        vec![5, 0],
        vec![3],
    ] {
        let bytes: Vec<u8> = gone(&map);
        let pieces = with(3, &|piece| {
            piece.2 = bytes.len() as u64;
            piece.3.clone_from(&bytes);
        });
        refused(&format!("{map:?}"), &pieces, "memory.map makes no sense");
    }
}

#[test]
fn a_manifest_cannot_ask_for_more_than_comes() {
    let from = Kept::new();
    made::small(&from, "a");
    let mut good = pieces(&export(&from, "a", false));
    // 16 TiB of memory, all of it holes, and a state to match: it costs nothing.
    let mut state = made::state(crate::units::Variant::Ring0);
    state.memory = 16 << 40;
    let file = tempfile::tempfile().unwrap();
    state.write(&file).unwrap();
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&good[0].3).unwrap();
    manifest["machine"]["memory"] = serde_json::json!(16u64 << 40);
    manifest["files"][1]["length"] = serde_json::json!(16u64 << 40);
    manifest["files"][0]["length"] = serde_json::json!(bytes.len());
    let digest = |bytes: &[u8]| crate::image::Digest::of(bytes).to_string();
    manifest["files"][0]["digest"] = serde_json::json!(digest(&bytes));
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let texts: BTreeMap<usize, Vec<u8>> = BTreeMap::from([
        (1, format!("{}\n", digest(&manifest)).into_bytes()),
        (0, manifest),
        (2, bytes),
        (3, Vec::new()),
        (4, Vec::new()),
    ]);
    for (at, bytes) in texts {
        good[at].2 = bytes.len() as u64;
        good[at].3 = bytes;
    }
    let to = Kept::new();
    let started = std::time::Instant::now();
    let told = import(&to, &packed(&good)).unwrap_err().to_string();
    // Either the host's file system has no such files, or it is not what the digest is of.
    let reason = told.contains("'memory' is not what was saved") || told.contains("cannot write");
    assert!(reason, "{told}");
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[test]
fn nonsense_is_no_snapshot() {
    let kept = Kept::new();
    let zstd = [0x28, 0xb5, 0x2f, 0xfd];
    for bytes in [
        &b""[..],
        b"x",
        &[0; 4096],
        &[0xff; 4096],
        &zstd,
        &[&zstd[..], &[0; 64]].concat(),
        &[&zstd[..], &[0xff; 64]].concat(),
    ] {
        let told = import(&kept, bytes).unwrap_err();
        assert!(
            told.to_string().starts_with("this is no snapshot: "),
            "{told}"
        );
    }
}

#[test]
fn what_came_from_elsewhere_stays_that_when_it_is_flat() {
    let from = Kept::new();
    let base = from.whole("base", 1);
    assert!(!base.imported);
    assert!(!from.since("child", &base, &[(run(7, 2), 0)]).imported);
    let to = Kept::new();
    for name in ["base", "child"] {
        import(&to, &export(&from, name, false)).unwrap();
    }
    to.store.flatten("child").unwrap();
    assert!(to.store.get("child").unwrap().imported);
    to.store.flatten("base").unwrap();
    assert!(to.store.get("base").unwrap().imported);
    // One of this host's own in its place.
    to.store.remove("child").unwrap();
    to.whole("base", 2);
    assert!(!to.store.get("base").unwrap().imported);
}
