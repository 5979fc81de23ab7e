// SPDX-License-Identifier: Apache-2.0
//! `husk restore`: a machine that goes on from a snapshot. Main thread.

use super::host::data_dir;
use super::output::{ExitStatus, Failure, Printer, Problem, visible};
use super::run::{Changes, ChangesArgs, Saved, attend, detached, restored};
use super::snapshot::problem;
use super::trace::{Mark, TraceFormat, Waterfall};
use crate::snapshot::{HostCpu, Store};
use anyhow::Context as _;

/// Run a machine that goes on from a snapshot
///
/// It goes on from the instant at which it was saved, as a machine of its own: with another
/// address, other random numbers and another machine-id, the time of day set, connections of
/// the past ended, and copies of the disks it was saved with, which are gone when it ends.
/// Its ports are published as they were, if nobody has them, or as -p says.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk restore ready
  husk restore -d --name web-2 -p 8081:80 ready
  husk restore --trace ready

Exit codes: as of husk run.")]
pub struct RestoreArgs {
    #[command(flatten)]
    changes: ChangesArgs,
    /// Give an imported snapshot what its machine had of the host it was made on:
    /// directories, networks, open ports. Without it, husk says what that is
    #[arg(long)]
    grant: bool,
    /// Leave it running and print its id
    #[arg(short, long)]
    detach: bool,
    /// Say nothing but errors
    #[arg(long)]
    quiet: bool,
    /// Tell on standard error when each step from exec to exit was reached; json is one
    /// line, in nanoseconds
    #[arg(long, value_name = "FORMAT", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text")]
    trace: Option<TraceFormat>,
    /// What `husk snapshots` lists
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
}

pub fn execute(args: &RestoreArgs, exec: Mark, printer: &Printer) -> Result<ExitStatus, Failure> {
    let changes = Changes::check(&args.changes).map_err(Failure::operator)?;
    if args.detach && args.trace.is_some() {
        return Err(Problem::new("--detach and --trace: nobody is there to read the trace").into());
    }
    let mut waterfall = Waterfall::starting(exec);
    let store = Store::open(&data_dir()?);
    let snapshot = store.get(&args.snapshot).map_err(|error| problem(&error))?;
    let host = HostCpu::read().context("cannot learn what this host's KVM offers")?;
    host.check(&snapshot.manifest.needs).map_err(|unfit| {
        Problem::new(format!(
            "snapshot '{}' cannot go on on this host: {unfit}",
            args.snapshot
        ))
    })?;
    waterfall.reached("snapshot ready");
    let imported = snapshot.imported;
    let saved = Saved::of(snapshot, true)?;
    if imported && !args.grant {
        let wants = saved.blueprint.wants(!changes.publishes());
        refuse_unasked(&args.snapshot, &wants)?;
    }
    let mut request = saved.blueprint.request.clone();
    request.detach = args.detach;
    request.quiet = args.quiet;
    request.trace = args.trace;
    changes.apply(&mut request)?;
    let parts = restored(saved, &request, &mut waterfall)?;
    match request.detach {
        true => detached::leave(&request, parts, printer),
        false => attend(&request, parts, waterfall, printer),
    }
}

/// Whoever made an imported snapshot is no operator of this host.
fn refuse_unasked(snapshot: &str, wants: &[String]) -> Result<(), Problem> {
    match wants {
        [] => Ok(()),
        _ => Err(Problem::new(format!(
            "snapshot '{snapshot}' was imported, and its machine is to have of this host: {}",
            visible(&wants.join("; "))
        ))
        .hint("--grant gives it that, if you trust who made it")),
    }
}
