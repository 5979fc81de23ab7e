// SPDX-License-Identifier: Apache-2.0
//! `husk image inspect`: what an image is, and what it would run.

use super::{Bars, Format, bytes, json, problem};
use crate::cli::host::cache_dir;
use crate::cli::output::{ExitStatus, Failure, Printer, visible};
use crate::image::{self, Summary};
use std::fmt::Write as _;

/// Say what an image is, and what it would run
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk image inspect nginx
  husk image inspect --format json oci:./layout:latest

An image of a registry must be in the store: husk pull brings it there.

Exit codes: 0, 1 if it is not there or is no image, 2 for anything unexpected.")]
pub struct InspectArgs {
    /// A page for people, or one JSON document
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
    /// NAME[:TAG], or oci:, oci-archive: or docker-archive: and a path
    #[arg(value_name = "IMAGE")]
    image: String,
}

pub fn execute(args: &InspectArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let mut bars = Bars::new(printer, false);
    let summary = image::inspect(&args.image, &cache_dir()?, &mut |step| bars.hear(step));
    drop(bars);
    let summary = summary.map_err(|error| problem(&error))?;
    let text = match args.format {
        Format::Json => json(&summary)?,
        Format::Table => page(&summary),
    };
    printer.data(text.as_bytes())?;
    Ok(ExitStatus::Success)
}

fn page(summary: &Summary) -> String {
    let config = &summary.config;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            // Words of the image are hostile; a terminal obeys some of them.
            let value = visible(value).replace(['\n', '\t'], " ");
            let _ = writeln!(text, "{name:<14}{value}");
        }
    };
    line("Digest", &summary.digest.to_string());
    line("Platform", &summary.platform);
    line("Created", config.created.as_deref().unwrap_or_default());
    line(
        "Layers",
        &format!("{}, {}", summary.layers.len(), bytes(summary.stored)),
    );
    line(
        "Disk image",
        &summary
            .made
            .map_or_else(|| "not made yet".to_owned(), bytes),
    );
    line("Entrypoint", &words(&config.entrypoint));
    line("Command", &words(&config.cmd));
    line("User", &config.user);
    line("Directory", &config.working_dir);
    line("Ports", &config.exposed_ports.join(" "));
    line(
        "Stop signal",
        config.stop_signal.as_deref().unwrap_or_default(),
    );
    line("Volumes", &config.volumes.join(" "));
    config.env.iter().for_each(|pair| line("Env", pair));
    for (key, value) in &config.labels {
        line("Label", &format!("{key}={value}"));
    }
    text
}

/// Words as a shell would need them, so that their ends are seen.
fn words(words: &[String]) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_./:=@%+,".contains(letter);
    let quote = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}
