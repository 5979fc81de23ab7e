// SPDX-License-Identifier: Apache-2.0
//! Gives each device its place: an address range on a bus, an interrupt line, eventfds bound
//! in KVM, and a word on the kernel's command line. Runs on the `vmm` thread while the
//! machine is built.

use super::build::{BuildError, Console, VsockParts};
use super::marks::Marks;
use super::outcome::Outcome;
use crate::arch::acpi::Slot;
use crate::arch::layout;
use crate::bus::BusBuilder;
use crate::config::{self, ConsoleKind, VmConfig};
use crate::control::End;
use crate::devices::balloon;
use crate::devices::blk;
use crate::devices::console_log::ConsoleLog;
use crate::devices::net;
use crate::devices::reset::Reset;
use crate::devices::serial::Serial;
use crate::devices::sleep::Sleep;
use crate::devices::{self, Built, Handle, Spec};
use crate::events::Source;
use crate::irq::IrqLine;
use crate::kvm::Vm;
use crate::memory::GuestRam;
use crate::net::Link;
use crate::virtio::transport::{self, Milestone, Mmio, Vacant};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use vm_memory::GuestAddress;

/// Columns and rows of a console nobody has measured: the guest does not ask then.
const NO_SIZE: (u16, u16) = (0, 0);

/// The devices in their places, before the buses freeze.
#[derive(Default)]
pub struct Board {
    pub ports: BusBuilder,
    pub mmio: BusBuilder,
    pub sources: Vec<Arc<dyn Source>>,
    /// The virtio devices, in the order of their places.
    pub transports: Vec<Arc<Mmio>>,
    pub balloon: Option<Arc<balloon::Control>>,
    pub net: Option<Arc<net::Control>>,
}

/// What the virtio devices are joined to, in the order of the configuration.
pub struct Ends {
    pub drives: Vec<File>,
    pub shares: Vec<UnixStream>,
    pub vsock: VsockParts,
    pub net: Option<Box<dyn Link>>,
}

pub struct Wiring<'a> {
    vm: &'a Vm,
    ram: Arc<GuestRam>,
    marks: Arc<Marks>,
    board: Board,
    slots: Vec<Slot>,
}

impl<'a> Wiring<'a> {
    pub fn new(vm: &'a Vm, ram: Arc<GuestRam>, marks: Arc<Marks>) -> Self {
        Self {
            vm,
            ram,
            marks,
            board: Board::default(),
            slots: Vec::new(),
        }
    }

    /// Also where the virtio devices are, for the tables and words that tell the kernel.
    pub fn finish(self) -> (Board, Vec<Slot>) {
        (self.board, self.slots)
    }

    /// The two ways a guest ends its machine: by a reset, and by switching it off.
    pub fn add_ends(&mut self, outcome: &Arc<Outcome>) -> Result<(), BuildError> {
        let told = Arc::clone(outcome);
        let reset = Reset::new(Box::new(move || told.tell(End::Reset)));
        let told = Arc::clone(outcome);
        let sleep = Sleep::new(
            layout::SLEEP_TYPE_OFF,
            Box::new(move || told.tell(End::PowerOff)),
        );
        let ports = &mut self.board.ports;
        ports.add(layout::RESET_PORTS, Arc::new(reset))?;
        ports.add(layout::SLEEP_PORTS, Arc::new(sleep))?;
        Ok(())
    }

    /// The serial port, which always speaks to the console's output, and the virtio console
    /// where it is wanted; the keys go to one of them.
    pub fn add_consoles(
        &mut self,
        console: Console,
        log: &Arc<ConsoleLog>,
    ) -> Result<Arc<Serial>, BuildError> {
        let second = console.output.as_ref().map(OwnedFd::try_clone);
        let (serial_input, virtio) = match console.kind {
            ConsoleKind::Serial => (console.input, None),
            ConsoleKind::Virtio => (None, Some(console.input)),
        };
        let serial = IrqLine::new()
            .and_then(|irq| Serial::new(irq, serial_input, console.output, Arc::clone(log)))
            .map_err(named("serial port"))?;
        let gsi = layout::SERIAL_GSI;
        self.vm.bind_irq(serial.irq().eventfd(), gsi.into())?;
        self.board
            .ports
            .add(layout::SERIAL_PORTS, Arc::clone(&serial) as _)?;
        self.board.sources.push(Arc::clone(&serial) as _);
        if let Some(input) = virtio {
            let output = second.transpose().map_err(named("console"))?;
            self.add(Spec::Console {
                input,
                output,
                log: Arc::clone(log),
                size: NO_SIZE,
            })?;
        }
        Ok(serial)
    }

    /// The configuration's virtio devices. Those that a template has, or a stand-in for, come
    /// first; a guest finds the others where it was told to look, the balloon last. The guest's
    /// names for drives follow their order.
    pub fn add_virtio(&mut self, config: &VmConfig, parts: Ends) -> Result<(), BuildError> {
        let mut drives = config.drives.iter().zip(parts.drives);
        let mut net = config.net.as_ref().zip(parts.net);
        if config.places {
            self.add_vsock(config, parts.vsock)?;
            self.add_rng(config)?;
            if let Some((drive, file)) = drives.next() {
                self.add_drive(config, drive, file)?;
            }
            if let Some((net, link)) = net.take_if(|(net, _)| net.is_common()) {
                self.add_net(config, net, link)?;
            }
            for (drive, file) in drives {
                self.add_drive(config, drive, file)?;
            }
            self.add_shares(config, parts.shares)?;
        } else {
            for (drive, file) in drives {
                self.add_drive(config, drive, file)?;
            }
            self.add_shares(config, parts.shares)?;
            self.add_vsock(config, parts.vsock)?;
            self.add_rng(config)?;
        }
        if let Some((net, link)) = net {
            self.add_net(config, net, link)?;
        }
        // A template has none: what it does in its first moments is of no use, and costs a
        // start milliseconds.
        if config.balloon
            && !config.stand_ins
            && let Handle::Balloon(control) = self.add(Spec::Balloon)?
        {
            self.board.balloon = Some(control);
        }
        Ok(())
    }

    fn add_drive(
        &mut self,
        config: &VmConfig,
        drive: &config::Drive,
        file: File,
    ) -> Result<(), BuildError> {
        let limits = blk::Limits {
            bytes: drive.bps,
            operations: drive.iops,
        };
        let spec = Spec::Blk {
            file,
            read_only: drive.read_only,
            stand_in: config.stand_ins,
            // Not the path: where its operator keeps things is none of the guest's business.
            id: serial(&drive.file.path),
            limits,
        };
        self.add(spec).map(drop)
    }

    fn add_shares(&mut self, config: &VmConfig, shares: Vec<UnixStream>) -> Result<(), BuildError> {
        for (share, stream) in config.shares.iter().zip(shares) {
            let tag = share.tag.clone();
            self.add(Spec::Fs { stream, tag })?;
        }
        Ok(())
    }

    fn add_vsock(&mut self, config: &VmConfig, vsock: VsockParts) -> Result<(), BuildError> {
        if let Some(config::Vsock { cid, .. }) = config.vsock {
            self.add(Spec::Vsock {
                cid,
                ports: vsock.ports,
                listener: vsock.listener,
            })?;
        }
        Ok(())
    }

    fn add_rng(&mut self, config: &VmConfig) -> Result<(), BuildError> {
        match config.rng {
            true => self.add(Spec::Rng).map(drop),
            false => Ok(()),
        }
    }

    fn add_net(
        &mut self,
        config: &VmConfig,
        net: &config::net::Net,
        link: Box<dyn Link>,
    ) -> Result<(), BuildError> {
        let handle = self.add(Spec::Net {
            link,
            stand_in: config.stand_ins,
            mac: net.mac,
            mtu: net.mtu,
            bps: net.bps,
        })?;
        if let Handle::Net(counters) = handle {
            self.board.net = Some(counters);
        }
        Ok(())
    }

    /// Makes a place of every interrupt line that is left: the guest's kernel knows where, and
    /// finds no device there.
    pub fn add_places(&mut self) -> Result<(), BuildError> {
        while let Some(slot) = self.next_slot() {
            let base = u64::from(slot.base);
            let mmio = &mut self.board.mmio;
            mmio.add(base..base + transport::SIZE, Arc::new(Vacant))?;
            self.slots.push(slot);
        }
        Ok(())
    }

    fn next_slot(&self) -> Option<Slot> {
        let index = u8::try_from(self.slots.len()).ok()?;
        let gsi = layout::FIRST_DEVICE_GSI
            .checked_add(index)
            .filter(|gsi| *gsi < layout::GSI_COUNT)?;
        Some(Slot {
            base: layout::MMIO_BASE + u32::from(index) * layout::MMIO_STRIDE,
            gsi,
        })
    }

    fn add(&mut self, spec: Spec) -> Result<Handle, BuildError> {
        let name = spec.name();
        let Built { device, handle } = devices::build(spec).map_err(named(name))?;
        let slot = self.next_slot().ok_or(BuildError::Lines)?;
        let (base, gsi) = (u64::from(slot.base), slot.gsi);

        let marks = Arc::clone(&self.marks);
        let observer = Arc::new(move |milestone| match milestone {
            Milestone::Acknowledged => marks.mark(format!("kernel: {name} found")),
            Milestone::DriverOk => marks.mark(format!("kernel: {name} ready")),
        });
        let irq = IrqLine::new().map_err(named(name))?;
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
        self.board.transports.push(Arc::clone(&mmio));
        self.board.sources.push(mmio);
        self.slots.push(slot);
        Ok(handle)
    }
}

/// What a guest is told of a disk's file: its name.
fn serial(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn named(name: &'static str) -> impl FnOnce(io::Error) -> BuildError {
    move |source| BuildError::Device { name, source }
}
