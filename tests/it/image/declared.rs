// SPDX-License-Identifier: Apache-2.0
//! What an image declares beside its command: volumes, ports, labels.

use super::Sample;
use crate::support::husk::{Host, Husk};
use crate::support::{finish, husk};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;

/// The folder has the owner, mode and content the image gives it, and takes writes though
/// the root takes none.
#[test]
fn a_volume_of_the_image_takes_writes_where_the_root_takes_none() {
    let Some(host) = Host::find() else { return };
    let Some(sample) = Sample::shared() else {
        return;
    };
    let script = "cd /srv/old; cat two; stat -c '%a %u %g' .; echo new >three; ls; \
        touch /srv/new 2>/dev/null || echo read-only";
    let run = |options: &[&str]| {
        let image = sample.reference().into();
        let husk = Husk::run(&host.root, image, &[script]);
        husk.options(&[&["-u", "0", "--read-only"], options].concat())
            .end()
    };
    let ended = run(&[]);
    let owner = ended.text().lines().nth(1).unwrap_or_default().to_owned();
    assert!(owner.starts_with("755 "), "{ended:?}");
    ended.is(0, &format!("two\n{owner}\nthree\ntwo\nread-only\n"), "");
    // What is typed takes its place, also from above.
    for typed in ["/srv/old", "/srv"] {
        let ended = run(&["--tmpfs", typed]);
        assert!(!ended.text().contains("two\n"), "{typed}: {ended:?}");
    }
}

fn ask(folder: &Path, words: &[&str]) -> String {
    let mut command = husk();
    command.args(words).env("XDG_RUNTIME_DIR", folder);
    let outcome = finish(&mut command);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome.stdout
}

#[test]
fn every_exposed_port_gets_one_of_the_host() {
    let Some(host) = Host::find() else { return };
    let Some(sample) = Sample::shared() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let script = "echo up; while echo served | busybox nc -l -p 80; do :; done";
    let husk = Husk::run(&host.root, sample.reference().into(), &[script]);
    let options = [
        "-P",
        "-u",
        "0",
        "--name",
        "web",
        "--label",
        "org.example=typed",
    ];
    let started = husk
        .options(&options)
        .runtime_dir(folder.path().to_owned())
        .start();
    started.running.wait_for("up");
    let list: Value =
        serde_json::from_str(&ask(folder.path(), &["ps", "--format", "json"])).expect("JSON");
    let port = list[0]["ports"][0]["host"].as_u64().expect("a port");
    assert_eq!(
        list[0]["ports"],
        json!([{ "address": null, "host": port, "guest": 80, "protocol": "tcp" }])
    );
    let table = ask(folder.path(), &["ps"]);
    let shown = format!("127.0.0.1:{port}->80/tcp\n");
    assert!(table.ends_with(&shown), "{table}");
    let document: Value =
        serde_json::from_str(&ask(folder.path(), &["inspect", "web"])).expect("JSON");
    assert_eq!(document[0]["ports"], list[0]["ports"]);
    assert_eq!(document[0]["exposed_ports"], json!(["80/tcp"]));
    assert_eq!(document[0]["volumes"], json!(["/srv/old"]));
    assert_eq!(document[0]["labels"], json!({ "org.example": "typed" }));
    let mut text = String::new();
    // The guest's service is up a moment behind its word: until then it is closed at once.
    while text.is_empty() {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("a connection");
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_string(&mut text);
    }
    assert_eq!(text, "served\n");
    started.running.signal(Signal::SIGTERM);
    started.running.finish();
}

#[test]
fn an_exposed_port_nobody_published_is_told_and_not_opened() {
    let Some(host) = Host::find() else { return };
    let Some(sample) = Sample::shared() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let husk = Husk::run(&host.root, sample.reference().into(), &["echo up; cat"]);
    let mut started = husk
        .options(&["-i"])
        .input(crate::support::process::Input::Open)
        .runtime_dir(folder.path().to_owned())
        .start();
    started.running.wait_for("up");
    let table = ask(folder.path(), &["ps"]);
    assert!(table.ends_with("  80/tcp\n"), "{table}");
    let labels = ask(folder.path(), &["ps", "-q", "-f", "label=org.example=yes"]);
    assert_eq!(labels.lines().count(), 1);
    started.running.close_stdin();
    started.running.finish().is(0, "up\n", "");
}
