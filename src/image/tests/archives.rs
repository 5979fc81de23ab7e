// SPDX-License-Identifier: Apache-2.0
//! Archives: those of others' tools, and those made to do harm.

use super::tar::{Tar, open_bytes};
use super::{Entries, Place, bytes, entries};
use crate::image::testing::{Body, run_tool};
use crate::image::{ImageError, Malformed, Refused, open};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use tar::Header;

fn paths(entries: &Entries) -> Vec<&str> {
    entries
        .keys()
        .map(|path| std::str::from_utf8(path).unwrap())
        .collect()
}

#[test]
fn nothing_is_named_outside() {
    let up = |name| Tar::default().file(name, b"x").malformed();
    for name in ["../x", "a/../../x", "..", "/../x", "a/.."] {
        assert_eq!(up(name), Malformed::Path, "{name}");
    }
    let nul = Tar::default().long(b'x', b"13 path=a\0b\n").file("x", b"");
    assert_eq!(nul.malformed(), Malformed::Extension);
    let nul = Tar::default().long(b'x', b"12 path=a\0b\n").file("x", b"");
    assert_eq!(nul.malformed(), Malformed::Path);
    let found = Tar::default()
        .file("/etc/passwd", b"x")
        .file("./b/./c//d", b"")
        .open()
        .unwrap();
    assert_eq!(
        paths(&found),
        ["", "b", "b/c", "b/c/d", "etc", "etc/passwd"]
    );
}

#[test]
fn a_file_through_a_link_stays_inside() {
    let archive = Tar::default()
        .link(b'2', "a", "/etc")
        .link(b'2', "up", "../../..");
    let found = archive.file("a/f", b"1").file("up/g", b"2").open().unwrap();
    assert_eq!(paths(&found), ["", "a", "etc", "etc/f", "g", "up"]);
    assert_eq!(bytes(&found, "a"), b"/etc");

    let nested = Tar::default().link(b'2', "d/abs", "/etc");
    let nested = nested
        .link(b'2', "d/rel", "../var")
        .file("d/abs/f", b"")
        .file("d/rel/g", b"");
    let found = nested.open().unwrap();
    assert_eq!(
        paths(&found),
        ["", "d", "d/abs", "d/rel", "etc", "etc/f", "var", "var/g"]
    );

    let round = Tar::default()
        .link(b'2', "a", "b")
        .link(b'2', "b", "a")
        .file("a/f", b"");
    assert_eq!(round.malformed(), Malformed::Through);
    let below_file = Tar::default().file("f", b"").file("f/g", b"");
    assert_eq!(below_file.malformed(), Malformed::Through);
}

#[test]
fn a_hard_link_leads_to_a_file_of_the_archive() {
    let hard = |target| {
        Tar::default()
            .directory("d")
            .file("f", b"x")
            .link(b'1', "l", target)
    };
    assert_eq!(hard("../../etc/passwd").malformed(), Malformed::Path);
    for target in ["etc/passwd", "/etc/passwd", "d", "l"] {
        assert_eq!(hard(target).malformed(), Malformed::HardLink, "{target}");
    }
    assert_eq!(hard(".").malformed(), Malformed::HardLink);
    let found = hard("f").open().unwrap();
    assert_eq!(found[&b"f"[..]], found[&b"l"[..]]);
    assert_eq!(found[&b"l"[..]].links, 2);
}

#[test]
fn the_last_of_one_name_wins() {
    let archive = Tar::default()
        .directory("d")
        .file("d/a", b"1")
        .directory("d/")
        .file("d/a", b"2");
    let found = archive.open().unwrap();
    assert_eq!(paths(&found), ["", "d", "d/a"]);
    assert_eq!(bytes(&found, "d/a"), b"2");
    let found = archive.file("d", b"now a file").open().unwrap();
    assert_eq!(paths(&found), ["", "d"]);
}

#[test]
fn every_type_and_strange_names() {
    let archive = Tar::default()
        .raw(b'3', b"null", 0, |_| {})
        .raw(b'4', b"disk", 0, |_| {})
        .raw(b'6', b"fifo\n", 0, |header| header.set_mode(0o4755))
        .raw(b'0', b"\xff\xfe", 2, |_| {})
        .data(b"hi")
        .raw(0, b"old/", 0, |_| {})
        .raw(b'V', b"label", 0, |_| {});
    let found = archive.open().unwrap();
    let entry = |name: &[u8]| &found[name];
    assert_eq!(
        (entry(b"null").mode, entry(b"null").rdev),
        (0o020_644, 0x103)
    );
    assert_eq!(entry(b"disk").mode, 0o060_644);
    assert_eq!(
        (
            entry(b"fifo\n").mode,
            entry(b"fifo\n").uid,
            entry(b"fifo\n").gid
        ),
        (0o014_755, 7, 8)
    );
    assert_eq!(entry(b"\xff\xfe").body, Body::Bytes(b"hi".into()));
    assert_eq!(
        (entry(b"old").mode, entry(b"old").mtime),
        (0o040_644, (9, 0))
    );
    assert_eq!(
        Tar::default().raw(b'M', b"x", 0, |_| {}).malformed(),
        Malformed::Type
    );
    let wide = Tar::default().raw(b'3', b"x", 0, |header| {
        header.set_device_major(4096).unwrap()
    });
    assert_eq!(wide.malformed(), Malformed::Device);
}

#[test]
fn long_names_and_extended_headers() {
    let deep = ["n".repeat(255), "m".repeat(200)].join("/");
    let link = "t".repeat(4000);
    let archive = Tar::default()
        .long(b'L', format!("{deep}\0").as_bytes())
        .long(b'K', format!("{link}\0").as_bytes())
        .link(b'2', "short", "short")
        .long(
            b'x',
            b"9 path=p\n14 uid=100000\n22 mtime=-1.500000000\n29 SCHILY.xattr.user.k=a\nb\0c\n",
        )
        .file("x", b"data");
    let found = archive.open().unwrap();
    assert_eq!(bytes(&found, &deep), link.as_bytes());
    let entry = &found[&b"p"[..]];
    assert_eq!(
        (entry.uid, entry.gid, entry.mtime),
        (100_000, 8, (-2, 500_000_000))
    );
    assert_eq!(entry.xattrs[&b"user.k"[..]], b"a\nb\0c");

    let long = Tar::default()
        .long(b'L', &[b'n'; 256])
        .file("x", b"")
        .open()
        .unwrap_err();
    assert!(
        matches!(
            long,
            ImageError::ArchiveEntry {
                source: Refused::LongName,
                ..
            }
        ),
        "{long}"
    );
    let path = Tar::default().long(b'L', &[b'/'; 5000]).file("x", b"");
    assert_eq!(path.malformed(), Malformed::LongPath);
    let huge = Tar::default().long(b'x', &vec![0; 2 << 20]);
    assert_eq!(huge.malformed(), Malformed::LongExtension);
    let lie = Tar::default().raw(b'L', b"x", 8 << 30, |_| {});
    assert_eq!(lie.malformed(), Malformed::Truncated);
}

#[test]
fn what_is_cut_short_is_said_with_its_place() {
    let whole = Tar::default()
        .file("a", &[1; 600])
        .long(b'L', &[b'n'; 200])
        .file("x", b"data")
        .0;
    let lengths = (0..whole.len()).filter(|len| len % 512 < 2 || len % 37 == 0);
    for len in lengths {
        // Where only padding is missing, or whole entries, nothing shows.
        let last_byte = whole.len() - 508;
        let opened = open_bytes(&whole[..len]);
        // The padding of the first file is bytes 1112 to 1536.
        if (1112..=1536).contains(&len) || len >= last_byte {
            opened.unwrap();
            continue;
        }
        let error = opened.unwrap_err();
        let problem = match &error {
            ImageError::Archive {
                problem, offset, ..
            } if *offset <= len as u64 => *problem,
            other => panic!("{len}: {other:?}"),
        };
        assert_eq!(problem, Malformed::Truncated, "{len}");
    }
    assert_eq!(Tar(vec![b'x'; 2000]).malformed(), Malformed::Checksum);
}

#[test]
fn a_sparse_file_that_claims_everything_is_refused() {
    let sparse = |real: u64, offset: u64, length: u64| {
        Tar::default()
            .raw(b'S', b"s", 4, |header| {
                let gnu = header.as_gnu_mut().unwrap();
                gnu.set_real_size(real);
                gnu.sparse[0].set_offset(offset);
                gnu.sparse[0].set_length(length);
            })
            .data(b"data")
    };
    let found = sparse(1 << 40, (1 << 40) - 4, 4).open().unwrap();
    assert_eq!(found[&b"s"[..]].size, 1 << 40);
    let error = sparse(1 << 60, 0, 4).open().unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
    assert!(matches!(
        sparse(u64::MAX, 0, 4).open(),
        Err(ImageError::TooLarge { .. })
    ));
    let records = b"22 GNU.sparse.size=10\n26 GNU.sparse.map=2,3,9,1\n24 GNU.sparse.name=real\n19 path=GNU.0/real\n";
    let named = Tar::default().long(b'x', records).file("x", b"data");
    let found = named.open().unwrap();
    assert_eq!(bytes(&found, "real"), b"\0\0dat\0\0\0\0a");
    assert_eq!(sparse(3, 0, 4).malformed(), Malformed::Sparse);
    assert_eq!(sparse(1 << 40, 0, 1 << 39).malformed(), Malformed::Sparse);
    assert_eq!(sparse(u64::MAX, u64::MAX, 4).malformed(), Malformed::Sparse);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_compressed_archive_of_several_members() {
    let plain = Tar::default().file("a", &[5; 10_000]).file("b", b"end").0;
    let (front, back) = plain.split_at(700);
    let packed = [gzip(front), gzip(back)].concat();
    assert_eq!(bytes(&open_bytes(&packed).unwrap(), "b"), b"end");
    for cut in [1, 5, 12, packed.len() - 2] {
        let error = open_bytes(&packed[..packed.len() - cut]).unwrap_err();
        assert!(
            matches!(
                error,
                ImageError::Archive {
                    problem: Malformed::Compressed,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn an_archive_is_found_again_until_it_changes() {
    let place = Place::new();
    place.write("t", Tar::default().file("a", b"1").0);
    let reference = format!("tar:{}/t", place.source.path().display());
    let again = || open(&reference, place.cache.path(), &mut |_| {}).unwrap();
    assert!(!again().cached && again().cached);
    place.write("t", Tar::default().file("a", b"2").0);
    let changed = again();
    assert!(!changed.cached);
    assert_eq!(bytes(&entries(&changed), "a"), b"2");
}

#[test]
fn archives_of_gnu_tar_in_every_format() {
    let place = Place::new();
    let root = place.source.path().join("root");
    std::fs::create_dir_all(root.join("d")).unwrap();
    let long = "long".repeat(60);
    std::fs::write(root.join("d").join(&long), "far").unwrap();
    std::os::unix::fs::symlink("x".repeat(300), root.join("link")).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(900_000).unwrap();
    // More pieces than one header holds, and data at both ends of a hole.
    for n in 0..30 {
        sparse
            .write_all_at(&[n + 1; 4096], u64::from(n) * 20_480)
            .unwrap();
    }
    let wanted = std::fs::read(root.join("sparse")).unwrap();
    let modified = root.join("sparse").metadata().unwrap();
    for format in [
        &["--format=gnu", "-S"][..],
        &["--format=gnu"],
        &["--format=pax", "-S", "--sparse-version=1.0"],
        &["--format=pax", "-S", "--sparse-version=0.1"],
        &["--format=pax", "-S", "--sparse-version=0.0"],
        &["--format=pax", "-z"],
    ] {
        let archive = place.source.path().join("t");
        let mut arguments: Vec<&OsStr> = format.iter().map(OsStr::new).collect();
        arguments.extend([
            OsStr::new("-C"),
            root.as_os_str(),
            "-cf".as_ref(),
            archive.as_os_str(),
            ".".as_ref(),
        ]);
        if !run_tool("tar", &arguments) {
            return;
        }
        let reference = format!("tar:{}", archive.display());
        let found = entries(&open(&reference, place.cache.path(), &mut |_| {}).unwrap());
        assert!(bytes(&found, "sparse") == wanted, "{format:?}");
        assert_eq!(bytes(&found, &format!("d/{long}")), b"far");
        assert_eq!(bytes(&found, "link"), "x".repeat(300).as_bytes());
        assert_eq!(found[&b"sparse"[..]].mtime.0, modified.mtime());
        assert_eq!(found.len(), 5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damaged anywhere, headers made valid again: an image, or one error, never a panic.
    #[test]
    fn no_damage_does_more_than_fail(damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut whole = Tar::default()
            .directory("d")
            .long(b'x', b"9 path=p\n14 uid=100000\n29 SCHILY.xattr.user.k=a\nb\0c\n")
            .file("d/f", &[3; 900])
            .link(b'2', "l", "d")
            .raw(b'S', b"s", 4, |header| {
                let gnu = header.as_gnu_mut().unwrap();
                gnu.set_real_size(5000);
                gnu.sparse[0].set_offset(100);
                gnu.sparse[0].set_length(4);
            })
            .data(b"data")
            .link(b'1', "l/h", "d/f")
            .0;
        for (index, byte) in damage {
            let at = index.index(whole.len());
            whole[at] = byte;
            let header = Header::from_byte_slice(&whole[at / 512 * 512..][..512]);
            if header.as_bytes()[257..262] == *b"ustar" {
                let mut header = header.clone();
                header.set_cksum();
                whole[at / 512 * 512..][..512].copy_from_slice(header.as_bytes());
            }
        }
        let _ = open_bytes(&whole);
    }
}
