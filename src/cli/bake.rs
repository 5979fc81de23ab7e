// SPDX-License-Identifier: Apache-2.0
//! `husk bake`: a service is run until it is ready, and kept. Main thread.

use super::host::Memory;
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::{RunArgs, RunRequest, bake};
use super::snapshot::{name_of, store};
use anyhow::Context as _;
use std::ffi::OsStr;

/// Keep a service as it is when it is ready, for later starts to go on from
///
/// Runs IMAGE until the service is ready as --checkpoint-ready has it, saves the machine as a
/// snapshot, and ends it. `husk restore` starts there: a program's loading and warming up is
/// not done again. All options of `husk run` apply.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk bake --as web --checkpoint-ready 80 nginx
  husk bake --as api --checkpoint-ready http://localhost:8000/health tar:./api.tar
  husk bake --as db --checkpoint-ready 'ready to accept connections' postgres
  husk restore -d -p 8080:80 web

Exit codes: 0, 1 for something you can mend, 2 for anything unexpected.")]
pub struct BakeArgs {
    /// What to call the snapshot; without it, the image's name
    #[arg(long = "as", value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Take the place of a snapshot of this name
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    run: RunArgs,
}

pub fn execute(args: &BakeArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let memory = Memory::read().context("cannot read the host's memory")?;
    let request = RunRequest::check(&args.run, memory, |name: &OsStr| std::env::var_os(name))
        .map_err(Failure::operator)?;
    let Some(ready) = args.run.ready()? else {
        return Err(Problem::new("nothing says when the service is ready")
            .hint("--checkpoint-ready 80, an address there, or a line it writes")
            .into());
    };
    let name = match &args.snapshot {
        Some(name) => name.clone(),
        None => name_of(&request.image)?,
    };
    let store = store()?;
    if !args.replace && store.has(&name) {
        return Err(
            Problem::new(format!("there is a snapshot '{name}' already"))
                .hint(format!(
                    "--replace takes its place, husk snapshot rm {name} removes it"
                ))
                .into(),
        );
    }
    let baked = bake(&request, &ready, (&store, &name), args.replace, printer);
    // No code of a command's is to be told from husk's own here: 125 is for `run`.
    baked.map_err(|failure| Failure::operator(failure.problems))?;
    printer.data(format!("{name}\n").as_bytes())?;
    Ok(ExitStatus::Success)
}
