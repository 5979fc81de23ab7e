// SPDX-License-Identifier: Apache-2.0
//! Memory the guest frees goes back to the host, by itself.

use crate::support::husk::Host;
use crate::support::leftovers::{children, eventually};

/// Anonymous memory of a process, in MiB (proc_pid_status(5)).
fn resident(pid: nix::unistd::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

#[test]
fn freed_memory_goes_back_to_the_host() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mount = format!("{}:/host", folder.path().display());
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=200 2>/dev/null; echo full; \
        until [ -e /host/free ]; do :; done; rm /dev/shm/x; \
        until [ -e /host/end ]; do sleep 0.1; done";
    let started = host
        .sh(script)
        .options(&["-m", "512", "-v", &mount])
        .start();
    started.running.wait_for("full\n");
    let machines = children(started.running.pid());
    let most = || machines.iter().map(|pid| resident(*pid)).max().unwrap_or(0);
    let full = most();
    assert!(full > 200, "{full} MiB");
    std::fs::write(folder.path().join("free"), "").expect("a file");
    let fell = eventually(|| most() < full - 150);
    assert!(fell, "{} of {full} MiB", most());
    std::fs::write(folder.path().join("end"), "").expect("a file");
    started.end().is(0, "full\n", "");
}
