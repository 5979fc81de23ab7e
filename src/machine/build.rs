// SPDX-License-Identifier: Apache-2.0
//! Puts a machine together: memory, kernel, devices on their buses, vCPUs. Runs on the
//! `vmm` thread, inside the jail, before any guest instruction.

use super::Machine;
use super::gate::Gate;
use super::marks::Marks;
use super::outcome::Outcome;
use super::state::{MachineState, StateFileError};
use super::vcpu::{self, Core};
use super::wiring::{Ends, Wiring};
use crate::arch::acpi::{self, AcpiError, Slot};
use crate::arch::host::{self, HostKind};
use crate::arch::state::StateError;
use crate::arch::{self, assist, completion, cpuid, layout, mptable};
use crate::boot::{self, BootError, Loaded};
use crate::bus::Overlap;
use crate::config::{self, ConsoleKind, VmConfig};
use crate::devices::HostPort;
use crate::devices::console_log::{ConsoleLog, PanicHook};
use crate::devices::serial::Serial;
use crate::kvm::xsave::XsaveError;
use crate::kvm::{CreateVm, KvmError, Vm};
use crate::memory::saved::{self, Layer, Run, Want};
use crate::memory::{self, GuestRam, MapError};
use crate::net::Link;
use crate::units::Variant;
use crate::virtio::state::StateFault;
use crate::virtio::transport::Mmio;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

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
    #[error(
        "kernel {0} lives in ring 3, for hosts whose KVM interprets ring 0, and this host's \
         processor runs ring 0 itself"
    )]
    Ring3(String),
    #[error("device {name} cannot be made")]
    Device {
        name: &'static str,
        source: io::Error,
    },
    #[error("there are more devices than interrupt lines")]
    Lines,
    #[error("the machine is to boot, and there is no kernel to boot")]
    Begin,
    #[error("the snapshot has {saved} devices, and its machine is to have {there}")]
    Devices { saved: usize, there: usize },
    #[error("the snapshot is of a machine with {cpus} CPUs and {memory} bytes of memory")]
    OtherShape { cpus: usize, memory: u64 },
    #[error("the snapshot cannot be restored")]
    StateFile(#[from] StateFileError),
    #[error("the snapshot's machine cannot be put together")]
    State(#[from] StateError),
    #[error("a device of the snapshot is none of this machine's")]
    DeviceState(#[from] StateFault),
    #[error(transparent)]
    Layout(#[from] Overlap),
    #[error(transparent)]
    Xsave(#[from] XsaveError),
    #[error(transparent)]
    MpTable(#[from] mptable::MpTableError),
    #[error(transparent)]
    Acpi(#[from] AcpiError),
}

/// What a machine begins with, open.
pub enum Begin {
    Boot(boot::Files),
    Restore(Saved),
}

/// A machine that was saved.
pub struct Saved {
    pub state: File,
    /// The oldest first.
    pub memory: Vec<Layer>,
    /// Pages to be brought in before the guest asks for them; may be anything.
    pub hot: Vec<Run>,
}

/// Everything of the host the machine uses, open.
pub struct Parts {
    pub kvm: OwnedFd,
    pub begin: Begin,
    pub drives: Vec<File>,
    /// Streams to the servers of shared directories.
    pub shares: Vec<UnixStream>,
    pub vsock: VsockParts,
    pub console: Console,
    pub net: Option<Box<dyn Link>>,
}

/// What the guest's vsock is joined to.
#[derive(Default)]
pub struct VsockParts {
    /// Streams the guest may connect to, by port of the host.
    pub ports: Vec<HostPort>,
    /// Where the host's programs ask for ports of the guest.
    pub listener: Option<OwnedFd>,
}

/// Where the guest's consoles lead; neither set, they end in the log.
#[derive(Default)]
pub struct Console {
    pub kind: ConsoleKind,
    pub input: Option<OwnedFd>,
    pub output: Option<OwnedFd>,
}

/// What its processors begin with, read.
enum Origin {
    Files(boot::Files),
    State(Box<MachineState>),
}

/// Builds the machine. `on_panic` is called once, on whichever thread sees it, with the
/// line in which the guest's kernel says that it panicked.
pub fn build(
    config: &VmConfig,
    parts: Parts,
    outcome: &Arc<Outcome>,
    marks: &Arc<Marks>,
    on_panic: PanicHook,
) -> Result<Machine, BuildError> {
    let host = host::kind();
    let mut hot = Vec::new();
    let (origin, ram) = match parts.begin {
        Begin::Boot(files) => {
            let ram = memory::anonymous(config.memory, &layout::HOLE)?;
            (Origin::Files(files), ram)
        }
        Begin::Restore(from) => {
            let state = read_state(&from, config)?;
            let ram = saved::map(&from.memory, config.memory, &layout::HOLE)?;
            hot = from.hot;
            (Origin::State(Box::new(state)), ram)
        }
    };
    let ram = Arc::new(ram);
    memory::keep_small(&ram);
    prefetch(&ram, hot)?;
    marks.mark("memory mapped");
    let vm = create_vm(config, parts.kvm, &ram, marks)?;

    let log = ConsoleLog::new(Some(on_panic));
    let mut wiring = Wiring::new(&vm, Arc::clone(&ram), Arc::clone(marks));
    wiring.add_ends(outcome)?;
    let serial = wiring.add_consoles(parts.console, &log)?;
    let ends = Ends {
        drives: parts.drives,
        shares: parts.shares,
        vsock: parts.vsock,
        net: parts.net,
    };
    wiring.add_virtio(config, ends)?;
    if config.places {
        wiring.add_places()?;
    }
    let (board, slots) = wiring.finish();
    marks.mark("devices made");

    let (vcpus, variant, counters) = match origin {
        Origin::State(state) => {
            let devices = (&*serial, &board.transports[..]);
            let (vcpus, variant) = restore(&vm, host, &state, devices, marks)?;
            let counters = assist::Counters::restored(&state.counters, &ram);
            (vcpus, variant, counters)
        }
        Origin::Files(files) => {
            let (vcpus, variant) = load(&vm, config, files, &ram, &slots, marks)?;
            (vcpus, variant, assist::Counters::default())
        }
    };
    marks.mark("vCPUs made");
    Ok(Machine {
        shared: Arc::new(vcpu::Shared {
            ports: board.ports.freeze(),
            mmio: board.mmio.freeze(),
            ram,
            outcome: Arc::clone(outcome),
            marks: Arc::clone(marks),
            assisted: host.interprets_ring0(),
            counters,
            gate: Gate::new(vcpus.len()),
            registers: vm.saved_msrs()?,
        }),
        vm,
        vcpus,
        variant,
        sources: board.sources,
        transports: board.transports,
        pit: config.pit,
        balloon: board.balloon,
        net: board.net,
        serial,
        log,
    })
}

/// Brings pages in while the rest of the machine is made: they are wanted either way.
fn prefetch(ram: &Arc<GuestRam>, hot: Vec<Run>) -> Result<(), BuildError> {
    if hot.is_empty() || !saved::is_working_set(&hot, ram) {
        return Ok(());
    }
    let ram = Arc::clone(ram);
    let name = "prefetch";
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || saved::prefetch(&ram, &hot, Want::Write))
        .map(drop)
        .map_err(|source| BuildError::Device { name, source })
}

/// The state, as far as it must agree with what was asked for.
fn read_state(saved: &Saved, config: &VmConfig) -> Result<MachineState, BuildError> {
    let state = MachineState::read(&saved.state)?;
    let cpus = usize::try_from(config.cpus).unwrap_or(usize::MAX);
    if state.memory != config.memory || state.cpus.len() != cpus {
        return Err(BuildError::OtherShape {
            cpus: state.cpus.len(),
            memory: state.memory,
        });
    }
    Ok(state)
}

/// Puts a kernel into memory, and the tables it reads; processors as after a reset.
fn load(
    vm: &Vm,
    config: &VmConfig,
    files: boot::Files,
    ram: &GuestRam,
    slots: &[Slot],
    marks: &Marks,
) -> Result<(Vec<Core>, Variant), BuildError> {
    let host = host::kind();
    let config::Begin::Boot(from) = &config.begin else {
        return Err(BuildError::Begin);
    };
    let words = |variant| {
        let own = host.kernel_words(variant).iter();
        let own = own.map(|word| (*word).to_owned());
        slots.iter().map(device_word).chain(own).collect()
    };
    let mut mark = |name| marks.mark(name);
    let loaded = boot::load(ram, from, files, &words, &mut mark)?;
    if loaded.variant == Variant::Ring3 && !host.interprets_ring0() {
        return Err(BuildError::Ring3(from.kernel.path.display().to_string()));
    }
    let cpus = u8::try_from(config.cpus).unwrap_or(u8::MAX);
    mptable::write(ram, cpus)?;
    acpi::write(ram, cpus, slots)?;
    marks.mark("tables written");
    Ok((vcpus(vm, cpus, host, loaded)?, loaded.variant))
}

/// Processors, controllers and devices as they were saved.
fn restore(
    vm: &Vm,
    host: HostKind,
    state: &MachineState,
    (serial, transports): (&Serial, &[Arc<Mmio>]),
    marks: &Marks,
) -> Result<(Vec<Core>, Variant), BuildError> {
    if state.variant == Variant::Ring3 && !host.interprets_ring0() {
        return Err(BuildError::Ring3("of the snapshot".to_owned()));
    }
    if state.devices.len() > transports.len() {
        return Err(BuildError::Devices {
            saved: state.devices.len(),
            there: transports.len(),
        });
    }
    let mut cores = Vec::with_capacity(state.cpus.len());
    for (index, cpu) in (0..).zip(&state.cpus) {
        let mut vcpu = vm.create_vcpu(index)?;
        if host.interprets_ring0() {
            completion::share_registers(vm.fd(), vcpu.fd_mut());
        }
        let mut xsave = vm.xsave_buffer()?;
        cpu.restore(&vcpu, &mut xsave)?;
        cores.push(Core { vcpu, xsave });
    }
    marks.mark("processors restored");
    state.board.restore(vm)?;
    serial.restore(&state.serial)?;
    for (device, transport) in state.devices.iter().zip(transports) {
        transport.restore(device)?;
    }
    for core in &cores {
        core.vcpu.stood_still();
    }
    marks.mark("devices restored");
    Ok((cores, state.variant))
}

/// A kernel without ACPI is told of a device on its command line
/// (Documentation/admin-guide/kernel-parameters.txt, `virtio_mmio.device`).
fn device_word(slot: &Slot) -> String {
    format!("virtio_mmio.device=4K@{:#x}:{}", slot.base, slot.gsi)
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
    if config.pit {
        vm.create_pit()?;
    }
    marks.mark("interrupt controllers made");
    Ok(vm)
}

fn vcpus(vm: &Vm, cpus: u8, host: HostKind, kernel: Loaded) -> Result<Vec<Core>, BuildError> {
    let supported = vm.supported_cpuid()?;
    let mut vcpus = Vec::with_capacity(cpus.into());
    for index in 0..cpus {
        let mut vcpu = vm.create_vcpu(index.into())?;
        if host.interprets_ring0() {
            completion::share_registers(vm.fd(), vcpu.fd_mut());
        }
        let cpuid = cpuid::for_vcpu(&supported, index, cpus, host, kernel.variant);
        vcpu.set_cpuid(&cpuid)?;
        // Every kernel sets all it is offered. QEMU's emulation of SVM carries out XSETBV
        // without telling KVM, whose CPUID then gives a size that kernel finds wrong, and
        // it does without AVX; unless KVM knew before.
        if let (HostKind::Svm, Some(xcr0)) = (host, cpuid::xcr0(&cpuid)) {
            vcpu.set_xcr0(xcr0)?;
        }
        arch::vcpu::prepare(&vcpu)?;
        if index == 0 {
            arch::vcpu::enter(&vcpu, kernel.entry)?;
        }
        let xsave = vm.xsave_buffer()?;
        vcpus.push(Core { vcpu, xsave });
    }
    Ok(vcpus)
}
