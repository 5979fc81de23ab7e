// SPDX-License-Identifier: Apache-2.0
//! Disks a guest writes to, and what becomes of the guest when the file below fails it.

use super::volumes::Data;
use crate::support::husk::{Host, Husk};
use crate::support::leftovers::files;
use std::time::{Duration, Instant};

/// Counts what dd said of a write that the disk refused. On a slow machine the file system's own
/// journal may meet the error before dd's data does; then it turns read-only, and says that.
const FAILED_WRITES: &str = "busybox grep -cE 'rror|Read-only file system'";

#[test]
fn a_disk_takes_what_memory_could_not_and_is_gone_afterwards() {
    let Some(host) = Host::find() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let script = "dd if=/dev/zero of=/big bs=1M count=300 2>/dev/null && wc -c < /big; \
        echo changed > /etc/motd && cat /etc/motd";
    let ended = host
        .sh(script)
        .options(&["-m", "256", "--disk-size", "512m"])
        .cache(cache.path().to_owned())
        .end();
    ended.is(0, "314572800\nchanged\n", "");
    let left = files(&cache.path().join("scratch"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_full_disk_of_the_host_is_an_error_in_the_guest_and_no_more() {
    let Some(host) = Host::find() else { return };
    let cache = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(cache.path().join("scratch")).expect("a folder");
    let mount = format!(
        "mount -t tmpfs -o size=24m none {}/scratch && exec \"$@\"",
        cache.path().display()
    );
    let script = format!(
        "dd if=/dev/zero of=/big bs=1M count=100 conv=fsync 2>&1 | {FAILED_WRITES}; \
        echo still; cat /etc/motd"
    );
    let ended = host
        .sh(&script)
        .options(&["--disk-size", "256m"])
        .cache(cache.path().to_owned())
        .by(&["unshare", "-rm", "sh", "-c", &mount, "sh"])
        .end();
    ended.is(0, "1\nstill\nas it was\n", "");
}

#[test]
fn a_disk_that_is_cut_short_or_removed_leaves_the_guest_its_life() {
    let Some(host) = Host::find() else { return };
    let data = Data::new();
    let share = tempfile::tempdir().expect("a folder");
    let mount = format!("{}:/host", share.path().display());
    let started = data
        .sh(
            &host,
            "touch /host/up; until [ -e /host/cut ]; do :; done; \
            dd if=/dev/vdb of=/dev/null bs=4096 skip=1000000 count=1 2>&1 | \
            busybox grep -c rror; echo survived; \
            until [ -e /host/gone ]; do :; done; dd if=/dev/vdb bs=512 count=1 2>/dev/null | wc -c",
        )
        .options(&["-v", "cut:/data", "-v", &mount])
        .start();
    let up = share.path().join("up");
    assert!(crate::support::leftovers::eventually(|| up.exists()));
    let path = data.path("cut");
    let file = std::fs::File::options()
        .write(true)
        .open(&path)
        .expect("the volume");
    file.set_len(1 << 20).expect("cut");
    std::fs::write(share.path().join("cut"), "").expect("a file");
    started.running.wait_for("survived\n");
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(share.path().join("gone"), "").expect("a file");
    let ended = started.end();
    assert_eq!(
        (ended.code, &*ended.text()),
        (0, "1\nsurvived\n512\n"),
        "{ended:?}"
    );
}

/// A folder of the test's, on which a small file system is mounted for husk alone.
fn on_small(husk: Husk, megabytes: u32, folder: &std::path::Path) -> Husk {
    let mount = format!(
        "mount -t tmpfs -o size={megabytes}m none {} && exec \"$@\"",
        folder.display()
    );
    husk.by(&["unshare", "-rm", "sh", "-c", &mount, "sh"])
}

#[test]
fn a_volume_on_a_full_disk_of_the_host_is_an_error_too() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let script = format!(
        "dd if=/dev/zero of=/data/big bs=1M count=100 conv=fsync 2>&1 | {FAILED_WRITES}; \
        echo still; cat /etc/motd"
    );
    let husk = host
        .sh(&script)
        .options(&["-v", "full:/data"])
        .env("HUSK_DATA_DIR", folder.path().to_str().expect("a path"));
    on_small(husk, 24, folder.path())
        .end()
        .is(0, "1\nstill\nas it was\n", "");
}

#[test]
fn a_full_share_says_so_and_takes_more_once_there_is_room() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let script = "dd if=/dev/zero of=/host/big bs=64k count=160 2>&1 | \
        busybox grep -o 'No space left on device'; rm /host/big; echo room > /host/a; cat /host/a";
    let mount = format!("{}:/host", folder.path().display());
    on_small(host.sh(script).options(&["-v", &mount]), 4, folder.path())
        .end()
        .is(0, "No space left on device\nroom\n", "");
}

#[test]
fn a_limit_slows_a_disk_down() {
    let Some(host) = Host::find() else { return };
    let data = Data::new();
    let start = Instant::now();
    let ended = data
        .sh(
            &host,
            "dd if=/dev/vdb of=/dev/null bs=1M count=16 2>/dev/null; echo done",
        )
        .options(&["-v", "slow:/data", "--disk-bps", "8m"])
        .end();
    ended.is(0, "done\n", "");
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1500), "{took:?}");
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_in_the_guest_and_no_more() {
    let Some(host) = Host::find() else { return };
    let data = Data::new();
    let share = tempfile::tempdir().expect("a folder");
    let mount = format!("{}:/host", share.path().display());
    let options = ["-v", "held:/data", "-v", &mount];
    data.sh(&host, "true").options(&options).end().is(0, "", "");
    // Beyond 10 MiB of any file, in blocks of 512 bytes.
    let limited = "ulimit -f 20480 && exec \"$@\"";
    let script = format!(
        "dd if=/dev/zero of=/data/big bs=1M count=100 conv=fsync 2>&1 | {FAILED_WRITES}; \
        dd if=/dev/zero of=/host/big bs=1M count=11 2>&1 | \
        busybox grep -c 'too large'; echo survived"
    );
    data.sh(&host, &script)
        .options(&options)
        .by(&["sh", "-c", limited, "sh"])
        .end()
        .is(0, "1\n1\nsurvived\n", "");
}
