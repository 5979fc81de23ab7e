// SPDX-License-Identifier: Apache-2.0
//! Gives each device its place: an address range on a bus, an interrupt line, eventfds bound
//! in KVM, and a word on the kernel's command line. Runs on the `vmm` thread while the
//! machine is built.

use super::build::{BuildError, Console};
use super::marks::Marks;
use super::outcome::Outcome;
use crate::arch::layout;
use crate::bus::BusBuilder;
use crate::config::{self, VmConfig};
use crate::control::End;
use crate::devices::blk::Blk;
use crate::devices::console_log::ConsoleLog;
use crate::devices::reset::Reset;
use crate::devices::rng::Rng;
use crate::devices::serial::Serial;
use crate::devices::vsock::{HostPort, Vsock};
use crate::events::Source;
use crate::irq::IrqLine;
use crate::kvm::Vm;
use crate::memory::GuestRam;
use crate::virtio::device::VirtioDevice;
use crate::virtio::transport::{self, Milestone, Mmio};
use std::fs::File;
use std::io;
use std::sync::Arc;
use vm_memory::GuestAddress;

/// The devices in their places, before the buses freeze.
#[derive(Default)]
pub struct Board {
    pub ports: BusBuilder,
    pub mmio: BusBuilder,
    pub sources: Vec<Arc<dyn Source>>,
}

pub struct Wiring<'a> {
    vm: &'a Vm,
    ram: Arc<GuestRam>,
    marks: Arc<Marks>,
    board: Board,
    /// Devices a kernel without ACPI is told of on its command line
    /// (Documentation/admin-guide/kernel-parameters.txt, `virtio_mmio.device`).
    words: Vec<String>,
}

impl<'a> Wiring<'a> {
    pub fn new(vm: &'a Vm, ram: Arc<GuestRam>, marks: Arc<Marks>) -> Self {
        Self {
            vm,
            ram,
            marks,
            board: Board::default(),
            words: Vec::new(),
        }
    }

    pub fn finish(self) -> (Board, Vec<String>) {
        (self.board, self.words)
    }

    pub fn add_reset(&mut self, outcome: &Arc<Outcome>) -> Result<(), BuildError> {
        let outcome = Arc::clone(outcome);
        let reset = Reset::new(Box::new(move || outcome.tell(End::Reset)));
        self.board.ports.add(layout::RESET_PORTS, Arc::new(reset))?;
        Ok(())
    }

    pub fn add_serial(
        &mut self,
        console: Console,
        log: &Arc<ConsoleLog>,
    ) -> Result<Arc<Serial>, BuildError> {
        let serial = line()
            .and_then(|irq| Serial::new(irq, console.input, console.output, Arc::clone(log)))
            .map_err(named("serial port"))?;
        let gsi = layout::SERIAL_GSI;
        self.vm.bind_irq(serial.irq().eventfd(), gsi.into())?;
        self.board
            .ports
            .add(layout::SERIAL_PORTS, Arc::clone(&serial) as _)?;
        self.board.sources.push(Arc::clone(&serial) as _);
        Ok(serial)
    }

    /// The configuration's virtio devices, drives first: the guest's names for them follow
    /// this order.
    pub fn add_virtio(
        &mut self,
        config: &VmConfig,
        drives: Vec<File>,
        vsock: Vec<HostPort>,
    ) -> Result<(), BuildError> {
        for (drive, file) in config.drives.iter().zip(drives) {
            let name = drive.file.path.display().to_string();
            let disk = Blk::new(file, drive.read_only, &name);
            self.add(Box::new(disk.map_err(named("disk"))?))?;
        }
        if let Some(config::Vsock { cid, .. }) = config.vsock {
            let (device, _) = Vsock::new(cid, vsock, None).map_err(named("vsock"))?;
            self.add(Box::new(device))?;
        }
        if config.rng {
            self.add(Box::new(Rng))?;
        }
        Ok(())
    }

    fn add(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), BuildError> {
        let name = device.kind().name;
        let index = u8::try_from(self.words.len()).map_err(|_| BuildError::Lines)?;
        let gsi = layout::FIRST_DEVICE_GSI
            .checked_add(index)
            .filter(|gsi| *gsi < layout::GSI_COUNT)
            .ok_or(BuildError::Lines)?;
        let base = layout::MMIO_BASE + u64::from(index) * layout::MMIO_STRIDE;

        let marks = Arc::clone(&self.marks);
        let observer = Arc::new(move |milestone| match milestone {
            Milestone::Acknowledged => marks.mark(format!("kernel: {name} found")),
            Milestone::DriverOk => marks.mark(format!("kernel: {name} ready")),
        });
        let irq = line().map_err(named(name))?;
        let mmio =
            Mmio::new(device, Arc::clone(&self.ram), irq, Some(observer)).map_err(named(name))?;
        self.vm.bind_irq(mmio.irq().eventfd(), gsi.into())?;
        for (queue, notifier) in (0..).zip(mmio.queue_notifiers()) {
            let address = GuestAddress(base + transport::QUEUE_NOTIFY);
            self.vm.bind_notifier(notifier, address, queue)?;
        }
        self.board
            .mmio
            .add(base..base + transport::SIZE, Arc::clone(&mmio) as _)?;
        self.board.sources.push(mmio);
        self.words
            .push(format!("virtio_mmio.device=4K@{base:#x}:{gsi}"));
        Ok(())
    }
}

fn line() -> io::Result<IrqLine> {
    IrqLine::new()
}

fn named(name: &'static str) -> impl FnOnce(io::Error) -> BuildError {
    move |source| BuildError::Device { name, source }
}
