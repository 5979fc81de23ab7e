// SPDX-License-Identifier: Apache-2.0
//! How a run's machine begins: by a template's restore, or by a boot. Main thread.

use super::RunRequest;
use super::parts::{CMDLINE, GUEST_CID, agent_initramfs};
use crate::cli::launch::Opened;
use crate::cli::output::{ExitStatus, Failure, Printer, Problem, visible};
use crate::cli::trace::Waterfall;
use crate::config::{Begin, Boot, Console, HostFile, HostPort, Restore, VmConfig, Vsock};
use crate::image::Digest;
use crate::initramfs;
use crate::instance::template::{self, Sitter, Template, TemplateError};
use crate::probe;
use crate::units::Variant;
use anyhow::Context as _;
use husk_protocol::{HOST_PORT, Rebirth};
use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Changes what a template is beyond what its key says otherwise.
const FORMAT: u32 = 1;
/// Devices every machine of `husk run` has in front of its places: vsock, balloon, entropy.
const FIXED: usize = 3;
/// Bytes of a seed for the guest's random generator.
const SEED: usize = 64;

/// The kernel a machine runs.
pub struct Kernel<'a> {
    pub path: &'a Path,
    pub variant: Option<Variant>,
}

/// What the machine begins with, in a machine whose devices have places.
pub fn begin(
    request: &RunRequest,
    kernel: &Kernel<'_>,
    cache: &Path,
    opened: &mut Opened,
    (printer, waterfall): (&Printer, &mut Waterfall),
) -> Result<Begin, Failure> {
    if request.cold {
        return Ok(Begin::Boot(boot(kernel, opened)?));
    }
    let key = key(request, kernel)?;
    let place = cache.join("templates");
    let template = match template::find(&place, &key) {
        Some(found) => Ok(found),
        None => {
            let (sitter, opened) = sitter(request, kernel)?;
            let made = template::make(&place, &key, request.timeout, sitter);
            drop(opened);
            made
        }
    };
    let template = match template {
        Ok(template) => template,
        // The machine itself would take as long to say the same.
        Err(error) if matches!(error, TemplateError::NoAgent { .. }) => {
            return Err(no_agent(&error, printer));
        }
        // Whatever it is, a boot says more of it, or does without.
        Err(error) => {
            waterfall.no_template(error.to_string());
            return Ok(Begin::Boot(boot(kernel, opened)?));
        }
    };
    let Template {
        path,
        state,
        memory,
    } = template;
    waterfall.reached("template ready");
    Ok(Begin::Restore(Restore {
        state: HostFile {
            path: path.clone(),
            fd: opened.keep(state.into()),
        },
        memory: HostFile {
            path,
            fd: opened.keep(memory.into()),
        },
    }))
}

/// As of a machine that was to be used.
fn no_agent(error: &TemplateError, printer: &Printer) -> Failure {
    if let TemplateError::NoAgent { console, .. } = error
        && !console.trim().is_empty()
    {
        printer.talk("husk: the guest's last lines:\n");
        for line in console.lines() {
            printer.talk(&format!("  | {}\n", visible(line)));
        }
    }
    Failure {
        status: ExitStatus::Code(125),
        problems: vec![Problem::of(error)],
    }
}

/// What a restored guest is to do first; `devices` are in its places.
pub fn rebirth(devices: usize) -> io::Result<Rebirth> {
    let mut seed = vec![0; SEED];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let names = (FIXED..FIXED + devices).map(|index| format!("virtio-mmio.{index}"));
    Ok(Rebirth {
        seed,
        devices: names.collect(),
    })
}

fn boot(kernel: &Kernel<'_>, opened: &mut Opened) -> Result<Boot, Failure> {
    let initrd = HostFile {
        path: "the agent's initramfs".into(),
        fd: opened.keep(agent_initramfs()?.into()),
    };
    Ok(Boot {
        kernel: opened.file("kernel", kernel.path, false)?,
        variant: kernel.variant,
        initrd: Some(initrd),
        cmdline: CMDLINE.to_owned(),
    })
}

/// The machine as every run of this shape has it: nothing in its places. Returns this side
/// of its agent's connection.
pub fn bare(
    request: &RunRequest,
    begin: Begin,
    opened: &mut Opened,
) -> Result<(VmConfig, UnixStream), Failure> {
    let (agent, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
    let config = VmConfig {
        name: request.image.clone(),
        cpus: request.shape.cpus,
        memory: request.shape.memory.bytes(),
        begin,
        places: true,
        drives: Vec::new(),
        shares: Vec::new(),
        vsock: Some(Vsock {
            cid: GUEST_CID,
            host_ports: vec![HostPort {
                port: HOST_PORT,
                fd: opened.keep(theirs.into()),
            }],
            listener: None,
        }),
        net: None,
        console: Console::Quiet,
        rng: true,
        balloon: true,
        pit: false,
        jail: request.jail,
        kvm: opened.kvm()?,
        trace: false,
    };
    Ok((config, agent))
}

/// The machine that becomes a template, with what it is made of.
fn sitter(request: &RunRequest, kernel: &Kernel<'_>) -> Result<(Sitter, Opened), Failure> {
    let mut opened = Opened::default();
    let begin = Begin::Boot(boot(kernel, &mut opened)?);
    let (config, agent) = bare(request, begin, &mut opened)?;
    Ok((Sitter { config, agent }, opened))
}

/// A digest over all that a template is made of.
fn key(request: &RunRequest, kernel: &Kernel<'_>) -> Result<String, Problem> {
    let meta = std::fs::metadata(kernel.path).map_err(|error| {
        Problem::new(format!("cannot open the kernel, {}", kernel.path.display())).because(&error)
    })?;
    let mut text = format!("{FORMAT} {} {CMDLINE}\n", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(
        text,
        "{} {} {} {} {} {:?}",
        kernel.path.display(),
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime_nsec().wrapping_add(meta.mtime()),
        kernel.variant,
    );
    let (cpus, memory) = (request.shape.cpus, request.shape.memory.bytes());
    let _ = writeln!(text, "{cpus} {memory}");
    let _ = writeln!(text, "{}", Digest::of(&initramfs::agent_initramfs()).hex());
    let release = nix::sys::utsname::uname()
        .map_err(|error| Problem::new("cannot learn what the host is").because(&error))?;
    let _ = writeln!(text, "{}", release.release().to_string_lossy());
    let _ = writeln!(text, "{}", probe::processor());
    // Native code in ring 3 reads the host's own time stamp counter, which begins anew with
    // each boot of the host: a guest would see its clock go backwards.
    if kernel.variant == Some(Variant::Ring3) {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot = boot.map_err(|error| {
            Problem::new("cannot learn which boot of the host this is").because(&error)
        })?;
        let _ = writeln!(text, "{boot}");
    }
    Ok(Digest::of(text.as_bytes()).short())
}
