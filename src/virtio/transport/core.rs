// SPDX-License-Identifier: Apache-2.0
//! Status, feature negotiation and queue set-up, virtio 1.2 sections 2.1, 2.2 and 3.1.
//!
//! Data and rules only: no device, no thread, no address. A register access that comes out
//! of turn changes nothing and is a fault.

use crate::memory::GuestRam;
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::{Placement, Queue};
use crate::virtio::state::{CoreState, QueueState, StateFault};

pub const ACKNOWLEDGE: u32 = 1;
pub const DRIVER: u32 = 2;
pub const DRIVER_OK: u32 = 4;
pub const FEATURES_OK: u32 = 8;
pub const NEEDS_RESET: u32 = 64;
pub const FAILED: u32 = 128;
const KNOWN: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

const RING_INDIRECT_DESC: u64 = 1 << 28;
const RING_EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

/// What a write to the status register set in motion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// The driver has seen the device for the first time since its reset.
    Acknowledged,
    /// The device goes to work.
    Live,
    Reset,
}

/// The 64-bit addresses of a queue, written in halves.
#[derive(Clone, Copy, Debug)]
pub enum Ring {
    Descriptors,
    Available,
    Used,
}

#[derive(Debug)]
pub struct Core {
    offered: u64,
    accepted: u64,
    status: u32,
    pub device_features_select: u32,
    pub driver_features_select: u32,
    pub queue_select: u32,
    max_sizes: &'static [u16],
    placements: Vec<Placement>,
    pub queues: Vec<Queue>,
}

impl Core {
    pub fn new(device_features: u64, max_sizes: &'static [u16]) -> Self {
        let mut core = Self {
            offered: device_features | RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1,
            accepted: 0,
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            max_sizes,
            placements: Vec::new(),
            queues: Vec::new(),
        };
        core.reset();
        core
    }

    /// Back to the state before any driver came.
    pub fn reset(&mut self) {
        self.accepted = 0;
        self.status = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        let placement = |&size| Placement {
            size,
            ..Placement::default()
        };
        self.placements = self.max_sizes.iter().map(placement).collect();
        self.queues = self.max_sizes.iter().map(|_| Queue::default()).collect();
    }

    pub fn save(&self) -> CoreState {
        let places = self.placements.iter().zip(&self.queues);
        let queues = places.map(|(place, queue)| QueueState {
            size: place.size,
            descriptors: place.descriptors,
            available: place.available,
            used: place.used,
            progress: queue.progress(),
        });
        CoreState {
            accepted: self.accepted,
            status: self.status,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            queues: queues.collect(),
        }
    }

    /// Into a core no driver has touched. Nothing is changed if anything is wrong.
    pub fn restore(&mut self, state: &CoreState, memory: &GuestRam) -> Result<(), StateFault> {
        if state.queues.len() != self.max_sizes.len() {
            return Err(StateFault::Queues(state.queues.len()));
        }
        let foreign = state.accepted & !self.offered;
        if foreign != 0 {
            return Err(StateFault::Features(foreign));
        }
        let has = |bit| state.status & bit != 0;
        let agreed = has(FEATURES_OK);
        let status = state.status & !(KNOWN | NEEDS_RESET);
        let unearned = agreed && !(has(DRIVER) && state.accepted & VERSION_1 != 0);
        if status != 0 || unearned || (has(DRIVER_OK) && !agreed) {
            return Err(StateFault::Status(state.status));
        }
        let event_idx = state.accepted & RING_EVENT_IDX != 0;
        let mut queues: Vec<Queue> = self.max_sizes.iter().map(|_| Queue::default()).collect();
        let mut placements = self.placements.clone();
        for (index, saved) in state.queues.iter().enumerate() {
            placements[index] = Placement {
                size: saved.size,
                descriptors: saved.descriptors,
                available: saved.available,
                used: saved.used,
            };
            let Some(progress) = saved.progress else {
                continue;
            };
            if !agreed {
                return Err(StateFault::Status(state.status));
            }
            queues[index]
                .place(placements[index], self.max_sizes[index], event_idx, memory)
                .ok_or(StateFault::Queue(index))?;
            // Rings that were given up may say anything.
            queues[index]
                .resume(progress, memory)
                .filter(|sound| *sound || has(NEEDS_RESET))
                .ok_or(StateFault::Progress(index))?;
        }
        self.accepted = state.accepted;
        self.status = state.status;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.queue_select = state.queue_select;
        (self.placements, self.queues) = (placements, queues);
        Ok(())
    }

    pub fn status(&self) -> u32 {
        self.status
    }

    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// The driver is done with set-up and the device has not failed it.
    pub fn is_live(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    /// The rings are of no more use. True if the driver must be told: it only listens once
    /// it has set DRIVER_OK (section 2.1.2).
    pub fn fail(&mut self) -> bool {
        let news = self.status & (NEEDS_RESET | DRIVER_OK) == DRIVER_OK;
        self.status |= NEEDS_RESET;
        news
    }

    /// Bits are set one after another and never taken back, but by a reset.
    pub fn set_status(&mut self, value: u32) -> Result<Change, GuestFault> {
        if value == 0 {
            self.reset();
            return Ok(Change::Reset);
        }
        let value = value & KNOWN;
        let new = value & !self.status;
        let refused = GuestFault::Status(self.status, value);
        if self.status & KNOWN & !value != 0 {
            return Err(refused);
        }
        let mut change = Change::None;
        if new & ACKNOWLEDGE != 0 {
            change = Change::Acknowledged;
        }
        self.status |= new & (ACKNOWLEDGE | DRIVER | FAILED);
        if new & FEATURES_OK != 0 {
            if self.status & DRIVER == 0 {
                return Err(refused);
            }
            // A refusal is said by the bit staying clear (section 3.1.1, step 6).
            if self.accepted & !self.offered == 0 && self.accepted & VERSION_1 != 0 {
                self.status |= FEATURES_OK;
            }
        }
        if new & DRIVER_OK != 0 {
            if self.status & (FEATURES_OK | FAILED) != FEATURES_OK {
                return Err(refused);
            }
            self.status |= DRIVER_OK;
            if self.is_live() {
                change = Change::Live;
            }
        }
        Ok(change)
    }

    pub fn device_features(&self) -> u32 {
        half(self.offered, self.device_features_select)
    }

    pub fn set_driver_features(&mut self, value: u32) -> Result<(), GuestFault> {
        if self.status & (DRIVER | FEATURES_OK) != DRIVER {
            return Err(GuestFault::Register(0x20));
        }
        if self.driver_features_select <= 1 {
            set_half(&mut self.accepted, self.driver_features_select == 1, value);
        }
        Ok(())
    }

    /// Zero says that there is no such queue.
    pub fn queue_size_max(&self) -> u32 {
        let max = usize::try_from(self.queue_select)
            .ok()
            .and_then(|index| self.max_sizes.get(index));
        max.copied().map_or(0, u32::from)
    }

    pub fn queue_ready(&self) -> bool {
        self.selected()
            .is_some_and(|index| self.queues[index].is_ready())
    }

    pub fn set_queue_size(&mut self, size: u32) -> Result<(), GuestFault> {
        let fault = GuestFault::QueueSetup(self.queue_select);
        // Zero is no size either: the queue will then refuse to become ready.
        self.placement(0x38)?.size = u16::try_from(size).map_err(|_| fault).unwrap_or(0);
        Ok(())
    }

    pub fn set_queue_address(
        &mut self,
        ring: Ring,
        high: bool,
        value: u32,
    ) -> Result<(), GuestFault> {
        let placement = self.placement(0x80)?;
        let address = match ring {
            Ring::Descriptors => &mut placement.descriptors,
            Ring::Available => &mut placement.available,
            Ring::Used => &mut placement.used,
        };
        set_half(address, high, value);
        Ok(())
    }

    /// Takes the queue into use, or out of it.
    pub fn set_queue_ready(&mut self, ready: u32, memory: &GuestRam) -> Result<(), GuestFault> {
        let index = self.selected().ok_or(GuestFault::Register(0x44))?;
        if ready == 0 {
            // Without VIRTIO_F_RING_RESET this is for a driver that gives up: let it.
            self.queues[index] = Queue::default();
            return Ok(());
        }
        let placement = *self.placement(0x44)?;
        if self.status & FEATURES_OK == 0 {
            return Err(GuestFault::Register(0x44));
        }
        let event_idx = self.accepted & RING_EVENT_IDX != 0;
        self.queues[index]
            .place(placement, self.max_sizes[index], event_idx, memory)
            .ok_or(GuestFault::QueueSetup(self.queue_select))
    }

    fn selected(&self) -> Option<usize> {
        let index = usize::try_from(self.queue_select).ok()?;
        (index < self.queues.len()).then_some(index)
    }

    /// The selected queue while it may still be set up.
    fn placement(&mut self, register: u64) -> Result<&mut Placement, GuestFault> {
        let index = self.selected().ok_or(GuestFault::Register(register))?;
        if self.queues[index].is_ready() {
            return Err(GuestFault::Register(register));
        }
        Ok(&mut self.placements[index])
    }
}

fn half(value: u64, select: u32) -> u32 {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = value.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([b0, b1, b2, b3]),
        1 => u32::from_le_bytes([b4, b5, b6, b7]),
        _ => 0,
    }
}

fn set_half(value: &mut u64, high: bool, half: u32) {
    *value = if high {
        *value & 0xffff_ffff | u64::from(half) << 32
    } else {
        *value & !0xffff_ffff | u64::from(half)
    };
}
