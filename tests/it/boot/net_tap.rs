// SPDX-License-Identifier: Apache-2.0
//! Interfaces of the host, in a network namespace that each test makes and that is gone
//! with it: nothing of the host's own network is touched.

use crate::support::husk::{Host, Husk};
use crate::support::skipped;
use std::path::Path;
use std::process::Command;

/// The husk in a namespace of its own, where `setup` ran before and `check` runs meanwhile.
fn in_namespace(husk: Husk, setup: &str) -> Husk {
    let script = format!("set -e; {}{setup}; exec \"$@\"", iproute2());
    husk.by(&["unshare", "--net", "sh", "-c", &script, "husk"])
}

/// Makes `ip` iproute2's: a shell that is busybox takes its own, which knows less.
fn iproute2() -> String {
    let places = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"];
    let found = places.into_iter().find(|place| Path::new(place).exists());
    format!("ip() {{ {} \"$@\"; }}; ", found.unwrap_or("ip"))
}

fn may_make_interfaces() -> bool {
    let probe = format!(
        "{}ip link set lo up && ip tuntap add husk-probe mode tap",
        iproute2()
    );
    let made = Command::new("unshare")
        .args(["--net", "sh", "-c", &probe])
        .output();
    let works = made.is_ok_and(|output| output.status.success());
    if !works {
        skipped("tap interfaces need root, /dev/net/tun and iproute2");
    }
    works
}

/// Long runs of bytes both ways, which the guest's kernel hands over in segments longer than
/// the link's MTU.
const TALK: &str = "busybox ip addr add 198.18.0.2/24 dev eth0; \
    for i in 1 2 3 4 5 6 7 8 9 10; do busybox ping -c 1 -W 1 198.18.0.1 >/dev/null && break; done; \
    busybox nc 198.18.0.1 7000 -e busybox dd if=/dev/zero bs=1M count=8 2>/dev/null; \
    busybox nc 198.18.0.1 7001 -e sh -c 'busybox wc -c >&2'; echo over";
/// The host's half of it.
const ANSWER: &str = "busybox nc -l -p 7000 -e sh -c 'busybox wc -c >&2' & \
    busybox nc -l -p 7001 -e busybox dd if=/dev/zero bs=1M count=8 2>/dev/null &";

#[track_caller]
fn talked(ended: &crate::support::process::Ended) {
    assert_eq!(ended.stdout, b"over\n", "{ended:?}");
    assert_eq!(ended.stderr.matches("8388608").count(), 2, "{ended:?}");
}

#[test]
fn a_tap_carries_a_guest_and_is_gone_with_it() {
    let Some(host) = Host::find() else { return };
    if !may_make_interfaces() {
        return;
    }
    let wait = "(until ip link show husk7 >/dev/null 2>&1; do :; done; ip addr add 198.18.0.1/24 dev husk7) &";
    let setup = format!("ip link set lo up; {wait} {ANSWER} true");
    let husk = host.sh(TALK).options(&["--network", "tap:husk7"]);
    talked(&in_namespace(husk, &setup).end());
}

#[test]
fn a_bridge_carries_a_guest() {
    let Some(host) = Host::find() else { return };
    if !may_make_interfaces() {
        return;
    }
    let setup = "ip link set lo up; ip link add blue type bridge; ip link set blue up; \
        ip addr add 198.18.0.1/24 dev blue;";
    let husk = host.sh(TALK).options(&["--network", "bridge:blue"]);
    talked(&in_namespace(husk, &format!("{setup} {ANSWER} true")).end());
}

#[test]
fn what_is_no_interface_is_said_so() {
    let Some(host) = Host::find() else { return };
    if !may_make_interfaces() {
        return;
    }
    let husk = host.sh("true").options(&["--network", "bridge:none"]);
    let ended = in_namespace(husk, "true").end();
    assert_eq!(ended.code, 125, "{ended:?}");
    assert!(
        ended.stderr.contains("cannot join the bridge none"),
        "{ended:?}"
    );
}

/// Through the user-mode stack to addresses that are neither the gateway's nor loopback.
#[test]
fn an_address_that_is_named_is_reached_in_both_families() {
    let Some(host) = Host::find() else { return };
    if !may_make_interfaces() {
        return;
    }
    // Each server ends with its one client.
    let setup = "ip link set lo up; ip addr add 198.51.100.7/32 dev lo; \
        ip addr add 2001:db8::7/128 dev lo nodad; \
        busybox nc -l -p 7000 -e echo four & busybox nc -l -p 7006 -e echo six & true";
    let script = "busybox nc -w 10 198.51.100.7 7000; busybox nc -w 10 2001:db8::7 7006; \
        busybox nc -w 10 198.51.100.7 7006 2>/dev/null || echo closed";
    let allow = [
        "--allow",
        "198.51.100.7:7000",
        "--allow",
        "[2001:db8::7]:7006",
    ];
    let husk = host.sh(script).options(&allow);
    let ended = in_namespace(husk, setup).end();
    assert_eq!(ended.stdout, b"four\nsix\nclosed\n", "{ended:?}");
}
