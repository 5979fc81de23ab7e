// SPDX-License-Identifier: Apache-2.0
//! What is to be said of a host before its figures are believed. Pure: from readings to
//! sentences, each with what to do about it. Limits are named here and nowhere else.

use super::host::{Host, Reading};
use super::{Tried, milliseconds, percent, share};
use crate::bench::model::Caution;
use crate::probe::HostKind;
use crate::units::ByteSize;
use std::time::Duration;

/// Somebody else's share of the processors that moves a median.
const BUSY: f64 = 0.10;
/// Time taken by the host below this one that moves a median.
const STOLEN: f64 = 0.01;
/// Above it a machine's start waits for its cgroup (docs/performance.md).
const SLOW_CREATION: Duration = Duration::from_millis(5);
/// A clock that costs more is read by a system call or a device, and is part of what it measures.
const SLOW_CLOCK: u64 = 200;
/// Parts of a thousand in which a busy thread was kept from its processor.
const LOST: u64 = 20;
/// A change of frequency between two looks that moves a median.
const FREQUENCY: f64 = 0.05;
/// Below it files leave the page cache that the next round wants.
const LEAST_AVAILABLE: u64 = 1 << 30;
const LEAST_SHARE: u64 = 5;

fn caution(what: impl Into<String>, hint: impl Into<String>) -> Caution {
    let (what, hint) = (what.into(), hint.into());
    Caution { what, hint }
}

/// Whether processors may go beyond their nominal frequency, where that is told.
pub fn boost(host: &Host) -> Option<bool> {
    let below = |file: &str| host.number(&format!("sys/devices/system/cpu/{file}"));
    let intel = below("intel_pstate/no_turbo").map(|off| off == 0);
    intel.or_else(|| below("cpufreq/boost").map(|on| on != 0))
}

pub(super) fn before(host: &Host, kind: HostKind, at: &Reading, tried: &Tried) -> Vec<Caution> {
    let mut all = Vec::new();
    processors(host, tried, &mut all);
    frequency(host, &mut all);
    clock(host, tried, &mut all);
    machines(host, kind, tried, &mut all);
    memory(host, at, &mut all);
    limits(host, &mut all);
    all
}

fn processors(host: &Host, tried: &Tried, all: &mut Vec<Caution>) {
    if tried.busy > BUSY {
        all.push(caution(
            format!(
                "the processors were {} busy before the first round, with nothing of the benchmark",
                percent(tried.busy)
            ),
            "stop what else runs (top shows it), and run the benchmark again",
        ));
    }
    if tried.stolen > STOLEN {
        all.push(caution(
            format!(
                "the host below this machine took {} of its processor time",
                percent(tried.stolen)
            ),
            "use a machine with processors of its own (dedicated or metal)",
        ));
    }
    if host.processors() < 2 {
        all.push(caution(
            "there is one processor, so what a contestant does beside its start is in its figures",
            "use a machine with two processors or more",
        ));
    }
}

fn frequency(host: &Host, all: &mut Vec<Caution>) {
    let governor = host.text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    if let Some(governor) = governor.filter(|name| name != "performance") {
        all.push(caution(
            format!("the frequency governor is {governor}: a short start may end before the processor is quick"),
            "sudo cpupower frequency-set -g performance",
        ));
    }
    if boost(host) == Some(true) {
        all.push(caution(
            "processors may go beyond their nominal frequency, more so the fewer are busy",
            "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost   (or 1 to intel_pstate/no_turbo)",
        ));
    }
    let battery = host.text("sys/class/power_supply/AC/online");
    if battery.as_deref() == Some("0") {
        all.push(caution(
            "this computer runs on its battery",
            "plug it in, and run the benchmark again",
        ));
    }
}

fn clock(host: &Host, tried: &Tried, all: &mut Vec<Caution>) {
    let path = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = host.text(path).unwrap_or_default();
    if matches!(&*source, "hpet" | "acpi_pm" | "jiffies" | "refined-jiffies") {
        all.push(caution(
            format!("the clock source is {source}, which is slow or coarse"),
            "see why the kernel gave up the TSC: dmesg | grep -i -e clocksource -e tsc",
        ));
    } else if host.has_flag("hypervisor") && source != "tsc" {
        all.push(caution(
            format!("the clock is another machine's ({source}): it may be slewed, and stands still while that machine is moved"),
            "figures of one run compare; those of two days may not: run husk bench on bare metal to publish",
        ));
    } else if source == "tsc" && !(host.has_flag("constant_tsc") && host.has_flag("nonstop_tsc")) {
        all.push(caution(
            "the clock is a TSC that may change its pace with the processor's frequency or sleep",
            "boot the host with clocksource=hpet, or fix the frequency",
        ));
    }
    if tried.clock.reading > SLOW_CLOCK {
        all.push(caution(
            format!("one reading of the clock takes {} ns", tried.clock.reading),
            "figures below a hundred times that are of the clock; choose the tsc clock source where it can be trusted",
        ));
    }
    if tried.clock.lost > LOST {
        all.push(caution(
            format!(
                "a thread that only read the clock was kept from its processor for {} of the time, {} at the longest",
                percent(tried.clock.lost as f64 / 1000.0),
                milliseconds(Duration::from_nanos(tried.clock.longest)),
            ),
            "p99 and above are this host's, not a contestant's; stop other programs, or isolate processors (isolcpus=)",
        ));
    }
}

fn machines(host: &Host, kind: HostKind, tried: &Tried, all: &mut Vec<Caution>) {
    match &tried.creation {
        Some(Err(why)) => all.push(caution(
            format!("no machine can be started here: {why}"),
            "husk doctor tells what is missing",
        )),
        Some(Ok(time)) => {
            if *time > SLOW_CREATION {
                all.push(caution(
                    format!(
                        "KVM_CREATE_VM takes {} in this cgroup: KVM moves a thread into it, which waits for an RCU grace period",
                        milliseconds(*time)
                    ),
                    "sudo mount -o remount,favordynmods /sys/fs/cgroup   (cgroup version 2; or boot with cgroup_favordynmods=1)",
                ));
            }
            if kind == HostKind::Pvm {
                all.push(caution(
                    "KVM has no hardware below it here (PVM): machines pay for system calls, page faults and exits in software",
                    "for figures of machines as most people have them use a host whose processor shows vmx or svm",
                ));
            } else if host.has_flag("hypervisor") {
                all.push(caution(
                    "this host is a virtual machine itself: each exit of a machine in it costs several times more",
                    "run husk bench on bare metal to compare machines with containers there",
                ));
            }
        }
        None => {}
    }
}

fn memory(host: &Host, at: &Reading, all: &mut Vec<Caution>) {
    let total = host.memory("MemTotal").unwrap_or(0);
    let (swap, free) = (host.memory("SwapTotal"), host.memory("SwapFree"));
    let used = swap.unwrap_or(0).saturating_sub(free.unwrap_or(0));
    if used > 0 {
        all.push(caution(
            format!("{} are swapped out", ByteSize::from_bytes(used).rounded()),
            "sudo swapoff -a for the time of the benchmark: what is swapped counts for no contestant's memory",
        ));
    }
    let Some(available) = at.available else {
        return;
    };
    if available < LEAST_AVAILABLE || available < total / LEAST_SHARE {
        all.push(caution(
            format!(
                "only {} of {} are available: files leave the page cache between rounds",
                ByteSize::from_bytes(available).rounded(),
                ByteSize::from_bytes(total).rounded()
            ),
            "stop what uses the memory, or use a machine with more",
        ));
    }
}

fn limits(host: &Host, all: &mut Vec<Caution>) {
    let cgroup = host.cgroup();
    if let Some(count) = cgroup.processors {
        all.push(caution(
            format!(
                "the cgroup {} may use {count:.2} processors and is stopped when it has",
                cgroup.path
            ),
            "run the benchmark in a cgroup without a quota: sudo systemd-run --scope husk bench …",
        ));
    }
    let total = host.memory("MemTotal").unwrap_or(u64::MAX);
    if let Some(limit) = cgroup.memory.filter(|limit| *limit < total) {
        all.push(caution(
            format!(
                "the cgroup {} may use {} of memory, its page cache included",
                cgroup.path,
                ByteSize::from_bytes(limit).rounded()
            ),
            "run the benchmark in a cgroup without a limit: sudo systemd-run --scope husk bench …",
        ));
    }
}

pub(super) fn after(host: &Host, from: &Reading, to: &Reading) -> Vec<Caution> {
    let mut all = Vec::new();
    let stolen = share(from, to, |ticks| ticks.stolen);
    if stolen > STOLEN {
        all.push(caution(
            format!(
                "during the run the host below this machine took {} of its processor time",
                percent(stolen)
            ),
            "use a machine with processors of its own (dedicated or metal), or compare medians only",
        ));
    }
    load(host, from, to, &mut all);
    if let Some((cpu, from, to)) = changed_frequency(&from.frequencies, &to.frequencies) {
        all.push(caution(
            format!(
                "processor {cpu} went from {} to {} MHz during the run",
                from / 1000,
                to / 1000
            ),
            "fix the frequency: sudo cpupower frequency-set -g performance, and switch boost off",
        ));
    }
    let mut rose = |before: u64, after: u64, what: &str, hint: &str| {
        if after > before {
            let times = after - before;
            all.push(caution(
                format!("during the run {what} {times} times"),
                hint,
            ));
        }
    };
    rose(
        from.swapped,
        to.swapped,
        "pages were swapped",
        "sudo swapoff -a, or use a machine with more memory",
    );
    rose(
        from.throttled,
        to.throttled,
        "the cgroup was stopped for having used up its quota",
        "run the benchmark in a cgroup without a quota: sudo systemd-run --scope husk bench …",
    );
    rose(
        from.too_hot,
        to.too_hot,
        "a processor was slowed because it was too hot",
        "cool the machine, or fix a lower frequency",
    );
    all
}

/// The benchmark keeps some processors busy itself, so this is about more than it can be.
fn load(host: &Host, from: &Reading, to: &Reading, all: &mut Vec<Caution>) {
    let (Some(before), Some(after)) = (from.load, to.load) else {
        return;
    };
    if after > before + 1.0 && after > f64::from(host.processors()) + 1.0 {
        all.push(caution(
            format!("the load rose from {before:.2} to {after:.2}, beyond the processors there are"),
            "something else began meanwhile, or instances were many: look at the samples' order for a drift",
        ));
    }
}

fn changed_frequency(from: &[u64], to: &[u64]) -> Option<(usize, u64, u64)> {
    from.iter()
        .zip(to)
        .enumerate()
        .map(|(cpu, (from, to))| (cpu, *from, *to))
        .find(|(_, from, to)| from.abs_diff(*to) as f64 > *from as f64 * FREQUENCY)
}
