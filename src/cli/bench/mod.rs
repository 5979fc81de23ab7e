// SPDX-License-Identifier: Apache-2.0
//! `husk bench`: what isolation costs, on this host, by everybody who offers it. Main thread;
//! what is measured and how is `crate::bench`.

mod compare;
mod live;
mod report;
mod request;
mod studies;
mod write;

use super::output::{ExitStatus, Failure, Printer};
use super::shape::ShapeArgs;
use std::path::PathBuf;

/// Measure machines against containers and processes, on this host
///
/// The same root file system and the same command in everybody who is installed, in turns (A B
/// C, B C A, …), each start cut at end points that mean the same for all: command returned,
/// first byte of output, first HTTP 200 from the service, process exit. What somebody does not
/// have is said to be not offered, and is never zero.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    #[command(subcommand)]
    verb: BenchVerb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum BenchVerb {
    Start(StartArgs),
    Churn(ChurnArgs),
    Density(DensityArgs),
    Work(WorkArgs),
    All(AllArgs),
    Compare(compare::CompareArgs),
    Report(report::ReportArgs),
}

/// How long a start takes, to each of its end points
///
/// With a warm page cache, and with the contestant's files dropped from it. Rounds go on until
/// each median is known within 5 %, at most 200 or ten minutes, if --rounds does not say how
/// many. All samples are kept: --out saves them.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = METHOD)]
struct StartArgs {
    #[command(flatten)]
    shared: SharedArgs,
    /// Leave out the starts with a cold page cache
    #[arg(long)]
    warm_only: bool,
    /// By which clock: this host's, or 'lab' as well, an emulated machine's that counts
    /// instructions, where QEMU is installed: husk and a bare process only, and no noise
    #[arg(long, value_name = "CLOCK", value_enum, default_value = "host")]
    #[arg(help_heading = "How much")]
    clock: Clock,
}

/// Starts and stops a second, so many at once, and how long the slowest take
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = METHOD)]
struct ChurnArgs {
    #[command(flatten)]
    shared: SharedArgs,
    #[command(flatten)]
    crowd: CrowdArgs,
}

#[derive(Clone, Debug, Default, clap::Args)]
struct CrowdArgs {
    /// Starts at once: 1, 2, 4 … up to this many. Without it, two for each processor
    #[arg(long, value_name = "COUNT", help_heading = "How much")]
    concurrency: Option<String>,
}

/// How many instances there can be, and what memory each of them takes
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = METHOD)]
struct DensityArgs {
    #[command(flatten)]
    shared: SharedArgs,
    #[command(flatten)]
    many: ManyArgs,
}

#[derive(Clone, Debug, Default, clap::Args)]
struct ManyArgs {
    /// Instances: 1, 2, 4 … up to this many, as far as a fifth of the memory stays free
    #[arg(long, value_name = "COUNT", help_heading = "How much")]
    instances: Option<String>,
}

/// What a program's work costs inside: processor, memory, system calls, disk, network
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = METHOD)]
struct WorkArgs {
    #[command(flatten)]
    shared: SharedArgs,
}

/// All of them, one after the other; with --quick within a minute
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = METHOD)]
struct AllArgs {
    #[command(flatten)]
    shared: SharedArgs,
    #[command(flatten)]
    crowd: CrowdArgs,
    #[command(flatten)]
    many: ManyArgs,
}

#[derive(Clone, Debug, clap::Args)]
struct SharedArgs {
    /// The image to run, as for `husk run`; one you trust, since 'process' isolates nothing.
    /// Without it, one that husk makes of one small static program that greets, and serves
    #[arg(long, value_name = "IMAGE", help_heading = "What is run")]
    image: Option<String>,
    /// Where the image's command answers requests of HTTP; without it, it is one that ends
    #[arg(long, value_name = "PORT", help_heading = "What is run")]
    port: Option<String>,
    /// What is asked for there until the answer is 200. Without it, /
    #[arg(long, value_name = "PATH", help_heading = "What is run")]
    path: Option<String>,
    /// Against whom: a list of process, bwrap, runc, crun, gvisor, krun, podman, docker,
    /// nerdctl, qemu, firecracker, cloud-hypervisor. Without it, all that is installed; husk
    /// is always there, from a template and booted
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Who takes part"
    )]
    against: Option<Vec<String>>,
    /// Use this program for a contestant instead of the one in PATH
    #[arg(long, value_name = "NAME=PROGRAM", help_heading = "Who takes part")]
    with: Vec<String>,
    #[command(flatten)]
    shape: ShapeArgs,
    /// So many rounds, instead of as many as the figures need
    #[arg(long, value_name = "COUNT", help_heading = "How much")]
    rounds: Option<String>,
    /// Be done within a minute; the intervals are as wide as that makes them
    #[arg(long, help_heading = "How much")]
    quick: bool,
    /// How long one start may take before it has failed
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        help_heading = "How much"
    )]
    timeout: String,
    /// How the results are printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    #[arg(help_heading = "What comes of it")]
    format: Format,
    /// Write a page for a browser, which needs no network
    #[arg(long, value_name = "FILE", help_heading = "What comes of it")]
    report: Option<PathBuf>,
    /// Save all samples, for `husk bench compare` and `husk bench report`
    #[arg(long, value_name = "FILE", help_heading = "What comes of it")]
    out: Option<PathBuf>,
    /// Show no progress
    #[arg(long, help_heading = "What comes of it")]
    quiet: bool,
    /// What to run in the image instead of what it says
    #[arg(value_name = "CMD", last = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Clock {
    Host,
    Lab,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Table,
    /// All samples
    Json,
    /// A row a sample
    Csv,
    /// Tables for a document
    Markdown,
}

const EXAMPLES: &str = "\
Examples:
  husk bench all --quick                        Everything, within a minute
  husk bench start --against runc,podman        husk, runc and podman, until the medians are known
  husk bench start --image nginx --port 80      The first answer of a service of yours
  husk bench start --image alpine -- date       Of a command: its first byte and its end
  husk bench all --report r.html --out r.json   A page to look at, and all samples
  husk bench compare before.json r.json         What became worse

Exit codes: 0 measured, 1 something you can mend, 2 something unexpected, 130 when you ended
it: what was measured until then is printed and saved all the same.";

const METHOD: &str = "\
How it is measured:
  Everybody gets the same root file system, unpacked once, and runs the same command as root in
  it. Somebody is tried once before the first round; who is not installed, or fails then, is
  named with the reason and left out. A start that hangs, fails or says something else than it
  should is a failure and no sample; it is ended and cleared up after, and so is what it leaves.
  A busy host makes all figures worse, and the slowest most: see the cautions.";

pub fn execute(args: &BenchArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    match &args.verb {
        BenchVerb::Start(args) => {
            let request = request::Request::check(&args.shared, None, None)?;
            let start = studies::Study::Start {
                cold: !args.warm_only,
            };
            match args.clock {
                Clock::Host => studies::run(&request, &[start], printer),
                Clock::Lab => studies::run(&request, &[start, studies::Study::Lab], printer),
            }
        }
        BenchVerb::Churn(args) => {
            let request = request::Request::check(&args.shared, Some(&args.crowd), None)?;
            studies::run(&request, &[studies::Study::Churn], printer)
        }
        BenchVerb::Density(args) => {
            let request = request::Request::check(&args.shared, None, Some(&args.many))?;
            studies::run(&request, &[studies::Study::Density], printer)
        }
        BenchVerb::Work(args) => {
            let request = request::Request::check(&args.shared, None, None)?;
            studies::run(&request, &[studies::Study::Work], printer)
        }
        BenchVerb::All(args) => {
            let request =
                request::Request::check(&args.shared, Some(&args.crowd), Some(&args.many))?;
            studies::run(&request, &studies::ALL, printer)
        }
        BenchVerb::Compare(args) => compare::execute(args, printer),
        BenchVerb::Report(args) => report::execute(args, printer),
    }
}
