// SPDX-License-Identifier: Apache-2.0
//! `husk volume`: the named volumes of this user, made, listed and removed. Main thread.

use super::host::data_dir;
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::storage::{problem, size_of};
use crate::units::ByteSize;
use crate::volume::{DEFAULT_SIZE, Store, Volume, VolumeError, is_name};
use anyhow::Context as _;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Make, list, look at and remove named volumes
///
/// A volume is a disk with an ext4 file system that outlives the machines it is given to:
/// `husk run -v NAME:/path` mounts it, and makes it if there is none. One machine may write
/// to it at a time.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct VolumeArgs {
    #[command(subcommand)]
    verb: VolumeVerb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum VolumeVerb {
    /// Make an empty volume
    Create {
        /// Most it can hold: 512m, 10g. A bare number is GiB; it takes room as it fills
        #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
        size: Option<String>,
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// List the volumes
    #[command(visible_alias = "list")]
    Ls {
        /// A table for people, or one JSON document
        #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
        format: Format,
    },
    /// Tell all there is to tell of volumes, as one JSON document
    Inspect {
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Remove volumes, and all that is in them
    Rm {
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

const EXAMPLES: &str = "\
Examples:
  husk volume create --size 20g pg
  husk run -v pg:/var/lib/postgresql dir:./postgres
  husk volume ls --format json
  husk volume rm pg";

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    path: &'a Path,
    size: u64,
    used: u64,
    /// Seconds since 1970, where the host's file system remembers.
    created: Option<u64>,
    in_use: bool,
}

impl<'a> Row<'a> {
    fn of(volume: &'a Volume) -> Self {
        let since = volume.created.map(|at| at.duration_since(UNIX_EPOCH));
        Self {
            name: &volume.name,
            path: &volume.path,
            size: volume.size,
            used: volume.used,
            created: since.and_then(Result::ok).map(|since| since.as_secs()),
            in_use: volume.in_use,
        }
    }
}

pub fn execute(args: &VolumeArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let store = Store::new(&data_dir()?);
    match &args.verb {
        VolumeVerb::Create { size, name } => {
            let size = match size {
                Some(text) => size_of("--size", text)?,
                None => DEFAULT_SIZE,
            };
            store.create(known(name)?, size).map_err(problem)?;
            printer.data(format!("{name}\n").as_bytes())?;
        }
        VolumeVerb::Ls { format } => {
            let volumes = store.list().map_err(problem)?;
            let text = match format {
                Format::Json => json(&volumes)?,
                Format::Table => table(&volumes),
            };
            printer.data(text.as_bytes())?;
        }
        VolumeVerb::Inspect { names } => {
            let found = each(names, |name| store.get(name))?;
            printer.data(json(&found)?.as_bytes())?;
        }
        VolumeVerb::Rm { names } => {
            each(names, |name| store.remove(name))?;
        }
    }
    Ok(ExitStatus::Success)
}

/// Does it for every name, and tells every problem at the end.
fn each<T>(
    names: &[String],
    act: impl Fn(&str) -> Result<T, VolumeError>,
) -> Result<Vec<T>, Failure> {
    let (mut done, mut problems) = (Vec::new(), Vec::new());
    for name in names {
        match known(name).and_then(|name| act(name).map_err(problem)) {
            Ok(one) => done.push(one),
            Err(problem) => problems.push(problem),
        }
    }
    match problems.is_empty() {
        true => Ok(done),
        false => Err(Failure::operator(problems)),
    }
}

fn known(name: &str) -> Result<&str, Problem> {
    match is_name(name) {
        true => Ok(name),
        false => Err(
            Problem::new(format!("'{name}' is not a name for a volume")).hint(
                "a name has letters, digits, '_', '-' and '.', and begins with one of the first",
            ),
        ),
    }
}

fn json(volumes: &[Volume]) -> Result<String, anyhow::Error> {
    let rows: Vec<Row> = volumes.iter().map(Row::of).collect();
    let json = serde_json::to_string(&rows).context("cannot write JSON")?;
    Ok(format!("{json}\n"))
}

fn table(volumes: &[Volume]) -> String {
    let longest = volumes.iter().map(|volume| volume.name.len()).max();
    let width = longest.unwrap_or(0).max("NAME".len());
    let mut text = format!(
        "{:<width$}  {:>10}  {:>10}  IN USE\n",
        "NAME", "SIZE", "USED"
    );
    for volume in volumes {
        let rounded = |bytes| ByteSize::from_bytes(bytes).rounded();
        let _ = writeln!(
            text,
            "{:<width$}  {:>10}  {:>10}  {}",
            volume.name,
            rounded(volume.size),
            rounded(volume.used),
            if volume.in_use { "yes" } else { "no" },
        );
    }
    text
}
