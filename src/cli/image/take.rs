// SPDX-License-Identifier: Apache-2.0
//! `husk pull` and `husk import`: images into the store.

use super::bars::{Bars, problem};
use super::name;
use crate::cli::host::cache_dir;
use crate::cli::output::{ExitStatus, Failure, Printer};
use crate::image::{self, PullPolicy};

/// Bring an image of a registry into husk's store
///
/// Asks the registry for the image, also when one of that name is here, and gets the layers
/// that are not. What was interrupted goes on where it ended. Prints the image's digest.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = PULL_EXAMPLES)]
pub struct PullArgs {
    /// When to ask the registry
    #[arg(long, value_name = "WHEN", value_enum, default_value = "always")]
    pull: PullWhen,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The image: NAME[:TAG] or NAME@DIGEST
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// When a registry is asked for an image.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum PullWhen {
    /// Each time
    Always,
    /// When it is not in the store
    #[default]
    Missing,
    /// Not at all
    Never,
}

impl From<PullWhen> for PullPolicy {
    fn from(when: PullWhen) -> Self {
        match when {
            PullWhen::Always => Self::Always,
            PullWhen::Missing => Self::Missing,
            PullWhen::Never => Self::Never,
        }
    }
}

const PULL_EXAMPLES: &str = "\
Examples:
  husk pull nginx
  husk pull ghcr.io/org/app:1.2
  husk pull localhost:5000/app@sha256:DIGITS

Logins are those of skopeo, podman and docker: auth.json or config.json.

Exit codes: 0, 1 for something you can mend, 2 for anything unexpected.";

/// Copy an image of a layout or an archive into husk's store
///
/// The image gets a name, by which `husk run` finds it from then on. Every blob is checked
/// against its digest on the way. Prints the image's digest.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = IMPORT_EXAMPLES)]
pub struct ImportArgs {
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Where it is: oci:PATH[:TAG], oci-archive:PATH[:TAG] or docker-archive:PATH[:NAME]
    #[arg(value_name = "SOURCE")]
    source: String,
    /// What it is called from now on; without it, what it was saved as,
    /// or the name and tag of SOURCE
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

const IMPORT_EXAMPLES: &str = "\
Examples:
  husk import oci:./layout:latest app:1.0
  husk import docker-archive:saved.tar app
  husk import oci-archive:app.tar

Exit codes: 0, 1 for something you can mend, 2 for anything unexpected.";

pub fn pull(args: &PullArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let (name, cache) = (name(&args.image)?, cache_dir()?);
    let mut bars = Bars::new(printer, args.quiet);
    let digest = image::pull(&name, &cache, args.pull.into(), &mut |step| bars.hear(step));
    drop(bars);
    let digest = digest.map_err(|error| problem(&error))?;
    printer.data(format!("{digest}\n").as_bytes())?;
    Ok(ExitStatus::Success)
}

pub fn import(args: &ImportArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let name = args.name.as_deref().map(name).transpose()?;
    let cache = cache_dir()?;
    let mut bars = Bars::new(printer, args.quiet);
    let mut hear = |step: image::Progress<'_>| bars.hear(step);
    let imported = image::import(&args.source, name.as_ref(), &cache, &mut hear);
    drop(bars);
    let (name, digest) = imported.map_err(|error| problem(&error))?;
    if !args.quiet {
        printer.talk(&format!("husk: {} is in the store\n", name.familiar()));
    }
    printer.data(format!("{digest}\n").as_bytes())?;
    Ok(ExitStatus::Success)
}
