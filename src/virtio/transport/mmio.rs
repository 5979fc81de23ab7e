// SPDX-License-Identifier: Apache-2.0
//! virtio-mmio version 2, section 4.2: one device behind a page of registers.
//!
//! Registers are accessed on vCPU threads, devices run on the event thread; a mutex keeps
//! the two apart, and what a busy guest touches (interrupt registers, QueueNotify) does
//! without it. A reset takes the queues away at once, under the mutex, so that no device
//! touches guest memory from then on; the device itself hears of it on the event thread,
//! before anything else happens to it there.

use super::core::{Change, Core, Ring};
use crate::bus;
use crate::events::{EventSet, Interest, Source, Token, Watch};
use crate::irq::IrqLine;
use crate::memory::GuestRam;
use crate::telemetry::Faults;
use crate::virtio::device::{Interrupt, Io, Kind, Shifted, VirtioDevice};
use crate::virtio::fault::GuestFault;
use crate::virtio::state::{Busy, DeviceState, StateFault, TransportState};
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of address space a device takes on the bus.
pub const SIZE: u64 = 0x1000;
/// Offset of the register to bind `queue_notifiers` to, each to its index as a 32-bit value.
pub const QUEUE_NOTIFY: u64 = 0x50;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "husk".
const VENDOR: u32 = 0x6b73_7568;
const CONFIG: u64 = 0x100;

/// Tokens below are queues, this one is the transport's own, those above the device's.
const CONTROL: Token = 0xff;
const DEVICE: Token = 0x100;

/// A step of the driver's start, for those who draw time lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// The driver found the device.
    Acknowledged,
    /// The driver is ready to use it.
    DriverOk,
}

/// Told of each milestone every time it is reached, on a vCPU thread.
pub type Observer = Arc<dyn Fn(Milestone) + Send + Sync>;

/// A device and its registers.
pub struct Mmio {
    kind: Kind,
    memory: Arc<GuestRam>,
    interrupt: Interrupt,
    notifiers: Box<[EventFd]>,
    /// Wakes the event thread to start or stop the device.
    control: EventFd,
    faults: Faults,
    observer: Option<Observer>,
    inner: Mutex<Inner>,
}

struct Inner {
    core: Core,
    device: Box<dyn VirtioDevice>,
    /// The device was activated and not yet told otherwise.
    active: bool,
    /// The activation the device knows of is over.
    stale: bool,
    /// What a device that was saved at work remembers, until it works again.
    resumed: Option<DeviceState>,
}

impl Mmio {
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestRam>,
        irq: IrqLine,
        observer: Option<Observer>,
    ) -> io::Result<Arc<Self>> {
        let sizes = device.queue_sizes();
        let eventfd = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let kind = device.kind();
        Ok(Arc::new(Self {
            kind,
            memory,
            interrupt: Interrupt::new(irq),
            notifiers: sizes.iter().map(|_| eventfd()).collect::<io::Result<_>>()?,
            control: eventfd()?,
            faults: Faults::new(kind.name),
            observer,
            inner: Mutex::new(Inner {
                core: Core::new(device.features(), sizes),
                device,
                active: false,
                stale: false,
                resumed: None,
            }),
        }))
    }

    /// To bind with KVM_IOEVENTFD at `QUEUE_NOTIFY`: then a kick costs the vCPU no exit to
    /// user space. A write that arrives here all the same does what the kernel would.
    pub fn queue_notifiers(&self) -> &[EventFd] {
        &self.notifiers
    }

    /// The interrupt line, to bind with KVM_IRQFD.
    pub fn irq(&self) -> &IrqLine {
        self.interrupt.line()
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How often the guest broke the rules.
    pub fn fault_count(&self) -> u64 {
        self.faults.count()
    }

    /// Its state, while no vCPU runs, on the event thread. What the device was about is done
    /// first.
    pub fn save(&self) -> Result<TransportState, Busy> {
        let mut inner = self.lock();
        let at_work = inner.active && !inner.stale;
        if at_work {
            let mut settled = Ok(());
            self.with_io(&mut inner, &mut Deaf, |device, io| {
                settled = device.settle(io);
                Ok(())
            });
            settled.map_err(|_| Busy(self.kind.name))?;
        }
        let own = match &inner.resumed {
            Some(state) => state.clone(),
            // Of a driver that is gone it still remembers what is to be forgotten.
            None if inner.active && inner.stale => DeviceState::None,
            None => inner.device.save(),
        };
        Ok(TransportState {
            device: self.kind.id,
            core: inner.core.save(),
            interrupt: self.interrupt.status(),
            generation: self.interrupt.generation(),
            own,
        })
    }

    /// Into a transport no driver has touched, before any vCPU runs. A device that was at
    /// work goes on at the first turn of the event loop. If it fails, the transport is of no
    /// use.
    pub fn restore(&self, state: &TransportState) -> Result<(), StateFault> {
        if state.device != self.kind.id {
            return Err(StateFault::Device(state.device));
        }
        if !Interrupt::is_status(state.interrupt) {
            return Err(StateFault::Interrupt(state.interrupt));
        }
        let mut inner = self.lock();
        inner.core.restore(&state.core, &self.memory)?;
        inner.device.restore(state)?;
        inner.resumed = state.is_live().then(|| state.own.clone());
        self.interrupt.restore(state.interrupt, state.generation);
        self.wake();
        Ok(())
    }

    /// Waits until nothing that was begun on the guest's behalf is under way.
    pub fn quiesce(&self) {
        let mut inner = self.lock();
        if inner.active {
            inner.device.quiesce();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Panics abort in releases; in tests the data is still sound enough to fail on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.kind.id,
            0x0c => VENDOR,
            0x10 => self.lock().core.device_features(),
            0x34 => self.lock().core.queue_size_max(),
            0x44 => u32::from(self.lock().core.queue_ready()),
            0x60 => self.interrupt.status(),
            0x70 => self.lock().core.status(),
            // SHMLen and SHMBase of regions that do not exist, section 4.2.2.
            0xb0..=0xbc => u32::MAX,
            0xfc => self.interrupt.generation(),
            _ => {
                self.faults.report(&GuestFault::Register(offset));
                0
            }
        }
    }

    fn write_register(&self, offset: u64, value: u32) -> Result<(), GuestFault> {
        match offset {
            0x14 => self.lock().core.device_features_select = value,
            0x20 => return self.lock().core.set_driver_features(value),
            0x24 => self.lock().core.driver_features_select = value,
            0x30 => self.lock().core.queue_select = value,
            0x38 => return self.lock().core.set_queue_size(value),
            0x44 => {
                let mut inner = self.lock();
                return inner.core.set_queue_ready(value, &self.memory);
            }
            QUEUE_NOTIFY => {
                let index = usize::try_from(value).unwrap_or(usize::MAX);
                let notifier = self.notifiers.get(index);
                let notifier = notifier.ok_or(GuestFault::Register(offset))?;
                let _ = notifier.write(1);
            }
            0x64 => self.interrupt.acknowledge(value),
            0x70 => return self.set_status(value),
            0x80 => return self.set_address(Ring::Descriptors, false, value),
            0x84 => return self.set_address(Ring::Descriptors, true, value),
            0x90 => return self.set_address(Ring::Available, false, value),
            0x94 => return self.set_address(Ring::Available, true, value),
            0xa0 => return self.set_address(Ring::Used, false, value),
            0xa4 => return self.set_address(Ring::Used, true, value),
            // SHMSel: every region reads as absent.
            0xac => {}
            _ => return Err(GuestFault::Register(offset)),
        }
        Ok(())
    }

    fn set_address(&self, ring: Ring, high: bool, value: u32) -> Result<(), GuestFault> {
        self.lock().core.set_queue_address(ring, high, value)
    }

    fn set_status(&self, value: u32) -> Result<(), GuestFault> {
        let mut inner = self.lock();
        let change = inner.core.set_status(value)?;
        match change {
            Change::None | Change::Acknowledged => {}
            Change::Live => self.wake(),
            Change::Reset => {
                if inner.active {
                    inner.device.quiesce();
                }
                inner.stale = true;
                inner.resumed = None;
                self.interrupt.acknowledge(u32::MAX);
                self.wake();
            }
        }
        drop(inner);
        let milestone = match change {
            Change::Acknowledged => Milestone::Acknowledged,
            Change::Live => Milestone::DriverOk,
            Change::None | Change::Reset => return Ok(()),
        };
        if let Some(observer) = &self.observer {
            observer(milestone);
        }
        Ok(())
    }

    fn wake(&self) {
        let _ = self.control.write(1);
    }

    /// Where every fault ends.
    fn punish(&self, fault: GuestFault, inner: &mut Inner) {
        self.faults.report(&fault);
        if fault.is_fatal() {
            inner.stale = true;
            self.wake();
            if inner.core.fail() {
                self.interrupt.config();
            }
        }
    }

    /// Brings the device up to date with what the driver did to the registers.
    fn settle(&self, inner: &mut Inner, watch: &mut dyn Watch) {
        if std::mem::take(&mut inner.stale) && std::mem::take(&mut inner.active) {
            inner.device.deactivate(&mut Shifted { watch, by: DEVICE });
        }
        if inner.core.is_live() && !inner.active {
            inner.active = true;
            let features = inner.core.accepted();
            let resumed = inner.resumed.take();
            self.with_io(inner, watch, |device, io| {
                match resumed {
                    Some(state) => device.resume(features, &state, io),
                    None => device.activate(features, io),
                }
                // Kicks that came too early went unheard.
                (0..io.queues.len()).try_for_each(|index| device.process_queue(index, io))
            });
        }
    }

    fn with_io(
        &self,
        inner: &mut Inner,
        watch: &mut dyn Watch,
        call: impl FnOnce(&mut dyn VirtioDevice, &mut Io<'_>) -> Result<(), GuestFault>,
    ) {
        let mut io = Io {
            queues: &mut inner.core.queues,
            memory: &self.memory,
            irq: &self.interrupt,
            watch: &mut Shifted { watch, by: DEVICE },
            notifiers: &self.notifiers,
            faults: &self.faults,
        };
        if let Err(fault) = call(&mut *inner.device, &mut io) {
            self.punish(fault, inner);
        }
    }
}

/// A place without a device, which drivers leave alone: its number is zero (section 4.2.2.1).
pub struct Vacant;

impl bus::Device for Vacant {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let value: u32 = match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x0c => VENDOR,
            _ => 0,
        };
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) => *word = value.to_le_bytes(),
            Err(_) => data.fill(0),
        }
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

/// For a device that is brought to its end: it has nothing to watch for.
struct Deaf;

impl Watch for Deaf {
    fn add(&mut self, _: Interest) -> io::Result<()> {
        Ok(())
    }
    fn change(&mut self, _: Interest) -> io::Result<()> {
        Ok(())
    }
    fn remove(&mut self, _: Interest) -> io::Result<()> {
        Ok(())
    }
}

impl bus::Device for Mmio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= CONFIG {
            self.lock().device.config(offset - CONFIG, data);
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        } else {
            // Section 4.2.2.2: the driver only makes aligned 32-bit accesses here.
            self.faults.report(&GuestFault::Register(offset));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset >= CONFIG {
            self.lock().device.write_config(offset - CONFIG, data);
            return;
        }
        let result = match <[u8; 4]>::try_from(data) {
            Ok(bytes) if offset.is_multiple_of(4) => {
                self.write_register(offset, u32::from_le_bytes(bytes))
            }
            _ => Err(GuestFault::Register(offset)),
        };
        if let Err(fault) = result {
            self.punish(fault, &mut self.lock());
        }
    }
}

impl Source for Mmio {
    fn fds(&self) -> Vec<Interest> {
        let interest = |fd: &EventFd, token| Interest {
            fd: fd.as_raw_fd(),
            token,
            events: EventSet::IN,
        };
        let queues = self.notifiers.iter().zip(0..CONTROL);
        queues
            .map(|(fd, token)| interest(fd, token))
            .chain([interest(&self.control, CONTROL)])
            .collect()
    }

    fn ready(&self, token: Token, events: EventSet, watch: &mut dyn Watch) {
        let queue = usize::try_from(token).unwrap_or(usize::MAX);
        let notifier = self.notifiers.get(queue);
        if token < DEVICE {
            let _ = notifier.unwrap_or(&self.control).read();
        }
        let mut inner = self.lock();
        self.settle(&mut inner, watch);
        if inner.active && !inner.stale {
            self.with_io(&mut inner, watch, |device, io| match token {
                _ if notifier.is_some() => device.process_queue(queue, io),
                CONTROL => Ok(()),
                _ => device.process_source(token.saturating_sub(DEVICE), events, io),
            });
        }
        // A fault just now: nothing of a device that lost its driver stays watched.
        self.settle(&mut inner, watch);
    }
}
