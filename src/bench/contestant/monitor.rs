// SPDX-License-Identifier: Apache-2.0
//! Other machine monitors, with husk's own kernel and the same root as a disk. In the machine
//! `guest/agent/src/load.rs` does for the command what husk's agent does: it gets it as the
//! same message, in the initial file system. See [`Contestant`] for who calls this.

use super::plain::led_service;
use super::{Absent, Contestant, DISK, Feature, Ground, Invocation, Launch, Medium, Task, ask};
use crate::bench::load;
use crate::initramfs;
use anyhow::{Context as _, Result};
use husk_protocol::{Address, Filesystem, Message, Mount, MountKind, Network, Root, Start};
use serde_json::json;
use std::path::{Path, PathBuf};

const NO_DETACH: &str = "its process is the machine: no start returns";
const NO_NETWORK: &str = "it has no network of its own, only interfaces of the host's";
/// The console is the machine's output; a machine that ends resets itself.
const WORDS: &str = "console=ttyS0 quiet loglevel=0 reboot=t panic=-1 rdinit=/init";
/// Where QEMU's network has its guest and its gateway.
const GUEST: [u8; 4] = [10, 0, 2, 15];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];

fn offers(feature: Feature, service: Result<(), String>) -> Result<(), String> {
    match feature {
        Feature::Foreground => Ok(()),
        Feature::Detached => Err(NO_DETACH.into()),
        Feature::Service => service,
    }
}

/// KVM and a kernel are there.
fn able(ground: &Ground) -> Result<(), Absent> {
    if let Err(error) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        return Err(Absent(format!("/dev/kvm: {error}")));
    }
    ground
        .kernel
        .as_ref()
        .map(drop)
        .map_err(|why| Absent(why.clone()))
}

fn kernel(ground: &Ground) -> Result<&Path> {
    ground
        .kernel
        .as_deref()
        .map_err(|why| anyhow::anyhow!("{why}"))
}

/// A folder of this start with its initial file system in it.
fn make(ground: &Ground, name: &str, task: &Task) -> Result<(PathBuf, PathBuf)> {
    let folder = ground.folder(name).join(&task.id);
    std::fs::create_dir_all(&folder)?;
    let bytes = |words: &[String]| words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let network = task.port.map(|_| {
        Box::new(Network {
            interface: "eth0".into(),
            addresses: vec![Address {
                ip: GUEST.into(),
                prefix: 24,
            }],
            gateways: vec![GATEWAY.into()],
            ..Network::default()
        })
    });
    let message = Message::Start(Start {
        argv: bytes(&task.argv),
        env: bytes(&task.env),
        cwd: task.cwd.as_bytes().to_vec(),
        hostname: "bench".into(),
        root: Some(Root {
            device: "/dev/vda".into(),
            filesystem: Filesystem::Erofs,
            writable: true,
            upper: String::new(),
        }),
        network,
        mounts: task.disk.then(written).into_iter().collect(),
        ..Start::default()
    });
    let mut encoded = Vec::new();
    message
        .encode(&mut encoded)
        .ok()
        .context("the command is too long for a machine")?;
    let archive = folder.join("initramfs");
    std::fs::write(&archive, initramfs::initramfs_with(load::PROGRAM, &encoded))?;
    Ok((folder, archive))
}

/// The second disk, at its place in the machine.
fn written() -> Mount {
    Mount {
        kind: MountKind::Volume,
        source: "/dev/vdb".into(),
        target: DISK.into(),
        read_only: false,
        size: 0,
    }
}

/// The file that is the second disk.
fn volume(ground: &Ground) -> Result<&Path> {
    ground
        .volume
        .as_deref()
        .map_err(|why| anyhow::anyhow!("{why}"))
}

fn has_disk(ground: &Ground) -> Result<String, String> {
    ground.volume.clone().map(|_| DISK.to_owned())
}

fn own() -> (String, Medium) {
    ("/".to_owned(), Medium::Memory)
}

fn remove(ground: &Ground, name: &str) -> Result<()> {
    let folder = ground.folder(name);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn files(ground: &Ground, program: &Path) -> Vec<PathBuf> {
    let kernel = ground.kernel.iter().cloned();
    kernel
        .chain([program.to_owned(), ground.disk.clone()])
        .collect()
}

/// QEMU's machine type without what small machines do without.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    /// Processors as the guest sees them, in the order in which they are tried.
    processors: &'static [&'static str],
}

impl Default for Qemu {
    fn default() -> Self {
        Self {
            program: PathBuf::new(),
            processors: &["host", "host,arch-capabilities=off", "qemu64"],
        }
    }
}

impl Contestant for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn kind(&self) -> &'static str {
        "machine"
    }

    fn find(&mut self, ground: &Ground) -> Result<String, Absent> {
        self.program = ground.program(self.name(), "qemu-system-x86_64")?;
        let version = ask(&self.program, &["--version"])?;
        able(ground)?;
        Ok(format!("{version}, microvm"))
    }

    fn prepare(&mut self, ground: &Ground) -> Result<()> {
        Ok(std::fs::create_dir_all(ground.folder(self.name()))?)
    }

    fn another(&mut self) -> Option<String> {
        self.processors = self.processors.get(1..).filter(|rest| !rest.is_empty())?;
        self.processors.first().map(|name| format!("-cpu {name}"))
    }

    fn offers(&self, feature: Feature) -> Result<(), String> {
        offers(feature, Ok(()))
    }

    fn disk(&self, ground: &Ground) -> Result<String, String> {
        has_disk(ground)
    }

    fn own(&self, _ground: &Ground) -> (String, Medium) {
        own()
    }

    fn launch(&self, ground: &Ground, task: &Task) -> Result<Launch> {
        let (folder, archive) = make(ground, self.name(), task)?;
        let drive = format!(
            "id=root,file={},format=raw,if=none,read-only=on",
            ground.disk.display()
        );
        let mut start = Invocation::new(&self.program)
            .words(["-machine", "microvm,accel=kvm,pit=off,pic=off,rtc=off"])
            .words(["-cpu", self.processors.first().copied().unwrap_or("host")])
            .words(["-no-user-config", "-nodefaults", "-no-reboot"])
            .words(["-display", "none", "-serial", "stdio", "-monitor", "none"])
            .word("-m")
            .word(format!("{}M", ground.memory >> 20))
            .word("-smp")
            .word(ground.cpus.to_string())
            .word("-kernel")
            .word(kernel(ground)?)
            .word("-initrd")
            .word(archive)
            .words(["-append", WORDS, "-drive", &drive])
            .words(["-device", "virtio-blk-device,drive=root"]);
        if task.disk {
            let file = volume(ground)?.display();
            let drive = format!("id=written,file={file},format=raw,if=none");
            let device = "virtio-blk-device,drive=written";
            start = start.words(["-drive", &drive, "-device", device]);
        }
        if let Some(port) = task.port {
            let led = format!(
                "user,id=net,hostfwd=tcp:127.0.0.1:{}-:{port}",
                task.host_port
            );
            start = start.words(["-netdev", &led, "-device", "virtio-net-device,netdev=net"]);
        }
        Ok(Launch {
            start,
            service: led_service(task),
            stop: Vec::new(),
            remove: Vec::new(),
            folders: vec![folder],
        })
    }

    fn files(&self, ground: &Ground) -> Vec<PathBuf> {
        files(ground, &self.program)
    }

    fn cleanup(&mut self, ground: &Ground) -> Result<()> {
        remove(ground, self.name())
    }
}

#[derive(Debug, Default)]
pub struct Firecracker {
    program: PathBuf,
}

impl Contestant for Firecracker {
    fn name(&self) -> &'static str {
        "firecracker"
    }

    fn kind(&self) -> &'static str {
        "machine"
    }

    fn find(&mut self, ground: &Ground) -> Result<String, Absent> {
        self.program = ground.program(self.name(), "firecracker")?;
        let version = ask(&self.program, &["--version"])?;
        able(ground)?;
        Ok(version)
    }

    fn prepare(&mut self, ground: &Ground) -> Result<()> {
        Ok(std::fs::create_dir_all(ground.folder(self.name()))?)
    }

    fn offers(&self, feature: Feature) -> Result<(), String> {
        offers(feature, Err(NO_NETWORK.into()))
    }

    fn disk(&self, ground: &Ground) -> Result<String, String> {
        has_disk(ground)
    }

    fn own(&self, _ground: &Ground) -> (String, Medium) {
        own()
    }

    fn launch(&self, ground: &Ground, task: &Task) -> Result<Launch> {
        let (folder, archive) = make(ground, self.name(), task)?;
        let mut configuration = json!({
            "boot-source": {
                "kernel_image_path": kernel(ground)?,
                "initrd_path": archive,
                "boot_args": WORDS.replace("reboot=t", "reboot=k"),
            },
            "drives": [{
                "drive_id": "root",
                "path_on_host": ground.disk,
                "is_root_device": false,
                "is_read_only": true,
            }],
            "machine-config": {
                "vcpu_count": ground.cpus,
                "mem_size_mib": ground.memory >> 20,
            },
        });
        if task.disk
            && let Some(drives) = configuration["drives"].as_array_mut()
        {
            // As durable as the others': by itself it passes no flush on.
            drives.push(json!({
                "drive_id": "written",
                "path_on_host": volume(ground)?,
                "is_root_device": false,
                "is_read_only": false,
                "cache_type": "Writeback",
            }));
        }
        let file = folder.join("config.json");
        std::fs::write(&file, configuration.to_string())?;
        Ok(Launch {
            start: Invocation::new(&self.program)
                .words([
                    "--no-api",
                    "--level",
                    "Error",
                    "--id",
                    &task.id,
                    "--config-file",
                ])
                .word(file),
            service: None,
            stop: Vec::new(),
            remove: Vec::new(),
            folders: vec![folder],
        })
    }

    fn files(&self, ground: &Ground) -> Vec<PathBuf> {
        files(ground, &self.program)
    }

    fn cleanup(&mut self, ground: &Ground) -> Result<()> {
        remove(ground, self.name())
    }
}

/// Its devices are on PCI, which husk's kernel does not have: it needs one that does.
#[derive(Debug, Default)]
pub struct CloudHypervisor {
    program: PathBuf,
    kernel: PathBuf,
}

/// In place of a contestant's name on the command line: its kernel.
pub const CLOUD_KERNEL: &str = "cloud-hypervisor-kernel";

impl Contestant for CloudHypervisor {
    fn name(&self) -> &'static str {
        "cloud-hypervisor"
    }

    fn kind(&self) -> &'static str {
        "machine"
    }

    fn find(&mut self, ground: &Ground) -> Result<String, Absent> {
        self.program = ground.program(self.name(), "cloud-hypervisor")?;
        let version = ask(&self.program, &["--version"])?;
        let kernel = ground.with.get(CLOUD_KERNEL);
        self.kernel = kernel.cloned().ok_or_else(|| {
            Absent(format!(
                "it has PCI only, and husk's kernel none: --with {CLOUD_KERNEL}=FILE names one \
                 with PCI, EROFS and overlayfs"
            ))
        })?;
        able(ground)?;
        Ok(version)
    }

    fn prepare(&mut self, ground: &Ground) -> Result<()> {
        Ok(std::fs::create_dir_all(ground.folder(self.name()))?)
    }

    fn offers(&self, feature: Feature) -> Result<(), String> {
        offers(feature, Err(NO_NETWORK.into()))
    }

    fn disk(&self, ground: &Ground) -> Result<String, String> {
        has_disk(ground)
    }

    fn own(&self, _ground: &Ground) -> (String, Medium) {
        own()
    }

    fn launch(&self, ground: &Ground, task: &Task) -> Result<Launch> {
        let (folder, archive) = make(ground, self.name(), task)?;
        let written = match task.disk {
            true => Some(format!("path={}", volume(ground)?.display())),
            false => None,
        };
        let start = Invocation::new(&self.program)
            .word("--kernel")
            .word(&self.kernel)
            .word("--initramfs")
            .word(archive)
            .words(["--cmdline", WORDS, "--serial", "tty", "--console", "off"])
            .word("--disk")
            .word(format!("path={},readonly=on", ground.disk.display()))
            .words(written)
            .word("--memory")
            .word(format!("size={}M", ground.memory >> 20))
            .word("--cpus")
            .word(format!("boot={}", ground.cpus));
        Ok(Launch {
            start,
            service: None,
            stop: Vec::new(),
            remove: Vec::new(),
            folders: vec![folder],
        })
    }

    fn files(&self, ground: &Ground) -> Vec<PathBuf> {
        files(ground, &self.program)
    }

    fn cleanup(&mut self, ground: &Ground) -> Result<()> {
        remove(ground, self.name())
    }
}
