// SPDX-License-Identifier: Apache-2.0
//! `husk snapshot NAME MACHINE`: a running machine is kept under a name. Main thread.

use super::{problem, store};
use crate::cli::output::{ExitStatus, Failure, Printer, Problem};
use crate::cli::progress::Waiting;
use crate::cli::run::{Blueprint, How, find_one, place, save};
use crate::cli::table;
use crate::instance::call;
use crate::instance::desk::Ask;
use crate::snapshot::{About, Snapshot, Store};
use serde::Serialize;

#[derive(Clone, Debug, clap::Args)]
pub struct MakeArgs {
    /// End the machine once it is saved; else it goes on
    #[arg(long)]
    stop: bool,
    /// Keep only what changed since the snapshot the machine went on from
    #[arg(long)]
    diff: bool,
    /// Take the place of a snapshot of this name
    #[arg(long)]
    replace: bool,
    /// Say nothing but errors
    #[arg(long)]
    quiet: bool,
    /// Nothing, or one JSON document that says for how long the machine stood still
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: table::Format,
    /// What to call it: letters, digits, '_', '.' and '-'
    #[arg(value_name = "NAME", required = true)]
    name: Option<String>,
    /// A name, an id or the beginning of one
    #[arg(value_name = "MACHINE", required = true)]
    machine: Option<String>,
}

#[derive(Serialize)]
struct Told<'a> {
    name: &'a str,
    digest: String,
    /// For how many nanoseconds the machine stood still.
    paused: u64,
}

pub fn execute(args: &MakeArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let (Some(name), Some(machine)) = (&args.name, &args.machine) else {
        return Err(Problem::new("a snapshot needs a name, and a machine").into());
    };
    let store = store()?;
    let draft = store.draft(name).map_err(|error| problem(&error))?;
    if !args.replace && store.has(name) {
        return Err(
            Problem::new(format!("there is a snapshot '{name}' already"))
                .hint(format!(
                    "--replace takes its place, husk snapshot rm {name} removes it"
                ))
                .into(),
        );
    }
    let found = find_one(&place()?, machine)?;
    let draft = match args.replace {
        true => draft,
        false => draft.only_new(),
    };
    let waiting = Waiting::for_the("saving the machine", printer.talk, args.quiet);
    let how = How {
        hold: args.stop,
        changes: args.diff,
    };
    let saved = save(&found, draft.path(), how)
        .map_err(Failure::from)
        .and_then(|kept| {
            let parent = parent(args, &store, &kept.blueprint)?;
            let about = About {
                machine: found.record.title().to_owned(),
                image: Some(found.record.image.clone()),
                kernel: found.record.kernel.clone(),
            };
            let described = serde_json::to_value(&kept.blueprint).map_err(anyhow::Error::from)?;
            let snapshot = draft.commit(about, parent.as_ref(), described);
            let snapshot = snapshot.map_err(|error| problem(&error))?;
            if args.stop {
                // It is held until here; where it was not kept, it goes on.
                let _ = call::ask(&found, &Ask::End);
                // What is told to be over is over. One that is gone already answers nobody.
                let _ = call::ask(&found, &Ask::Wait);
            }
            Ok((kept.paused, snapshot))
        });
    drop(waiting);
    let (paused, snapshot) = saved?;
    if args.format == table::Format::Json {
        let told = Told {
            name,
            digest: snapshot.digest.to_string(),
            paused: u64::try_from(paused.as_nanos()).unwrap_or(u64::MAX),
        };
        table::json(&told, printer)?;
    }
    Ok(ExitStatus::Success)
}

/// What the snapshot's memory is written over.
fn parent(
    args: &MakeArgs,
    store: &Store,
    blueprint: &Blueprint,
) -> Result<Option<Snapshot>, Problem> {
    let Some(parent) = blueprint.parent.as_ref().filter(|_| args.diff) else {
        return Ok(None);
    };
    let snapshot = store.get(&parent.name).map_err(|error| problem(&error))?;
    match snapshot.digest == parent.digest {
        true => Ok(Some(snapshot)),
        false => Err(Problem::new(format!(
            "snapshot '{}' is not the one the machine went on from",
            parent.name
        ))
        .hint("leave --diff out")),
    }
}
