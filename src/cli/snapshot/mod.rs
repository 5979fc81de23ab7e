// SPDX-License-Identifier: Apache-2.0
//! The verbs for snapshots that need no running machine: `snapshots`, and the words of
//! `husk snapshot`. Main thread.

mod list;
mod look;
mod make;
mod travel;

pub use list::SnapshotsArgs;
pub use list::execute as snapshots;

use super::host::data_dir;
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::progress::Waiting;
use crate::snapshot::{SnapshotError, Store, is_name};

/// Keep a running machine under a name; see, move and remove what is kept
///
/// A snapshot is a machine that stands still: memory, processors, devices and disks. The
/// machine itself goes on after some milliseconds, unless --stop ends it. `husk restore` runs
/// machines that go on from a snapshot.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true)]
#[command(subcommand_negates_reqs = true)]
pub struct SnapshotArgs {
    #[command(flatten)]
    make: make::MakeArgs,
    #[command(subcommand)]
    verb: Option<SnapshotVerb>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum SnapshotVerb {
    /// List the snapshots, as `husk snapshots` does
    #[command(visible_alias = "list")]
    Ls(SnapshotsArgs),
    /// Say what a snapshot is, what it needs, and whether it is whole
    Inspect(look::InspectArgs),
    /// Remove snapshots; machines that began with them go on
    Rm(RmArgs),
    /// Write a snapshot to one file, for another host
    Export(travel::ExportArgs),
    /// Take in a snapshot that was exported
    Import(travel::ImportArgs),
    /// Give a snapshot all of its memory, so that it builds on no other
    Flatten(FlattenArgs),
}

const EXAMPLES: &str = "\
Examples:
  husk snapshot ready web
  husk snapshot --diff --stop tuesday web
  husk snapshot ls
  husk snapshot inspect ready
  husk snapshot export ready - | ssh other husk snapshot import -
  husk snapshot rm ready

Exit codes: 0, 1 for something you can mend, 2 for anything unexpected.";

#[derive(Clone, Debug, clap::Args)]
struct RmArgs {
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk snapshot flatten tuesday

A snapshot that holds only what changed since its parent needs that, and what it builds on.
Once it is flat it needs none of them, and takes the disk its memory takes.")]
struct FlattenArgs {
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

pub fn execute(args: &SnapshotArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let Some(verb) = &args.verb else {
        return make::execute(&args.make, printer);
    };
    match verb {
        SnapshotVerb::Ls(args) => list::execute(args, printer),
        SnapshotVerb::Inspect(args) => look::execute(args, printer),
        SnapshotVerb::Rm(args) => remove(&store()?, &args.names),
        SnapshotVerb::Export(args) => travel::export(args, printer),
        SnapshotVerb::Import(args) => travel::import(args, printer),
        SnapshotVerb::Flatten(args) => flatten(&store()?, &args.names, printer),
    }
}

/// This user's snapshots.
pub fn store() -> Result<Store, Problem> {
    Ok(Store::open(&data_dir()?))
}

/// What a snapshot of this image is called where nobody says: the image's own name.
pub fn name_of(image: &str) -> Result<String, Problem> {
    const TRANSPORTS: [&str; 5] = ["dir:", "tar:", "oci:", "oci-archive:", "docker-archive:"];
    let bare = TRANSPORTS.iter().find_map(|word| image.strip_prefix(word));
    let path = bare.unwrap_or(image).trim_end_matches('/');
    let last = path.rsplit('/').next().unwrap_or(path);
    let name = last.split(['@', ':']).next().unwrap_or(last);
    let name = Some(name).filter(|name| is_name(name));
    name.map(str::to_owned).ok_or_else(|| {
        Problem::new(format!(
            "the image's name, {image}, makes no name of a snapshot"
        ))
        .hint("--as NAME says what to call it")
    })
}

/// An error as it is told.
pub fn problem(error: &SnapshotError) -> Problem {
    let told = Problem::of(error);
    match error.hint() {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

/// In whatever order they are named, those that build on others go first.
fn remove(store: &Store, names: &[String]) -> Result<ExitStatus, Failure> {
    let mut left: Vec<&String> = names.iter().collect();
    loop {
        let mut problems = Vec::new();
        let (mut blocked, count) = (Vec::new(), left.len());
        for name in left {
            match store.remove(name) {
                Ok(()) => {}
                Err(error) => {
                    if matches!(error, SnapshotError::Children { .. }) {
                        blocked.push(name);
                    }
                    problems.push(problem(&error));
                }
            }
        }
        // Some may go now that others have gone; what else is wrong is told at the end.
        let again = !blocked.is_empty() && problems.len() == blocked.len() && blocked.len() < count;
        match (again, problems.is_empty()) {
            (true, _) => left = blocked,
            (false, true) => return Ok(ExitStatus::Success),
            (false, false) => return Err(Failure::operator(problems)),
        }
    }
}

fn flatten(store: &Store, names: &[String], printer: &Printer) -> Result<ExitStatus, Failure> {
    let mut problems = Vec::new();
    for name in names {
        let waiting = Waiting::for_the("merging memory", printer.talk, false);
        let flat = store.flatten(name);
        drop(waiting);
        match flat {
            Ok(true) => {}
            Ok(false) => printer.talk(&format!("husk: snapshot '{name}' builds on no other\n")),
            Err(error) => problems.push(problem(&error)),
        }
    }
    match problems.is_empty() {
        true => Ok(ExitStatus::Success),
        false => Err(Failure::operator(problems)),
    }
}
