// SPDX-License-Identifier: Apache-2.0
//! `husk stop`: asks, waits, and then insists.

use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::{find_some, place};
use super::signals;
use super::wait::gone;
use crate::instance::Found;
use crate::instance::call;
use crate::instance::desk::Ask;
use crate::units;
use anyhow::Context as _;
use std::time::Duration;

/// Beyond the grace: for the command to be killed and its machine to end.
const INSIST: Duration = Duration::from_secs(10);

/// Stop machines
///
/// Sends the command its stop signal; after the grace it is killed, and if that is of no
/// use, its machine is.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk stop web
  husk stop -t 1m db cache")]
pub struct StopArgs {
    /// How long the command may take to end: 10s, 1m, 0; a bare number is seconds
    #[arg(short, long, value_name = "TIME", default_value = "10s")]
    #[arg(allow_negative_numbers = true)]
    time: String,
    /// Ask with this signal instead of the machine's own
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Names, ids or beginnings of ids
    #[arg(value_name = "MACHINE", required = true)]
    machines: Vec<String>,
}

pub fn execute(args: &StopArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let grace = units::parse_span(&args.time).map_err(|error| {
        Problem::new(format!("--time {}: {error}", args.time))
            .hint("times look like 10s, 1m or 1500ms; a bare number is seconds")
    })?;
    let signal = args.signal.as_deref().map(signals::parse).transpose();
    let signal = signal.map_err(|why| Problem::new(format!("--signal {why}")))?;
    let place = place()?;
    // One that is not there keeps nobody from stopping the others.
    let (list, problems) = find_some(&place, &args.machines);
    let ask = Ask::Stop {
        signal,
        grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
    };
    // All are asked before one is waited for.
    for (found, _) in list.iter().filter(|(found, _)| found.is_running()) {
        // One that cannot be asked any more is at its end, or is made to be below.
        let _ = call::ask(found, &ask);
    }
    for (found, word) in &list {
        end(found, grace.saturating_add(INSIST))?;
        printer.data(format!("{word}\n").as_bytes())?;
    }
    match problems.is_empty() {
        true => Ok(ExitStatus::Success),
        false => Err(Failure::operator(problems)),
    }
}

/// Waits for a machine's end, and if it does not come ends its owner, and that the machine.
pub fn end(found: &Found, limit: Duration) -> Result<(), Failure> {
    if !gone(found, Some(limit))? {
        if let Some(owner) = found.owner().context("cannot watch the machine's owner")? {
            let kill = rustix::process::Signal::KILL;
            // Gone meanwhile is what was wanted.
            let _ = rustix::process::pidfd_send_signal(owner, kill);
        }
        gone(found, None)?;
    }
    Ok(())
}
