// SPDX-License-Identifier: Apache-2.0
//! `husk doctor`: what this host can do, and how to mend what it cannot.
//!
//! Main thread. Some probes fork, and one leaves a thread that takes its machine apart: a
//! forked child makes system calls only. Changes nothing on the host.

mod check;
mod confinement;
mod features;
mod kvm;
mod lane;

use super::output::{ExitStatus, Failure, Printer};
use anyhow::Context as _;
use check::Report;

/// Tell what this host can do, and how to mend the rest
///
/// Every finding is tried, not guessed. 'ok' is fine, 'warn' works but costs something,
/// 'absent' is a feature nobody needs to start a machine, 'fail' keeps `husk run` from
/// working. Nothing on the host is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk doctor
  husk doctor --json | jq -r '.checks[] | select(.state != \"ok\") | .fix'

Exit codes: 0 where `husk run` can work, 1 where it cannot.")]
pub struct DoctorArgs {
    /// Print the findings as one JSON document
    #[arg(long)]
    json: bool,
}

pub fn execute(args: &DoctorArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let report = examine();
    let text = if args.json {
        serde_json::to_string_pretty(&report).context("cannot write the report")? + "\n"
    } else {
        report.text(printer.data)
    };
    printer.data(text.as_bytes())?;
    Ok(match report.usable {
        true => ExitStatus::Success,
        false => ExitStatus::UserError,
    })
}

fn examine() -> Report {
    let mut checks = kvm::checks();
    let (fast_lane, check) = lane::examine();
    checks.extend(check);
    checks.extend(confinement::checks());
    checks.extend(features::checks());
    Report::new(fast_lane, checks)
}

/// A small file of /proc or /sys, trimmed; None where it is not there.
fn setting(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}
