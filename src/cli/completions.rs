// SPDX-License-Identifier: Apache-2.0
//! `husk completions`: what the shell needs to complete this command line.

use super::output::{ExitStatus, Failure, Printer};
use super::usage;
use clap_complete::Shell;

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk completions bash > ~/.local/share/bash-completion/completions/husk
  husk completions zsh > ~/.zfunc/_husk
  husk completions fish > ~/.config/fish/completions/husk.fish")]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

pub fn execute(args: &CompletionsArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut usage::command(), "husk", &mut script);
    printer.data(&script)?;
    Ok(ExitStatus::Success)
}
