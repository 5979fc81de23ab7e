// SPDX-License-Identifier: Apache-2.0
//! `husk kill`: a signal for the commands of machines.

use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::{find, place};
use super::signals;
use crate::instance::call;
use crate::instance::desk::Ask;

/// Send the commands of machines a signal
///
/// The machine ends when its command does. With KILL, a machine whose guest does not obey
/// is ended from outside.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk kill web
  husk kill -s HUP web")]
pub struct KillArgs {
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// Names, ids or beginnings of ids
    #[arg(value_name = "MACHINE", required = true)]
    machines: Vec<String>,
}

pub fn execute(args: &KillArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let number =
        signals::parse(&args.signal).map_err(|why| Problem::new(format!("--signal {why}")))?;
    let place = place()?;
    let mut problems = Vec::new();
    for (found, word) in find(&place, &args.machines)?.iter().zip(&args.machines) {
        if !found.is_running() {
            problems.push(Problem::new(format!("machine '{word}' does not run")));
            continue;
        }
        match call::ask(found, &Ask::Signal { number }) {
            Ok(_) => printer.data(format!("{word}\n").as_bytes())?,
            Err(error) => problems
                .push(Problem::new(format!("machine '{word}' does not answer")).because(&error)),
        }
    }
    match problems.is_empty() {
        true => Ok(ExitStatus::Success),
        false => Err(Failure::operator(problems)),
    }
}
