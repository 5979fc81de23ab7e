// SPDX-License-Identifier: Apache-2.0
//! The words the host and the agent in its guest share; `docs/protocol.md` is the prose.
//!
//! Pure: no I/O, no threads, no dependency. The bytes decoded here come from the other
//! side of a trust boundary, so nothing in this crate may panic on them, and no length
//! they announce is believed before it is checked against a named bound.
//!
//! The encoding is written by hand rather than derived: the agent stays small, every bound
//! is visible where it applies, and one message has exactly one encoding.

#![no_std]
extern crate alloc;

pub mod archive;
mod frame;
mod message;
mod queue;
mod rebirth;
mod window;
mod wire;

pub use frame::{Decoder, HEADER, MAX_PAYLOAD, MAX_START};
pub use message::{
    Address, Exit, Failure, Filesystem, Hello, LogRecord, Message, Mount, MountKind, Network, Root,
    Running, Size, Stage, Start, Stream, Terminal,
};
pub use queue::ByteQueue;
pub use rebirth::{HOOK_SECONDS, HOOKS_SECONDS, Rebirth, Step};
pub use window::{ReceiveWindow, SendWindow};
pub use wire::{Malformed, TooLong};

/// Both sides speak exactly one version; the host refuses any other `Hello`.
pub const VERSION: u16 = 4;
/// The vsock port of the host (CID 2) that the agent connects to when it is up.
pub const HOST_PORT: u32 = 1024;
/// The vsock port of the guest the host connects to for each further process, once the
/// machine's own has been started.
pub const AGENT_PORT: u32 = 1025;
/// The host's vsock context id.
pub const HOST_CID: u32 = 2;
/// Bytes of one stream that may be under way, unacknowledged, in one direction. Bounds
/// what a peer can make us buffer, since either side always reads its connection.
pub const WINDOW: u32 = 256 * 1024;
/// Most bytes senders put into one `Data` frame, so a control message never waits long.
pub const MAX_CHUNK: usize = 32 * 1024;
/// Most kernel log bytes the agent sends and the host keeps: a guest that floods its log
/// costs no more than this.
pub const MAX_KERNEL_LOG: usize = 256 * 1024;
