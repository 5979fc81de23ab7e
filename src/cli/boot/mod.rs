// SPDX-License-Identifier: Apache-2.0
//! `husk boot`: any kernel, its console on this terminal, no image and no agent.

pub mod keys;
mod session;

use super::host::Memory;
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::kernel_file;
use super::shape::{Shape, ShapeArgs};
use super::trace::{Mark, TraceFormat};
use crate::config::ConsoleKind;
use anyhow::Context as _;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// Boot any kernel, with its console on this terminal
///
/// Ends when the guest powers off or resets. There is no image and no agent: what runs is
/// the kernel's own init, from the initrd or the first disk.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct BootArgs {
    #[command(flatten)]
    shape: ShapeArgs,
    /// The kernel, an ELF vmlinux or a bzImage
    #[arg(long, value_name = "PATH")]
    kernel: PathBuf,
    /// The initial RAM disk
    #[arg(long, value_name = "PATH")]
    initrd: Option<PathBuf>,
    /// The kernel's command line. Your keys go to the console it names last: ttyS0 is the
    /// serial port, hvc0 virtio
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "console=ttyS0 panic=-1 reboot=k"
    )]
    #[arg(allow_hyphen_values = true)]
    cmdline: String,
    /// Attach a file as a disk, /dev/vda first; ':ro' after it forbids writing
    #[arg(long, value_name = "PATH[:ro]")]
    disk: Vec<OsString>,
    /// Do not confine the process that runs the guest; for finding faults only
    #[arg(long)]
    no_jail: bool,
    /// Tell on standard error when each step from exec to exit was reached; json is one
    /// line, in nanoseconds
    #[arg(long, value_name = "FORMAT", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text")]
    trace: Option<TraceFormat>,
}

const EXAMPLES: &str = "\
Examples:
  husk boot --kernel vmlinux --initrd initramfs.cpio.gz
  husk boot --kernel bzImage --disk root.img --cmdline 'console=ttyS0 root=/dev/vda'
  husk boot --kernel vmlinux --initrd init.cpio --cmdline console=hvc0
  husk boot -c 2 -m 1g --kernel vmlinuz --initrd initrd.img --disk data.img:ro

On a terminal all keys go to the guest; Ctrl-] ends the machine.

Exit codes: 0 when the guest powered off or reset, 1 when its kernel panicked or crashed
or could not be loaded, 2 for anything unexpected.";

/// A disk as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub path: PathBuf,
    pub read_only: bool,
}

/// A boot that can be attempted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootRequest {
    pub shape: Shape,
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub cmdline: String,
    pub disks: Vec<Disk>,
    pub console: ConsoleKind,
    pub jail: bool,
    pub trace: Option<TraceFormat>,
}

impl BootRequest {
    pub fn check(args: &BootArgs, host: Memory) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let shape = Shape::check(&args.shape, host, &mut problems);
        problems.extend(kernel_file(&args.kernel).err());
        let disks: Vec<Disk> = args.disk.iter().map(Disk::parse).collect();
        let initrd = args.initrd.iter().map(|path| ("initrd", path));
        let files = disks.iter().map(|disk| ("disk", &disk.path));
        for (what, path) in initrd.chain(files) {
            if let Err(error) = std::fs::metadata(path) {
                let text = format!("cannot use the {what}, {}", path.display());
                problems.push(Problem::new(text).because(&error));
            }
        }
        match shape {
            Some(shape) if problems.is_empty() => Ok(Self {
                shape,
                kernel: args.kernel.clone(),
                initrd: args.initrd.clone(),
                cmdline: args.cmdline.clone(),
                disks,
                console: console_of(&args.cmdline),
                jail: !args.no_jail,
                trace: args.trace,
            }),
            _ => Err(problems),
        }
    }
}

/// The kernel makes the last console of its command line /dev/console
/// (Documentation/admin-guide/serial-console.rst); the keys go where that listens.
fn console_of(cmdline: &str) -> ConsoleKind {
    let last = cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("console="))
        .next_back();
    match last {
        Some(device) if device.starts_with("hvc") => ConsoleKind::Virtio,
        _ => ConsoleKind::Serial,
    }
}

impl Disk {
    fn parse(word: &OsString) -> Self {
        match word.as_bytes().strip_suffix(b":ro") {
            Some(path) => Self {
                path: OsString::from_vec(path.to_vec()).into(),
                read_only: true,
            },
            None => Self {
                path: word.into(),
                read_only: false,
            },
        }
    }
}

pub fn execute(args: &BootArgs, exec: Mark, printer: &Printer) -> Result<ExitStatus, Failure> {
    let memory = Memory::read().context("cannot read the host's memory")?;
    let request = BootRequest::check(args, memory).map_err(Failure::operator)?;
    session::boot(&request, exec, printer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::shape::tests::HOST;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        boot: BootArgs,
    }

    fn check(words: &[&str]) -> Result<BootRequest, Vec<Problem>> {
        let words = std::iter::once("boot").chain(words.iter().copied());
        let line = Line::try_parse_from(words).expect("clap takes it");
        BootRequest::check(&line.boot, HOST)
    }

    #[test]
    fn disks_keep_their_order_and_their_mode() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("UTF-8");
        let read_only = format!("{path}:ro");
        let request =
            check(&["--kernel", path, "--disk", path, "--disk", &read_only]).expect("a request");
        let modes: Vec<bool> = request.disks.iter().map(|disk| disk.read_only).collect();
        assert_eq!(modes, [false, true]);
        assert!(request.disks.iter().all(|disk| disk.path == file.path()));
        assert!(request.cmdline.contains("console=ttyS0"));
    }

    #[test]
    fn the_keys_go_to_the_console_named_last() {
        assert_eq!(console_of("quiet"), ConsoleKind::Serial);
        assert_eq!(
            console_of("console=ttyS0 console=hvc0"),
            ConsoleKind::Virtio
        );
        assert_eq!(
            console_of("console=hvc0 console=ttyS0,115200"),
            ConsoleKind::Serial
        );
    }

    #[test]
    fn every_missing_file_is_told() {
        let problems = check(&[
            "--kernel",
            "/no/kernel",
            "--initrd",
            "/no/initrd",
            "--disk",
            "/no/disk:ro",
            "-c0",
        ])
        .expect_err("problems");
        assert_eq!(problems.len(), 4, "{problems:#?}");
    }
}
