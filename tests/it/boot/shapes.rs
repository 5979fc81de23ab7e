// SPDX-License-Identifier: Apache-2.0
//! Machines of every size and roots of every kind. Each guest proves several things: it is
//! the boot that costs.

use crate::support::husk::{Host, Husk};
use std::ffi::OsString;

/// Runs a guest with so many CPUs and so much memory, of which it uses some.
#[track_caller]
fn check(host: &Host, image: OsString, cpus: usize, memory_mib: u64, touched_mib: u64) {
    let script = format!(
        "grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/online; \
         awk '/^MemTotal/ {{ print $2 }}' /proc/meminfo; \
         husk-probe touch {touched_mib}; cat /etc/motd; echo x > /etc/motd && cat /etc/motd"
    );
    let husk = Husk::run(&host.root, image, &["sh", "-c", &script]);
    let options = ["-c", &cpus.to_string(), "-m", &format!("{memory_mib}m")];
    let ended = husk.options(&options).end();
    let text = ended.text();
    let lines: Vec<&str> = text.lines().collect();
    let online = match cpus {
        1 => "0".to_owned(),
        _ => format!("0-{}", cpus - 1),
    };
    let [seen, range, total, touched, motd, written] = lines[..] else {
        panic!("six lines: {ended:?}");
    };
    assert_eq!((seen, range), (cpus.to_string().as_str(), online.as_str()));
    assert_eq!(touched, format!("{touched_mib} MiB hold"));
    assert_eq!((motd, written), ("as it was", "x"));
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));

    // The kernel keeps its own image and a share of the memory for its books.
    let total: u64 = total.parse().expect("a number");
    let (all, kept) = (memory_mib << 10, (16 << 10) + (memory_mib << 10) / 16);
    assert!((all - kept..all).contains(&total), "{total} KiB of {all}");
}

#[test]
fn one_cpu_and_32_mebibytes_from_a_directory() {
    let Some(host) = Host::find() else { return };
    check(&host, host.root.dir(), 1, 32, 4);
}

#[test]
fn two_cpus_and_256_mebibytes_from_an_archive() {
    let Some(host) = Host::find() else { return };
    check(&host, host.root.tar(), 2, 256, 8);
}

#[test]
fn four_cpus_and_1_gibibyte_from_an_ext4_image() {
    let Some(host) = Host::find() else { return };
    let Some(image) = host.root.ext4() else {
        return;
    };
    check(&host, image, 4, 1 << 10, 8);
}

/// 4 GiB reach beyond the hole below 4 GiB where the devices are.
#[test]
fn eight_cpus_and_4_gibibytes_from_an_erofs_image() {
    let Some(host) = Host::find() else { return };
    let Some(image) = host.root.erofs() else {
        return;
    };
    check(&host, image, 8, 4 << 10, 8);
}
