// SPDX-License-Identifier: Apache-2.0
//! What a device in use is, as data: its registers, its queues, and what it remembers beyond
//! them. Comes back from files that may lie: everything is checked against the device it is
//! put into and against the guest's memory, as if a driver had said it.

use super::transport::{DRIVER_OK, NEEDS_RESET};
use serde::{Deserialize, Serialize};

/// A device behind its transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// The device's number of section 5.
    pub device: u32,
    pub core: CoreState,
    /// InterruptStatus and ConfigGeneration.
    pub interrupt: u32,
    pub generation: u32,
    pub own: DeviceState,
}

impl TransportState {
    /// Whether a driver had it at work.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.core.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }
}

/// Registers and queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreState {
    pub accepted: u64,
    pub status: u32,
    pub device_features_select: u32,
    pub driver_features_select: u32,
    pub queue_select: u32,
    pub queues: Vec<QueueState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    /// None: not in use.
    pub progress: Option<Progress>,
}

/// How far a queue in use has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub next_avail: u16,
    pub next_used: u16,
    /// Index of the used ring when the driver was last thought of.
    pub told: u16,
}

/// What a device remembers beyond registers and queues, by its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// Nothing: it is as it was made.
    #[default]
    None,
    Balloon {
        /// Pages the guest does without, and is to.
        actual: u32,
        target: u32,
        /// The statistics buffer it lent.
        held: Option<u16>,
    },
    Disk {
        sectors: u64,
        read_only: bool,
    },
    /// It stood for another of its kind, which is there now: of a template.
    StandIn,
    Console {
        /// Bytes of the chain at the head of its transmit queue that are printed already.
        sent: u64,
    },
    /// What the server of a shared directory knows of what the guest holds, in its own words.
    Share {
        table: Vec<u8>,
    },
}

/// A 16550A: its registers, and what was typed and not read yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    pub divisor: [u8; 2],
    pub interrupt_enable: u8,
    pub interrupt_identification: u8,
    pub line_control: u8,
    pub line_status: u8,
    pub modem_control: u8,
    pub modem_status: u8,
    pub scratch: u8,
    pub typed: Vec<u8>,
}

/// A device that cannot be saved now: what it was asked for does not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} does not finish what the guest asked of it")]
pub struct Busy(pub &'static str);

/// Why a state is not one of this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateFault {
    #[error("it is of device {0}")]
    Device(u32),
    #[error("it has features that the device lacks: {0:#x}")]
    Features(u64),
    #[error("it has {0} queues")]
    Queues(usize),
    #[error("queue {0} cannot lie where it says")]
    Queue(usize),
    #[error("its status {0:#x} is none a device has")]
    Status(u32),
    #[error("queue {0} has come further than it can have")]
    Progress(usize),
    #[error("it raised an interrupt {0:#x} that no device has")]
    Interrupt(u32),
    #[error("its disk is another: of {0} sectors, or not for the same use")]
    Disk(u64),
    #[error("it remembers what no such device does")]
    Own,
}
