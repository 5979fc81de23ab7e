// SPDX-License-Identifier: Apache-2.0
//! `husk stats`: what machines cost the host, as its kernel counts it.

use super::output::{ExitStatus, Failure, Printer};
use super::run::{find, place, problem};
use super::table::{self, Format};
use crate::control::Counted;
use crate::instance::Found;
use crate::instance::call;
use crate::instance::desk::{Answer, Ask};
use serde::Serialize;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// CPU time is told as a share of this, and of each following second with --follow.
const SAMPLE: Duration = Duration::from_millis(250);
const PERIOD: Duration = Duration::from_secs(1);

/// Tell what machines cost the host
///
/// CPU, memory and disk I/O are those of the process that runs the guest, as the host's kernel
/// counts them: unique memory goes when the machine goes, shared memory is used by others
/// too (the kernel's and the image's pages). RECEIVED and SENT went through the guest's network
/// interface. FREE is the guest's own word: memory its programs could still have.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk stats
  husk stats -f web
  husk stats --format json")]
pub struct StatsArgs {
    /// Again each second, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// With --follow, json is one document a line
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
    /// Names, ids or beginnings of ids; all that run without any
    #[arg(value_name = "MACHINE")]
    machines: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    id: String,
    name: Option<String>,
    cpus: u32,
    /// Of one CPU.
    cpu_percent: f64,
    cpu_seconds: f64,
    memory_limit: u64,
    memory_unique: u64,
    memory_shared: u64,
    /// Resident in proportion to how many share it.
    memory_proportional: u64,
    read_bytes: u64,
    written_bytes: u64,
    threads: u64,
    /// Through the guest's network interface; null without one.
    net_received_bytes: Option<u64>,
    net_received_frames: Option<u64>,
    net_sent_bytes: Option<u64>,
    net_sent_frames: Option<u64>,
    /// What the guest says of its memory; null while it has not.
    guest_memory_total: Option<u64>,
    guest_memory_free: Option<u64>,
    guest_memory_available: Option<u64>,
    guest_memory_caches: Option<u64>,
}

/// What /proc says of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Usage {
    ticks: u64,
    threads: u64,
    unique: u64,
    shared: u64,
    proportional: u64,
    read: u64,
    written: u64,
}

pub fn execute(args: &StatsArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let place = place()?;
    let mut pause = SAMPLE;
    loop {
        let list = match args.machines.is_empty() {
            true => place.list().map_err(|error| problem(&error))?,
            false => find(&place, &args.machines)?,
        };
        let before = sample(&list);
        let began = Instant::now();
        thread::sleep(pause);
        let rows = rows(&before, began.elapsed());
        tell(&rows, args, printer)?;
        if !args.follow {
            return Ok(ExitStatus::Success);
        }
        pause = PERIOD;
    }
}

fn tell(rows: &[Row], args: &StatsArgs, printer: &Printer) -> Result<(), Failure> {
    match (args.format, args.follow) {
        (Format::Json, false) => table::json(rows, printer),
        (Format::Json, true) => {
            let text = serde_json::to_string(rows).unwrap_or_default();
            printer.data(format!("{text}\n").as_bytes())
        }
        (Format::Table, _) => {
            let heads = [
                "ID", "NAME", "CPU", "UNIQUE", "SHARED", "LIMIT", "FREE", "READ", "WRITTEN",
                "RECEIVED", "SENT", "THREADS",
            ];
            let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
            printer.data(table::render(&heads, &cells, printer).as_bytes())
        }
    }
}

fn sample(list: &[Found]) -> Vec<(&Found, i32, Usage)> {
    let running = list.iter().filter(|found| found.is_running());
    running
        .filter_map(|found| match call::ask(found, &Ask::Inspect) {
            Ok(Answer::Live(live)) => {
                // The guest is asked here to say how its memory is used, and says it in time
                // for the second question.
                let _ = count(found);
                Some((found, live.machine_pid, Usage::of(live.machine_pid)?))
            }
            _ => None,
        })
        .collect()
}

/// What the machine's devices counted; nothing of one that is just ending.
fn count(found: &Found) -> Counted {
    match call::ask(found, &Ask::Count) {
        Ok(Answer::Counted(counted)) => counted,
        _ => Counted::default(),
    }
}

/// Of those that still are there.
fn rows(before: &[(&Found, i32, Usage)], span: Duration) -> Vec<Row> {
    // USER_HZ is part of the kernel's interface (proc(5)).
    const TICKS: f64 = 100.0;
    let rows = before.iter().filter_map(|(found, pid, before)| {
        let now = Usage::of(*pid)?;
        let seconds = |ticks: u64| f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / TICKS;
        let used = seconds(now.ticks.saturating_sub(before.ticks));
        let record = &found.record;
        let Counted { net, memory } = count(found);
        Some(Row {
            id: record.id.clone(),
            name: record.name.clone(),
            cpus: record.cpus,
            cpu_percent: 100.0 * used / span.as_secs_f64().max(0.001),
            cpu_seconds: seconds(now.ticks),
            memory_limit: record.memory,
            memory_unique: now.unique,
            memory_shared: now.shared,
            memory_proportional: now.proportional,
            read_bytes: now.read,
            written_bytes: now.written,
            threads: now.threads,
            net_received_bytes: net.map(|net| net.received_bytes),
            net_received_frames: net.map(|net| net.received_frames),
            net_sent_bytes: net.map(|net| net.sent_bytes),
            net_sent_frames: net.map(|net| net.sent_frames),
            guest_memory_total: memory.map(|memory| memory.total),
            guest_memory_free: memory.map(|memory| memory.free),
            guest_memory_available: memory.map(|memory| memory.available),
            guest_memory_caches: memory.map(|memory| memory.caches),
        })
    });
    rows.collect()
}

fn cells(row: &Row) -> Vec<String> {
    let told = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), table::size);
    vec![
        row.id.clone(),
        row.name.clone().unwrap_or_else(|| "-".into()),
        format!("{:.1}%", row.cpu_percent),
        table::size(row.memory_unique),
        table::size(row.memory_shared),
        table::size(row.memory_limit),
        told(row.guest_memory_available),
        table::size(row.read_bytes),
        table::size(row.written_bytes),
        told(row.net_received_bytes),
        told(row.net_sent_bytes),
        row.threads.to_string(),
    ]
}

impl Usage {
    /// None if there is no such process.
    fn of(pid: i32) -> Option<Self> {
        let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let stat = file("stat").ok()?;
        let memory = file("smaps_rollup").unwrap_or_default();
        let io = file("io").unwrap_or_default();
        Self::parse(&stat, &memory, &io)
    }

    fn parse(stat: &str, memory: &str, io: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything (proc_pid_stat(5)).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let kib = |name: &str| value(memory, name).saturating_mul(1024);
        Some(Self {
            ticks: number(11)?.saturating_add(number(12)?),
            threads: number(17)?,
            unique: kib("Private_Clean:").saturating_add(kib("Private_Dirty:")),
            shared: kib("Shared_Clean:").saturating_add(kib("Shared_Dirty:")),
            proportional: kib("Pss:"),
            read: value(io, "read_bytes:"),
            written: value(io, "write_bytes:"),
        })
    }
}

/// The number behind a name; zero where the kernel does not tell it.
fn value(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 3 4 0 0 20 0 5 0 50 4096 25";
        let memory =
            "x\nPss:  10 kB\nShared_Clean: 4 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 2 kB\n";
        let usage = Usage::parse(stat, memory, "read_bytes: 512\nwrite_bytes: 1\n");
        let usage = usage.expect("a process");
        assert_eq!((usage.ticks, usage.threads), (7, 5));
        assert_eq!(
            (usage.unique, usage.shared, usage.proportional),
            (3072, 4096, 10240)
        );
        assert_eq!((usage.read, usage.written), (512, 1));
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(Usage::of(own).is_some_and(|usage| usage.unique > 0));
        assert_eq!(Usage::of(-1), None);
    }
}
