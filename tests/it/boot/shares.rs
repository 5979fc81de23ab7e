// SPDX-License-Identifier: Apache-2.0
//! Directories of the host in guests: what works there, and that nothing leads out of them.

use crate::support::husk::Host;
use crate::support::leftovers::{children, eventually};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixStream;

/// A share in a folder with a secret beside it.
fn share() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let share = folder.path().join("share");
    std::fs::create_dir(&share).expect("a folder");
    std::fs::write(folder.path().join("secret"), "secret").expect("a file");
    let mount = format!("{}:/host", share.display());
    (folder, mount)
}

#[test]
fn both_sides_see_what_the_other_does() {
    let Some(host) = Host::find() else { return };
    let (folder, mount) = share();
    let path = folder.path().join("share");
    std::fs::write(path.join("from-host"), "hello").expect("a file");
    let script = "cat /host/from-host; echo; echo back > /host/from-guest; \
        dd if=/dev/zero of=/host/big bs=1M count=20 2>/dev/null; wc -c < /host/big";
    let ended = host.sh(script).options(&["-v", &mount]).end();
    ended.is(0, "hello\n20971520\n", "");
    let back = std::fs::read_to_string(path.join("from-guest"));
    assert_eq!(back.expect("written"), "back\n");
    let meta = path.join("from-guest").metadata().expect("there");
    assert_eq!(
        meta.uid(),
        nix::unistd::getuid().as_raw(),
        "the guest's root is who started it"
    );
}

/// What git and apt do: many files made under other names, renamed, linked, given modes and
/// times, listed, removed.
#[test]
fn metadata_work_of_real_programs() {
    let Some(host) = Host::find() else { return };
    let (folder, mount) = share();
    let script = "cd /host; set -e; for n in $(seq 200); do \
          busybox mkdir -p obj/$((n % 16)); echo $n > obj/tmp.$n; busybox chmod 444 obj/tmp.$n; \
          busybox mv obj/tmp.$n obj/$((n % 16))/$n; done; \
        busybox find obj -type f | wc -l; busybox ln obj/1/1 link; busybox ln -s obj/1/1 soft; \
        cat link soft; busybox tar c obj | busybox tar x -C /tmp; \
        busybox diff -r obj /tmp/obj && echo same; \
        busybox tar c -C /tmp obj | (busybox mkdir two; busybox tar x -C two); \
        busybox diff -r obj two/obj && echo same; \
        echo changed > index.lock; busybox mv index.lock index; cat index; \
        busybox rm -r obj two; busybox ls";
    let ended = host.sh(script).options(&["-v", &mount]).end();
    ended.is(0, "200\n1\n1\nsame\nsame\nchanged\nindex\nlink\nsoft\n", "");
    let link = folder.path().join("share/link");
    assert_eq!(std::fs::read_to_string(link).expect("there"), "1\n");
}

#[test]
fn nothing_leads_out_of_a_share() {
    let Some(host) = Host::find() else { return };
    let (folder, mount) = share();
    let share = folder.path().join("share");
    symlink("../secret", share.join("near")).expect("a link");
    symlink(folder.path().join("secret"), share.join("far")).expect("a link");
    symlink("/proc/1/root", share.join("magic")).expect("a link");
    let script = format!(
        "cd /host; for path in near far ../secret /host/../secret {0}/secret magic{0}/secret \
            /proc/self/root{0}/secret; do cat $path 2>/dev/null; echo x 2>/dev/null > $path; done; \
        busybox ln near hard; cat hard 2>/dev/null; \
        busybox mknod disk b 254 0 2>/dev/null; echo $?; \
        echo '#!/bin/sh' > plain; busybox chmod 6755 plain; busybox stat -c %a plain",
        folder.path().display()
    );
    let ended = host.sh(&script).options(&["-v", &mount]).end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!ended.text().contains("secret"), "{ended:?}");
    assert!(ended.text().ends_with("1\n755\n"), "{ended:?}");
    let secret = std::fs::read_to_string(folder.path().join("secret"));
    assert_eq!(secret.expect("there"), "secret");
    assert!(!share.join("disk").exists());
}

#[test]
fn a_share_that_is_read_only_takes_nothing() {
    let Some(host) = Host::find() else { return };
    let (folder, mount) = share();
    std::fs::write(folder.path().join("share/a"), "as it was").expect("a file");
    let script = "cat /host/a; echo; for act in 'touch /host/a' 'rm /host/a' 'busybox mkdir /host/d' \
        'busybox mv /host/a /host/b' 'busybox chmod 777 /host/a' 'busybox mount -o remount,rw /host'; \
        do $act 2>/dev/null && echo could $act; done; echo x > /host/a; echo $?; \
        rm /host/a; cat /host/a";
    let options = ["-v", &format!("{mount}:ro")];
    let ended = host.sh(script).options(&options).end();
    // The mount itself is the guest's to change; what is behind it is not.
    assert!(ended.text().ends_with("as it was"), "{ended:?}");
    let text = std::fs::read_to_string(folder.path().join("share/a"));
    assert_eq!(text.expect("there"), "as it was");
}

#[test]
fn the_server_of_a_share_ends_with_its_machine() {
    let Some(host) = Host::find() else { return };
    let (_folder, mount) = share();
    let started = host
        .sh("echo ready; exec husk-probe spin")
        .options(&["-v", &mount, "--network", "none"])
        .start();
    started.running.wait_for("ready\n");
    let servers = children(started.running.pid());
    assert_eq!(servers.iter().filter(|pid| serves(pid)).count(), 1);
    started.running.signal(nix::sys::signal::Signal::SIGKILL);
    started.running.finish();
    let us = nix::unistd::getpid();
    let gone = eventually(|| !children(us).iter().any(serves));
    assert!(gone, "a server outlives its machine");
}

fn serves(pid: &nix::unistd::Pid) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"share")
}

#[test]
fn the_server_has_the_directory_and_nothing_else() {
    let Some(host) = Host::find() else { return };
    let (_folder, mount) = share();
    let started = host
        .sh("echo ready; exec husk-probe spin")
        .options(&["-v", &mount])
        .start();
    started.running.wait_for("ready\n");
    let mut all = children(started.running.pid());
    all.retain(serves);
    let [server] = all[..] else {
        panic!("one server, not {all:?}");
    };
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/{server}/{name}")).expect("it runs");
    let mounts = read("mountinfo");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let options = mounts.split(' ').nth(5).unwrap_or_default();
    for option in ["nosuid", "nodev", "noexec"] {
        assert!(options.split(',').any(|one| one == option), "{mounts}");
    }
    let status = read("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    // CHOWN, DAC_OVERRIDE and FOWNER, in a user namespace of its own.
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0b1011), "{set}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
    }
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts"] {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}"));
        let (own, its) = (link("self"), link(&server.to_string()));
        assert_ne!(own.expect("ours"), its.expect("its"), "{kind}");
    }
    started.running.signal(nix::sys::signal::Signal::SIGTERM);
    started.end();
}

#[test]
fn a_directory_that_cannot_be_shared_is_said() {
    let Some(host) = Host::find() else { return };
    for (path, part) in [
        ("/nowhere/at/all", "No such file or directory"),
        ("/etc/passwd", "it is no directory"),
        ("/", "it is all of the host"),
    ] {
        let options = ["-v", &format!("{path}:/x")];
        let ended = host.run(&["true"]).options(&options).end();
        assert_eq!(ended.code, 125, "{ended:?}");
        assert!(ended.stderr.contains(part), "{ended:?}");
    }
}

#[test]
fn the_guests_vsock_is_reached_by_a_socket_that_goes_with_the_machine() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vsock");
    // One that a killed husk left is nobody's.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let option = path.to_str().expect("a path");
    let started = host
        .sh("echo ready; exec husk-probe spin")
        .options(&["--vsock", option])
        .start();
    started.running.wait_for("ready\n");
    let mut stream = UnixStream::connect(&path).expect("somebody listens");
    stream.write_all(b"CONNECT 4711\n").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an end");
    assert!(answer.is_empty(), "nobody listens in the guest: {answer:?}");
    let second = host.run(&["true"]).options(&["--vsock", option]).end();
    assert_eq!(second.code, 125, "{second:?}");
    started.running.signal(nix::sys::signal::Signal::SIGTERM);
    started.end();
    assert!(!path.exists(), "the socket is gone");
}
