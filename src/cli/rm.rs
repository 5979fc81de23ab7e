// SPDX-License-Identifier: Apache-2.0
//! `husk rm`: forgets machines that ended.

use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::{find_some, place, problem};
use super::stop;
use crate::instance::call;
use crate::instance::desk::Ask;
use std::time::Duration;

/// For a machine to end that was told to at once.
const PATIENCE: Duration = Duration::from_secs(5);
const KILL: u8 = 9;

/// Remove machines that ended, and their logs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk rm web
  husk rm -f $(husk ps -aq)")]
pub struct RmArgs {
    /// Also those that run: they are killed
    #[arg(short, long)]
    force: bool,
    /// Names, ids or beginnings of ids
    #[arg(value_name = "MACHINE", required = true)]
    machines: Vec<String>,
}

pub fn execute(args: &RmArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let place = place()?;
    // One that is not there keeps nobody from removing the others.
    let (list, mut problems) = find_some(&place, &args.machines);
    for (found, _) in &list {
        if args.force && found.is_running() {
            let _ = call::ask(found, &Ask::Signal { number: KILL });
        }
    }
    for (found, word) in &list {
        if args.force && found.is_running() {
            stop::end(found, PATIENCE)?;
        }
        match place.remove(found).map_err(|error| problem(&error))? {
            true => printer.data(format!("{word}\n").as_bytes())?,
            false => problems.push(
                Problem::new(format!("machine '{word}' runs"))
                    .hint("husk stop ends it first, husk rm -f at once"),
            ),
        }
    }
    match problems.is_empty() {
        true => Ok(ExitStatus::Success),
        false => Err(Failure::operator(problems)),
    }
}
