// SPDX-License-Identifier: Apache-2.0
//! Links: what carries a guest's Ethernet frames on the host.
//!
//! A link is used on the event thread of the machine's process and never waits. `user` is
//! the other end of one such link, a process of its own: nothing of it runs beside the
//! devices.

mod frames;
mod tap;
pub mod user;

pub use frames::Frames;
pub use tap::Tap;

use std::os::fd::BorrowedFd;

/// Bytes of `struct virtio_net_hdr_v1` (section 5.1.6), which precede every frame here.
pub const HEADER: usize = 12;
/// The longest frame: an IP packet of 65535 bytes, and an Ethernet header with a VLAN tag.
/// Bounds what a guest makes us copy at once.
pub const MAX_FRAME: usize = 65535 + 18;
/// Length of the shortest frame, an Ethernet header.
pub const MIN_FRAME: usize = 14;

/// What a link can take over from a guest, or a guest from its link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames from the guest may lack their TCP or UDP checksum.
    pub checksum_from_guest: bool,
    /// Frames to the guest may.
    pub checksum_to_guest: bool,
    /// TCP segments longer than the link's MTU, both ways.
    pub segments_from_guest: bool,
    pub segments_to_guest: bool,
}

/// A place whole Ethernet frames go to and come from, each behind `HEADER` bytes.
///
/// Full or empty means "later", not an error: wait for `fd`. A link whose other end is
/// gone takes everything and gives nothing.
pub trait Link: Send {
    /// What may be negotiated with the guest.
    fn offloads(&self) -> Offloads;

    /// What was.
    fn accept(&mut self, offloads: Offloads);

    /// Hands on a header and the frame behind it. False: not now.
    fn send(&mut self, packet: &[u8]) -> bool;

    /// The next frame, with its header, and how long both are together. `buffer` holds
    /// `HEADER + MAX_FRAME` bytes.
    fn recv(&mut self, buffer: &mut [u8]) -> Option<usize>;

    /// Whether frames can still come. If not, `fd` must not be waited for.
    fn is_alive(&self) -> bool;

    fn fd(&self) -> BorrowedFd<'_>;
}
