// SPDX-License-Identifier: Apache-2.0
//! `husk attach`: this terminal's streams joined to a machine's command. Main thread.

use super::guest::{self, Call};
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::{find_one, place};
use crate::instance::call;
use husk_protocol::Start;

/// Join this terminal to the command of a machine
///
/// Its output from now on comes here; what was written before is in `husk logs`. Input goes
/// to a machine that was started with -d and -i. Ctrl-P Ctrl-Q leaves it running.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk run -dit --name box dir:./alpine sh
  husk attach box

Exit codes: the command's own, 0 if you left it.")]
pub struct AttachArgs {
    /// Only look: forward no input
    #[arg(long)]
    no_stdin: bool,
    /// A name, an id or the beginning of one
    #[arg(value_name = "MACHINE")]
    machine: String,
}

pub fn execute(args: &AttachArgs, _printer: &Printer) -> Result<ExitStatus, Failure> {
    let found = find_one(&place()?, &args.machine)?;
    let title = found.record.title();
    if !found.is_running() {
        return Err(Problem::new(format!("machine '{title}' does not run"))
            .hint("husk logs tells what it wrote")
            .into());
    }
    let silent = |error| Problem::new(format!("machine '{title}' does not answer")).because(&error);
    let stream = call::attach(&found)
        .map_err(silent)?
        .map_err(|why| Problem::new(format!("cannot attach to machine '{title}': {why}")))?;
    let record = &found.record;
    let input = record.interactive && record.detached && !args.no_stdin;
    let start = Start {
        terminal: record.tty.then(guest::this_terminal),
        stdin: input,
        ..Start::default()
    };
    let call = Call {
        stream,
        start,
        greeted: false,
    };
    guest::converse(call, guest::streams(input)?, true)
}
