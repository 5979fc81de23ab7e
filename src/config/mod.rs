// SPDX-License-Identifier: Apache-2.0
//! One virtual machine as plain data: what the operator asked for, nothing live.
//!
//! The tool side opens every file and passes descriptors, so the process that runs
//! the guest opens no path: `HostFile::fd` is a descriptor number that process inherits.

pub mod net;

use crate::units::Variant;
use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;
use std::path::PathBuf;

/// Most vCPUs a machine may have: the MP table's 8-bit APIC ids, less the I/O APIC's.
pub const MAX_CPUS: u32 = 254;
/// Below this no Linux kernel reaches its init.
pub const MIN_MEMORY: u64 = 16 << 20;

/// An open file of the host, with the name its user knows it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFile {
    pub path: PathBuf,
    pub fd: RawFd,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Shown in messages and as the process title.
    pub name: String,
    pub cpus: u32,
    /// Bytes of guest RAM.
    pub memory: u64,
    pub begin: Begin,
    /// The guest has places for devices, which it looks into when it is told to: what a
    /// snapshot is made of that has none of these devices. Fixed ones come first.
    pub places: bool,
    /// It becomes a template: its disk and its interface stand for those of the machines that
    /// go on from it.
    pub stand_ins: bool,
    pub drives: Vec<Drive>,
    pub shares: Vec<Share>,
    pub vsock: Option<Vsock>,
    pub net: Option<net::Net>,
    /// What the guest's serial port and virtio console are connected to.
    pub console: Console,
    pub rng: bool,
    /// Memory the guest frees goes back to the host.
    pub balloon: bool,
    /// An interval timer, for kernels that know no other clock. It costs a thread of the host
    /// and milliseconds of a machine's end.
    pub pit: bool,
    pub jail: bool,
    /// An open /dev/kvm.
    pub kvm: RawFd,
    /// Send a mark for each step of start-up.
    pub trace: bool,
}

impl VmConfig {
    /// Every descriptor it names. They, and nothing else, are the machine's.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut list = vec![self.kvm];
        match &self.begin {
            Begin::Boot(boot) => {
                list.push(boot.kernel.fd);
                list.extend(boot.initrd.iter().map(|file| file.fd));
            }
            Begin::Restore(saved) => {
                list.push(saved.state.fd);
                list.extend(saved.hot.iter().chain(&saved.learn).map(|file| file.fd));
                for layer in &saved.memory {
                    list.push(layer.file.fd);
                    list.extend(layer.pages.iter().map(|pages| pages.fd));
                }
            }
        }
        list.extend(self.drives.iter().map(|drive| drive.file.fd));
        list.extend(self.shares.iter().map(|share| share.fd));
        if let Some(vsock) = &self.vsock {
            list.extend(vsock.listener);
            list.extend(vsock.host_ports.iter().map(|port| port.fd));
        }
        match self.net.as_ref().map(|net| net.link) {
            Some(net::NetLink::Frames(fd) | net::NetLink::Tap(fd)) => list.push(fd),
            None => {}
        }
        if let Console::Stdio { input, output, .. } = &self.console {
            list.extend(input);
            list.push(*output);
        }
        list
    }
}

/// How a machine comes to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Begin {
    Boot(Boot),
    Restore(Restore),
}

/// A machine that was saved, of this configuration but for the devices in its places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    pub state: HostFile,
    /// The oldest first. Never written to.
    pub memory: Vec<Layer>,
    /// The pages that others before wrote to first.
    pub hot: Option<HostFile>,
    /// An empty file for the pages that this one writes to first.
    pub learn: Option<HostFile>,
}

/// A file of a machine's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub file: HostFile,
    /// The list of the pages it has; none: all.
    pub pages: Option<HostFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    pub kernel: HostFile,
    /// What the kernel must be; none takes it as it is.
    pub variant: Option<Variant>,
    pub initrd: Option<HostFile>,
    /// What the operator wants on the command line; the machine appends its devices.
    pub cmdline: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    pub file: HostFile,
    pub read_only: bool,
    /// Most bytes a second, reads and writes together.
    pub bps: Option<u64>,
    /// Most requests a second.
    pub iops: Option<u64>,
}

/// A directory of the host, served by a process of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// For messages.
    pub path: PathBuf,
    /// What the guest mounts it by, at most 36 bytes.
    pub tag: String,
    /// The stream the server answers on.
    pub fd: RawFd,
    pub read_only: bool,
}

/// What `husk share` is to serve; its first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// An absolute path without links.
    pub directory: PathBuf,
    pub read_only: bool,
    /// The process knows every id of the host's; where it was started by root.
    pub all_ids: bool,
    /// Its end of the machine's stream.
    pub stream: RawFd,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vsock {
    /// The guest's context id, 3 or more.
    pub cid: u32,
    /// Connections of the guest to a port of the host, each joined once to an open
    /// stream socket.
    pub host_ports: Vec<HostPort>,
    /// A listening socket of the host: a client writes `CONNECT <port>` and is joined to
    /// that port of the guest.
    pub listener: Option<RawFd>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    pub port: u32,
    pub fd: RawFd,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Console {
    /// Output is kept for the last lines of a message, and goes nowhere else.
    Quiet,
    /// Output is also written to this descriptor, input read from the other.
    Stdio {
        input: Option<RawFd>,
        output: RawFd,
        kind: ConsoleKind,
    },
}

/// Which device the operator's keys go to. Output of both is one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsoleKind {
    /// ttyS0: every kernel has a driver for it; each character is an exit.
    #[default]
    Serial,
    /// hvc0, of virtio.
    Virtio,
}
