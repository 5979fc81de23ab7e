// SPDX-License-Identifier: Apache-2.0
//! `husk snapshots`: what there is. Reads manifests only.

use super::{problem, store};
use crate::cli::output::{ExitStatus, Failure, Printer};
use crate::cli::table::{self, Format};
use crate::snapshot::{Listed, Manifest};
use serde::Serialize;

/// Letters of an image's name that are shown.
const MAX_IMAGE: usize = 40;

/// List the snapshots
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk snapshots
  husk snapshots --format json

SIZE is what a snapshot takes of this host's disk; memory that was empty takes none, and what
it shares with its PARENT is counted there.

Exit codes: 0, 1 for something you can mend, 2 for anything unexpected.")]
pub struct SnapshotsArgs {
    /// A table for people, or one JSON document
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    /// Bytes of disk.
    size: u64,
    /// None of what follows is there if this is.
    problem: Option<String>,
    digest: Option<String>,
    /// Nanoseconds since 1970.
    created: Option<u64>,
    memory: Option<u64>,
    cpus: Option<u32>,
    image: Option<&'a str>,
    machine: Option<&'a str>,
    parent: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of(listed: &'a Listed) -> Self {
        let (manifest, digest) = match &listed.manifest {
            Ok((manifest, digest)) => (Some(manifest), Some(digest.to_string())),
            Err(_) => (None, None),
        };
        let parent = manifest.and_then(|manifest| manifest.parent.as_ref());
        Self {
            name: &listed.name,
            size: listed.disk,
            problem: listed.manifest.as_ref().err().map(ToString::to_string),
            digest,
            created: manifest.map(|manifest| manifest.created),
            memory: manifest.map(|manifest| manifest.machine.memory),
            cpus: manifest.map(|manifest| manifest.machine.cpus),
            image: manifest.and_then(|manifest| manifest.about.image.as_deref()),
            machine: manifest.map(|manifest| manifest.about.machine.as_str()),
            parent: parent.map(|parent| parent.name.as_str()),
        }
    }
}

pub fn execute(args: &SnapshotsArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let list = store()?.list().map_err(|error| problem(&error))?;
    if args.format == Format::Json {
        let rows: Vec<Row<'_>> = list.iter().map(Row::of).collect();
        table::json(&rows, printer)?;
        return Ok(ExitStatus::Success);
    }
    let rows: Vec<Vec<String>> = list.iter().map(cells).collect();
    let heads = ["NAME", "AGE", "SIZE", "MEMORY", "CPUS", "IMAGE", "PARENT"];
    printer.data(table::render(&heads, &rows, printer).as_bytes())?;
    Ok(ExitStatus::Success)
}

fn cells(listed: &Listed) -> Vec<String> {
    let none = || "-".to_owned();
    let mut cells = vec![listed.name.clone()];
    let manifest: &Manifest = match &listed.manifest {
        Ok((manifest, _)) => manifest,
        Err(fault) => {
            let size = table::size(listed.disk);
            cells.extend([none(), size, none(), none(), format!("({fault})")]);
            return cells;
        }
    };
    let image = manifest.about.image.as_deref();
    let parent = manifest.parent.as_ref();
    cells.extend([
        table::span(table::since(manifest.created)),
        table::size(listed.disk),
        table::size(manifest.machine.memory),
        manifest.machine.cpus.to_string(),
        image.map_or_else(none, |image| table::shorten(image, MAX_IMAGE)),
        parent.map_or_else(none, |parent| parent.name.clone()),
    ]);
    cells
}
