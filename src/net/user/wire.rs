// SPDX-License-Identifier: Apache-2.0
//! Joins the TCP stack to the guest's link: one packet in at a time, packets out as the
//! link takes them. The thread of `husk net`; never waits.

use super::frame::{self, ETHERNET};
use crate::config::net::Addresses;
use crate::net::{Frames, HEADER, Link as _, MAX_FRAME};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::phy::{RxToken, TxToken};
use smoltcp::time::Instant;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

pub struct Wire {
    link: Frames,
    own: Addresses,
    inbound: Option<Vec<u8>>,
    /// Frames the link did not take. While there are any, the stack makes no new ones but
    /// the answer to the packet it has: this bounds the queue to a few.
    waiting: VecDeque<Vec<u8>>,
    scratch: Vec<u8>,
}

impl Wire {
    pub fn new(link: Frames, own: Addresses) -> Self {
        Self {
            link,
            own,
            inbound: None,
            waiting: VecDeque::new(),
            scratch: vec![0; HEADER + MAX_FRAME],
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.link.fd()
    }

    pub fn is_alive(&self) -> bool {
        self.link.is_alive()
    }

    /// Whether the link takes no more for now.
    pub fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next frame of the guest, into `buffer`, which holds `HEADER + MAX_FRAME` bytes.
    pub fn read<'b>(&mut self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let length = self.link.recv(buffer)?;
        buffer.get(HEADER..length)
    }

    /// The packet the stack will receive next.
    pub fn offer(&mut self, packet: &[u8]) {
        self.inbound = Some(packet.to_vec());
    }

    /// Sends a frame, or queues it. For answers to one frame of the guest, after which no
    /// other is read until the queue is empty.
    pub fn send(&mut self, frame: &[u8]) {
        let length = HEADER + frame.len();
        if let Some(room) = self.scratch.get_mut(HEADER..length) {
            room.copy_from_slice(frame);
            self.hand_on(length);
        }
    }

    /// Sends a frame unless that has to wait: datagrams may be lost.
    pub fn send_or_drop(&mut self, frame: &[u8]) {
        if !self.is_full() {
            self.send(frame);
        }
    }

    /// Sends what waits. True once nothing does.
    pub fn flush(&mut self) -> bool {
        while let Some(packet) = self.waiting.front() {
            if !self.link.send(packet) {
                return false;
            }
            self.waiting.pop_front();
        }
        true
    }

    fn hand_on(&mut self, length: usize) {
        let packet = self.scratch.get(..length).unwrap_or_default();
        if !self.waiting.is_empty() || !self.link.send(packet) {
            self.waiting.push_back(packet.to_vec());
        }
    }
}

pub struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub struct Room<'w>(&'w mut Wire);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let start = HEADER + ETHERNET;
        // The stack keeps to the MTU it is told, which is less than the scratch holds.
        let end = (start + length).min(self.0.scratch.len());
        let result = f(&mut self.0.scratch[start..end]);
        frame::address(&mut self.0.scratch[HEADER..end], &self.0.own);
        self.0.hand_on(end);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Room<'_>)> {
        let packet = self.inbound.take()?;
        Some((Received(packet), Room(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        (!self.is_full()).then_some(Room(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        // The guest leaves these to us, and what comes from its memory needs no check.
        checksum.tcp = Checksum::Tx;
        checksum.udp = Checksum::Tx;
        checksum.ipv4 = Checksum::Tx;
        let mut own = DeviceCapabilities::default();
        own.medium = Medium::Ip;
        own.max_transmission_unit = usize::from(self.own.mtu);
        own.checksum = checksum;
        own
    }
}
