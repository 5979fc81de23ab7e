// SPDX-License-Identifier: Apache-2.0
//! A link over a tap interface of the host, whose kernel speaks virtio's own header:
//! checksums and segments pass through uncut. Event thread; never waits.

use super::{HEADER, Link, Offloads};
use crate::sys::tap;
use nix::errno::Errno;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

pub struct Tap {
    fd: OwnedFd,
    alive: bool,
}

impl Tap {
    /// `fd` is attached to its interface, with virtio headers of `HEADER` bytes, and does
    /// not block.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, alive: true }
    }
}

impl Link for Tap {
    fn offloads(&self) -> Offloads {
        Offloads {
            checksum_from_guest: true,
            checksum_to_guest: true,
            segments_from_guest: true,
            segments_to_guest: true,
        }
    }

    fn accept(&mut self, offloads: Offloads) {
        // If the kernel refuses, it computes checksums and cuts segments itself.
        let _ = tap::set_offloads(
            self.fd.as_fd(),
            offloads.checksum_to_guest,
            offloads.segments_to_guest,
        );
    }

    fn send(&mut self, packet: &[u8]) -> bool {
        match nix::unistd::write(&self.fd, packet) {
            Err(Errno::EAGAIN) => false,
            // An interface that is down, or a header the kernel finds wrong: a lost frame.
            Ok(_) | Err(_) => true,
        }
    }

    fn recv(&mut self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match nix::unistd::read(&self.fd, buffer) {
                Ok(length) if length > HEADER => return Some(length),
                Ok(0) | Err(Errno::EBADFD) => self.alive = false,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => {}
            }
            return None;
        }
    }

    fn is_alive(&self) -> bool {
        self.alive
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
