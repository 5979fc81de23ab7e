// SPDX-License-Identifier: Apache-2.0
//! `husk exec`: a further command in a machine that runs. Main thread.
//!
//! The command line talks to the guest's agent itself, over the machine's vsock socket: the
//! owner has no part in it, and no other session waits for this one.

use super::guest::{self, Call};
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::{find_one, place, user, variable, workdir};
use crate::instance::{Found, Place, call, journal};
use husk_protocol::{AGENT_PORT, Message, Start};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;

/// Longest first message that goes with the call: any socket has room for it, so nobody waits
/// for a guest that does not read.
const MAX_FIRST: usize = 64 * 1024;

/// Run a further command in a machine
///
/// Environment, user and directory are those the machine was started with, unless told
/// otherwise. The command ends with the machine.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk exec web cat /etc/hosts
  husk exec -it web sh
  tar c conf | husk exec -i -w /etc web tar x

Exit codes: the command's own, 128+N if signal N killed it, 126 if it could not be run,
127 if it was not found, 125 if husk itself failed.")]
pub struct ExecArgs {
    /// Set a variable of the command's environment; NAME alone hands on the host's value
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Start in this directory of the guest
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run as this user of the guest, a name or a number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Forward standard input; without it the command reads end-of-file
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal, with this one's size and keys
    #[arg(short, long)]
    tty: bool,
    /// A name, an id or the beginning of one
    #[arg(value_name = "MACHINE")]
    machine: String,
    /// The command and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

pub fn execute(args: &ExecArgs, _printer: &Printer) -> Result<ExitStatus, Failure> {
    let mut problems = Vec::new();
    problems.extend(args.workdir.as_deref().and_then(|dir| workdir(dir).err()));
    problems.extend(args.user.as_deref().and_then(|name| user(name).err()));
    let mut env = Vec::new();
    for word in &args.env {
        match variable(word, |name: &OsStr| std::env::var_os(name)) {
            Ok(pair) => env.push(pair),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(Failure::operator(problems));
    }
    let place = place()?;
    let found = find_one(&place, &args.machine)?;
    let record = &found.record;
    let pairs = env.into_iter().map(|(name, value)| {
        let mut pair = name.into_vec();
        pair.push(b'=');
        pair.extend(value.into_vec());
        pair
    });
    let inherited = record.env.iter().map(|var| var.clone().into_bytes());
    let start = Start {
        argv: args
            .command
            .iter()
            .map(|word| word.clone().into_vec())
            .collect(),
        env: inherited.chain(pairs).collect(),
        user: args.user.clone().unwrap_or_else(|| record.user.clone()),
        cwd: args
            .workdir
            .clone()
            .unwrap_or_else(|| record.workdir.clone())
            .into_bytes(),
        hostname: record.hostname.clone(),
        terminal: args.tty.then(guest::this_terminal),
        stdin: args.interactive,
        ..Start::default()
    };
    let call = dial(&found, start)?;
    journal::note(place.path(), "exec", &found.record, None);
    guest::converse(call, guest::streams(args.interactive)?, false)
}

/// Asks the agent of a machine that runs for a process.
fn dial(found: &Found, start: Start) -> Result<Call, Failure> {
    let title = found.record.title();
    let ended = || {
        Problem::new(format!("machine '{title}' does not run")).hint("husk ps lists those that do")
    };
    if !found.is_running() {
        return Err(ended().into());
    }
    let mut first = Vec::new();
    // It is heard by an agent that has not yet said which version it speaks. One too long
    // to be sent at all is the session's to refuse, once it is up.
    let encoded = Message::Start(start.clone()).encode(&mut first).is_ok();
    let greeted =
        encoded && first.len() <= MAX_FIRST && found.record.protocol == husk_protocol::VERSION;
    if !greeted {
        first.clear();
    }
    let stream = call::dial(found, AGENT_PORT, &first).map_err(|error| {
        // Its socket goes before its owner does.
        if !found.dir.join("vsock.sock").exists() {
            return ended().into();
        }
        let what = format!("the guest of machine '{title}' takes no further command");
        Failure::from(Problem::new(what).because(&error))
    })?;
    Ok(Call {
        stream,
        start,
        greeted,
    })
}

/// For the verbs that run one of the agent's own programs.
pub fn own(place: &Place, machine: &str, words: &[&[u8]], stdin: bool) -> Result<Call, Failure> {
    let found = find_one(place, machine)?;
    let start = Start {
        argv: words.iter().map(|word| word.to_vec()).collect(),
        own: true,
        stdin,
        ..Start::default()
    };
    dial(&found, start)
}
