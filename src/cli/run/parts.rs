// SPDX-License-Identifier: Apache-2.0
//! Gathers what a run needs of the host: image, kernel, initial file system, the agent's
//! connection; and describes the machine and its command. Main thread.

use super::RunRequest;
use super::begin::{self, Recipe};
use super::blueprint::{Blueprint, RootId};
use super::declared::Declared;
use super::identity;
use super::network;
use super::storage::{self, Disks, Storage};
use super::written::{self, Sources};
use crate::cli::guest;
use crate::cli::host::cache_dir;
use crate::cli::image::{Bars, problem as image_problem};
use crate::cli::kernel;
use crate::cli::launch::Opened;
use crate::cli::output::{Failure, Printer, Problem};
use crate::cli::ring;
use crate::cli::signals;
use crate::cli::trace::Waterfall;
use crate::config::{Begin, Drive, HostFile, VmConfig};
use crate::image::{self, FsKind, RootFs, Typed};
use crate::initramfs;
use crate::instance::Ahead;
use crate::instance::beside;
use crate::instance::record::Record;
use crate::instance::seat::Seat;
use crate::instance::session::Opening;
use crate::instance::template::Which;
use crate::units::Variant;
use anyhow::Context as _;
use husk_protocol::{Filesystem, LogRecord, Root, Start};
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
pub const GUEST_CID: u32 = 3;
/// `quiet` comes first: the early console repeats what was printed before it.
pub const CMDLINE: &str = "quiet earlyprintk=serial,ttyS0,115200,keep panic=-1 reboot=k,f \
    tsc=reliable rcupdate.rcu_expedited=1";

/// What a command is asked to end with where neither operator nor image says.
const SIGTERM: u8 = 15;

/// Everything, open. `opened` is dropped once the machine's process has it.
pub struct Parts {
    pub config: VmConfig,
    /// Our end of the agent's connection.
    pub agent: UnixStream,
    pub opening: Opening,
    pub opened: Opened,
    pub record: Record,
    /// What is to run beside the machine.
    pub beside: beside::Plan,
    /// Its seat on a private network: given back unless `beside` is started.
    pub seat: Option<Seat>,
    /// Its process, if that was started already.
    pub ahead: Option<Ahead>,
    /// What the machine can be made from again.
    pub blueprint: Blueprint,
    /// The template it begins from.
    pub template: Option<Which>,
}

pub fn gather(
    request: &RunRequest,
    printer: &Printer,
    waterfall: &mut Waterfall,
) -> Result<Parts, Failure> {
    let ahead = match request.detach {
        true => None,
        false => Ahead::start(request.jail),
    };
    let mut opened = Opened::default();
    let cache = cache_dir()?;
    let mut bars = Bars::new(printer, request.quiet);
    let (kernel, variant) = kernel_of(request, &cache, printer, waterfall)?;
    let root = open_image(request, &cache, &mut bars)?;
    let root_id = RootId::of(&root, &cache)?;
    drop(bars);
    waterfall.reached("image ready");

    let recipe = Recipe {
        kernel: &kernel,
        variant,
        shape: request.shape,
        jail: request.jail,
        network: request.network.is_common(),
        timeout: request.timeout,
    };
    let said = root.config.stop_signal.as_deref();
    let said = said.and_then(|text| signals::parse(text).ok());
    let stop_signal = request.stop_signal.or(said).unwrap_or(SIGTERM);
    let equipment = storage::open(&request.storage, 1, Disks::Own, &mut opened)?;
    let declared = Declared::of(&root.config, request)?;
    let network = network::gather(&declared.published(request), &mut opened)?;
    let mut start = start(request, &root)?;
    // Last: what is wrong with all else is found before a template is made.
    let (begin, template) =
        begin::begin(request, &recipe, &cache, &mut opened, (printer, waterfall))?;
    let (bare, agent) = begin::bare(&recipe, &request.image, begin, &mut opened)?;
    start.network = network.guest.map(Box::new);
    if let Some(root) = &mut start.root {
        root.upper = equipment.upper;
    }
    // What is typed may lie in what the image declares, and not the other way round.
    start.mounts = declared.mounts();
    start.mounts.extend(equipment.mounts);
    let file = (root.file, root.path);
    let config = VmConfig {
        drives: drives(file, equipment.drives, &request.storage, &mut opened),
        shares: equipment.shares,
        net: network.card,
        trace: request.trace.is_some(),
        ..bare
    };
    // Name and network are in the start itself; a boot id the kernel makes when it is first
    // asked for one, which nobody has done yet.
    let mut rebirth = identity::of("", None).context("cannot make a machine's identity")?;
    rebirth.boot_id.clear();
    if let Begin::Restore(_) = config.begin {
        (rebirth.devices, rebirth.later) = begin::devices(&config);
    }
    start.rebirth = Some(Box::new(rebirth));
    let record = written::record(&Sources {
        request,
        config: &config,
        start: &start,
        declared: &declared,
        stop_signal,
        kernel: &kernel,
        variant,
    });
    waterfall.reached("files open");
    Ok(Parts {
        config,
        agent,
        opening: Opening::Start(start),
        opened,
        record: record.clone(),
        beside: beside::Plan {
            network: network.user,
            shares: equipment.served,
        },
        seat: network.seat,
        ahead,
        blueprint: Blueprint {
            request: declared.published(request),
            record,
            root: root_id,
            parent: None,
        },
        template,
    })
}

/// The root's disk, and behind it the others.
pub fn drives(
    (file, path): (File, PathBuf),
    others: Vec<Drive>,
    storage: &Storage,
    opened: &mut Opened,
) -> Vec<Drive> {
    let root = Drive {
        file: HostFile {
            path,
            fd: opened.keep(file.into()),
        },
        read_only: true,
        bps: storage.bps,
        iops: storage.iops,
    };
    std::iter::once(root).chain(others).collect()
}

/// The kernel's file, and what it must be. One the operator brings says itself which ring it
/// wants, to the machine, which asks no more of it where nobody named a ring.
pub fn kernel_of(
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

/// Which root a run will have.
pub fn root_of(request: &RunRequest, cache: &Path, printer: &Printer) -> Result<RootId, Problem> {
    let mut bars = Bars::new(printer, request.quiet);
    RootId::of(&open_image(request, cache, &mut bars)?, cache)
}

fn open_image(request: &RunRequest, cache: &Path, bars: &mut Bars) -> Result<RootFs, Problem> {
    let mut hear = |step: image::Progress<'_>| bars.hear(step);
    image::open_with(&request.image, cache, request.pull.into(), &mut hear)
        .map_err(|error| image_problem(&error))
}

/// The initial file system as an anonymous file the machine maps.
pub fn agent_initramfs() -> anyhow::Result<File> {
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
        rebirth: None,
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
