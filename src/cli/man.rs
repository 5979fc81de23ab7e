// SPDX-License-Identifier: Apache-2.0
//! `husk man`: the manual pages, from the same definition as `--help`.

use super::output::{ExitStatus, Failure, Printer, Problem};
use super::usage;
use anyhow::Context as _;

/// Print a manual page
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk man | man -l -         husk(1)
  husk man run | man -l -     husk-run(1)")]
pub struct ManArgs {
    /// The verb whose page is wanted; husk's own without one
    #[arg(value_name = "VERB")]
    verb: Vec<String>,
}

pub fn execute(args: &ManArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let mut command = usage::command();
    command.build();
    let mut found = &command;
    for verb in &args.verb {
        found = found.find_subcommand(verb).ok_or_else(|| {
            Problem::new(format!("there is no verb '{verb}'")).hint("husk --help lists them")
        })?;
    }
    let name = found.get_display_name().unwrap_or("husk").to_owned();
    let mut page = Vec::new();
    clap_mangen::Man::new(found.clone())
        .title(name)
        .render(&mut page)
        .context("cannot write the page")?;
    printer.data(&page)?;
    Ok(ExitStatus::Success)
}
