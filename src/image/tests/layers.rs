// SPDX-License-Identifier: Apache-2.0
//! Images of several layers: what the image specification says they are together.

use super::made::{Made, base};
use super::tar::Tar;
use super::{bytes, entries};
use crate::image::Malformed;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::json;
use std::io::Write as _;

#[test]
fn a_whiteout_hides_what_is_below_and_not_what_its_layer_brings() {
    // Before and behind: the order within a layer says nothing.
    let upper = Tar::default()
        .file("d/.wh.a", b"")
        .file("d/a/new", b"1")
        .file("d/b", b"2")
        .file("d/.wh.b", b"")
        .file(".wh.f", b"")
        .file("nowhere/.wh.x", b"");
    let made = Made::of([base(), upper]);
    assert_eq!(
        made.names(),
        ["d", "d/a", "d/a/new", "d/b", "d/sub", "d/sub/c", "link"]
    );
    assert_eq!(bytes(&made.entries(), "d/b"), b"2");
}

#[test]
fn an_opaque_directory_shows_its_own_layer_alone() {
    let upper = Tar::default()
        .file("d/new", b"")
        .file("d/.wh..wh..opq", b"")
        .file("d/.wh..wh.plnk/1.2", b"");
    let made = Made::of([base(), upper.clone(), Tar::default().file("d/.wh.new", b"")]);
    assert_eq!(made.names(), ["d", "f", "link"]);
    let made = Made::of([base(), upper]);
    assert_eq!(made.names(), ["d", "d/new", "f", "link"]);
}

#[test]
fn whiteouts_go_through_links_as_files_do_and_no_further() {
    let upper = Tar::default().file("link/.wh.a", b"").file("f/.wh.x", b"");
    let names = Made::of([base(), upper]).names();
    assert!(!names.contains(&"d/a".into()) && names.contains(&"f".into()));
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..", "../.wh.x"] {
        let made = Made::of([base(), Tar::default().file(name, b"")]);
        assert_eq!(made.malformed(), Malformed::Path, "{name}");
    }
}

#[test]
fn types_change_and_what_was_below_goes() {
    let upper = Tar::default()
        .file("d", b"now a file")
        .directory("f/")
        .file("f/x", b"");
    assert_eq!(Made::of([base(), upper]).names(), ["d", "f", "f/x", "link"]);
}

#[test]
fn hard_links_reach_into_the_layers_below_and_nowhere_else() {
    let upper = Tar::default().link(b'1', "again", "d/a");
    let found = Made::of([base(), upper]).entries();
    assert_eq!(found[&b"again"[..]].nid, found[&b"d/a"[..]].nid);
    assert_eq!(found[&b"again"[..]].links, 2);
    let upper = Tar::default()
        .file("d/.wh.a", b"")
        .link(b'1', "again", "d/a");
    assert_eq!(Made::of([base(), upper]).malformed(), Malformed::HardLink);
}

#[test]
fn packed_layers_are_those_unpacked() {
    let plain = base().whole();
    let gzip = |bytes: &[u8]| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    };
    let twice = [gzip(&plain[..512]), gzip(&plain[512..])].concat();
    // A raw block of a frame without checksum, behind one to be skipped (RFC 8878).
    let zstd = |bytes: &[u8]| {
        let mut frame = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        frame.extend([0x28, 0xb5, 0x2f, 0xfd, 0xa0]);
        frame.extend((bytes.len() as u32).to_le_bytes());
        frame.extend(&((bytes.len() as u32) << 3 | 1).to_le_bytes()[..3]);
        frame.extend(bytes);
        frame
    };
    let frames = [zstd(&plain[..1024]), zstd(&plain[1024..])].concat();
    let wanted = Made::of([base()]).entries();
    for stored in [&plain, &gzip(&plain), &twice, &frames] {
        let made = Made::new().blob(stored, &plain);
        assert_eq!(made.entries(), wanted);
    }
    for cut in [
        &gzip(&plain)[..60],
        &frames[..frames.len() - 1],
        &frames[..9],
    ] {
        assert_eq!(
            Made::new().blob(cut, &plain).malformed(),
            Malformed::Compressed
        );
    }
}

#[test]
fn the_same_layers_are_one_file_whatever_the_image_is_called() {
    let made = Made::of([base()]);
    let first = made.open().unwrap();
    made.index(|config, _| config["config"]["Cmd"] = json!(["other"]));
    let second = made.open().unwrap();
    assert_eq!((first.cached, second.cached), (false, true));
    assert_eq!(
        (first.path, second.config.cmd),
        (second.path, vec!["other".to_owned()])
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a layer says of those below, the answer is an image or an error, and the
    /// image is one a kernel can read.
    #[test]
    fn no_layer_does_more_than_fail(
        names in proptest::collection::vec("(d|f|link|\\.|\\.\\.|sub)?/?(\\.wh\\.)?(a|b|sub|\\.wh\\.\\.opq|link|d)?/?", 1..12),
        kinds in proptest::collection::vec(0usize..5, 12),
    ) {
        let layer = |names: &[String]| {
            names.iter().zip(&kinds).fold(Tar::default(), |tar, (name, kind)| match kind {
                0 => tar.file(name, b"new"),
                1 => tar.directory(name),
                2 => tar.link(b'2', name, "../link/d"),
                3 => tar.link(b'1', name, "d/a"),
                _ => tar.raw(b'4', name.as_bytes(), 0, |_| {}),
            })
        };
        let (lower, upper) = names.split_at(names.len() / 2);
        let made = Made::of([base(), layer(lower), layer(upper)]);
        if let Ok(image) = made.open() {
            entries(&image);
        }
    }
}
