// SPDX-License-Identifier: Apache-2.0
//! A detached machine with processes beside it: they are its owner's, work while it does,
//! and are gone with it however it ends, with their ports and their seat on a network.

use crate::support::daily::Daily;
use crate::support::leftovers::{children, eventually};
use crate::support::ports::free_port;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Answers on port 80 with a file of the shared directory, and takes what is written to it.
const SERVE: &str = "echo up; while :; do busybox nc -l -p 80 -e cat /host/page; done";

struct Service {
    daily: Daily,
    _folder: tempfile::TempDir,
    port: u16,
}

fn service() -> Option<Service> {
    let daily = Daily::find()?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("page"), "from the host\n").expect("a file");
    let port = free_port();
    let publish = format!("{port}:80");
    let mount = format!("{}:/host", folder.path().display());
    let options = [
        "-p",
        &publish,
        "-v",
        &mount,
        "--network",
        "net:beside",
        "--hostname",
        "web",
        "--name",
        "web",
    ];
    daily.detach(&options, SERVE);
    daily.wait_for("web", "up");
    Some(Service {
        daily,
        _folder: folder,
        port,
    })
}

/// The page, once somebody serves it.
fn page(port: u16) -> String {
    let mut text = String::new();
    let served = eventually(|| {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        text.clear();
        stream.read_to_string(&mut text).is_ok() && !text.is_empty()
    });
    assert!(served, "nobody serves port {port}");
    text
}

/// The verbs of the processes an owner has started.
fn parts(owner: Pid) -> Vec<String> {
    let verb = |pid: Pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let verb = line.split(|byte| *byte == 0).nth(1)?;
        Some(String::from_utf8_lossy(verb).into_owned())
    };
    let mut list: Vec<String> = children(owner).into_iter().filter_map(verb).collect();
    list.sort();
    list
}

#[test]
fn ports_directories_and_names_work_detached_and_end_with_the_machine() {
    let Some(service) = service() else { return };
    let daily = &service.daily;
    assert_eq!(page(service.port), "from the host\n");
    let owner = daily.pid("web", "owner_pid");
    assert_eq!(parts(owner), ["net", "share", "vmm"]);
    let ask = daily.words(
        &["--network", "net:beside", "--hostname", "other"],
        "busybox nc -w 5 web 80",
    );
    let ask: Vec<&str> = ask.iter().map(String::as_str).collect();
    assert_eq!(daily.does(&ask), "from the host\n");

    assert_eq!(daily.does(&["stop", "-t", "0", "web"]), "web\n");
    // Not sooner or later: when it is said to be over.
    TcpListener::bind(("127.0.0.1", service.port)).expect("its port is free");
    assert_eq!(parts(owner), [""; 0]);
    assert_eq!(daily.does(&["rm", "web"]), "web\n");
    assert_eq!(daily.left(), [] as [String; 0], "its seat was the last");
}

#[test]
fn an_owner_that_is_killed_takes_everything_along() {
    let Some(service) = service() else { return };
    let daily = &service.daily;
    assert_eq!(page(service.port), "from the host\n");
    let owner = daily.pid("web", "owner_pid");
    kill(owner, Signal::SIGKILL).expect("it lives");
    let us = nix::unistd::getpid();
    // It is this process's to reap: there was nobody else.
    nix::sys::wait::waitpid(owner, None).expect("adopted");
    let orphans = || {
        let mut all = parts(us);
        all.retain(|verb| ["net", "share", "vmm"].contains(&verb.as_str()));
        all
    };
    assert!(eventually(|| orphans().is_empty()), "{:?}", orphans());
    TcpListener::bind(("127.0.0.1", service.port)).expect("its port is free");
    let table = daily.does(&["ps", "-a"]);
    assert!(table.contains("exited"), "{table}");
    // The seat is free for the next one, which turns off the light.
    let next = daily.words(
        &["--network", "net:beside", "--hostname", "web"],
        "hostname",
    );
    let next: Vec<&str> = next.iter().map(String::as_str).collect();
    assert_eq!(daily.does(&next), "web\n");
    assert_eq!(daily.does(&["rm", "web"]), "web\n");
    assert_eq!(daily.left(), [] as [String; 0]);
}

#[test]
fn a_part_that_cannot_work_ends_the_start_with_its_reason() {
    let Some(service) = service() else { return };
    let daily = &service.daily;
    let publish = format!("{}:80", service.port);
    for how in [&["-d"][..], &[]] {
        let words = daily.words(&[how, &["-p", &publish]].concat(), "true");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let taken = daily.husk(&words);
        assert_eq!(taken.code, 125, "{taken:?}");
        assert!(
            taken
                .stderr
                .contains(&format!("cannot publish 127.0.0.1:{}", service.port)),
            "{taken:?}"
        );
    }
    assert_eq!(daily.does(&["ps", "-aq"]).lines().count(), 1);
}
