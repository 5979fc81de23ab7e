// SPDX-License-Identifier: Apache-2.0
//! `husk top`: the processes in a machine's guest.

use super::exec::own;
use super::guest;
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::place;
use super::table::{self, Format};
use serde::Serialize;

/// Most that is read of a guest's answer: it may claim any number of processes.
const MAX_ANSWER: usize = 4 << 20;

/// The parent of every thread of a Linux kernel.
const KTHREADD: u32 = 2;

/// List the processes in a machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk top web
  husk top web --format json")]
pub struct TopArgs {
    /// Also the kernel's own threads
    #[arg(short, long)]
    all: bool,
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
    /// A name, an id or the beginning of one
    #[arg(value_name = "MACHINE")]
    machine: String,
}

/// As the guest says; nothing of it is certain.
#[derive(Serialize)]
struct Process<'a> {
    pid: u32,
    parent: u32,
    uid: u32,
    state: &'a str,
    cpu_seconds: f64,
    memory: u64,
    command: &'a str,
}

pub fn execute(args: &TopArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let call = own(&place()?, &args.machine, &[b"processes"], false)?;
    let (code, text) = guest::capture(call, MAX_ANSWER)?;
    if code != 0 {
        return Err(Problem::new("the guest does not tell its processes").into());
    }
    let text = String::from_utf8_lossy(&text);
    let mut list: Vec<Process<'_>> = text.lines().filter_map(parse).collect();
    list.retain(|process| args.all || (process.pid != KTHREADD && process.parent != KTHREADD));
    if args.format == Format::Json {
        table::json(&list, printer)?;
        return Ok(ExitStatus::Success);
    }
    let heads = ["PID", "PPID", "UID", "STATE", "TIME", "MEMORY", "COMMAND"];
    let rows: Vec<Vec<String>> = list.iter().map(cells).collect();
    printer.data(table::render(&heads, &rows, printer).as_bytes())?;
    Ok(ExitStatus::Success)
}

fn parse(line: &str) -> Option<Process<'_>> {
    let mut fields = line.splitn(7, '\t');
    let mut number = || fields.next()?.parse::<u64>().ok();
    let small = |value: Option<u64>| u32::try_from(value?).ok();
    let (pid, parent, uid) = (small(number())?, small(number())?, small(number())?);
    let state = fields.next()?;
    let hundredths: u32 = fields.next()?.parse().ok()?;
    Some(Process {
        pid,
        parent,
        uid,
        state,
        cpu_seconds: f64::from(hundredths) / 100.0,
        memory: fields.next()?.parse::<u64>().ok()?.saturating_mul(1024),
        command: fields.next()?,
    })
}

fn cells(process: &Process<'_>) -> Vec<String> {
    vec![
        process.pid.to_string(),
        process.parent.to_string(),
        process.uid.to_string(),
        process.state.to_owned(),
        format!("{:.2}s", process.cpu_seconds),
        table::size(process.memory),
        process.command.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_guests_lines_are_taken_or_left() {
        let process = parse("7\t1\t0\tS\t150\t4\tsh -c\tx").expect("a process");
        assert_eq!(
            (process.pid, process.memory, process.command),
            (7, 4096, "sh -c\tx")
        );
        assert!((process.cpu_seconds - 1.5).abs() < 1e-9);
        for line in [
            "",
            "x",
            "7\t1\t0\tS",
            "-1\t1\t0\tS\t1\t4\tx",
            "7\t1\t0\tS\tz\t4\tx",
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}
