// SPDX-License-Identifier: Apache-2.0
//! The command line: what is typed, one file per verb, and how husk speaks.
//!
//! Runs on the main thread. Standard output carries data only and standard error talk
//! only; a verb returns its exit status and never exits the process itself, so that
//! every guard (a raw terminal, a half-written file) is dropped.

pub mod host;
pub mod output;
pub mod progress;
pub mod signals;
pub mod terminal;
pub mod trace;

pub mod boot;
mod completions;
mod doctor;
mod kernel;
mod launch;
mod man;
mod ring;
mod run;
mod shape;
mod usage;

use crate::{net, vmm};
use clap::{Parser, Subcommand};
use output::{ColorWhen, ExitStatus, Failure, Printer};
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::process::ExitCode;

/// Gives every service a virtual machine and a Linux kernel of its own, and makes that
/// feel like running a container.
#[derive(Debug, Parser)]
#[command(name = "husk", version, max_term_width = 88, after_help = usage::TOP_EXAMPLES)]
struct Cli {
    /// Colour on the terminal; NO_COLOR in the environment says never.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, global = true)]
    #[arg(hide_possible_values = true, help_heading = "Global options")]
    color: ColorWhen,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::RunArgs),
    Boot(boot::BootArgs),
    Kernel(kernel::KernelArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    Vmm(VmmArgs),
    Net(NetArgs),
}

/// Runs a guest; how husk starts itself, not for people.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
struct VmmArgs {
    /// The descriptor of the control socket.
    #[arg(long)]
    control: RawFd,
}

/// Carries a guest's network; how husk starts itself, not for people.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
struct NetArgs {
    /// The descriptor of the control socket.
    #[arg(long)]
    control: RawFd,
}

impl Verb {
    fn execute(self, exec: trace::Mark, printer: &Printer) -> Result<ExitStatus, Failure> {
        match self {
            Self::Run(args) => run::execute(&args, exec, printer),
            Self::Boot(args) => boot::execute(&args, exec, printer),
            Self::Kernel(args) => kernel::execute(&args, printer),
            Self::Doctor(args) => doctor::execute(&args, printer),
            Self::Completions(args) => completions::execute(&args, printer),
            Self::Man(args) => man::execute(&args, printer),
            Self::Vmm(args) => Ok(ExitStatus::Code(vmm::run(args.control))),
            Self::Net(args) => Ok(ExitStatus::Code(net::user::run(args.control))),
        }
    }
}

/// The whole life of the `husk` command.
#[must_use]
pub fn main() -> ExitCode {
    let exec = trace::Mark::exec_estimate();
    terminal::restore_on_panic();
    let words: Vec<OsString> = std::env::args_os().collect();
    match usage::command().try_get_matches_from(&words) {
        Ok(matches) => dispatch(&matches, exec),
        Err(error) => usage::answer(&error, &words),
    }
    .into()
}

fn dispatch(matches: &clap::ArgMatches, exec: trace::Mark) -> ExitStatus {
    let cli = match <Cli as clap::FromArgMatches>::from_arg_matches(matches) {
        Ok(cli) => cli,
        Err(error) => return usage::answer(&error, &[]),
    };
    let printer = Printer::new(cli.color);
    let verb = matches.subcommand_name().unwrap_or_default();
    cli.verb
        .execute(exec, &printer)
        .unwrap_or_else(|failure| printer.fail(&failure, verb))
}
