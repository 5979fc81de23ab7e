// SPDX-License-Identifier: Apache-2.0
//! `husk kernel`: the guest kernel of husk's own, built once a host and kept.

use super::host::cache_dir;
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::progress::Progress;
use super::ring::{self, GuestRing};
use crate::kernel::{self, Kernel, KernelError, Progress as Step, Variant};
use anyhow::Context as _;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// Build, list and find the guest kernel
///
/// The kernel is built from the Debian package linux-source-6.12 with the configuration
/// and the patches in this program, and kept in husk's cache under a digest of everything
/// that went into it. `husk run` uses it unless told otherwise. There are two of it: one
/// that runs in ring 0, for processors with virtualisation, and one that runs in ring 3,
/// for hosts whose KVM interprets ring 0.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct KernelArgs {
    #[command(subcommand)]
    verb: KernelVerb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum KernelVerb {
    /// Build the kernel, or say that it is built
    Build(BuildArgs),
    /// List the kernels in the cache, newest first
    List(ListArgs),
    /// Print the path of the kernel `husk run` uses
    Path(PathArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct BuildArgs {
    /// Which kernel: the one for ring 0 or for ring 3. Without it, the one `husk run`
    /// uses on this host
    #[arg(long, value_name = "RING")]
    guest_ring: Option<GuestRing>,
    /// Say nothing but errors
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct ListArgs {
    /// A table for people, or one JSON document
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Debug, clap::Args)]
struct PathArgs {
    /// Which kernel: the one for ring 0 or for ring 3. Without it, the one `husk run`
    /// uses on this host
    #[arg(long, value_name = "RING")]
    guest_ring: Option<GuestRing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

const EXAMPLES: &str = "\
Examples:
  husk kernel build
  husk kernel build --guest-ring 0
  husk kernel list --format json
  husk boot --kernel \"$(husk kernel path)\" --initrd initramfs.cpio

Exit codes: 0, 1 when the kernel is not built or cannot be, 2 for anything unexpected.";

/// Digits of a digest people need to tell kernels apart.
const SHORT: usize = 12;

pub fn execute(args: &KernelArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let cache = cache_dir()?;
    match &args.verb {
        KernelVerb::Build(args) => build(&cache, args, printer),
        KernelVerb::List(args) => list(&cache, args.format, printer),
        KernelVerb::Path(args) => {
            let kernel = of(&cache, variant(args.guest_ring)?)?;
            printer.data(format!("{}\n", kernel.vmlinux.display()).as_bytes())?;
            Ok(ExitStatus::Success)
        }
    }
}

/// The kernel `husk run` uses on this host, or what to type to have one.
pub fn own(cache: &Path) -> Result<Kernel, Problem> {
    of(cache, ring::choose(None)?.variant)
}

/// Our kernel of one variant, or what to type to have it.
pub fn of(cache: &Path, variant: Variant) -> Result<Kernel, Problem> {
    kernel::find(cache, variant)
        .map_err(problem)?
        .ok_or_else(|| {
            let ring = variant.ring();
            Problem::new(format!(
                "husk's own kernel for ring {ring} is not built yet"
            ))
            .hint(format!(
                "build it once: husk kernel build --guest-ring {ring}"
            ))
        })
}

/// Any variant can be built anywhere; a host's ability matters where none was named.
fn variant(asked: Option<GuestRing>) -> Result<Variant, Problem> {
    match asked {
        Some(ring) => Ok(ring.variant()),
        None => Ok(ring::choose(None)?.variant),
    }
}

fn build(cache: &Path, args: &BuildArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let quiet = args.quiet;
    let variant = variant(args.guest_ring)?;
    let mut progress = Progress::new(printer.talk, quiet);
    let mut phase = None;
    let built = kernel::ensure(cache, variant, &mut |step| {
        // Each object is a step of its own only on a line that is drawn over.
        if let Step::Compiling { objects, expected } = step {
            if phase != Some("compiling") {
                phase = Some("compiling");
                progress.step("compiling the guest kernel, which takes minutes");
            }
            let share = objects.saturating_mul(100) / expected.max(1);
            progress.detail(&format!("{objects} objects, about {} %", share.min(99)));
            return;
        }
        let text = match step {
            Step::Waiting => "waiting for another build of the kernel",
            Step::Hashing => "reading the kernel's source package",
            Step::Unpacking => "unpacking the kernel's source",
            Step::Patching { .. } => "patching the kernel",
            Step::Configuring => "configuring the kernel",
            Step::Finishing => "finishing the kernel",
            Step::Compiling { .. } => return,
        };
        if phase != Some(text) {
            phase = Some(text);
            progress.step(text);
        }
    });
    drop(progress);
    let kernel = built.map_err(problem)?;
    if !quiet {
        let short = kernel.digest.get(..SHORT).unwrap_or(&kernel.digest);
        printer.talk(&format!(
            "husk: kernel {} for ring {} ({short}) is ready\n",
            kernel.version,
            kernel.variant.ring()
        ));
    }
    Ok(ExitStatus::Success)
}

#[derive(Serialize)]
struct Row<'a> {
    digest: &'a str,
    version: &'a str,
    variant: Variant,
    built_at: u64,
    vmlinux: &'a Path,
    /// The one of its variant that this husk uses.
    current: bool,
}

fn list(cache: &Path, format: Format, printer: &Printer) -> Result<ExitStatus, Failure> {
    let kernels = kernel::list(cache).map_err(problem)?;
    let mut current = Vec::new();
    for variant in [Variant::Ring0, Variant::Ring3] {
        let kernel = kernel::find(cache, variant).map_err(problem)?;
        current.extend(kernel.map(|kernel| kernel.digest));
    }
    let rows: Vec<Row> = kernels
        .iter()
        .map(|kernel| Row {
            digest: &kernel.digest,
            version: &kernel.version,
            variant: kernel.variant,
            built_at: kernel.built_at,
            vmlinux: &kernel.vmlinux,
            current: current.contains(&kernel.digest),
        })
        .collect();
    let text = match format {
        Format::Json => {
            let json = serde_json::to_string(&rows).context("cannot write JSON")?;
            format!("{json}\n")
        }
        Format::Table => table(&rows),
    };
    printer.data(text.as_bytes())?;
    Ok(ExitStatus::Success)
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<SHORT$}  {:<20}  {:<7}  {:<7}  PATH\n",
        "DIGEST", "VERSION", "VARIANT", "CURRENT"
    );
    for row in rows {
        let short = row.digest.get(..SHORT).unwrap_or(row.digest);
        let current = if row.current { "yes" } else { "" };
        let path = row.vmlinux.display();
        let _ = writeln!(
            text,
            "{short:<SHORT$}  {:<20}  {:<7}  {current:<7}  {path}",
            row.version,
            row.variant.name()
        );
    }
    text
}

fn problem(error: KernelError) -> Problem {
    let problem = Problem::of(&error);
    match error.hint() {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}
