// SPDX-License-Identifier: Apache-2.0
//! The guest's side of a device, for tests: a driver that places buffers, kicks, reads the
//! used ring and sees interrupts, and that can do each of these wrong.
//!
//! Everything runs on the test's thread: `turn` plays the event thread.

use super::device::VirtioDevice;
use super::state::TransportState;
use super::transport::{Mmio, QUEUE_NOTIFY};
use crate::bus::Device as _;
use crate::events::Loop;
use crate::irq::IrqLine;
use crate::memory::GuestRam;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_memory::{Bytes as _, GuestAddress};

pub const MEMORY: u64 = 8 << 20;
pub const VERSION_1: u64 = 1 << 32;
pub const INDIRECT: u64 = 1 << 28;
pub const EVENT_IDX: u64 = 1 << 29;

/// Each queue's rings lie in a page triple of their own; buffers come after them.
const RINGS: u64 = 0x1_0000;
const RINGS_PER_QUEUE: u64 = 0x4000;
const BUFFERS: u64 = 0x10_0000;
/// No test waits longer for anything.
const DEADLINE: Duration = Duration::from_secs(20);

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT_TABLE: u16 = 4;

/// Descriptors of every kind of wrong, and some that are right.
pub fn any_descriptor() -> impl Strategy<Value = RawDescriptor> {
    let address = prop_oneof![0..MEMORY + 64, Just(0x1_0000), any::<u64>()];
    let length = prop_oneof![0..64u32, 0..0x20_0000u32, any::<u32>()];
    let flags = prop_oneof![0..8u16, any::<u16>()];
    let next = prop_oneof![0..70u16, any::<u16>()];
    (address, length, flags, next).prop_map(|(address, length, flags, next)| RawDescriptor {
        address,
        length,
        flags,
        next,
    })
}

/// A descriptor as it lies in the table.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawDescriptor {
    pub address: u64,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

impl RawDescriptor {
    pub fn store(self, memory: &GuestRam, at: u64) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        memory
            .write_slice(&bytes, GuestAddress(at))
            .expect("tables lie in memory");
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct RingState {
    size: u16,
    free: u16,
    available: u16,
    used: u16,
}

/// A driver with its device, its memory and its event loop.
pub struct Driver {
    pub memory: Arc<GuestRam>,
    pub mmio: Arc<Mmio>,
    pub events: Loop,
    rings: Vec<RingState>,
    cursor: u64,
}

impl Driver {
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let ranges = [(GuestAddress(0), usize::try_from(MEMORY).expect("small"))];
        let memory = Arc::new(GuestRam::from_ranges(&ranges).expect("memory"));
        let irq = IrqLine::new().expect("eventfd");
        let mmio = Mmio::new(device, memory.clone(), irq, None).expect("eventfds");
        let mut events = Loop::new().expect("epoll");
        events.add(mmio.clone());
        Self {
            memory,
            mmio,
            events,
            rings: Vec::new(),
            cursor: BUFFERS,
        }
    }

    /// A driver that went through section 3.1.1 and uses every queue.
    pub fn started(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut driver = Self::new(device);
        driver.start(features);
        driver
    }

    /// Its device's state, as it comes back from a file.
    pub fn saved(&self) -> TransportState {
        let state = self.mmio.save().expect("at rest");
        let bytes = postcard::to_stdvec(&state).expect("data");
        postcard::from_bytes(&bytes).expect("the same data")
    }

    /// The same guest in another machine, with memory of its own and a fresh device, which
    /// nobody has told of yet.
    pub fn copied(&self, device: Box<dyn VirtioDevice>) -> Self {
        let mut copy = Self::new(device);
        let mut bytes = vec![0; usize::try_from(MEMORY).expect("small")];
        let zero = GuestAddress(0);
        self.memory.read_slice(&mut bytes, zero).expect("all of it");
        copy.memory.write_slice(&bytes, zero).expect("all of it");
        copy.rings.clone_from(&self.rings);
        copy.cursor = self.cursor;
        copy
    }

    /// The same guest, restored.
    pub fn restored(&self, device: Box<dyn VirtioDevice>) -> Self {
        let state = self.saved();
        let mut copy = self.copied(device);
        copy.mmio.restore(&state).expect("its own state");
        let again = copy.saved();
        assert_eq!(again, state, "nothing is lost before it works");
        copy.settle();
        copy
    }

    pub fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.mmio.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&self, offset: u64, value: u32) {
        self.mmio.write(offset, &value.to_le_bytes());
    }

    pub fn config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.mmio.read(0x100 + offset, &mut data);
        data
    }

    pub fn write_config(&self, offset: u64, value: u8) {
        self.mmio.write(0x100 + offset, &[value]);
    }

    /// Writes a balloon's `actual`.
    pub fn mmio_actual(&self, pages: u32) {
        self.mmio.write(0x104, &pages.to_le_bytes());
    }

    pub fn status(&self) -> u32 {
        self.read(0x70)
    }

    pub fn offered(&self) -> u64 {
        self.write(0x14, 0);
        let low = self.read(0x10);
        self.write(0x14, 1);
        u64::from(low) | u64::from(self.read(0x10)) << 32
    }

    pub fn accept(&self, features: u64) {
        self.write(0x24, 0);
        self.write(0x20, u32::try_from(features & 0xffff_ffff).expect("masked"));
        self.write(0x24, 1);
        self.write(0x20, u32::try_from(features >> 32).expect("shifted"));
    }

    pub fn start(&mut self, features: u64) {
        self.negotiate(features);
        let mut index = 0;
        while self.queue_max(index) != 0 {
            self.set_up_queue(index);
            index += 1;
        }
        self.write(0x70, 15);
        assert_eq!(self.status(), 15, "driver ok");
        self.settle();
    }

    pub fn negotiate(&mut self, features: u64) {
        self.write(0x70, 0);
        self.rings.clear();
        self.cursor = BUFFERS;
        self.write(0x70, 1);
        self.write(0x70, 3);
        self.accept(features | VERSION_1);
        self.write(0x70, 11);
        assert_eq!(self.status(), 11, "features ok");
    }

    fn queue_max(&self, index: usize) -> u32 {
        self.write(0x30, u32::try_from(index).expect("few queues"));
        self.read(0x34)
    }

    pub fn queue_count(&self) -> usize {
        self.rings.len()
    }

    pub fn rings_of(index: usize) -> [u64; 3] {
        let at = RINGS + RINGS_PER_QUEUE * index as u64;
        [at, at + 0x2000, at + 0x3000]
    }

    pub fn set_up_queue(&mut self, index: usize) {
        let size = u16::try_from(self.queue_max(index).min(256)).expect("bounded");
        let [descriptors, available, used] = Self::rings_of(index);
        let zeros = vec![0; usize::try_from(RINGS_PER_QUEUE).expect("small")];
        self.memory
            .write_slice(&zeros, GuestAddress(descriptors))
            .expect("rings");
        self.write(0x38, u32::from(size));
        for (register, address) in [(0x80, descriptors), (0x90, available), (0xa0, used)] {
            self.write(register, u32::try_from(address).expect("low memory"));
            self.write(register + 4, 0);
        }
        self.write(0x44, 1);
        assert_eq!(self.read(0x44), 1, "queue {index} ready");
        self.rings
            .resize(self.rings.len().max(index + 1), RingState::default());
        self.rings[index] = RingState {
            size,
            ..RingState::default()
        };
    }

    /// A piece of guest memory nothing else uses. Wraps around at the end of memory.
    pub fn allocate(&mut self, length: usize) -> u64 {
        let length = (length as u64 + 63) & !63;
        if self.cursor + length > MEMORY {
            self.cursor = BUFFERS;
        }
        let at = self.cursor;
        self.cursor += length;
        at
    }

    pub fn place(&mut self, data: &[u8]) -> u64 {
        let at = self.allocate(data.len());
        self.memory
            .write_slice(data, GuestAddress(at))
            .expect("allocated");
        at
    }

    pub fn fetch(&self, at: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.memory
            .read_slice(&mut data, GuestAddress(at))
            .expect("allocated");
        data
    }

    /// Offers one chain: `readable` and `writable` are (address, length) pairs.
    /// Returns the head's index. Does not kick.
    pub fn offer(&mut self, queue: usize, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u16 {
        let flagged = |list: &[(u64, u32)], flags| {
            let descriptor = move |&(address, length)| RawDescriptor {
                address,
                length,
                flags,
                next: 0,
            };
            list.iter().map(descriptor).collect::<Vec<_>>()
        };
        let mut chain = flagged(readable, 0);
        chain.extend(flagged(writable, WRITE));
        let size = self.rings[queue].size;
        let head = self.rings[queue].free;
        let count = chain.len();
        for (position, descriptor) in chain.iter_mut().enumerate() {
            let index = (head + u16::try_from(position).expect("short")) % size;
            if position + 1 < count {
                descriptor.flags |= NEXT;
                descriptor.next = (index + 1) % size;
            }
            self.store(queue, index, *descriptor);
        }
        self.rings[queue].free = (head + u16::try_from(count).expect("short")) % size;
        self.make_available(queue, head);
        head
    }

    /// Writes one entry of a queue's own descriptor table.
    pub fn store(&self, queue: usize, index: u16, descriptor: RawDescriptor) {
        let [table, ..] = Self::rings_of(queue);
        descriptor.store(&self.memory, table + 16 * u64::from(index));
    }

    pub fn make_available(&mut self, queue: usize, head: u16) {
        let [_, available, _] = Self::rings_of(queue);
        let ring = &mut self.rings[queue];
        let slot = available + 4 + 2 * u64::from(ring.available % ring.size);
        ring.available = ring.available.wrapping_add(1);
        let index = ring.available;
        self.set_u16(slot, head);
        self.set_u16(available + 2, index);
    }

    pub fn set_u16(&self, at: u64, value: u16) {
        self.memory
            .write_obj(value.to_le(), GuestAddress(at))
            .expect("rings lie in memory");
    }

    pub fn get_u16(&self, at: u64) -> u16 {
        let value: u16 = self.memory.read_obj(GuestAddress(at)).expect("in memory");
        u16::from_le(value)
    }

    /// Writes QueueNotify.
    pub fn kick(&self, queue: usize) {
        self.write(QUEUE_NOTIFY, u32::try_from(queue).expect("few queues"));
    }

    /// The next used chain: its head and how many bytes the device says it wrote.
    pub fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let [_, _, used] = Self::rings_of(queue);
        let ring = &mut self.rings[queue];
        let index: u16 = self.memory.read_obj(GuestAddress(used + 2)).expect("ring");
        if u16::from_le(index) == ring.used {
            return None;
        }
        let slot = used + 4 + 8 * u64::from(ring.used % ring.size);
        ring.used = ring.used.wrapping_add(1);
        let head: u32 = self.memory.read_obj(GuestAddress(slot)).expect("ring");
        let length: u32 = self.memory.read_obj(GuestAddress(slot + 4)).expect("ring");
        Some((u16::try_from(head).expect("heads are small"), length))
    }

    /// Whether `used` would return something.
    pub fn peek_used(&self, queue: usize) -> bool {
        let [.., used] = Self::rings_of(queue);
        self.get_u16(used + 2) != self.rings[queue].used
    }

    /// Interrupts since the last call.
    pub fn interrupts(&self) -> u64 {
        self.mmio.irq().take()
    }

    /// Lets the event thread do all it can do without waiting.
    pub fn settle(&mut self) {
        let end = Instant::now() + DEADLINE;
        while self.events.turn(0).expect("event loop") > 0 {
            assert!(Instant::now() < end, "the device never comes to rest");
        }
    }

    /// Runs the event thread until `done` says so.
    pub fn until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            assert!(Instant::now() < end, "nothing happened");
            self.events.turn(10).expect("event loop");
        }
    }

    /// Offers a chain, kicks, and waits until it is used.
    pub fn request(&mut self, queue: usize, out: &[(u64, u32)], into: &[(u64, u32)]) -> u32 {
        let head = self.offer(queue, out, into);
        self.kick(queue);
        let (used, length) = self.until(|driver| driver.used(queue));
        assert_eq!(used, head);
        length
    }
}
