// SPDX-License-Identifier: Apache-2.0
//! Every flipped bit, every cut, every missing file: refused with the reason.

use super::made::Kept;
use super::*;
use crate::snapshot::format::is_sparse;

/// Every bit of a file turned over, one after the other; how often that was not noticed.
fn flipped(kept: &Kept, name: &str, file: &str, accepted: fn(&str) -> bool) {
    let path = kept.path(name, file);
    let whole = fs::read(&path).unwrap();
    let target = File::options().write(true).open(&path).unwrap();
    for (at, byte) in whole.iter().enumerate() {
        for bit in 0..8 {
            target.write_all_at(&[byte ^ 1 << bit], at as u64).unwrap();
            let told = refused(kept, name);
            assert!(accepted(&told), "{file}, byte {at}, bit {bit}: {told}");
        }
        target.write_all_at(&[*byte], at as u64).unwrap();
    }
    kept.store.get(name).unwrap();
}

#[test]
fn every_bit_of_the_small_files_counts() {
    let kept = Kept::new();
    let base = kept.whole("base", 1);
    kept.since("a", &base, &[(run(7, 1), 0), (run(100, 2), 2)]);
    flipped(&kept, "a", "manifest.json", |told| {
        told == "snapshot 'a' is damaged: its file 'manifest.json' is not what was saved"
    });
    flipped(&kept, "a", "digest", |told| {
        told == "snapshot 'a' is damaged: its file 'manifest.json' is not what was saved"
    });
    flipped(&kept, "a", PAGES, |told| {
        told == "snapshot 'a' is damaged: its file 'pages' is not what was saved"
    });
    flipped(&kept, "a", STATE, |told| {
        told == "snapshot 'a' is damaged: its file 'state' is not what was saved"
    });
}

#[test]
fn a_flipped_bit_of_memory_or_disk_is_found() {
    let kept = Kept::new();
    kept.whole("a", 1);
    // In what was written, and in holes, to their very ends.
    let end = made::PAGES_OF_MEMORY * PAGE - 1;
    for (name, at) in [
        (MEMORY, 0),
        (MEMORY, 4095),
        (MEMORY, 7 * PAGE + 1),
        (MEMORY, 5 * PAGE),
        (MEMORY, 3000 * PAGE + 17),
        (MEMORY, end),
        ("disk-0", 1 << 20),
        ("disk-0", (1 << 20) + 4999),
        ("disk-0", (1 << 20) + 5000),
        ("disk-0", (8 << 20) - 1),
    ] {
        let file = File::options()
            .read(true)
            .write(true)
            .open(kept.path("a", name))
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        for bit in [0, 7] {
            file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
            assert_eq!(
                refused(&kept, "a"),
                format!("snapshot 'a' is damaged: its file '{name}' is not what was saved")
            );
        }
        file.write_all_at(&byte, at).unwrap();
        kept.store.get("a").unwrap();
    }
}

#[test]
fn what_the_disk_loses_behind_the_stamp_is_found_by_who_reads_all() {
    let kept = Kept::new();
    let found = kept.whole("a", 1);
    let memory = File::options().write(true).open(found.path.join(MEMORY));
    let memory = memory.unwrap();
    memory.write_all_at(b"!", 5).unwrap();
    // As if the file system had noticed nothing.
    let seal = store::Seal {
        files: found
            .manifest
            .files
            .iter()
            .map(|entry| {
                let file = File::open(found.path.join(&entry.name)).unwrap();
                (entry.name.clone(), verify::Stamp::of(&file).unwrap())
            })
            .collect(),
    };
    fs::write(kept.path("a", "seal.json"), seal.write()).unwrap();
    kept.store.get("a").unwrap();
    let told = kept.store.verify("a").unwrap_err().to_string();
    assert!(told.contains("'memory' is not what was saved"), "{told}");
    let mut sink = Vec::new();
    let told = kept.store.export("a", &mut sink, false, &mut |_| {});
    assert!(told.is_err(), "what leaves is checked, too");
}

#[test]
fn every_file_may_be_cut_grown_missing_or_something_else() {
    let kept = Kept::new();
    let base = kept.whole("base", 1);
    kept.since("a", &base, &[(run(7, 1), 0), (run(100, 2), 2)]);
    for name in ["manifest.json", "digest", STATE, MEMORY, PAGES, "disk-0"] {
        let path = kept.path("a", name);
        let length = fs::metadata(&path).unwrap().len();
        let aside = kept.data.path().join("aside");
        let lengths = [
            0,
            1,
            15,
            16,
            17,
            length / 2,
            length - 4096.min(length),
            length - 1,
        ];
        let longer = [length + 1, length + 4096, 1 << 40];
        for cut in lengths.into_iter().chain(longer) {
            fs::copy(&path, &aside).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(cut).unwrap();
            let told = refused(&kept, "a");
            let reason = match is_sparse(name) || name == STATE || name == PAGES {
                true => format!("its file '{name}' has {cut} bytes, {length} belong there"),
                false => "its file 'manifest.json' is not what was saved".to_owned(),
            };
            let long = name == "manifest.json" && cut > length;
            assert!(
                told.contains(&reason) || long && told.contains("longer than 4 MiB"),
                "{name} of {cut}: {told}"
            );
            fs::rename(&aside, &path).unwrap();
        }
        fs::rename(&path, &aside).unwrap();
        let missing = format!("its file '{name}' is missing");
        let told = refused(&kept, "a");
        assert!(told.contains(&missing), "{told}");
        // Neither is anything followed, nor waited for.
        std::os::unix::fs::symlink(&aside, &path).unwrap();
        assert!(kept.store.get("a").is_err(), "{name} as a link");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(kept.store.get("a").is_err(), "{name} as a folder");
        fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(kept.store.get("a").is_err(), "{name} as a pipe");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        kept.store.get("a").unwrap();
    }
}

#[test]
fn what_is_damaged_can_be_listed_removed_and_replaced() {
    let kept = Kept::new();
    kept.whole("a", 1);
    kept.whole("b", 1);
    for name in ["a", "b"] {
        fs::write(kept.path(name, "manifest.json"), b"{\"format\":1}").unwrap();
    }
    let list = kept.store.list().unwrap();
    assert!(list.iter().all(|listed| listed.manifest.is_err()));
    kept.whole("a", 2);
    kept.store.remove("b").unwrap();
    assert_eq!(inside(&kept), [".lock", "a"]);
}
