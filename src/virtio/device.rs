// SPDX-License-Identifier: Apache-2.0
//! What a virtio device is, and what it may touch while it works.
//!
//! The transport owns status, negotiation, queues and interrupts. A device owns its
//! backend and its own protocol, and borrows the rest for the length of a call.

use super::fault::GuestFault;
use super::queue::{Chain, Queue};
use super::state::{DeviceState, StateFault, TransportState};
use crate::events::{EventSet, Interest, Token, Watch};
use crate::irq::IrqLine;
use crate::memory::GuestRam;
use crate::telemetry::Faults;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use vmm_sys_util::eventfd::EventFd;

/// Chains served before other devices get their turn. Stops a guest that refills its queue
/// as fast as it is drained from having the event thread for itself.
const BATCH: usize = 256;

/// The device's number of section 5, and its name in what husk prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub id: u32,
    pub name: &'static str,
}

/// A virtio device behind any transport.
///
/// `config`, `write_config` and `quiesce` are called on vCPU threads, everything else on the event
/// thread, never two at once. Between `deactivate` (or birth) and `activate` the device
/// holds nothing of the guest and nothing of its own is watched. Host failures are the
/// device's own affair: it answers the guest with its protocol's error, or goes quiet.
pub trait VirtioDevice: Send {
    fn kind(&self) -> Kind;

    /// The greatest size of each queue, each a power of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// The device's own feature bits; the transport adds those of rings and version.
    fn features(&self) -> u64;

    /// Reads configuration space; what lies beyond it reads zero.
    fn config(&self, offset: u64, data: &mut [u8]);

    /// Writes configuration space. Few devices have anything writable there.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready and accepted `features`. Every queue is processed right after.
    fn activate(&mut self, features: u64, io: &mut Io<'_>);

    /// The driver added buffers to a queue, or may have.
    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), GuestFault>;

    /// A descriptor the device watches is ready; possibly one it no longer watches.
    fn process_source(
        &mut self,
        _token: Token,
        _events: EventSet,
        _io: &mut Io<'_>,
    ) -> Result<(), GuestFault> {
        Ok(())
    }

    /// The driver resets the device, now: returns when nothing that was begun on the
    /// guest's behalf touches its memory any more. On the vCPU thread, which may wait here
    /// for the host; `deactivate` follows.
    fn quiesce(&mut self) {}

    /// The machine stands still: what was begun on the guest's behalf is brought to its end
    /// and told to the guest, so that the device is no more than its registers, its queues and
    /// what `save` says. It may go on afterwards. Nothing it asks of its watch is heard. Fails
    /// if the host does not come to an end; the device then goes on as if nothing had been.
    fn settle(&mut self, _io: &mut Io<'_>) -> io::Result<()> {
        Ok(())
    }

    /// What it remembers beyond registers and queues; after `settle`.
    fn save(&self) -> DeviceState {
        DeviceState::None
    }

    /// This device, fresh, is to be the one that was saved: whether it can be. The queues and
    /// features were looked at before. A device that was at work is resumed later.
    fn restore(&mut self, state: &TransportState) -> Result<(), StateFault> {
        match state.own {
            DeviceState::None => Ok(()),
            _ => Err(StateFault::Own),
        }
    }

    /// Takes up where another one was saved, with a state that `restore` let pass; in place of
    /// `activate`. The driver, which knows nothing of it, accepted `features`.
    fn resume(&mut self, features: u64, _state: &DeviceState, io: &mut Io<'_>) {
        self.activate(features, io);
    }

    /// The driver reset the device, or lost it. The queues are gone already.
    fn deactivate(&mut self, _watch: &mut dyn Watch) {}
}

/// Serves a device's `config` out of its configuration space as bytes.
pub fn read_config(space: &[u8], offset: u64, data: &mut [u8]) {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let available = space.get(offset..).unwrap_or_default();
    let count = available.len().min(data.len());
    data[..count].copy_from_slice(&available[..count]);
}

/// How a device gets the driver's attention. Shared with vCPU threads, takes no lock.
#[derive(Debug)]
pub struct Interrupt {
    line: IrqLine,
    status: AtomicU32,
    generation: AtomicU32,
}

impl Interrupt {
    /// InterruptStatus bits, section 4.2.2.
    const USED: u32 = 1;
    const CONFIG: u32 = 2;

    #[must_use]
    pub fn new(line: IrqLine) -> Self {
        Self {
            line,
            status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
        }
    }

    /// Buffers were used.
    pub fn used(&self) {
        self.raise(Self::USED);
    }

    /// Configuration space or the device's status changed.
    pub fn config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(Self::CONFIG);
    }

    #[must_use]
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// As another one stood. What it raised may have been lost on its way: it is raised again,
    /// and a driver that has seen it finds nothing new.
    pub fn restore(&self, status: u32, generation: u32) {
        self.generation.store(generation, Ordering::Release);
        self.status.store(status, Ordering::Release);
        if status != 0 {
            self.line.trigger();
        }
    }

    /// Whether these are bits that InterruptStatus can have.
    #[must_use]
    pub fn is_status(status: u32) -> bool {
        status & !(Self::USED | Self::CONFIG) == 0
    }

    #[must_use]
    pub fn line(&self) -> &IrqLine {
        &self.line
    }

    fn raise(&self, bit: u32) {
        // The line is an edge: it is triggered even if the bit was set, because the driver
        // may have read the status just before and acknowledge it just after.
        self.status.fetch_or(bit, Ordering::AcqRel);
        self.line.trigger();
    }
}

/// What becomes of a chain a device looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Used, with so many bytes written: give it back to the driver.
    Done(u32),
    /// Taken, and under way: the device gives it back itself, by `Io::give_back`.
    Pending,
    /// Not now: leave it where it was. The device itself serves the queue again later.
    Stop,
}

/// All a device may touch, for the length of one call.
pub struct Io<'a> {
    pub queues: &'a mut [Queue],
    pub memory: &'a GuestRam,
    pub irq: &'a Interrupt,
    pub watch: &'a mut dyn Watch,
    pub(super) notifiers: &'a [EventFd],
    pub(super) faults: &'a Faults,
}

impl Io<'_> {
    /// Passes every chain of a queue to `request`, with kicks muted, and interrupts the
    /// driver once at the end if it wants that. A chain that is malformed, or that
    /// `request` calls faulty, goes back to the driver with nothing written.
    pub fn serve(
        &mut self,
        index: usize,
        mut request: impl FnMut(&mut Chain<'_>) -> Result<Verdict, GuestFault>,
    ) -> Result<(), GuestFault> {
        let Some(queue) = self.queues.get_mut(index) else {
            return Ok(());
        };
        let (mut left, mut again) = (BATCH, false);
        let outcome = 'serving: loop {
            queue.mute(self.memory);
            loop {
                if left == 0 {
                    // Our turn is over: kick ourselves, and let the others have theirs.
                    again = true;
                    break 'serving Ok(());
                }
                left -= 1;
                match serve_one(queue, self.memory, self.faults, &mut request) {
                    Ok(Next::More) => {}
                    Ok(Next::Empty) => break,
                    Ok(Next::Stop) => break 'serving Ok(()),
                    Err(fault) => break 'serving Err(fault),
                }
            }
            if !queue.unmute(self.memory) {
                break Ok(());
            }
        };
        if queue.needs_interrupt(self.memory) {
            self.irq.used();
        }
        if again {
            self.again(index);
        }
        outcome
    }

    /// Gives chains back that were pending, each with the bytes written into it, and
    /// interrupts the driver if it wants that.
    pub fn give_back(&mut self, index: usize, chains: impl IntoIterator<Item = (u16, u32)>) {
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        for (head, written) in chains {
            queue.put(self.memory, head, written);
        }
        if queue.needs_interrupt(self.memory) {
            self.irq.used();
        }
    }

    /// Has a queue processed once more, after other devices had their turn.
    pub fn again(&self, index: usize) {
        let _ = self.notifiers.get(index).map(|notifier| notifier.write(1));
    }

    /// Counts a fault that costs the guest no chain.
    pub fn complain(&self, fault: GuestFault) {
        self.faults.report(&fault);
    }
}

enum Next {
    More,
    Empty,
    Stop,
}

fn serve_one(
    queue: &mut Queue,
    memory: &GuestRam,
    faults: &Faults,
    request: &mut impl FnMut(&mut Chain<'_>) -> Result<Verdict, GuestFault>,
) -> Result<Next, GuestFault> {
    let (head, verdict) = match queue.pop(memory) {
        Ok(None) => return Ok(Next::Empty),
        Ok(Some(mut chain)) => (chain.head, request(&mut chain)),
        Err((fault, Some(head))) => (head, Err(fault)),
        Err((fault, None)) => return Err(fault),
    };
    match verdict {
        Ok(Verdict::Done(written)) => queue.put(memory, head, written),
        Ok(Verdict::Pending) => {}
        Ok(Verdict::Stop) => {
            queue.unpop();
            return Ok(Next::Stop);
        }
        Err(fault) => {
            faults.report(&fault);
            queue.put(memory, head, 0);
        }
    }
    Ok(Next::More)
}

/// Keeps a device's tokens apart from the transport's own.
pub(super) struct Shifted<'a> {
    pub watch: &'a mut dyn Watch,
    pub by: Token,
}

impl Shifted<'_> {
    fn shift(&self, interest: Interest) -> Interest {
        Interest {
            token: interest.token.saturating_add(self.by),
            ..interest
        }
    }
}

impl Watch for Shifted<'_> {
    fn add(&mut self, interest: Interest) -> io::Result<()> {
        let interest = self.shift(interest);
        self.watch.add(interest)
    }
    fn change(&mut self, interest: Interest) -> io::Result<()> {
        let interest = self.shift(interest);
        self.watch.change(interest)
    }
    fn remove(&mut self, interest: Interest) -> io::Result<()> {
        let interest = self.shift(interest);
        self.watch.remove(interest)
    }
}
