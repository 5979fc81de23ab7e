// SPDX-License-Identifier: Apache-2.0
//! Where a benchmark is run, and what makes its figures less than they look: a look before the
//! first round, and one after the last. The calling thread; changes nothing on the host, and
//! takes a third of a second before the first round.
//!
//! A caution is about what would change the figures or their comparison. What is merely so is a
//! fact of the machine.

mod clock;
mod host;
mod judge;

pub use host::{Cgroup, Host, Reading};

use super::model::{Caution, Machine};
use crate::probe::{self, HostKind};
use crate::units::ByteSize;
use clock::Clock;
use std::path::Path;
use std::time::Duration;

/// For so long the host is watched while the benchmark does nothing itself.
const IDLE: Duration = Duration::from_millis(250);
/// For so long the clock is read.
const READING: Duration = Duration::from_millis(60);

/// The look before the first round; `end` takes the other.
#[derive(Debug)]
pub struct Watch {
    host: Host,
    before: Reading,
}

/// What trying found.
#[derive(Clone, Debug, Default)]
struct Tried {
    /// While nothing of the benchmark ran: busy and stolen, in parts of all processor time.
    busy: f64,
    stolen: f64,
    clock: Clock,
    /// Of `KVM_CREATE_VM`.
    creation: Option<Result<Duration, String>>,
}

/// Describes this host, says what is wrong with it, and begins to watch it. `work` is the
/// folder in which the contestants' files are.
pub fn begin(work: &Path) -> (Machine, Vec<Caution>, Watch) {
    let host = Host::default();
    let start = host.reading();
    std::thread::sleep(IDLE);
    let before = host.reading();
    let tried = Tried {
        busy: 1.0 - share(&start, &before, |ticks| ticks.idle),
        stolen: share(&start, &before, |ticks| ticks.stolen),
        clock: clock::clock(READING),
        creation: Some(clock::creation()),
    };
    let kind = probe::kind();
    let machine = describe(&host, kind, &before, &tried, work);
    let cautions = judge::before(&host, kind, &before, &tried);
    (machine, cautions, Watch { host, before })
}

impl Watch {
    /// The look after the last round: what it found goes to the machine's facts and the cautions.
    pub fn end(self, machine: &mut Machine, cautions: &mut Vec<Caution>) {
        let after = self.host.reading();
        let steal = share(&self.before, &after, |ticks| ticks.stolen);
        let mut fact = |key: &str, value: String| machine.facts.push((key.to_owned(), value));
        if let Some(load) = after.load {
            fact("load after", format!("{load:.2}"));
        }
        if self.host.has_flag("hypervisor") {
            fact("stolen during the run", percent(steal));
        }
        cautions.extend(judge::after(&self.host, &self.before, &after));
    }
}

/// The share of processor time between two readings that `part` is.
fn share(from: &Reading, to: &Reading, part: impl Fn(&host::Ticks) -> u64) -> f64 {
    let all = to.ticks.all.saturating_sub(from.ticks.all);
    let part = part(&to.ticks).saturating_sub(part(&from.ticks));
    match all {
        0 => 0.0,
        all => part as f64 / all as f64,
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

/// What KVM has below it, or why there is none.
fn lane(kind: HostKind, creation: Option<&Result<Duration, String>>) -> String {
    match (creation, kind) {
        (Some(Err(why)), _) => format!("none: {why}"),
        (_, HostKind::Pvm) => "pvm".to_owned(),
        (_, HostKind::Vmx | HostKind::Svm) => "hardware".to_owned(),
    }
}

fn describe(host: &Host, kind: HostKind, reading: &Reading, tried: &Tried, work: &Path) -> Machine {
    let unknown = || "unknown".to_owned();
    let mut facts = Vec::new();
    let mut fact = |key: &str, value: Option<String>| {
        facts.extend(value.map(|value| (key.to_owned(), value)));
    };
    let dmi = |file: &str| host.text(&format!("sys/class/dmi/id/{file}"));
    let words = [dmi("sys_vendor"), dmi("product_name")];
    let product = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
    fact("product", (!product.is_empty()).then_some(product));
    let itself = host.has_flag("hypervisor");
    fact("is a virtual machine", Some(yes(itself)));
    let clock = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    fact("clock source", host.text(clock));
    let Clock {
        reading: cost,
        longest,
        ..
    } = tried.clock;
    fact("clock read in", Some(format!("{cost} ns")));
    let longest = format!("{} µs", longest / 1000);
    fact("longest gap of a busy thread", Some(longest));
    let cpu = |file: &str| host.text(&format!("sys/devices/system/cpu/{file}"));
    fact("frequency driver", cpu("cpu0/cpufreq/scaling_driver"));
    fact("frequency governor", cpu("cpu0/cpufreq/scaling_governor"));
    fact("boost", judge::boost(host).map(yes));
    fact(
        "threads share cores",
        cpu("smt/active").map(|on| yes(on == "1")),
    );
    let huge = host.text("sys/kernel/mm/transparent_hugepage/enabled");
    fact("huge pages", huge.as_deref().and_then(chosen));
    cgroup_facts(&host.cgroup(), &mut fact);
    if let Some(Ok(time)) = &tried.creation {
        fact("KVM_CREATE_VM", Some(milliseconds(*time)));
    }
    fact("files are on", host.file_system(work));
    let swap = host.memory("SwapTotal").unwrap_or(0);
    fact("swap", Some(ByteSize::from_bytes(swap).rounded()));
    let available = reading.available.map(ByteSize::from_bytes);
    fact("memory available", available.map(ByteSize::rounded));
    fact("load before", reading.load.map(|load| format!("{load:.2}")));
    fact("busy before", Some(percent(tried.busy)));
    Machine {
        processor: host.cpuinfo("model name").unwrap_or_else(unknown),
        cpus: host.processors(),
        memory: host.memory("MemTotal").unwrap_or(0),
        kernel: host
            .text("proc/sys/kernel/osrelease")
            .unwrap_or_else(unknown),
        kvm: lane(kind, tried.creation.as_ref()),
        facts,
    }
}

fn cgroup_facts(cgroup: &Cgroup, fact: &mut impl FnMut(&str, Option<String>)) {
    let version = match cgroup.version {
        0 => None,
        version => Some(format!("version {version}, {}", cgroup.path)),
    };
    fact("cgroup", version);
    let processors = cgroup.processors.map(|count| format!("{count:.2}"));
    fact("cgroup's processors", processors);
    let memory = cgroup.memory.map(ByteSize::from_bytes);
    fact("cgroup's memory", memory.map(ByteSize::rounded));
}

/// The word in brackets of `always [madvise] never`.
fn chosen(words: &str) -> Option<String> {
    let (_, rest) = words.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests;
