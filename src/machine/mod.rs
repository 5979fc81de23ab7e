// SPDX-License-Identifier: Apache-2.0
//! One virtual machine: built on the `vmm` thread, run by its vCPU threads, served by the
//! event loop.

mod build;
mod gate;
mod marks;
mod outcome;
mod state;
mod vcpu;
mod wiring;

pub use build::{Begin, BuildError, Console, Parts, Saved, VsockParts, build};
pub use gate::Restless;
pub use marks::Marks;
pub use outcome::Outcome;
pub use state::{MachineState, StateFileError};

use crate::arch::state::{BoardState, CpuState, StateError};
use crate::control::{Counted, End, GuestMemory, RoundTrips, Traffic};
use crate::devices::balloon;
use crate::devices::console_log::ConsoleLog;
use crate::devices::net;
use crate::devices::serial::Serial;
use crate::events::Source;
use crate::kvm::Vm;
use crate::kvm::signal;
use crate::memory;
use crate::memory::GuestRam;
use crate::units::Variant;
use crate::virtio::transport::Mmio;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

/// Built, and not yet running.
pub struct Machine {
    vm: Vm,
    vcpus: Vec<vcpu::Core>,
    shared: Arc<vcpu::Shared>,
    variant: Variant,
    sources: Vec<Arc<dyn Source>>,
    transports: Vec<Arc<Mmio>>,
    pit: bool,
    balloon: Option<Arc<balloon::Control>>,
    net: Option<Arc<net::Control>>,
    serial: Arc<Serial>,
    log: Arc<ConsoleLog>,
}

/// Its vCPUs run. They stop with the process: nothing a guest does can hold it.
pub struct Running {
    vm: Vm,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<vcpu::Shared>,
    variant: Variant,
    transports: Vec<Arc<Mmio>>,
    pit: bool,
    balloon: Option<Arc<balloon::Control>>,
    net: Option<Arc<net::Control>>,
    serial: Arc<Serial>,
    log: Arc<ConsoleLog>,
}

impl Machine {
    /// What the event loop must watch, from before the first instruction on.
    pub fn sources(&self) -> &[Arc<dyn Source>] {
        &self.sources
    }

    /// Which kind of kernel was loaded.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Starts every vCPU; the first one enters the kernel, the others wait for it.
    pub fn start(self) -> io::Result<Running> {
        signal::install();
        let threads = self
            .vcpus
            .into_iter()
            .map(|core| vcpu::spawn(core, Arc::clone(&self.shared)))
            .collect::<io::Result<_>>()?;
        Ok(Running {
            vm: self.vm,
            threads,
            shared: self.shared,
            variant: self.variant,
            transports: self.transports,
            pit: self.pit,
            balloon: self.balloon,
            net: self.net,
            serial: self.serial,
            log: self.log,
        })
    }
}

/// A machine whose vCPUs stand still.
pub struct Held<'a> {
    running: &'a Running,
    /// They are to stand still for good.
    kept: bool,
}

impl Held<'_> {
    /// All of it but its memory. Devices finish what they were about first: what they signal
    /// then is in the interrupt controllers, of which each processor has one.
    pub fn save(&self) -> Result<MachineState, StateError> {
        let running = self.running;
        let devices = running.transports.iter().map(|mmio| mmio.save());
        let devices = devices
            .collect::<Result<_, _>>()
            .map_err(|busy| StateError::Busy(busy.0))?;
        let cpus = running.shared.gate.states().into_iter();
        let mut cpus: Vec<CpuState> = cpus
            .map(|stopped| stopped.map(|state| *state))
            .collect::<Result<_, _>>()?;
        // They were read one after another, but their counters are one clock.
        if let Some(now) = cpus.first().and_then(CpuState::tsc) {
            cpus.iter_mut().for_each(|cpu| cpu.set_tsc(now));
        }
        Ok(MachineState {
            memory: running.shared.ram.iter().map(|region| region.len()).sum(),
            variant: running.variant,
            cpus,
            board: BoardState::save(&running.vm, running.pit)?,
            counters: running.shared.counters.save(&running.shared.ram),
            serial: running.serial.save(),
            devices,
        })
    }

    pub fn memory(&self) -> &GuestRam {
        &self.running.shared.ram
    }

    /// The machine does nothing any more, until it is stopped.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.running.shared.gate.open();
        }
    }
}

impl Running {
    pub fn memory(&self) -> &GuestRam {
        &self.shared.ram
    }

    /// How it ended, if it has.
    pub fn end(&self) -> Option<End> {
        self.shared.outcome.end()
    }

    /// Has every vCPU stand still; they go on when what is returned is dropped, unless they
    /// stood still before. On the event thread: no device does anything meanwhile.
    pub fn hold(&self) -> Result<Held<'_>, Restless> {
        let gate = &self.shared.gate;
        let call = || self.threads.iter().for_each(signal::call);
        let was_open = gate.close(call);
        // Opened again also if nobody came in.
        let held = Held {
            running: self,
            kept: !was_open,
        };
        gate.gather(gate::PATIENCE, || self.end().is_some(), call)?;
        Ok(held)
    }

    /// Lets go on what `Held::keep` left standing.
    pub fn go_on(&self) {
        self.shared.gate.open();
    }

    /// The guest is who it is to be: its interface speaks.
    pub fn release(&self) {
        if let Some(net) = &self.net {
            net.release();
        }
    }

    /// How often the guest's kernel went through ring 0, by kind, where it lives outside of it
    /// and counts.
    pub fn round_trips(&self) -> Option<RoundTrips> {
        self.shared.counters.sum(&self.shared.ram).map(RoundTrips)
    }

    /// The guest is past its start and stays: its memory may be backed by huge pages.
    pub fn settle(&self) {
        memory::allow_huge(&self.shared.ram);
    }

    /// What its devices counted. The guest is asked to say anew how its memory is used: that
    /// is what the next call returns.
    pub fn counted(&self) -> Counted {
        let traffic = |net: &net::Control| {
            let ((received_bytes, received_frames), (sent_bytes, sent_frames)) =
                (net.received(), net.sent());
            Traffic {
                received_bytes,
                received_frames,
                sent_bytes,
                sent_frames,
            }
        };
        let memory = |balloon: &balloon::Control| {
            let said = balloon.statistics();
            GuestMemory {
                total: said.total,
                free: said.free,
                available: said.available,
                caches: said.disk_caches,
            }
        };
        Counted {
            net: self.net.as_deref().map(traffic),
            // A guest without a driver, or that is not up, has said nothing.
            memory: self
                .balloon
                .as_deref()
                .map(memory)
                .filter(|said| said.total > 0),
        }
    }

    /// The console's last lines.
    pub fn console_tail(&self, lines: usize) -> String {
        self.log.tail(lines).join("\n")
    }

    /// Writes out what the guest's consoles still hold, and waits for what was begun on its
    /// disks. Only once no device works any more: the event loop is over.
    pub fn flush(&self) {
        self.serial.flush();
        self.transports.iter().for_each(|mmio| mmio.quiesce());
    }
}
