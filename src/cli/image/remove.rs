// SPDX-License-Identifier: Apache-2.0
//! `husk rmi` and `husk image gc`: images out of the store, and disk given back.

use super::{Bars, Format, bytes, json, problem};
use crate::cli::host::cache_dir;
use crate::cli::output::{ExitStatus, Failure, Printer, Problem};
use crate::image::{self, ImageError, Reclaimed};

/// Remove images from husk's store
///
/// A machine that runs from one keeps it until it ends. Layers of other images stay.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = RMI_EXAMPLES)]
pub struct RmiArgs {
    /// Names, or the first digits of digests, as `husk images` shows them
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// An image that is not there is no error
    #[arg(short, long)]
    force: bool,
}

const RMI_EXAMPLES: &str = "\
Examples:
  husk rmi nginx
  husk rmi localhost:5000/app:1.2 0f3e07a1b2c3

Exit codes: 0, 1 if one of them is not there, 2 for anything unexpected.";

/// Remove what no image of the store needs
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk image gc
  husk image gc --format json

Layers that lost their image, and downloads that were never finished. File systems made of
images go by themselves, those longest unused first.

Exit codes: 0, 2 for anything unexpected.")]
pub struct GcArgs {
    /// A line for people, or one JSON document
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
}

pub fn execute(args: &RmiArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let cache = cache_dir()?;
    let mut bars = Bars::new(printer, false);
    let removed = image::remove(&args.images, &cache, &mut |step| bars.hear(step));
    drop(bars);
    let removed = removed.map_err(|error| problem(&error))?;
    for name in &removed.names {
        printer.data(format!("{name}\n").as_bytes())?;
    }
    let missing = removed
        .missing
        .iter()
        .map(|name| problem(&ImageError::NotKept { name: name.clone() }));
    let missing: Vec<Problem> = missing.collect();
    match missing.is_empty() || args.force {
        true => Ok(ExitStatus::Success),
        false => Err(Failure::operator(missing)),
    }
}

pub fn gc(args: &GcArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let mut bars = Bars::new(printer, false);
    let reclaimed = image::collect(&cache_dir()?, &mut |step| bars.hear(step));
    drop(bars);
    let reclaimed = reclaimed.map_err(|error| problem(&error))?;
    let text = match args.format {
        Format::Json => json(&reclaimed)?,
        Format::Table => line(reclaimed),
    };
    printer.data(text.as_bytes())?;
    Ok(ExitStatus::Success)
}

fn line(reclaimed: Reclaimed) -> String {
    format!(
        "{} given back: {} blobs, {} unfinished downloads\n",
        bytes(reclaimed.bytes),
        reclaimed.blobs,
        reclaimed.partial
    )
}
