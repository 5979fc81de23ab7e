// SPDX-License-Identifier: Apache-2.0
//! Directories of the host, and what is no image at all.

use super::{Place, bytes, entries};
use crate::image::testing::{run_tool, skip};
use crate::image::{FsKind, Progress, open};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

#[test]
fn owners_modes_times_and_links_are_as_on_disk() {
    let place = Place::new();
    let root = place.source.path();
    fs::create_dir_all(root.join("etc/deep")).unwrap();
    place.write("etc/f", "hello");
    fs::set_permissions(root.join("etc/f"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::hard_link(root.join("etc/f"), root.join("etc/deep/g")).unwrap();
    symlink("/etc/passwd", root.join("out")).unwrap();
    let fifo = root.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let image = place.directory().unwrap();
    assert_eq!(image.kind, FsKind::Erofs);
    let found = entries(&image);
    for (path, entry) in &found {
        let path = root.join(std::str::from_utf8(path).unwrap());
        let there = path.symlink_metadata().unwrap();
        assert_eq!(u32::from(entry.mode), there.mode(), "{path:?}");
        assert_eq!((entry.uid, entry.gid), (there.uid(), there.gid()));
        assert_eq!(entry.mtime, (there.mtime(), there.mtime_nsec() as u32));
        assert_eq!(u64::from(entry.links), there.nlink().max(1));
    }
    assert_eq!(found.len(), 7);
    assert_eq!(found[&b"etc/f"[..]].nid, found[&b"etc/deep/g"[..]].nid);
    assert_eq!(bytes(&found, "out"), b"/etc/passwd", "kept, not followed");
}

#[test]
fn erofs_utils_extract_what_was_there() {
    let place = Place::new();
    for (n, len) in [0, 1, 4000, 4095, 4096, 4097, 70_000, 300_000]
        .into_iter()
        .enumerate()
    {
        let content: Vec<u8> = (0..len).map(|at| (at * 7 + n) as u8).collect();
        place.write(&format!("f{n}"), content);
    }
    let image = place.directory().unwrap();
    let out = tempfile::TempDir::new().unwrap();
    let extract = format!("--extract={}", out.path().display());
    if !run_tool(
        "fsck.erofs",
        &[
            extract.as_ref(),
            "--overwrite".as_ref(),
            image.path.as_os_str(),
        ],
    ) {
        return;
    }
    for n in 0..8 {
        let name = format!("f{n}");
        let (one, two) = (place.source.path().join(&name), out.path().join(&name));
        assert!(fs::read(one).unwrap() == fs::read(two).unwrap(), "{name}");
    }
}

#[test]
fn holes_stay_holes() {
    let place = Place::new();
    let file = fs::File::create(place.source.path().join("sparse")).unwrap();
    file.set_len(6 << 30).unwrap();
    let middle = 5 << 30;
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", middle).unwrap();
    let image = place.directory().unwrap();
    let metadata = image.file.metadata().unwrap();
    assert!(metadata.len() > 6 << 30 && metadata.blocks() * 512 < 1 << 20);
    let at = u64::from(entries(&image)[&b"sparse"[..]].rdev) * 4096 + middle;
    let mut read = [0; 7];
    std::os::unix::fs::FileExt::read_exact_at(&image.file, &mut read, at).unwrap();
    assert_eq!(&read, b"middle\0");
}

#[test]
fn attributes_are_kept_and_labels_of_the_host_are_not() {
    let place = Place::new();
    place.write("f", "x");
    let file = place.source.path().join("f");
    match rustix::fs::lsetxattr(&file, "user.husk", b"kept\0\n", XattrFlags::empty()) {
        Err(Errno::NOTSUP) => return skip("attributes: this file system has none"),
        other => other.unwrap(),
    }
    let mut kept = 1;
    // VFS_CAP_REVISION_2 with cap_net_bind_service: root may set that.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    if nix::unistd::geteuid().is_root() {
        for (name, value) in [
            ("security.capability", &capability[..]),
            ("trusted.t", b"t"),
            ("security.other", b"o"),
        ] {
            rustix::fs::lsetxattr(&file, name, value, XattrFlags::empty()).unwrap();
        }
        kept = 3;
    } else {
        skip("attributes only root may set");
    }
    let found = entries(&place.directory().unwrap());
    let xattrs = &found[&b"f"[..]].xattrs;
    assert_eq!(xattrs[&b"user.husk"[..]], b"kept\0\n");
    assert_eq!(xattrs.len(), kept, "{xattrs:?}");
}

#[test]
fn a_socket_is_left_out_and_said() {
    let place = Place::new();
    let _listener = UnixListener::bind(place.source.path().join("socket")).unwrap();
    let mut skipped = Vec::new();
    let reference = format!("dir:{}", place.source.path().display());
    let image = open(&reference, place.cache.path(), &mut |progress| {
        if let Progress::Skipped { path, .. } = progress {
            skipped.push(path.to_owned());
        }
    });
    assert_eq!(skipped, [place.source.path().join("socket")]);
    assert_eq!(entries(&image.unwrap()).len(), 1);
}

#[test]
fn what_is_no_image_is_said_in_one_line() {
    let place = Place::new();
    place.write("text", "no file system");
    place.write("xz", b"\xfd7zXZ\0 and more");
    place.write("zstd", [0x28, 0xb5, 0x2f, 0xfd, 0]);
    let fifo = place.source.path().join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let at = place.source.path().display();
    for (reference, says, hint) in [
        (
            format!("{at}"),
            "is a directory",
            Some(format!("type dir:{at}")),
        ),
        (format!("{at}/none"), "does not exist", None),
        (format!("{at}/text"), "is no EROFS, ext4 or squashfs", None),
        (format!("{at}/fifo"), "is neither a regular file", None),
        (format!("dir:{at}/none"), "does not exist", None),
        (format!("dir:{at}/text"), "is no directory", None),
        (format!("tar:{at}/none"), "does not exist", None),
        (format!("tar:{at}"), "is neither a regular file", None),
        (format!("tar:{at}/xz"), "compressed in a way", None),
        (format!("tar:{at}/zstd"), "cannot be read", None),
        (format!("tar:{at}/text"), "it ends in the middle", None),
    ] {
        let error = open(&reference, place.cache.path(), &mut |_| {}).unwrap_err();
        let line = error.to_string();
        assert!(
            line.contains(says) && !line.contains('\n'),
            "{reference}: {line}"
        );
        if hint.is_some() {
            assert_eq!(error.hint(), hint);
        }
    }
    assert!(
        place.cached("").is_empty(),
        "nothing is left of what failed"
    );
}

#[test]
fn a_ready_file_system_is_used_as_it_is() {
    let place = Place::new();
    place.write("a", "one");
    let image = place.directory().unwrap();
    let ready = open(
        image.path.to_str().unwrap(),
        place.cache.path(),
        &mut |_| {},
    )
    .unwrap();
    assert_eq!(
        (ready.kind, ready.path, ready.cached),
        (FsKind::Erofs, image.path, true)
    );
}

#[test]
fn a_directory_swapped_for_a_link_leads_nowhere() {
    let (place, outside) = (Place::new(), tempfile::TempDir::new().unwrap());
    let root = place.source.path();
    fs::create_dir(root.join("d")).unwrap();
    place.write("a", "first");
    place.write("d/f", "inside");
    fs::write(outside.path().join("f"), "secret").unwrap();
    let mut swapped = false;
    let reference = format!("dir:{}", root.display());
    let image = open(&reference, place.cache.path(), &mut |progress| {
        // "a" is written before anything below "d" is opened.
        if matches!(progress, Progress::Writing { .. }) && !swapped {
            swapped = true;
            fs::rename(root.join("d"), root.join("e")).unwrap();
            symlink(outside.path(), root.join("d")).unwrap();
        }
    });
    let found = entries(&image.unwrap());
    let paths: Vec<_> = found.keys().map(|path| path.as_slice()).collect();
    assert_eq!(paths, [&b""[..], b"a", b"d", b"e", b"e/f"]);
    assert_eq!(bytes(&found, "e/f"), b"inside");
}
