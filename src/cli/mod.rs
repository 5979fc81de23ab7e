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
pub mod table;
pub mod terminal;
pub mod trace;

mod attach;
mod bake;
mod bench;
pub mod boot;
mod completions;
mod cp;
mod doctor;
mod events;
mod exec;
mod follow;
mod fork;
mod guest;
mod image;
mod inspect;
mod kernel;
mod kill;
mod launch;
mod logs;
mod man;
mod ps;
mod restore;
mod ring;
mod rm;
mod run;
mod shape;
mod snapshot;
mod stats;
mod stop;
mod template;
mod top;
mod usage;
mod volume;
mod wait;
mod words;

/// The command line as clap knows it; tests hold it against their own tables.
pub use usage::command;

use crate::{net, share, vmm};
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
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Args)]
struct Globals {
    /// Colour on the terminal; NO_COLOR in the environment says never.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, global = true)]
    #[arg(hide_possible_values = true, help_heading = "Global options")]
    color: ColorWhen,
    /// The same as --color never
    #[arg(long, global = true, help_heading = "Global options")]
    no_color: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<run::RunArgs>),
    Ps(ps::PsArgs),
    Logs(logs::LogsArgs),
    Attach(attach::AttachArgs),
    Exec(exec::ExecArgs),
    Cp(cp::CpArgs),
    Stats(stats::StatsArgs),
    Top(top::TopArgs),
    Stop(stop::StopArgs),
    Kill(kill::KillArgs),
    Wait(wait::WaitArgs),
    Rm(rm::RmArgs),
    Inspect(inspect::InspectArgs),
    Events(events::EventsArgs),
    Boot(boot::BootArgs),
    Pull(image::PullArgs),
    Import(image::ImportArgs),
    Images(image::ImagesArgs),
    Rmi(image::RmiArgs),
    Image(image::ImageArgs),
    Snapshots(snapshot::SnapshotsArgs),
    Snapshot(snapshot::SnapshotArgs),
    Restore(restore::RestoreArgs),
    Fork(fork::ForkArgs),
    Bake(Box<bake::BakeArgs>),
    Bench(Box<bench::BenchArgs>),
    Volume(volume::VolumeArgs),
    Kernel(kernel::KernelArgs),
    Template(template::TemplateArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    Keep(run::KeepArgs),
    Vmm(PartArgs),
    Net(PartArgs),
    Share(PartArgs),
}

/// A part of a machine, in a process of its own; how husk starts itself, not for people.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
struct PartArgs {
    /// The descriptor of the control socket.
    #[arg(long)]
    control: RawFd,
}

impl Verb {
    fn execute(self, exec: trace::Mark, printer: &Printer) -> Result<ExitStatus, Failure> {
        match self {
            Self::Run(args) => run::execute(&args, exec, printer),
            Self::Ps(args) => ps::execute(&args, printer),
            Self::Logs(args) => logs::execute(&args, printer),
            Self::Attach(args) => attach::execute(&args, printer),
            Self::Exec(args) => exec::execute(&args, printer),
            Self::Cp(args) => cp::execute(&args, printer),
            Self::Stats(args) => stats::execute(&args, printer),
            Self::Top(args) => top::execute(&args, printer),
            Self::Stop(args) => stop::execute(&args, printer),
            Self::Kill(args) => kill::execute(&args, printer),
            Self::Wait(args) => wait::execute(&args, printer),
            Self::Rm(args) => rm::execute(&args, printer),
            Self::Inspect(args) => inspect::execute(&args, printer),
            Self::Events(args) => events::execute(&args, printer),
            Self::Boot(args) => boot::execute(&args, exec, printer),
            Self::Pull(args) => image::pull(&args, printer),
            Self::Import(args) => image::import(&args, printer),
            Self::Images(args) => image::images(&args, printer),
            Self::Rmi(args) => image::rmi(&args, printer),
            Self::Image(args) => image::execute(&args, printer),
            Self::Snapshots(args) => snapshot::snapshots(&args, printer),
            Self::Snapshot(args) => snapshot::execute(&args, printer),
            Self::Restore(args) => restore::execute(&args, exec, printer),
            Self::Fork(args) => fork::execute(&args, exec, printer),
            Self::Bake(args) => bake::execute(&args, printer),
            Self::Bench(args) => bench::execute(&args, printer),
            Self::Volume(args) => volume::execute(&args, printer),
            Self::Kernel(args) => kernel::execute(&args, printer),
            Self::Template(args) => template::execute(&args, printer),
            Self::Doctor(args) => doctor::execute(&args, printer),
            Self::Completions(args) => completions::execute(&args, printer),
            Self::Man(args) => man::execute(&args, printer),
            Self::Keep(args) => Ok(run::keep(&args)),
            Self::Vmm(args) => Ok(ExitStatus::Code(vmm::run(args.control))),
            Self::Net(args) => Ok(ExitStatus::Code(net::user::run(args.control))),
            Self::Share(args) => Ok(ExitStatus::Code(share::run(args.control))),
        }
    }
}

/// The whole life of the `husk` command.
#[must_use]
pub fn main() -> ExitCode {
    let exec = trace::Mark::exec_estimate();
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = part(&words) {
        return ExitStatus::Code(code).into();
    }
    terminal::restore_on_panic();
    let words = words::marked(&usage::globals(), usage::verb, words);
    match usage::parse(&words) {
        Ok(matches) => dispatch(&matches, exec),
        Err(error) => usage::answer(&error, &words),
    }
    .into()
}

/// A part of a machine is started by husk alone, for every machine, and lives as long: what a
/// parser of command lines leaves in memory would be there as often.
fn part(words: &[OsString]) -> Option<u8> {
    let [_, verb, option, number] = words else {
        return None;
    };
    let run = match verb.to_str()? {
        "vmm" => vmm::run,
        "net" => net::user::run,
        "share" => share::run,
        _ => return None,
    };
    let number = number.to_str().filter(|_| option == "--control")?;
    Some(run(number.parse().ok()?))
}

fn dispatch(matches: &clap::ArgMatches, exec: trace::Mark) -> ExitStatus {
    let cli = match <Cli as clap::FromArgMatches>::from_arg_matches(matches) {
        Ok(cli) => cli,
        Err(error) => return usage::answer(&error, &[]),
    };
    let printer = Printer::new(match cli.globals.no_color {
        true => ColorWhen::Never,
        false => cli.globals.color,
    });
    let verb = matches.subcommand_name().unwrap_or_default();
    cli.verb
        .execute(exec, &printer)
        .unwrap_or_else(|failure| printer.fail(&failure, verb))
}
