// SPDX-License-Identifier: Apache-2.0
//! The verbs for images: `pull`, `import`, `images`, `rmi` and `image`.
//!
//! Main thread. Standard output carries digests, tables and documents; all else is talk.

mod bars;
mod inspect;
mod list;
mod remove;
mod take;

pub use bars::{Bars, problem};
pub use list::ImagesArgs;
pub use list::execute as images;
pub use remove::RmiArgs;
pub use remove::execute as rmi;
pub use take::{ImportArgs, PullArgs, PullWhen, import, pull};

use super::output::{ExitStatus, Failure, Printer};
use crate::image::Name;

use super::output::Problem;

/// Look into images and give disk back
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ImageArgs {
    #[command(subcommand)]
    verb: ImageVerb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ImageVerb {
    /// Say what an image is, and what it would run
    Inspect(inspect::InspectArgs),
    /// Remove what no image of the store needs
    Gc(remove::GcArgs),
}

const EXAMPLES: &str = "\
Examples:
  husk image inspect nginx
  husk image inspect --format json oci:./layout:latest
  husk image gc

Exit codes: 0, 1 for something you can mend, 2 for anything unexpected.";

pub fn execute(args: &ImageArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    match &args.verb {
        ImageVerb::Inspect(args) => inspect::execute(args, printer),
        ImageVerb::Gc(args) => remove::gc(args, printer),
    }
}

/// How tables come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// The name of an image as it was typed.
fn name(text: &str) -> Result<Name, Problem> {
    let typed = text.strip_prefix("docker://").unwrap_or(text);
    Name::parse(typed).ok_or_else(|| {
        Problem::new(format!("{text:?} is no name of an image"))
            .hint("names look like nginx, nginx:1.27, ghcr.io/org/app:1.2 or app@sha256:DIGITS")
    })
}

fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    use anyhow::Context as _;
    let json = serde_json::to_string(value).context("cannot write JSON")?;
    Ok(format!("{json}\n"))
}

/// Bytes for people: three digits and a unit of ten.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    // Tenths, so that no float is needed.
    let mut tenths = count / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    match tenths < 1000 {
        true => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
        false => format!("{} {}", tenths / 10, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (99_999, "99.9 kB"),
            (999_999, "999 kB"),
            (1_000_000, "1.0 MB"),
            (187_654_321, "187 MB"),
            (u64::MAX, "18446 PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
