// SPDX-License-Identifier: Apache-2.0
//! How a run's machine begins: by a template's restore, or by a boot. Main thread.

use super::RunRequest;
use super::parts::{CMDLINE, GUEST_CID, agent_initramfs};
use crate::cli::launch::Opened;
use crate::cli::output::{ExitStatus, Failure, Printer, Problem, visible};
use crate::cli::shape::Shape;
use crate::cli::trace::Waterfall;
use crate::config::net::{Addresses, Net, NetLink};
use crate::config::{
    Begin, Boot, Console, Drive, HostFile, HostPort, Layer, Restore, VmConfig, Vsock,
};
use crate::image::Digest;
use crate::initramfs;
use crate::instance::template::{self, About, Sitter, Template, TemplateError, Which};
use crate::net::Frames;
use crate::probe;
use crate::snapshot::working;
use crate::units::Variant;
use anyhow::Context as _;
use husk_protocol::HOST_PORT;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Changes what a template is beyond what its key says otherwise.
const FORMAT: u32 = 6;
/// Bytes of the disk that stands for the root's: more than any has, since a driver believes in
/// them until it is told better.
const STAND_IN: u64 = 1 << 46;

/// A machine of `husk run` before anything of a service: what a template is made of.
#[derive(Clone, Copy)]
pub struct Recipe<'a> {
    pub kernel: &'a Path,
    pub variant: Option<Variant>,
    pub shape: Shape,
    pub jail: bool,
    /// Whether there is a network as most have it: its interface is in the template.
    pub network: bool,
    /// How long its agent may take.
    pub timeout: Duration,
}

/// What the machine begins with, in a machine whose devices have places; and the template that
/// it begins from.
pub fn begin(
    request: &RunRequest,
    recipe: &Recipe<'_>,
    cache: &Path,
    opened: &mut Opened,
    (printer, waterfall): (&Printer, &mut Waterfall),
) -> Result<(Begin, Option<Which>), Failure> {
    if request.cold {
        return Ok((Begin::Boot(boot(recipe, opened)?), None));
    }
    let template = match template(recipe, cache)? {
        Ok((template, _)) => template,
        // The machine itself would take as long to say the same.
        Err(error) if matches!(error, TemplateError::NoAgent { .. }) => {
            return Err(no_agent(&error, printer));
        }
        // Whatever it is, a boot says more of it, or does without.
        Err(error) => {
            waterfall.no_template(error.to_string());
            return Ok((Begin::Boot(boot(recipe, opened)?), None));
        }
    };
    let which = template.which().context("cannot look at a template")?;
    let Template {
        path,
        state,
        memory,
        hot,
    } = template;
    waterfall.reached("template ready");
    waterfall.restored();
    // The first to go on from it shows what is wanted first.
    let learn = match hot {
        None => working::learning(&path).ok(),
        Some(_) => None,
    };
    let mut keep = |file: File| HostFile {
        path: path.clone(),
        fd: opened.keep(file.into()),
    };
    let (hot, learn) = (hot.map(&mut keep), learn.map(&mut keep));
    let begin = Begin::Restore(Restore {
        hot,
        learn,
        state: HostFile {
            path: path.clone(),
            fd: opened.keep(state.into()),
        },
        memory: vec![Layer {
            file: HostFile {
                path,
                fd: opened.keep(memory.into()),
            },
            pages: None,
        }],
    });
    Ok((begin, Some(which)))
}

/// Where templates are kept.
pub fn templates(cache: &Path) -> PathBuf {
    cache.join("templates")
}

/// The template of this recipe, made if there is none; and whether it was. The outer error is
/// of what is needed to try.
pub fn template(
    recipe: &Recipe<'_>,
    cache: &Path,
) -> Result<Result<(Template, bool), TemplateError>, Failure> {
    let key = key(recipe)?;
    let place = templates(cache);
    if let Some(found) = template::find(&place, &key) {
        return Ok(Ok((found, false)));
    }
    let mut opened = Opened::default();
    let begin = Begin::Boot(boot(recipe, &mut opened)?);
    let (bare, agent) = bare(recipe, "template", begin, &mut opened)?;
    let config = VmConfig {
        stand_ins: true,
        drives: vec![stand_in(&mut opened)?],
        net: recipe.network.then(|| nowhere(&mut opened)).transpose()?,
        ..bare
    };
    let about = About {
        kernel: recipe.kernel.to_owned(),
        ring: recipe.variant.map(Variant::ring),
        cpus: recipe.shape.cpus,
        memory: recipe.shape.memory.bytes(),
    };
    let sitter = Sitter {
        config,
        agent,
        about,
        opened: opened.into_descriptors(),
    };
    let made = template::make(&place, &key, recipe.timeout, sitter);
    Ok(made.map(|template| (template, true)))
}

/// Stands for the root's disk.
fn stand_in(opened: &mut Opened) -> Result<Drive, Failure> {
    let fd = memfd_create(c"husk-stand-in", MFdFlags::MFD_CLOEXEC)
        .context("cannot make an anonymous file")?;
    let file = File::from(fd);
    file.set_len(STAND_IN)
        .context("cannot make an anonymous file")?;
    Ok(Drive {
        file: HostFile {
            path: PathBuf::new(),
            fd: opened.keep(file.into()),
        },
        read_only: true,
        bps: None,
        iops: None,
    })
}

/// Stands for the interface of a network of a machine's own.
fn nowhere(opened: &mut Opened) -> Result<Net, Failure> {
    let (ours, theirs) = Frames::pair().context("cannot make a link for the guest")?;
    // Its other end stays open as long.
    opened.keep(theirs);
    Ok(Net {
        mac: Addresses::ALONE.guest_mac,
        mtu: Addresses::ALONE.mtu,
        bps: None,
        link: NetLink::Frames(opened.keep(ours)),
    })
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

/// What a machine has that its template had not, by the names on the platform bus: devices to
/// be found at once, and those that have time. The order is `machine::wiring`'s.
pub fn devices(config: &VmConfig) -> (Vec<String>, Vec<String>) {
    let name = |index| format!("virtio-mmio.{index}");
    let common = config.net.as_ref().is_some_and(Net::is_common);
    // Vsock, entropy, and what stands for the root's disk and a common network.
    let had = 3 + usize::from(common);
    let others = config.drives.len().saturating_sub(1) + config.shares.len();
    let others = others + usize::from(config.net.is_some() && !common);
    let balloon = had + others;
    let later = config.balloon.then(|| name(balloon));
    (
        (had..balloon).map(name).collect(),
        later.into_iter().collect(),
    )
}

fn boot(recipe: &Recipe<'_>, opened: &mut Opened) -> Result<Boot, Failure> {
    let initrd = HostFile {
        path: "the agent's initramfs".into(),
        fd: opened.keep(agent_initramfs()?.into()),
    };
    Ok(Boot {
        kernel: opened.file("kernel", recipe.kernel, false)?,
        variant: recipe.variant,
        initrd: Some(initrd),
        cmdline: CMDLINE.to_owned(),
    })
}

/// The machine as every run of this shape has it: nothing in its places. Returns this side
/// of its agent's connection.
pub fn bare(
    recipe: &Recipe<'_>,
    name: &str,
    begin: Begin,
    opened: &mut Opened,
) -> Result<(VmConfig, UnixStream), Failure> {
    let (agent, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
    let config = VmConfig {
        name: name.to_owned(),
        cpus: recipe.shape.cpus,
        memory: recipe.shape.memory.bytes(),
        begin,
        places: true,
        stand_ins: false,
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
        jail: recipe.jail,
        kvm: opened.kvm()?,
        trace: false,
    };
    Ok((config, agent))
}

/// A digest over all that a template is made of.
pub fn key(recipe: &Recipe<'_>) -> Result<String, Problem> {
    let meta = std::fs::metadata(recipe.kernel).map_err(|error| {
        Problem::new(format!(
            "cannot open the kernel, {}",
            recipe.kernel.display()
        ))
        .because(&error)
    })?;
    let mut text = format!("{FORMAT} {} {CMDLINE}\n", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(
        text,
        "{} {} {} {} {}.{} {}.{} {:?}",
        recipe.kernel.display(),
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        // What was copied over it may have been given its time.
        meta.ctime(),
        meta.ctime_nsec(),
        recipe.variant,
    );
    let (cpus, memory) = (recipe.shape.cpus, recipe.shape.memory.bytes());
    let _ = writeln!(text, "{cpus} {memory} {}", recipe.network);
    let _ = writeln!(text, "{}", Digest::of(&initramfs::agent_initramfs()).hex());
    let release = nix::sys::utsname::uname()
        .map_err(|error| Problem::new("cannot learn what the host is").because(&error))?;
    let _ = writeln!(text, "{}", release.release().to_string_lossy());
    let _ = writeln!(text, "{}", probe::processor());
    // Native code in ring 3 reads the host's own time stamp counter, which begins anew with
    // each boot of the host: a guest would see its clock go backwards. A kernel of the
    // operator's may be such a one, and says so only to the machine.
    if recipe.variant != Some(Variant::Ring0) {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot = boot.map_err(|error| {
            Problem::new("cannot learn which boot of the host this is").because(&error)
        })?;
        let _ = writeln!(text, "{boot}");
    }
    Ok(Digest::of(text.as_bytes()).short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteSize;

    #[test]
    fn another_kernel_in_the_place_of_one_is_another_template() {
        let kernel = tempfile::NamedTempFile::new().expect("a file");
        let recipe = Recipe {
            kernel: kernel.path(),
            variant: None,
            shape: Shape {
                cpus: 1,
                memory: ByteSize::from_bytes(1 << 27),
            },
            jail: true,
            network: false,
            timeout: Duration::ZERO,
        };
        let write = |text: &str| {
            std::fs::write(kernel.path(), text).expect("room");
            let time = std::time::UNIX_EPOCH + Duration::from_secs(7);
            kernel.as_file().set_modified(time).expect("a time");
            key(&recipe).map_err(|problem| problem.what).expect("a key")
        };
        let one = write("one");
        assert_eq!(
            key(&recipe).map_err(|problem| problem.what),
            Ok(one.clone())
        );
        // As long, and of the same second: what rsync --inplace makes of it.
        std::thread::sleep(Duration::from_millis(20));
        assert_ne!(write("two"), one);
    }
}
