// SPDX-License-Identifier: Apache-2.0
//! Images made to do harm: each ends in an error that says what is wrong, having cost little,
//! or in an image that holds what it says and has touched nothing else.

use super::entries;
use super::made::{Made, base};
use super::tar::Tar;
use crate::image::digest::Digest;
use crate::image::testing::fsck;
use crate::image::{BlobFault, ImageError, Malformed, Refused, Unfit};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

#[test]
fn bytes_without_their_digest_are_never_used() {
    let change = |made: &Made, digest: &Value, bytes: &[u8]| {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        made.place.write(&format!("blobs/sha256/{hex}"), bytes);
    };
    let made = Made::of([base()]);
    made.index(|_, _| {});
    let digest = made.layers[0].0["digest"].clone();
    let mut other = base().whole();
    other[600] ^= 1;
    change(&made, &digest, &other);
    assert_eq!(made.fault(), BlobFault::Digest);
    change(&made, &digest, b"short");
    assert!(matches!(made.fault(), BlobFault::Size(5, _)));

    let made = Made::new().blob(&base().whole(), b"something else");
    assert!(matches!(made.fault(), BlobFault::DiffId(_)));
    let made = Made::of([base()]);
    made.index(|_, manifest| manifest["layers"][0]["digest"] = json!(Digest::of(b"gone")));
    assert_eq!(made.fault(), BlobFault::Absent);
    assert!(
        made.place
            .cached("")
            .iter()
            .all(|name| !name.ends_with("erofs"))
    );
}

#[test]
fn documents_that_lie_are_refused() {
    let with = |change: fn(&mut Value, &mut Value)| {
        let made = Made::of([base()]);
        made.index(change);
        made.unfit()
    };
    let set = with(|config, _| config["architecture"] = "riscv64".into());
    assert!(matches!(set, Unfit::Platform(_)), "{set}");
    assert_eq!(
        with(|_, manifest| manifest["layers"] = json!([])),
        Unfit::Layers(0, 1)
    );
    let set = with(|_, manifest| manifest["layers"][0]["digest"] = "sha256:../../x".into());
    assert!(
        matches!(set, Unfit::Digest(_) | Unfit::Document(..)),
        "{set}"
    );
    let set = with(|_, manifest| manifest["layers"][0]["size"] = u64::MAX.into());
    assert!(
        matches!(set, Unfit::LargeLayer(_) | Unfit::Document(..)),
        "{set}"
    );
    let set = with(|_, manifest| manifest["manifests"] = json!([]));
    assert!(matches!(set, Unfit::Kind(_)), "{set}");
    let set = with(|_, manifest| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"] = vec![layer; 513].into();
    });
    assert_eq!(set, Unfit::ManyLayers);
    let set = with(|config, _| config["config"]["Cmd"] = json!(["\0"]));
    assert!(matches!(set, Unfit::Config(_)), "{set}");
    let set = with(|_, manifest| {
        manifest["layers"][0]["mediaType"] =
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted".into();
    });
    assert!(matches!(set, Unfit::Kind(_)), "{set}");

    let made = Made::of([base()]);
    made.place.write("index.json", vec![b' '; (4 << 20) + 1]);
    assert_eq!(made.unfit(), Unfit::Long("index"));
    made.place.write("index.json", "[".repeat(100_000));
    assert!(matches!(made.unfit(), Unfit::Document(..)));
}

#[test]
fn an_index_that_leads_to_itself_ends() {
    let made = Made::of([base()]);
    made.index(|_, _| {});
    let mut part: Value = {
        let index = std::fs::read(made.place.source.path().join("index.json")).unwrap();
        serde_json::from_slice::<Value>(&index).unwrap()["manifests"][0].clone()
    };
    // No index can hold its own digest; a row of them is as long as its maker wishes.
    for _ in 0..5 {
        let index = json!({ "schemaVersion": 2, "manifests": [part] });
        part = made.put(index.to_string().as_bytes());
        part["mediaType"] = "application/vnd.oci.image.index.v1+json".into();
    }
    let index = json!({ "schemaVersion": 2, "manifests": [part] });
    made.place.write("index.json", index.to_string());
    assert!(matches!(made.unfit(), Unfit::Kind(_)));
}

/// Everything a layer may say to get out of its image, and nothing outside is touched.
#[test]
fn no_layer_reaches_the_host() {
    let outside = tempfile::tempdir().unwrap();
    let path = outside
        .path()
        .to_str()
        .unwrap()
        .trim_start_matches('/')
        .to_owned();
    std::fs::write(outside.path().join("kept"), "as it was").unwrap();
    let absolute = format!("/{path}/kept");
    let links = Tar::default().link(b'2', "out", &format!("/{path}")).link(
        b'2',
        "up",
        "../../../../../../../../..",
    );
    let upper = Tar::default()
        .file("out/kept", b"changed")
        .file("out/.wh.kept", b"")
        .file("up/etc/new", b"")
        .file(&absolute, b"changed")
        .raw(b'3', b"out/device", 0, |_| {});
    let names = Made::of([links, upper]).names();
    assert!(names.contains(&format!("{path}/kept")), "{names:?}");
    assert!(names.contains(&"etc/new".to_owned()), "{names:?}");
    let found = std::fs::read_dir(outside.path()).unwrap().count();
    let kept = std::fs::read_to_string(outside.path().join("kept")).unwrap();
    assert_eq!((found, kept.as_str()), (1, "as it was"));
    let dots = Made::of([Tar::default().file("a/../../../kept", b"")]);
    assert_eq!(dots.malformed(), Malformed::Path);
}

#[test]
fn a_million_entries_over_all_layers_are_the_most() {
    let mut tar = Tar::default().file("x", b"");
    let header = tar.0.clone();
    // One layer twice: the blob is one, and its entries count each time.
    tar.0 = header.repeat((1 << 19) + 1);
    let whole = tar.whole();
    let made = Made::new().blob(&whole, &whole).blob(&whole, &whole);
    match made.open() {
        Err(ImageError::ArchiveEntry { source, .. }) => assert_eq!(source, Refused::Entries),
        other => panic!("{other:?}"),
    }
}

/// A header of an extension in front of an entry.
fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let record = |(key, value): &(&str, &str)| {
        // The length counts its own digits (pax, "Extended Header").
        let rest = key.len() + value.len() + 3;
        let len = (1..=9).map(|digits| rest + digits);
        let len = len.filter(|len| len.to_string().len() + rest == *len).max();
        format!("{} {key}={value}\n", len.unwrap()).into_bytes()
    };
    records.iter().flat_map(record).collect()
}

#[test]
fn a_terabyte_of_holes_costs_no_disk() {
    let (size, map) = ((1u64 << 40).to_string(), "0,0");
    let head = pax(&[
        ("GNU.sparse.major", "0"),
        ("GNU.sparse.minor", "1"),
        ("GNU.sparse.name", "big"),
        ("GNU.sparse.size", &size),
        ("GNU.sparse.map", map),
    ]);
    let image = Made::of([Tar::default().long(b'x', &head).file("x", b"")]).open();
    let image = image.unwrap();
    let found = entries(&image);
    assert_eq!(found[&b"big"[..]].size, 1 << 40);
    assert!(image.file.metadata().unwrap().blocks() < 1 << 11);
}

#[test]
fn zeros_that_were_packed_cost_no_disk() {
    const ZEROS: usize = 256 << 20;
    let mut tar = Tar::default();
    // Data before, behind and between, so that nothing lies where blocks begin.
    let mut bytes = vec![0; ZEROS];
    for at in [0, 99_999_999, ZEROS - 1] {
        bytes[at] = 7;
    }
    tar = tar.file("zeros", &bytes);
    let plain = tar.whole();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&plain).unwrap();
    let made = Made::new().blob(&packed.finish().unwrap(), &plain);
    let image = made.open().unwrap();
    fsck(&image.path);
    assert!(image.file.metadata().unwrap().blocks() * 512 < 4 << 20);
    let at = find(&image.file, &bytes);
    for (offset, byte) in [(0, 7), (1, 0), (99_999_999, 7), (ZEROS as u64 - 1, 7)] {
        let mut found = [9];
        image.file.read_exact_at(&mut found, at + offset).unwrap();
        assert_eq!(found[0], byte, "{offset}");
    }
}

/// Where the data of the only file begins: with the first byte that is 7 in a block.
fn find(file: &std::fs::File, bytes: &[u8]) -> u64 {
    let len = file.metadata().unwrap().len();
    let mut at = 4096;
    loop {
        let mut block = [0; 4096];
        assert!(at + bytes.len() as u64 <= len + 4096, "it is not there");
        file.read_exact_at(&mut block, at).unwrap();
        if block[0] == 7 && block[1..].iter().all(|&byte| byte == 0) {
            return at;
        }
        at += 4096;
    }
}

#[test]
fn links_to_the_outside_lead_nowhere() {
    for target in ["/etc/passwd", "../../etc/passwd", "d/../../x", "", "d", "."] {
        let upper = Tar::default().link(b'1', "stolen", target);
        let problem = Made::of([base(), upper]).malformed();
        let wanted = [Malformed::HardLink, Malformed::Path, Malformed::Through];
        assert!(wanted.contains(&problem), "{target}: {problem:?}");
    }
}

#[test]
fn links_that_multiply_end() {
    // Each leads twice through the one before: the last would be 2^60 steps.
    let tar = (1..60).fold(Tar::default().link(b'2', "l0", "."), |tar, number| {
        let before = number - 1;
        tar.link(b'2', &format!("l{number}"), &format!("l{before}/l{before}"))
    });
    let made = Made::of([tar.file("l59/file", b"")]);
    assert_eq!(made.malformed(), Malformed::Through);
    let circle = Tar::default()
        .link(b'2', "a", "b/x")
        .link(b'2', "b", "a/x")
        .file("a/file", b"");
    assert_eq!(Made::of([circle]).malformed(), Malformed::Through);
}

#[test]
fn long_ways_walked_by_every_entry_end() {
    let way = "a/".repeat(2000);
    let entry = Tar::default()
        .long(b'L', format!("{way}f\0").as_bytes())
        .file("x", b"");
    let tar = Tar(entry.0.repeat(18_000));
    assert_eq!(Made::of([tar]).malformed(), Malformed::Steps);
}

#[test]
fn deeper_than_a_tree_may_be() {
    let half = "a/".repeat(1500);
    let tar = Tar::default()
        .long(b'L', format!("{half}\0").as_bytes())
        .directory("x/")
        .long(b'K', format!("{half}\0").as_bytes())
        .link(b'2', "link", "x")
        .long(b'L', format!("link/{half}\0").as_bytes())
        .directory("x/");
    refused(&Made::of([tar]), Refused::Depth);
}

#[track_caller]
fn refused(made: &Made, wanted: Refused) {
    match made.open() {
        Err(ImageError::ArchiveEntry { source, .. }) => assert_eq!(source, wanted),
        other => panic!("{other:?}"),
    }
}

#[test]
fn attributes_without_end_are_refused() {
    let large = pax(&[("SCHILY.xattr.user.a", &"x".repeat(66_000))]);
    let tar = Tar::default().long(b'x', &large).file("f", b"");
    refused(&Made::of([tar]), Refused::Xattrs);
    // Each allowed, and together more than the memory that is meant for them.
    let some = pax(&[("SCHILY.xattr.user.a", &"x".repeat(60_000))]);
    let entry = Tar::default().long(b'x', &some).file("f", b"");
    let tar = Tar(entry.0.repeat(1000));
    let whole = tar.whole();
    // One layer ten times: the blob is one, and what is in it counts each time.
    let made = (0..10).fold(Made::new(), |made, _| made.blob(&whole, &whole));
    refused(&made, Refused::Metadata);
}

#[test]
fn devices_without_number_are_entries_and_nothing_of_the_host() {
    let tar = (0..20_000).fold(Tar::default(), |tar, number| {
        let kind = if number % 2 == 0 { b'3' } else { b'4' };
        tar.raw(kind, format!("dev-{number}").as_bytes(), 0, |_| {})
    });
    let image = Made::of([tar]).open().unwrap();
    let found = entries(&image);
    assert_eq!(found.len(), 20_001);
    let device = &found[&b"dev-1"[..]];
    assert_eq!((device.mode >> 12, device.rdev), (6, 1 << 8 | 3));
}
