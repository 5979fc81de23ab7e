// SPDX-License-Identifier: Apache-2.0
//! Puts a machine together: memory, kernel, devices on their buses, vCPUs. Runs on the
//! `vmm` thread, inside the jail, before any guest instruction.

use super::marks::Marks;
use super::outcome::Outcome;
use super::{Machine, vcpu};
use crate::arch::{self, host, layout, mptable};
use crate::boot::{self, BootError};
use crate::bus::{BusBuilder, Overlap};
use crate::config::VmConfig;
use crate::control::End;
use crate::devices::{self, ConsoleLog, Reset, Serial};
use crate::events::Source;
use crate::irq::IrqLine;
use crate::kvm::{CreateVm, KvmError, Vcpu, Vm};
use crate::memory::{self, GuestRam, MapError};
use crate::virtio::{Milestone, Mmio, VirtioDevice};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vm_memory::GuestAddress;

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Memory(#[from] MapError),
    #[error(transparent)]
    Create(#[from] CreateVm),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error("{wanted} CPUs are more than this host's KVM runs in one machine ({most})")]
    Cpus { wanted: u32, most: usize },
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("device {name} cannot be made")]
    Device {
        name: &'static str,
        source: io::Error,
    },
    #[error("{0} devices are more than there are interrupt lines for")]
    Lines(usize),
    #[error(transparent)]
    Layout(#[from] Overlap),
    #[error(transparent)]
    MpTable(#[from] mptable::MpTableError),
}

/// Everything of the host the machine uses, open.
pub struct Parts {
    pub kvm: OwnedFd,
    pub boot: boot::Files,
    pub drives: Vec<std::fs::File>,
    pub vsock: Vec<devices::HostPort>,
    pub console: Console,
}

/// Where the guest's consoles lead; neither set, they end in the log.
#[derive(Default)]
pub struct Console {
    pub input: Option<OwnedFd>,
    pub output: Option<OwnedFd>,
}

/// Builds the machine. `on_panic` is called once, on whichever thread sees it, with the
/// line in which the guest's kernel says that it panicked.
pub fn build(
    config: &VmConfig,
    parts: Parts,
    outcome: Arc<Outcome>,
    marks: Arc<Marks>,
    on_panic: Box<dyn Fn(&str) + Send + Sync>,
) -> Result<Machine, BuildError> {
    let host = host::kind();
    let ram = Arc::new(memory::anonymous(config.memory, &layout::HOLE)?);
    marks.mark("memory mapped");
    let vm = create_vm(config, parts.kvm, &ram, &marks)?;

    let log = Arc::new(ConsoleLog::new(on_panic));
    let board = legacy(&vm, parts.console, &log, &outcome)?;
    let devices = virtio(config, parts.drives, parts.vsock, &board)?;
    let mut wiring = Wiring::new(&vm, &ram, &marks);
    for device in devices {
        wiring.add(device)?;
    }
    marks.mark("devices made");

    let mut words = wiring.words;
    words.extend(host.kernel_words().iter().map(|word| (*word).to_owned()));
    let mut mark = |name| marks.mark(name);
    let entry = boot::load(&ram, &config.boot, parts.boot, &words, &mut mark)?;
    let cpus = u8::try_from(config.cpus).unwrap_or(u8::MAX);
    mptable::write(&ram, cpus)?;
    marks.mark("tables written");

    let vcpus = vcpus(&vm, cpus, host, entry)?;
    marks.mark("vCPUs made");
    Ok(Machine {
        vcpus,
        shared: Arc::new(vcpu::Shared {
            ports: board.ports.freeze(),
            mmio: wiring.mmio.freeze(),
            ram,
            outcome,
            marks,
            assisted: host.interprets_ring0(),
        }),
        vm,
        sources: board.sources.into_iter().chain(wiring.sources).collect(),
        serial: board.serial,
        log,
    })
}

fn create_vm(
    config: &VmConfig,
    kvm: OwnedFd,
    ram: &Arc<GuestRam>,
    marks: &Marks,
) -> Result<Vm, BuildError> {
    let vm = Vm::new(kvm, Arc::clone(ram))?;
    marks.mark("VM made");
    let most = vm.max_vcpus();
    if usize::try_from(config.cpus).map_or(true, |wanted| wanted > most) {
        return Err(BuildError::Cpus {
            wanted: config.cpus,
            most,
        });
    }
    vm.create_irqchip()?;
    vm.create_pit()?;
    marks.mark("interrupt controllers made");
    Ok(vm)
}

fn vcpus(vm: &Vm, cpus: u8, host: HostKind, entry: Entry) -> Result<Vec<Vcpu>, KvmError> {
    let supported = vm.supported_cpuid()?;
    let mut vcpus = Vec::with_capacity(cpus.into());
    for index in 0..cpus {
        let vcpu = vm.create_vcpu(index.into())?;
        vcpu.set_cpuid(&cpuid::for_vcpu(&supported, index, cpus, host))?;
        arch::vcpu::prepare(&vcpu)?;
        if index == 0 {
            arch::vcpu::enter(&vcpu, entry)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}
