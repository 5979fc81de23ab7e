// SPDX-License-Identifier: Apache-2.0
//! Gathers what a run needs of the host: image, kernel, initial file system, the agent's
//! connection; and describes the machine and its command. Main thread.

use super::RunRequest;
use super::declared::Declared;
use super::network;
use super::storage;
pub use super::written::record;
use crate::cli::guest;
use crate::cli::host::cache_dir;
use crate::cli::image::{Bars, problem as image_problem};
use crate::cli::kernel;
use crate::cli::launch::Opened;
use crate::cli::output::{Failure, Printer, Problem};
use crate::cli::ring;
use crate::cli::signals;
use crate::cli::trace::Waterfall;
use crate::config::{Boot, Console, Drive, HostFile, HostPort, VmConfig, Vsock};
use crate::image::{self, FsKind, RootFs, Typed};
use crate::initramfs;
use crate::instance::beside;
use crate::instance::seat::Seat;
use crate::units::Variant;
use anyhow::Context as _;
use husk_protocol::{Filesystem, HOST_PORT, LogRecord, Root, Start};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The first context id a guest may have (linux/vm_sockets.h); each machine has its own
/// vsock device, so all may use it.
const GUEST_CID: u32 = 3;
/// `quiet` comes first: the early console repeats what was printed before it.
const CMDLINE: &str = "quiet earlyprintk=serial,ttyS0,115200,keep panic=-1 reboot=k,f \
    tsc=reliable rcupdate.rcu_expedited=1";

/// What a command is asked to end with where neither operator nor image says.
const SIGTERM: u8 = 15;

/// Everything, open. `opened` is dropped once the machine's process has it.
pub struct Parts {
    pub config: VmConfig,
    /// Our end of the agent's connection.
    pub agent: UnixStream,
    pub start: Start,
    pub opened: Opened,
    /// What ends the command when the machine is asked to stop.
    pub stop_signal: u8,
    /// What is to run beside the machine.
    pub beside: beside::Plan,
    /// Its seat on a private network: given back unless `beside` is started.
    pub seat: Option<Seat>,
    pub declared: Declared,
}

pub fn gather(
    request: &RunRequest,
    printer: &Printer,
    waterfall: &mut Waterfall,
) -> Result<Parts, Failure> {
    let mut opened = Opened::default();
    let kvm = opened.kvm()?;
    let cache = cache_dir()?;
    let mut bars = Bars::new(printer, request.quiet);
    let (kernel, variant) = kernel_of(request, &cache, printer, waterfall)?;
    let kernel = opened.file("kernel", &kernel, false)?;
    let root = open_image(request, &cache, &mut bars)?;
    drop(bars);
    waterfall.reached("image ready");

    let (agent, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
    let initrd = HostFile {
        path: "the agent's initramfs".into(),
        fd: opened.keep(agent_initramfs()?.into()),
    };
    let said = root.config.stop_signal.as_deref();
    let said = said.and_then(|text| signals::parse(text).ok());
    let stop_signal = request.stop_signal.or(said).unwrap_or(SIGTERM);
    let equipment = storage::open(&request.storage, 1, &mut opened)?;
    let declared = Declared::of(&root.config, request)?;
    let network = network::gather(&declared.published(request), &mut opened)?;
    let mut start = start(request, &root)?;
    start.network = network.guest.map(Box::new);
    if let Some(root) = &mut start.root {
        root.upper = equipment.upper;
    }
    // What is typed may lie in what the image declares, and not the other way round.
    start.mounts = declared.mounts();
    start.mounts.extend(equipment.mounts);
    let mut drives = vec![Drive {
        file: HostFile {
            path: root.path,
            fd: opened.keep(root.file.into()),
        },
        read_only: true,
        bps: request.storage.bps,
        iops: request.storage.iops,
    }];
    drives.extend(equipment.drives);
    let config = VmConfig {
        name: request.image.clone(),
        cpus: request.shape.cpus,
        memory: request.shape.memory.bytes(),
        boot: Boot {
            kernel,
            variant,
            initrd: Some(initrd),
            cmdline: CMDLINE.to_owned(),
        },
        drives,
        shares: equipment.shares,
        vsock: Some(Vsock {
            cid: GUEST_CID,
            host_ports: vec![HostPort {
                port: HOST_PORT,
                fd: opened.keep(theirs.into()),
            }],
            listener: None,
        }),
        net: network.card,
        console: Console::Quiet,
        rng: true,
        balloon: true,
        pit: false,
        jail: request.jail,
        kvm,
        trace: request.trace.is_some(),
    };
    waterfall.reached("files open");
    Ok(Parts {
        config,
        agent,
        start,
        opened,
        stop_signal,
        beside: beside::Plan {
            network: network.user,
            shares: equipment.served,
        },
        seat: network.seat,
        declared,
    })
}

/// The kernel's file, and what it must be. One the operator brings says itself which ring it
/// wants, to the machine, which asks no more of it where nobody named a ring.
fn kernel_of(
    request: &RunRequest,
    cache: &Path,
    printer: &Printer,
    waterfall: &mut Waterfall,
) -> Result<(PathBuf, Option<Variant>), Problem> {
    match (&request.kernel, request.guest_ring) {
        (Some(path), None) => Ok((path.clone(), None)),
        (Some(path), asked) => {
            let choice = ring::choose(asked)?;
            Ok((path.clone(), Some(choice.variant)))
        }
        (None, asked) => {
            let choice = ring::choose(asked)?;
            // A start of seconds in place of a tenth wants its reason.
            if let Some(why) = choice.fallback.as_ref().filter(|_| !request.quiet) {
                printer.talk(&format!("husk: the guest's kernel is interpreted: {why}\n"));
            }
            waterfall.fell_back(choice.fallback);
            let kernel = kernel::of(cache, choice.variant)?;
            Ok((kernel.vmlinux, Some(choice.variant)))
        }
    }
}

fn open_image(request: &RunRequest, cache: &Path, bars: &mut Bars) -> Result<RootFs, Problem> {
    let mut hear = |step: image::Progress<'_>| bars.hear(step);
    image::open_with(&request.image, cache, request.pull.into(), &mut hear)
        .map_err(|error| image_problem(&error))
}

/// The initial file system as an anonymous file the machine maps.
fn agent_initramfs() -> anyhow::Result<File> {
    let fd = memfd_create(c"husk-initramfs", MFdFlags::MFD_CLOEXEC)
        .context("cannot make an anonymous file")?;
    let mut file = File::from(fd);
    file.write_all(&initramfs::agent_initramfs())
        .context("cannot write the agent's initramfs")?;
    Ok(file)
}

fn start(request: &RunRequest, root: &RootFs) -> Result<Start, Problem> {
    let typed = Typed {
        entrypoint: request.entrypoint.as_deref().map(OsStr::as_bytes),
        command: request.command.iter().map(|word| word.as_bytes()).collect(),
        env: request
            .env
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect(),
        user: request.user.as_deref(),
        working_dir: request.workdir.as_deref(),
    };
    let process = root.config.process(&typed);
    if process.argv.is_empty() {
        return Err(
            Problem::new("no command was given, and this image names none")
                .hint("write it behind the image: husk run IMAGE CMD"),
        );
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Start {
        argv: process.argv,
        env: process.env,
        user: process.user,
        cwd: process.cwd,
        hostname: hostname(request),
        terminal: request.tty.then(guest::this_terminal),
        stdin: request.interactive,
        root: Some(Root {
            device: "/dev/vda".into(),
            filesystem: match root.kind {
                FsKind::Erofs => Filesystem::Erofs,
                FsKind::Ext4 => Filesystem::Ext4,
                FsKind::Squashfs => Filesystem::Squashfs,
            },
            writable: !request.read_only,
            upper: String::new(),
        }),
        own: false,
        kernel_log: request.trace.is_some(),
        wall_clock: since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0)),
        mounts: Vec::new(),
        network: None,
    })
}

fn hostname(request: &RunRequest) -> String {
    let name = request.hostname.as_ref().or(request.name.as_ref());
    name.cloned().unwrap_or_else(|| "husk".into())
}

/// A line of the kernel's log as a name in the trace.
pub fn milestone(record: &LogRecord) -> String {
    const LONGEST: usize = 60;
    let text: String = record
        .text
        .chars()
        .filter(|letter| !letter.is_control())
        .take(LONGEST)
        .collect();
    format!("kernel: {text}")
}
