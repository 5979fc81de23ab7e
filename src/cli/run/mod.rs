// SPDX-License-Identifier: Apache-2.0
//! `husk run`: a command of an image, in a machine of its own.

mod begin;
mod blueprint;
mod changes;
mod checkpoint;
mod cold;
mod declared;
pub mod detach;
mod identity;
mod network;
mod owner;
mod parts;
mod ready;
mod request;
mod restore;
mod saving;
mod session;
mod sound;
pub mod storage;
mod written;

use super::host::Memory;
use super::image::PullWhen;
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::ring::GuestRing;
use super::shape::ShapeArgs;
use super::trace::{Mark, TraceFormat, Waterfall};
use anyhow::Context as _;
use ready::Ready;
use std::ffi::OsString;
use std::path::PathBuf;

pub use begin::{Recipe, template, templates};
pub use blueprint::Blueprint;
pub use changes::{Changes, ChangesArgs};
pub use checkpoint::bake;
pub use detach::{self as detached, KeepArgs, keep};
pub use owner::{find, find_one, find_some, place, problem};
pub use request::{RunRequest, kernel_file, user, variable, workdir};
pub use restore::{Saved, elsewhere, gather as restored};
pub use saving::{How, save};
pub use session::attend;

/// Headings of the long help.
const COMMAND: &str = "The command";
const MACHINE: &str = "The machine";
const NETWORK: &str = "Network";
const FILES: &str = "Disks and files";
const KERNEL: &str = "Kernel and faults";

/// Run a command of an image in a machine of its own
///
/// Boots a Linux kernel in a fresh virtual machine, mounts IMAGE as its root and runs CMD
/// there, or what the image says to run. Standard output and error arrive byte for byte.
/// The guest never changes IMAGE: what it writes is gone when the machine ends, except on
/// what `-v` mounts.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    storage: storage::StorageArgs,
    /// Let programs of the host reach the guest's vsock ports through a Unix socket at PATH:
    /// they write `CONNECT <port>` in a line of its own
    #[arg(long, value_name = "PATH")]
    #[arg(help_heading = MACHINE)]
    vsock: Option<PathBuf>,
    /// Set a variable of the command's environment; NAME alone hands on the host's value
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    #[arg(help_heading = COMMAND)]
    env: Vec<OsString>,
    /// Run this program instead of the image's entry point; the image's own command goes
    /// with it. Empty: run CMD alone
    #[arg(long, value_name = "PROGRAM")]
    #[arg(help_heading = COMMAND)]
    entrypoint: Option<OsString>,
    /// When to ask the registry for IMAGE
    #[arg(long, value_name = "WHEN", value_enum, default_value = "missing")]
    #[arg(help_heading = COMMAND)]
    pull: PullWhen,
    /// Start in this directory of the guest
    #[arg(short, long, value_name = "DIR")]
    #[arg(help_heading = COMMAND)]
    workdir: Option<String>,
    /// Run as this user of the guest, a name or a number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    #[arg(help_heading = COMMAND)]
    user: Option<String>,
    /// Lead a port of the host into the guest, on the host's loopback address or on IP;
    /// add /udp for datagrams
    #[arg(short, long, value_name = "[IP:]HOST:GUEST")]
    #[arg(help_heading = NETWORK)]
    publish: Vec<String>,
    /// Lead a free port of the host's loopback address to each port the image exposes;
    /// `husk ps` shows which
    #[arg(short = 'P', long)]
    #[arg(help_heading = NETWORK)]
    publish_all: bool,
    /// Let the guest reach this host name, address or range, on PORT or all ports; may be
    /// repeated. Nothing else is reached
    #[arg(long, value_name = "HOST|CIDR[:PORT]")]
    #[arg(help_heading = NETWORK)]
    allow: Vec<String>,
    /// user: what --allow names; open: all but this host's own addresses; none: no
    /// network; net:NAME: with the machines of that name, too; tap:NAME or bridge:NAME, for
    /// root: an interface of the host
    #[arg(long, value_name = "MODE", default_value = "user")]
    #[arg(help_heading = NETWORK)]
    network: String,
    /// Most bytes the guest's interface carries in a second, in each direction: 20m, 1g
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    #[arg(help_heading = NETWORK)]
    net_bps: Option<String>,
    /// What the guest calls itself
    #[arg(long, value_name = "NAME")]
    #[arg(help_heading = NETWORK)]
    hostname: Option<String>,
    /// Forward standard input; without it the command reads end-of-file
    #[arg(short, long)]
    #[arg(help_heading = COMMAND)]
    interactive: bool,
    /// Give the command a terminal, with this one's size and keys
    #[arg(short, long)]
    #[arg(help_heading = COMMAND)]
    tty: bool,
    /// Leave it running and print its id; `husk logs`, `attach` and `stop` find it again
    #[arg(short, long)]
    #[arg(help_heading = MACHINE)]
    detach: bool,
    /// Call the machine so: letters, digits, '_', '.' and '-'
    #[arg(long, value_name = "NAME")]
    #[arg(help_heading = MACHINE)]
    name: Option<String>,
    /// Keep nothing of it once it ended; always so without --detach
    #[arg(long)]
    #[arg(help_heading = MACHINE)]
    rm: bool,
    /// Something to know it by, as often as wanted
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    #[arg(help_heading = MACHINE)]
    label: Vec<String>,
    /// What `husk stop` asks the command to end with; without it, what the image says, or TERM
    #[arg(long, value_name = "SIGNAL")]
    #[arg(help_heading = MACHINE)]
    stop_signal: Option<String>,
    /// Refuse writes to the root instead of keeping them in memory
    #[arg(long)]
    #[arg(help_heading = FILES)]
    read_only: bool,
    /// Boot this kernel, an ELF vmlinux or a bzImage, instead of husk's own
    #[arg(long, value_name = "PATH")]
    #[arg(help_heading = KERNEL)]
    kernel: Option<PathBuf>,
    /// Boot the guest's kernel instead of going on from a template of this host's
    #[arg(long)]
    cold: bool,
    /// Start from where the service was ready before: the first such run keeps it then. It is
    /// ready when it takes connections at a PORT of the guest, answers at an address
    /// (http://localhost:80/health), or writes a line that an expression matches
    #[arg(long, value_name = "PORT|URL|REGEX")]
    #[arg(help_heading = MACHINE)]
    checkpoint_ready: Option<String>,
    /// Run the guest's kernel in this ring: 0, or 3 where KVM interprets ring 0. Without
    /// it, 3 where that works; with --kernel, as that kernel wants
    #[arg(long, value_name = "RING")]
    #[arg(help_heading = KERNEL)]
    guest_ring: Option<GuestRing>,
    /// Say nothing but errors
    #[arg(long)]
    #[arg(help_heading = KERNEL)]
    quiet: bool,
    /// Do not confine the process that runs the guest; for finding faults only
    #[arg(long)]
    #[arg(help_heading = KERNEL)]
    no_jail: bool,
    /// Tell on standard error when each step from exec to exit was reached; json is one
    /// line, in nanoseconds
    #[arg(long, value_name = "FORMAT", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text")]
    #[arg(help_heading = KERNEL)]
    trace: Option<TraceFormat>,
    /// How long the guest may take to reach its agent: 30s, 2m, 1500ms
    #[arg(
        long,
        value_name = "TIME",
        default_value = "2m",
        allow_negative_numbers = true
    )]
    #[arg(help_heading = MACHINE)]
    timeout: String,
    /// Where the root comes from: NAME[:TAG] of a registry, dir:, tar:, oci:, oci-archive: or
    /// docker-archive: and a path, or a ready filesystem image's path
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The command and its arguments; without it, what the image says
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  husk run nginx
  husk run dir:./alpine uname -a
  husk run -it alpine sh
  husk run -c 4 -m 2g -e THREADS=4 tar:./service.tar
  tar c src | husk run -i dir:./alpine tar t
  husk run -p 8080:80 --allow db.example:5432 tar:./service.tar
  husk run --trace dir:./alpine true
  husk run -d --name web dir:./site nginx -g 'daemon off;'

Ctrl-C stops the command; a second one ends the machine. With -t the keys go to the guest.

Exit codes: the command's own, 128+N if signal N killed it, 126 if it could not be run,
127 if it was not found, 125 if husk itself failed.";

pub fn execute(args: &RunArgs, exec: Mark, printer: &Printer) -> Result<ExitStatus, Failure> {
    let memory = Memory::read().context("cannot read the host's memory")?;
    let request = RunRequest::check(args, memory, |name| std::env::var_os(name))
        .map_err(Failure::operator)?;
    let ready = args.ready()?;
    let mut waterfall = Waterfall::starting(exec);
    let parts = match &ready {
        Some(ready) => checkpoint::gather(&request, ready, printer, &mut waterfall)?,
        None => parts::gather(&request, printer, &mut waterfall)?,
    };
    match request.detach {
        true => detach::leave(&request, parts, printer),
        false => session::attend(&request, parts, waterfall, printer),
    }
}

impl RunArgs {
    /// By what the service shows that it is ready.
    pub fn ready(&self) -> Result<Option<Ready>, Problem> {
        self.checkpoint_ready
            .as_deref()
            .map(Ready::parse)
            .transpose()
    }
}
