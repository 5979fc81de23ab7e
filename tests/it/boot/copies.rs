// SPDX-License-Identifier: Apache-2.0
//! Files into and out of a machine that runs.

use crate::support::daily::Daily;
use crate::support::process::Input;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

const FOREVER: &str = "echo ready; while :; do sleep 0.2; done";

#[test]
fn a_tree_goes_in_and_comes_back_as_it_was() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box"], FOREVER);
    let folder = tempfile::tempdir().expect("a folder");
    let tree = folder.path().join("tree");
    let long = format!("{}/{}", "d".repeat(150), "e".repeat(150));
    fs::create_dir_all(tree.join(&long)).expect("folders");
    let big: Vec<u8> = (0..3_000_001u32)
        .map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    fs::write(tree.join(&long).join("big"), &big).expect("a file");
    fs::write(tree.join("empty"), "").expect("a file");
    fs::write(tree.join("run"), "#!/bin/sh\necho ran\n").expect("a file");
    fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o750)).expect("a mode");
    symlink("/etc/passwd", tree.join("link")).expect("a link");

    let from = tree.display().to_string();
    daily.does(&["cp", &from, "box:/new"]);
    assert_eq!(daily.does(&["exec", "box", "/new/run"]), "ran\n");
    // Into what is there already, under its own name.
    daily.does(&["cp", &from, "box:/new"]);
    assert_eq!(daily.does(&["exec", "box", "/new/tree/run"]), "ran\n");

    let back = folder.path().join("back");
    let to = back.display().to_string();
    daily.does(&["cp", "box:/new/tree", &to]);
    assert_eq!(fs::read(back.join(&long).join("big")).expect("a file"), big);
    assert_eq!(fs::read(back.join("empty")).expect("a file"), b"");
    assert_eq!(
        back.join("run").metadata().expect("a file").mode() & 0o7777,
        0o750
    );
    assert_eq!(
        fs::read_link(back.join("link"))
            .expect("a link")
            .as_os_str(),
        "/etc/passwd"
    );
    let time = |path: &std::path::Path| path.metadata().expect("a file").mtime();
    assert_eq!(time(&back.join("run")), time(&tree.join("run")));
}

#[test]
fn single_files_streams_and_contents_are_copied() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box"], FOREVER);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "content\n").expect("a file");
    let path = file.display().to_string();
    daily.does(&["cp", &path, "box:/etc/renamed"]);
    assert_eq!(
        daily.does(&["exec", "box", "cat", "/etc/renamed"]),
        "content\n"
    );
    daily.does(&["exec", "box", "sh", "-c", "echo changed > /etc/renamed"]);
    daily.does(&["cp", "box:/etc/renamed", &path]);
    assert_eq!(fs::read_to_string(&file).expect("a file"), "changed\n");

    let stream = daily
        .start(&["cp", "box:/etc/renamed", "-"], Input::Nothing)
        .finish();
    let mut archive = tar::Archive::new(&stream.stdout[..]);
    let mut entries = archive.entries().expect("an archive");
    let entry = entries.next().expect("one").expect("readable");
    assert_eq!(entry.path().expect("a path").to_str(), Some("renamed"));
    let into = daily
        .start(
            &["cp", "-", "box:/bin"],
            Input::Bytes(stream.stdout.clone()),
        )
        .finish();
    into.is(0, "", "");
    assert_eq!(
        daily.does(&["exec", "box", "cat", "/bin/renamed"]),
        "changed\n"
    );

    let contents = folder.path().join("contents");
    fs::create_dir(&contents).expect("a folder");
    daily.does(&["cp", "box:/etc/.", &contents.display().to_string()]);
    assert!(contents.join("renamed").exists());
    // The same the other way: into what is there, and into what is made for it.
    fs::create_dir(contents.join("deep")).expect("a folder");
    fs::write(contents.join("deep/file"), "far\n").expect("a file");
    let from = format!("{}/.", contents.display());
    for to in ["/tmp", "/tmp/made"] {
        daily.does(&["cp", &from, &format!("box:{to}")]);
        let deep = format!("{to}/deep/file");
        assert_eq!(daily.does(&["exec", "box", "cat", &deep]), "far\n");
        let renamed = format!("{to}/renamed");
        assert_eq!(daily.does(&["exec", "box", "cat", &renamed]), "changed\n");
    }
}

#[test]
fn what_cannot_be_copied_is_told() {
    let Some(daily) = Daily::find() else { return };
    daily.detach(&["--name", "box"], FOREVER);
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().display().to_string();
    let missing = daily.husk(&["cp", "box:/no/such", &to]);
    assert_eq!(missing.code, 1, "{missing:?}");
    assert!(
        missing.stderr.contains("/no/such: no such file"),
        "{missing:?}"
    );
    let device = daily.husk(&["cp", "box:/dev/null", &to]);
    assert_eq!(device.code, 1, "{device:?}");
    let nowhere = daily.husk(&["cp", "box:/etc", &format!("{to}/no/such")]);
    assert_eq!(nowhere.code, 1, "{nowhere:?}");
    let absent = daily.husk(&["cp", &format!("{to}/absent"), "box:/"]);
    assert_eq!(absent.code, 1, "{absent:?}");
    fs::write(folder.path().join("file"), "x").expect("a file");
    let inside = daily.husk(&["cp", &format!("{to}/file"), "box:/no/such/place"]);
    assert_eq!(inside.code, 1, "{inside:?}");
}
