// SPDX-License-Identifier: Apache-2.0
//! Gathers what a run needs of the host: image, kernel, initial file system, the agent's
//! connection; and describes the machine and its command. Main thread.

use super::RunRequest;
use super::network;
use super::session::window_size;
use crate::cli::host::cache_dir;
use crate::cli::kernel;
use crate::cli::launch::Opened;
use crate::cli::output::{Failure, Printer, Problem};
use crate::cli::progress::Progress;
use crate::cli::ring;
use crate::cli::trace::Waterfall;
use crate::config::{Boot, Console, Drive, HostFile, HostPort, VmConfig, Vsock};
use crate::image::{self, FsKind, RootFs};
use crate::initramfs;
use crate::units::Variant;
use anyhow::Context as _;
use husk_protocol::{Filesystem, HOST_PORT, LogRecord, Root, Start, Terminal};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The first context id a guest may have (linux/vm_sockets.h); each machine has its own
/// vsock device, so all may use it.
const GUEST_CID: u32 = 3;
/// `quiet` comes first: the early console repeats what was printed before it.
const CMDLINE: &str = "quiet earlyprintk=serial,ttyS0,115200,keep panic=-1 reboot=k,f \
    tsc=reliable rcupdate.rcu_expedited=1";

/// Everything, open. `opened` is dropped once the machine's process has it.
pub struct Parts {
    pub config: VmConfig,
    /// Our end of the agent's connection.
    pub agent: UnixStream,
    pub start: Start,
    pub opened: Opened,
    /// The process that carries its network, under way.
    pub network: Option<network::Beside>,
}

pub fn gather(
    request: &RunRequest,
    printer: &Printer,
    waterfall: &mut Waterfall,
) -> Result<Parts, Failure> {
    let mut opened = Opened::default();
    let kvm = opened.kvm()?;
    let cache = cache_dir()?;
    let mut progress = Progress::new(printer.talk, request.quiet);
    let (kernel, variant) = kernel_of(request, &cache, waterfall)?;
    let kernel = opened.file("kernel", &kernel, false)?;
    let root = open_image(request, &cache, &mut progress)?;
    drop(progress);
    waterfall.reached("image ready");

    let (agent, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
    let initrd = HostFile {
        path: "the agent's initramfs".into(),
        fd: opened.keep(agent_initramfs()?.into()),
    };
    let network = network::gather(request, &mut opened)?;
    let mut start = start(request, root.kind)?;
    start.network = network.guest.map(Box::new);
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
        drives: vec![Drive {
            file: HostFile {
                path: root.path,
                fd: opened.keep(root.file.into()),
            },
            read_only: true,
        }],
        vsock: Some(Vsock {
            cid: GUEST_CID,
            host_ports: vec![HostPort {
                port: HOST_PORT,
                fd: opened.keep(theirs.into()),
            }],
        }),
        net: network.card,
        console: Console::Quiet,
        rng: true,
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
        network: network.beside,
    })
}

/// The kernel's file, and what it must be. One the operator brings says itself which ring it
/// wants, to the machine, which asks no more of it where nobody named a ring.
fn kernel_of(
    request: &RunRequest,
    cache: &Path,
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
            waterfall.fell_back(choice.fallback);
            let kernel = kernel::of(cache, choice.variant)?;
            Ok((kernel.vmlinux, Some(choice.variant)))
        }
    }
}

fn open_image(
    request: &RunRequest,
    cache: &Path,
    progress: &mut Progress,
) -> Result<RootFs, Problem> {
    let mut reporter = |step: image::Progress<'_>| match step {
        image::Progress::Waiting => progress.detail("waiting for another husk to make this image"),
        image::Progress::Unpacking { done } => progress.detail(&format!("unpacking, {done} bytes")),
        image::Progress::Writing { done, total } => {
            progress.detail(&format!("making the image, {done} of {total} bytes"));
        }
        image::Progress::Skipped { path, why } => {
            progress.step(&format!("{} is not in the image: {why}", path.display()));
        }
    };
    image::open(&request.image, cache, &mut reporter).map_err(|error| {
        let problem = Problem::of(&error);
        match error.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    })
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

fn start(request: &RunRequest, kind: FsKind) -> Result<Start, Problem> {
    if request.command.is_empty() {
        return Err(
            Problem::new("no command was given, and this image names none")
                .hint("write it behind the image: husk run IMAGE CMD"),
        );
    }
    let bytes = |word: &OsString| word.clone().into_vec();
    let env = request.env.iter().map(|(name, value)| {
        let mut pair = bytes(name);
        pair.push(b'=');
        pair.extend(bytes(value));
        pair
    });
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Start {
        argv: request.command.iter().map(bytes).collect(),
        env: env.collect(),
        user: request.user.clone().unwrap_or_default(),
        cwd: request.workdir.clone().unwrap_or_default().into_bytes(),
        hostname: request.hostname.clone().unwrap_or_else(|| "husk".into()),
        terminal: request.tty.then(|| Terminal {
            size: window_size().unwrap_or(husk_protocol::Size {
                columns: 80,
                rows: 24,
            }),
            term: std::env::var("TERM").unwrap_or_default(),
        }),
        stdin: request.interactive,
        root: Some(Root {
            device: "/dev/vda".into(),
            filesystem: match kind {
                FsKind::Erofs => Filesystem::Erofs,
                FsKind::Ext4 => Filesystem::Ext4,
                FsKind::Squashfs => Filesystem::Squashfs,
            },
            writable: !request.read_only,
        }),
        kernel_log: request.trace.is_some(),
        wall_clock: since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0)),
        network: None,
    })
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
