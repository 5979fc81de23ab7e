// SPDX-License-Identifier: Apache-2.0
//! A virtqueue: takes chains of buffers from the driver and gives them back used.
//!
//! Event thread only. The rings (indices, fences, event index) are `virtio_queue::Queue`;
//! walking a chain is done here, because that crate ends a malformed chain silently and
//! keeps its buffers to itself: a device must know that a chain is bad, and reads and
//! writes files straight from guest memory. Every descriptor is read once, so a driver
//! that changes it meanwhile gains nothing.

use super::fault::GuestFault;
use super::state::Progress;
use crate::memory::GuestRam;
use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue as Ring, QueueOwnedT as _, QueueState, QueueT as _};
use vm_memory::guest_memory::GuestMemory as _;
use vm_memory::{Bytes as _, GuestAddress, Permissions, VolatileSlice};

/// The most bytes one chain may describe. Stops a guest from keeping the event thread
/// busy, and all its other devices waiting, with one request.
pub const MAX_CHAIN_BYTES: usize = 16 << 20;

/// VIRTQ_AVAIL_F_NO_INTERRUPT, section 2.7.6.
const NO_INTERRUPT: u16 = 1;
const DESCRIPTOR_SIZE: u64 = 16;

/// Where a driver placed a queue; as untrusted as everything the driver says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

/// One queue, which may not be set up yet.
#[derive(Debug, Default)]
pub struct Queue {
    ring: Option<Ring>,
    added: bool,
    /// Bytes a chain may describe, where that is more than `MAX_CHAIN_BYTES`.
    allowed: usize,
    /// Index of the used ring when the driver was last thought of.
    told: u16,
}

impl Queue {
    /// Sets the queue up where the driver asks, or fails if it cannot lie there.
    pub fn place(
        &mut self,
        at: Placement,
        max_size: u16,
        event_idx: bool,
        memory: &GuestRam,
    ) -> Option<()> {
        let state = QueueState {
            max_size,
            next_avail: 0,
            next_used: 0,
            event_idx_enabled: event_idx,
            size: at.size,
            ready: true,
            desc_table: at.descriptors,
            avail_ring: at.available,
            used_ring: at.used,
        };
        let ring = Ring::try_from(state).ok()?;
        // The crate takes a ring at address zero for one that was never set up.
        (at.available != 0 && ring.is_valid(memory)).then_some(())?;
        *self = Self {
            ring: Some(ring),
            added: false,
            allowed: 0,
            told: 0,
        };
        Some(())
    }

    /// Entries; zero if it is not in use.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.ring.as_ref().map_or(0, |ring| ring.size())
    }

    /// How far it has come; none if it is not in use.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.ring.as_ref().map(|ring| Progress {
            next_avail: ring.next_avail(),
            next_used: ring.next_used(),
            told: self.told,
        })
    }

    /// Goes on from where a queue stood. False if it cannot have stood there: a chain is
    /// given back after it was taken, and at most the whole ring is on offer. None if it is
    /// not in use.
    pub fn resume(&mut self, at: Progress, memory: &GuestRam) -> Option<bool> {
        let ring = self.ring.as_mut()?;
        ring.set_next_avail(at.next_avail);
        ring.set_next_used(at.next_used);
        self.told = at.told;
        let size = ring.size();
        let waiting = self.offered(memory)?.wrapping_sub(at.next_avail);
        let under_way = at.next_avail.wrapping_sub(at.next_used);
        Some(waiting <= size && under_way <= size)
    }

    /// Lets chains describe more than `MAX_CHAIN_BYTES`, for a device that has little to do
    /// for each byte. Until the queue is set up anew.
    pub fn allow(&mut self, bytes: usize) {
        self.allowed = bytes;
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ring.is_some()
    }

    /// The next chain, if the driver has offered one. `Err` carries the head of a chain
    /// that is malformed but can be given back, or none if the ring itself is broken.
    pub fn pop<'m>(
        &mut self,
        memory: &'m GuestRam,
    ) -> Result<Option<Chain<'m>>, (GuestFault, Option<u16>)> {
        let Some(ring) = &mut self.ring else {
            return Ok(None);
        };
        let head = match ring.iter(memory) {
            Ok(mut heads) => heads.next().map(|chain| chain.head_index()),
            Err(_) => return Err((GuestFault::AvailIndex, None)),
        };
        let Some(head) = head else { return Ok(None) };
        if head >= ring.size() {
            // There is no way to give such a chain back, so the ring is of no more use.
            return Err((GuestFault::AvailIndex, None));
        }
        let most = self.allowed.max(MAX_CHAIN_BYTES);
        Chain::walk(memory, (ring.desc_table(), ring.size()), head, most)
            .map(Some)
            .map_err(|fault| (fault, Some(head)))
    }

    /// Undoes the last `pop`: the same chain comes again.
    pub fn unpop(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.go_to_previous_position();
        }
    }

    /// Gives a chain back, `written` bytes of it filled.
    pub fn put(&mut self, memory: &GuestRam, head: u16, written: u32) {
        if let Some(ring) = &mut self.ring {
            // Head and ring were both checked: this cannot fail.
            self.added |= ring.add_used(memory, head, written).is_ok();
        }
    }

    /// Gives several chains back at once: the driver sees all of them or none. One frame in
    /// several buffers must not be seen in part (section 5.1.6.4).
    pub fn put_together(&mut self, memory: &GuestRam, chains: &[(u16, u32)]) {
        let Some(ring) = &mut self.ring else { return };
        let (used, size) = (ring.used_ring(), ring.size());
        let mut next = ring.next_used();
        for &(head, written) in chains {
            let mut element = [0; 8];
            element[..2].copy_from_slice(&head.to_le_bytes());
            element[4..].copy_from_slice(&written.to_le_bytes());
            let slot = used + 4 + 8 * u64::from(next % size);
            // The ring was checked to lie in memory: this cannot fail.
            let _ = memory.write_slice(&element, GuestAddress(slot));
            next = next.wrapping_add(1);
        }
        let index = GuestAddress(used + 2);
        self.added |= memory.store(next.to_le(), index, Ordering::Release).is_ok();
        ring.set_next_used(next);
    }

    /// Whether the driver wants to hear of the chains put since the last call.
    pub fn needs_interrupt(&mut self, memory: &GuestRam) -> bool {
        let Some(ring) = &mut self.ring else {
            return false;
        };
        if !std::mem::take(&mut self.added) {
            return false;
        }
        // Our index is out before we look at the driver's wish (section 2.7.7.2).
        fence(Ordering::SeqCst);
        let available = ring.avail_ring();
        if ring.event_idx_enabled() {
            let (new, old) = (
                ring.next_used(),
                std::mem::replace(&mut self.told, ring.next_used()),
            );
            let event = GuestAddress(available + 4 + 2 * u64::from(ring.size()));
            let event = memory
                .load::<u16>(event, Ordering::Relaxed)
                .map(u16::from_le);
            // Section 2.7.10: whether the index the driver named was passed just now.
            return event.is_ok_and(|event| {
                new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
            });
        }
        let flags = memory.load::<u16>(GuestAddress(available), Ordering::Relaxed);
        flags.is_ok_and(|flags| u16::from_le(flags) & NO_INTERRUPT == 0)
    }

    /// Asks the driver not to kick while we look anyway.
    pub fn mute(&mut self, memory: &GuestRam) {
        if let Some(ring) = &mut self.ring {
            let _ = ring.disable_notification(memory);
        }
    }

    /// The driver's index: how many chains it ever offered. None if it is not in use.
    #[must_use]
    pub fn offered(&self, memory: &GuestRam) -> Option<u16> {
        let ring = self.ring.as_ref()?;
        Some(ring.avail_idx(memory, Ordering::Acquire).ok()?.0)
    }

    /// Asks the driver to kick when it offers more than it had at `offered`, though there are
    /// chains that were not taken. True if it has done so already.
    pub fn await_beyond(&mut self, memory: &GuestRam, offered: u16) -> bool {
        let Some(ring) = &mut self.ring else {
            return false;
        };
        let here = ring.next_avail();
        ring.set_next_avail(offered);
        let more = ring.enable_notification(memory).unwrap_or(false);
        ring.set_next_avail(here);
        more
    }

    /// Asks the driver to kick again. True if chains arrived in between: look once more.
    pub fn unmute(&mut self, memory: &GuestRam) -> bool {
        let ring = self.ring.as_mut();
        ring.is_some_and(|ring| ring.enable_notification(memory).unwrap_or(false))
    }
}

/// One request: the buffers the driver filled, then those it wants filled.
#[derive(Debug)]
pub struct Chain<'m> {
    pub head: u16,
    pub readable: Buffers<'m>,
    pub writable: Buffers<'m>,
}

impl<'m> Chain<'m> {
    fn walk(
        memory: &'m GuestRam,
        (table, size): (u64, u16),
        head: u16,
        most: usize,
    ) -> Result<Self, GuestFault> {
        let mut chain = Self {
            head,
            readable: Buffers::default(),
            writable: Buffers::default(),
        };
        let (mut table, mut entries, mut index) = (table, size, head);
        let (mut bytes, mut indirect) = (0usize, false);
        // A chain may not be longer than its queue (section 2.7.5.3.1); one that loops is.
        // The descriptor that refers to an indirect table does not count.
        for _ in 0..=size {
            let descriptor = read_descriptor(memory, table, entries, index)?;
            if descriptor.refers_to_indirect_table() {
                let count = descriptor.len() / 16;
                if indirect || descriptor.has_next() || descriptor.len() % 16 != 0 {
                    return Err(GuestFault::Indirect);
                }
                entries = u16::try_from(count).map_err(|_| GuestFault::Indirect)?;
                (table, index, indirect) = (descriptor.addr().0, 0, true);
                continue;
            }
            bytes = bytes.saturating_add(descriptor.len() as usize);
            if bytes > most {
                return Err(GuestFault::ChainBytes);
            }
            chain.append(memory, &descriptor)?;
            if !descriptor.has_next() {
                return Ok(chain);
            }
            index = descriptor.next();
        }
        Err(GuestFault::ChainLength)
    }

    fn append(&mut self, memory: &'m GuestRam, descriptor: &Descriptor) -> Result<(), GuestFault> {
        let buffers = if descriptor.is_write_only() {
            &mut self.writable
        } else if self.writable.is_empty() {
            &mut self.readable
        } else {
            return Err(GuestFault::BufferOrder);
        };
        let outside = GuestFault::BufferRange(descriptor.addr().0, descriptor.len());
        let slices = memory
            .get_slices(
                descriptor.addr(),
                descriptor.len() as usize,
                Permissions::ReadWrite,
            )
            .map_err(|_| outside)?;
        for slice in slices {
            buffers.push(slice.map_err(|_| outside)?);
        }
        Ok(())
    }
}

fn read_descriptor(
    memory: &GuestRam,
    table: u64,
    entries: u16,
    index: u16,
) -> Result<Descriptor, GuestFault> {
    if index >= entries {
        return Err(GuestFault::DescriptorIndex(index));
    }
    let address = table.checked_add(u64::from(index) * DESCRIPTOR_SIZE);
    address
        .and_then(|address| memory.read_obj(GuestAddress(address)).ok())
        .ok_or(GuestFault::Indirect)
}

/// A run of guest buffers, consumed from the front.
#[derive(Debug, Default)]
pub struct Buffers<'m> {
    slices: VecDeque<VolatileSlice<'m>>,
    length: usize,
}

impl<'m> Buffers<'m> {
    /// Bytes left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn push(&mut self, slice: VolatileSlice<'m>) {
        if !slice.is_empty() {
            self.length += slice.len();
            self.slices.push_back(slice);
        }
    }

    /// The slices left, to read a file into or write one from; follow with `advance`.
    pub fn slices(&mut self) -> &[VolatileSlice<'m>] {
        self.slices.make_contiguous()
    }

    /// Takes the first `count` bytes off, or nothing if there are fewer.
    pub fn split(&mut self, count: usize) -> Result<Self, GuestFault> {
        if count > self.length {
            return Err(GuestFault::TooShort);
        }
        let mut front = Self::default();
        while front.length < count {
            let slice = self.slices.pop_front().ok_or(GuestFault::TooShort)?;
            let (taken, rest) = slice
                .split_at(slice.len().min(count - front.length))
                .map_err(|_| GuestFault::TooShort)?;
            self.length -= slice.len();
            front.push(taken);
            if !rest.is_empty() {
                self.length += rest.len();
                self.slices.push_front(rest);
            }
        }
        Ok(front)
    }

    /// Skips `count` bytes.
    pub fn advance(&mut self, count: usize) -> Result<(), GuestFault> {
        self.split(count).map(|_| ())
    }

    /// Copies bytes out of the guest, all that `data` holds or none.
    pub fn read(&mut self, data: &mut [u8]) -> Result<(), GuestFault> {
        let mut done = 0;
        for slice in self.split(data.len())?.slices {
            done += slice.copy_to(&mut data[done..]);
        }
        Ok(())
    }

    /// Copies bytes into the guest, all of `data` or none.
    pub fn write(&mut self, data: &[u8]) -> Result<(), GuestFault> {
        let mut done = 0;
        for slice in self.split(data.len())?.slices {
            slice.copy_from(&data[done..]);
            done += slice.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryBackend as _;

    #[test]
    fn buffers_are_taken_whole_or_not_at_all() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).expect("memory");
        memory
            .write_slice(b"one, two", GuestAddress(0))
            .expect("inside");
        let mut buffers = Buffers::default();
        for (at, length) in [(0, 3), (100, 0), (5, 3)] {
            let slice = memory.get_slice(GuestAddress(at), length);
            buffers.push(slice.expect("inside"));
        }
        assert_eq!(buffers.slices().len(), 2, "nothing is no slice");
        let mut data = [0; 7];
        assert_eq!(buffers.read(&mut data), Err(GuestFault::TooShort));
        assert_eq!((buffers.len(), data), (6, [0; 7]));

        buffers.advance(1).expect("there is more");
        let mut front = buffers.split(3).expect("there is more");
        let mut data = [0; 3];
        front.read(&mut data).expect("just split");
        assert_eq!((&data, front.len(), buffers.len()), (b"net", 0, 2));
        buffers.write(b"ea").expect("room");
        assert!(buffers.is_empty());
        let mut seen = [0; 8];
        memory
            .read_slice(&mut seen, GuestAddress(0))
            .expect("inside");
        assert_eq!(&seen, b"one, tea");
    }
}
