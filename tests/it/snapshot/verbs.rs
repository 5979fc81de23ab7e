// SPDX-License-Identifier: Apache-2.0
//! What the verbs answer, and what they leave.

use super::{Data, frozen};
use crate::support::finish;
use std::fs;
use std::process::Stdio;

#[test]
fn what_is_there_is_listed() {
    let data = Data::new();
    let heads = "NAME  AGE  SIZE  MEMORY  CPUS  IMAGE  PARENT\n";
    assert_eq!(data.good(&["snapshots"]), heads);
    assert_eq!(
        data.json(&["snapshots", "--format", "json"]),
        serde_json::json!([])
    );
    assert!(data.inside().is_empty());
    let data = Data::filled();
    for words in [
        &["snapshots"][..],
        &["snapshot", "ls"],
        &["snapshot", "list"],
    ] {
        let text = data.good(words);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!((lines[1][0], lines[2][0]), ("base", "child"));
        assert_eq!(lines[2].last(), Some(&"base"), "{text}");
        assert!(text.contains("64MiB") || text.contains("64 MiB"), "{text}");
        assert!(text.contains("docker.io/library/nginx:1"), "{text}");
    }
    let list = data.json(&["snapshots", "--format", "json"]);
    assert_eq!(list[1]["parent"], "base");
    assert_eq!(list[0]["memory"], 64 << 20);
    assert_eq!(list[0]["problem"], serde_json::Value::Null);
    assert!(list[0]["size"].as_u64().expect("bytes") < 1 << 20);
}

#[test]
fn a_snapshot_is_told_all_about() {
    let data = Data::filled();
    let page = data.good(&["snapshot", "inspect", "child"]);
    for word in ["child", "base", "format 1", "A processor", "64"] {
        assert!(page.contains(word), "{word}: {page}");
    }
    let document = data.json(&[
        "snapshot", "inspect", "--verify", "--format", "json", "base",
    ]);
    assert_eq!(document["children"], serde_json::json!(["child"]));
    assert_eq!(document["manifest"]["blueprint"]["argv"][0], "sleep");
    // It was made on no host there is.
    assert!(document["unfit"].is_string(), "{document}");
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let data = Data::filled();
    let told = data.refused(&["snapshot", "rm", "base"]);
    assert_eq!(
        told,
        "husk: snapshot 'base' cannot be removed: child builds on it\n\
         hint: `husk snapshot flatten child` makes it stand alone\n"
    );
    let told = data.refused(&["snapshot", "inspect", "none"]);
    assert_eq!(
        told,
        "husk: there is no snapshot 'none'\nhint: `husk snapshots` lists those there are\n"
    );
    let base = frozen("base");
    let base = base.to_str().expect("text");
    let told = data.refused(&["snapshot", "import", base]);
    assert!(
        told.contains("there is a snapshot 'base' already"),
        "{told}"
    );
    let told = data.refused(&["snapshot", "import", "--replace", base]);
    assert!(
        told.contains("cannot be replaced: child builds on it"),
        "{told}"
    );
    let told = data.refused(&["snapshot", "import", "/proc/version"]);
    assert!(told.contains("this is no snapshot"), "{told}");
    assert_eq!(data.inside(), [".lock", "base", "child"]);
    // Of another husk.
    let manifest = data.root().join("base/manifest.json");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let newer = text.replace("\"format\": 1", "\"format\": 2");
    fs::write(&manifest, newer).expect("written");
    fs::remove_file(data.root().join("base/digest")).expect("there");
    let reason = "was made by a newer husk: format 2, this one reads 1";
    assert!(
        data.refused(&["snapshot", "inspect", "base"])
            .contains(reason)
    );
    let export = ["snapshot", "export", "base", "/dev/null"];
    assert!(data.refused(&export).contains(reason));
    assert!(data.good(&["snapshots"]).contains(reason));
    let told = data.refused(&["snapshot", "inspect", "child"]);
    assert!(
        told.contains(&format!("builds on snapshot 'base', which {reason}")),
        "{told}"
    );
}

#[test]
fn what_builds_on_another_goes_before_it() {
    let data = Data::filled();
    let told = data.line(&["snapshot", "rm", "none", "base", "child"]);
    assert_eq!(told.code, 1);
    assert!(told.stderr.contains("'none'"), "{told:?}");
    let data = Data::filled();
    assert_eq!(data.good(&["snapshot", "rm", "base", "child"]), "");
    assert_eq!(data.inside(), [".lock"]);
}

#[test]
fn a_snapshot_goes_through_a_pipe() {
    let from = Data::filled();
    for options in [&[][..], &["--compress"]] {
        let to = Data::new();
        for name in ["base", "child"] {
            let words = [&["snapshot", "export"], options, &[name, "-"]].concat();
            let mut export = from.command(&words);
            let mut export = export.stdout(Stdio::piped()).spawn().expect("husk starts");
            let pipe = export.stdout.take().expect("a pipe");
            let mut import = to.command(&["snapshot", "import", "-"]);
            let taken = finish(import.stdin(pipe));
            assert_eq!(
                (taken.code, taken.stdout),
                (0, format!("{name}\n")),
                "{}",
                taken.stderr
            );
            assert!(export.wait().expect("its end").success());
        }
        let digest = |data: &Data| {
            let list = data.json(&["snapshots", "--format", "json"]);
            list.as_array()
                .expect("a list")
                .iter()
                .map(|row| row["digest"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(digest(&from), digest(&to));
        to.good(&["snapshot", "inspect", "--verify", "child"]);
    }
    // A reader that goes away is no reason to make a mess.
    let mut export = from.command(&["snapshot", "export", "base", "-"]);
    let mut export = export
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("husk starts");
    drop(export.stdout.take());
    let ended = export.wait_with_output().expect("its end");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
}

#[test]
fn an_export_is_a_file_when_it_is_whole() {
    let data = Data::filled();
    let path = data.0.path().join("out.husk");
    let text = path.to_str().expect("text");
    fs::write(&path, "old").expect("written");
    data.good(&["snapshot", "export", "--compress", "base", text]);
    assert!(fs::read(&path).expect("a file") == fs::read(frozen("base")).expect("a file"));
    data.good(&["snapshot", "import", "--name", "again", text]);
    fs::write(data.root().join("base/state"), "x").expect("written");
    let told = data.refused(&["snapshot", "export", "base", text]);
    assert!(told.contains("'state' has 1 bytes"), "{told}");
    assert!(fs::read(&path).expect("a file") == fs::read(frozen("base")).expect("a file"));
    let told = data.refused(&["snapshot", "export", "again", "/no/such/folder/x"]);
    assert!(told.contains("'/no/such/folder/x'"), "{told}");
    let mut left: Vec<_> = fs::read_dir(data.0.path()).expect("a folder").collect();
    assert_eq!(left.len(), 2, "{left:?}");
    left.clear();
    // A folder nothing can be put into.
    let mut limited = std::process::Command::new("sh");
    let import = data.command(&["snapshot", "import", "--name", "x", text]);
    limited.args(["-c", "ulimit -f 8; trap '' XFSZ; exec \"$0\" \"$@\""]);
    limited.arg(import.get_program()).args(import.get_args());
    limited.env("HUSK_DATA_DIR", data.0.path());
    let told = finish(limited.stdin(Stdio::null()));
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.stderr.contains("cannot write"), "{told:?}");
    assert_eq!(data.inside(), [".lock", "again", "base", "child"]);
}

#[test]
fn a_flat_snapshot_needs_no_other() {
    let data = Data::filled();
    assert_eq!(data.good(&["snapshot", "flatten", "child"]), "");
    let again = data.line(&["snapshot", "flatten", "child"]);
    assert_eq!(
        (again.code, again.stderr.as_str()),
        (0, "husk: snapshot 'child' builds on no other\n")
    );
    data.good(&["snapshot", "rm", "base"]);
    data.good(&["snapshot", "inspect", "--verify", "child"]);
    assert_eq!(data.inside(), [".lock", "child"]);
}
