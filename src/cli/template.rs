// SPDX-License-Identifier: Apache-2.0
//! `husk template`: the machines that starts go on from.

use super::host::{Memory, cache_dir};
use super::kernel;
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::ring::{self, GuestRing};
use super::run::{Recipe, template, templates};
use super::shape::{Shape, ShapeArgs};
use super::table;
use crate::instance::template::{self as kept, Kept, TemplateError};
use anyhow::Context as _;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// See, remove and make the templates that `husk run` starts from
///
/// The first run of a kernel and a shape boots a machine until its agent waits, and saves it.
/// Later ones go on from there. Templates are made again when anything they were made of
/// changes, and the one that was not used for the longest goes when they take more than 1 GiB.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TemplateArgs {
    #[command(subcommand)]
    verb: TemplateVerb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum TemplateVerb {
    /// List the templates, the one used last first
    Ls(LsArgs),
    /// Remove templates; machines that began with them go on
    Rm(RmArgs),
    /// Make a template now, so that the first run need not
    Prebuild(PrebuildArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct LsArgs {
    /// A table for people, or one JSON document
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: table::Format,
}

#[derive(Clone, Debug, clap::Args)]
struct RmArgs {
    /// Remove all of them
    #[arg(long, conflicts_with = "keys")]
    all: bool,
    /// Keys, as `husk template ls` shows them
    #[arg(value_name = "KEY", required_unless_present = "all")]
    keys: Vec<String>,
}

#[derive(Clone, Debug, clap::Args)]
struct PrebuildArgs {
    #[command(flatten)]
    shape: ShapeArgs,
    /// Which kernel: the one for ring 0 or for ring 3. Without it, the one `husk run`
    /// uses on this host
    #[arg(long, value_name = "RING")]
    guest_ring: Option<GuestRing>,
}

const EXAMPLES: &str = "\
Examples:
  husk template prebuild -c 2 -m 1g
  husk template ls
  husk template rm --all";

/// For the agent of a machine that is made into a template.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn execute(args: &TemplateArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let cache = cache_dir()?;
    match &args.verb {
        TemplateVerb::Ls(args) => list(&templates(&cache), args.format, printer),
        TemplateVerb::Rm(args) => remove(&templates(&cache), args),
        TemplateVerb::Prebuild(args) => prebuild(&cache, args, printer),
    }
}

fn problem(error: &TemplateError) -> Problem {
    Problem::of(error)
}

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    kernel: &'a Path,
    ring: Option<u8>,
    cpus: u32,
    memory: u64,
    disk: u64,
    /// Seconds since 1970.
    used: Option<u64>,
}

fn list(place: &Path, format: table::Format, printer: &Printer) -> Result<ExitStatus, Failure> {
    let list = kept::list(place).map_err(|error| problem(&error))?;
    if format == table::Format::Json {
        let rows: Vec<Row<'_>> = list.iter().map(row).collect();
        table::json(&rows, printer)?;
        return Ok(ExitStatus::Success);
    }
    let rows: Vec<Vec<String>> = list.iter().map(cells).collect();
    let heads = ["KEY", "CPUS", "MEMORY", "RING", "DISK", "USED"];
    printer.data(table::render(&heads, &rows, printer).as_bytes())?;
    Ok(ExitStatus::Success)
}

fn cells(kept: &Kept) -> Vec<String> {
    let about = &kept.about;
    let now = SystemTime::now();
    let used = kept.used.and_then(|at| now.duration_since(at).ok());
    let none = || "-".to_owned();
    vec![
        kept.key.clone(),
        about.cpus.to_string(),
        table::size(about.memory),
        about.ring.map_or_else(none, |ring| ring.to_string()),
        table::size(kept.disk),
        used.map_or_else(none, |ago| format!("{} ago", table::span(ago))),
    ]
}

fn row(kept: &Kept) -> Row<'_> {
    let since = kept.used.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Row {
        key: &kept.key,
        kernel: &kept.about.kernel,
        ring: kept.about.ring,
        cpus: kept.about.cpus,
        memory: kept.about.memory,
        disk: kept.disk,
        used: since.map(|since| since.as_secs()),
    }
}

fn remove(place: &Path, args: &RmArgs) -> Result<ExitStatus, Failure> {
    let keys = match args.all {
        true => {
            let list = kept::list(place).map_err(|error| problem(&error))?;
            list.into_iter().map(|kept| kept.key).collect()
        }
        false => args.keys.clone(),
    };
    let mut problems = Vec::new();
    for key in keys {
        let removed = match kept::is_key(&key) {
            true => kept::remove(place, &key),
            false => Ok(false),
        };
        match removed {
            Ok(true) => {}
            Ok(false) => problems.push(
                Problem::new(format!("there is no template '{key}'"))
                    .hint("husk template ls lists them"),
            ),
            Err(error) => problems.push(problem(&error)),
        }
    }
    match problems.is_empty() {
        true => Ok(ExitStatus::Success),
        false => Err(Failure::operator(problems)),
    }
}

fn prebuild(cache: &Path, args: &PrebuildArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let memory = Memory::read().context("cannot read the host's memory")?;
    let mut problems = Vec::new();
    let Some(shape) = Shape::check(&args.shape, memory, &mut problems) else {
        return Err(Failure::operator(problems));
    };
    let variant = ring::choose(args.guest_ring)?.variant;
    let kernel = kernel::of(cache, variant)?;
    let recipe = Recipe {
        kernel: &kernel.vmlinux,
        variant: Some(variant),
        shape,
        jail: true,
        network: true,
        timeout: PATIENCE,
    };
    let (template, made) = template(&recipe, cache)?.map_err(|error| problem(&error))?;
    let key = template.path.file_name().unwrap_or_default();
    let key = key.to_string_lossy();
    if !made {
        printer.talk(&format!("husk: template {key} is there already\n"));
    }
    printer.data(format!("{key}\n").as_bytes())?;
    Ok(ExitStatus::Success)
}
