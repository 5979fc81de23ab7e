// SPDX-License-Identifier: Apache-2.0
//! What a misbehaving guest costs itself.
//!
//! A fault stops at the transport: it is counted, printed at a limited rate, and ends in a
//! dropped chain or a device that needs a reset. It must never end in a panic, nor be seen
//! above the transport.

/// Something a driver did that the virtio 1.2 specification forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestFault {
    #[error("the available ring runs ahead of its queue")]
    AvailIndex,
    #[error("descriptor {0} lies outside its table")]
    DescriptorIndex(u16),
    #[error("queue {0} has a bad size, a misaligned ring or one outside guest memory")]
    QueueSetup(u32),
    #[error("a descriptor chain loops or has too many descriptors")]
    ChainLength,
    #[error("a descriptor chain holds too many bytes")]
    ChainBytes,
    #[error("buffer {0:#x}+{1:#x} lies outside guest memory")]
    BufferRange(u64, u32),
    #[error("a device-readable buffer follows a device-writable one")]
    BufferOrder,
    #[error("an indirect descriptor table is malformed")]
    Indirect,
    #[error("a request is too short")]
    TooShort,
    #[error("a request cannot be understood: {0}")]
    Request(&'static str),
    #[error("register {0:#x} was accessed out of turn or does not exist")]
    Register(u64),
    #[error("status {1:#x} may not follow status {0:#x}")]
    Status(u32, u32),
}

impl GuestFault {
    /// After such a fault the rings can no longer be trusted and the device needs a reset;
    /// any other fault costs the guest one chain or one register access.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        matches!(self, Self::AvailIndex | Self::QueueSetup(_))
    }
}
