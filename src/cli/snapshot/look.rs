// SPDX-License-Identifier: Apache-2.0
//! `husk snapshot inspect`: what a snapshot is, whether it is whole, and whether it can go on
//! here.

use super::{problem, store};
use crate::cli::output::{ExitStatus, Failure, Printer, visible};
use crate::cli::progress::Waiting;
use crate::cli::table::{self, Format};
use crate::instance::record::stamp;
use crate::snapshot::{HostCpu, Snapshot};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// Say what a snapshot is, what it needs, and whether it is whole
///
/// A snapshot that is damaged, or builds on one that is, fails with the reason. Files nobody
/// wrote to since they were last read are not read again, but with --verify.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk snapshot inspect ready
  husk snapshot inspect --verify ready
  husk snapshot inspect --format json ready

Exit codes: 0, 1 if it is not there or is damaged, 2 for anything unexpected.")]
pub struct InspectArgs {
    /// A page for people, or one JSON document
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
    /// Read every byte of it again
    #[arg(long)]
    verify: bool,
    #[arg(value_name = "NAME")]
    name: String,
}

/// For programs: the manifest as it is, and what is known here.
#[derive(Serialize)]
struct Document<'a> {
    name: &'a str,
    path: &'a Path,
    digest: String,
    children: Vec<String>,
    /// Why it cannot go on on this host.
    unfit: Option<String>,
    manifest: &'a crate::snapshot::Manifest,
}

pub fn execute(args: &InspectArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let store = store()?;
    let waiting = Waiting::for_the("reading the snapshot", printer.talk, false);
    let found = match args.verify {
        true => store.verify(&args.name),
        false => store.get(&args.name),
    };
    drop(waiting);
    let snapshot = found.map_err(|error| problem(&error))?;
    let children = store.children(&args.name);
    let document = Document {
        name: &snapshot.name,
        path: &snapshot.path,
        digest: snapshot.digest.to_string(),
        children: children.map_err(|error| problem(&error))?,
        unfit: unfit(&snapshot),
        manifest: &snapshot.manifest,
    };
    match args.format {
        Format::Json => table::json(&document, printer)?,
        Format::Table => printer.data(page(&document).as_bytes())?,
    }
    Ok(ExitStatus::Success)
}

fn unfit(snapshot: &Snapshot) -> Option<String> {
    match HostCpu::read() {
        Ok(host) => host
            .check(&snapshot.manifest.needs)
            .err()
            .map(|unfit| unfit.to_string()),
        Err(_) => Some("KVM cannot be asked (husk doctor says why)".to_owned()),
    }
}

fn page(document: &Document<'_>) -> String {
    let manifest = document.manifest;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Words of a manifest are hostile; a terminal obeys some of them.
        let value = visible(value).replace(['\n', '\t'], " ");
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("Name", document.name);
    line("Digest", &document.digest);
    line("Created", &stamp(manifest.created));
    line(
        "Made by",
        &format!("husk {}, format {}", manifest.husk, manifest.format),
    );
    line("Machine", &manifest.about.machine);
    line("Image", manifest.about.image.as_deref().unwrap_or("-"));
    line("Kernel", &manifest.about.kernel);
    let shape = &manifest.machine;
    line("CPUs", &shape.cpus.to_string());
    line("Memory", &table::size(shape.memory));
    line("Ring", &shape.variant.ring().to_string());
    line("Processor", &manifest.needs.model);
    let parent = manifest.parent.as_ref().map(|parent| parent.name.as_str());
    line("Parent", parent.unwrap_or("-"));
    if !document.children.is_empty() {
        line("Children", &document.children.join(", "));
    }
    for entry in &manifest.files {
        line(
            "File",
            &format!("{}, {}", entry.name, table::size(entry.length)),
        );
    }
    line(
        "This host",
        document.unfit.as_deref().unwrap_or("it can go on here"),
    );
    text
}
