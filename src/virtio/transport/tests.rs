// SPDX-License-Identifier: Apache-2.0
//! The transport and its queues from the driver's side, polite and hostile.

use crate::bus::Device as _;
use crate::events::{EventSet, Interest, Token, Watch};
use crate::memory::GuestRam;
use crate::virtio::device::{Io, Kind, Verdict, VirtioDevice, read_config};
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::MAX_CHAIN_BYTES;
use crate::virtio::testing::{
    Driver, EVENT_IDX, INDIRECT, INDIRECT_TABLE, MEMORY, NEXT, RawDescriptor, VERSION_1, WRITE,
    any_descriptor,
};
use proptest::prelude::*;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

type Refill = Option<(Arc<GuestRam>, u32)>;

/// Answers each request with the bytes it was sent; config changes when its source is ready.
pub(super) struct Echo {
    pub(super) log: Arc<Mutex<Vec<&'static str>>>,
    bell: EventFd,
    rings: u8,
    /// Plays a guest that offers another chain while one is served, so many times.
    refill: Arc<Mutex<Refill>>,
}

impl Echo {
    pub(super) fn boxed() -> Box<Self> {
        Box::new(Self {
            log: Arc::default(),
            bell: EventFd::new(libc::EFD_NONBLOCK).expect("eventfd"),
            rings: 0,
            refill: Arc::default(),
        })
    }

    fn interest(&self) -> Interest {
        Interest {
            fd: self.bell.as_raw_fd(),
            token: 3,
            events: EventSet::IN,
        }
    }

    fn note(&self, what: &'static str) {
        self.log.lock().expect("no panic").push(what);
    }
}

pub(super) const FEATURE: u64 = 1 << 7;

impl VirtioDevice for Echo {
    fn kind(&self) -> Kind {
        Kind {
            id: 42,
            name: "echo",
        }
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[64, 16]
    }
    fn features(&self) -> u64 {
        FEATURE
    }
    fn config(&self, offset: u64, data: &mut [u8]) {
        read_config(&[0xa0, 0xa1, 0xa2, self.rings], offset, data);
    }
    fn activate(&mut self, _features: u64, io: &mut Io<'_>) {
        self.note("activate");
        io.watch.add(self.interest()).expect("watched once");
    }
    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), GuestFault> {
        let refill = self.refill.clone();
        io.serve(index, |chain| {
            if let Some((memory, left @ 1..)) = &mut *refill.lock().expect("no panic") {
                *left -= 1;
                let [_, available, _] = Driver::rings_of(0);
                let at = GuestAddress(available + 2);
                let next: u16 = memory.read_obj(at).expect("in memory");
                memory
                    .write_obj(next.wrapping_add(1), at)
                    .expect("in memory");
            }
            let mut data = vec![0; chain.readable.len()];
            chain.readable.read(&mut data)?;
            chain.writable.write(&data)?;
            Ok(Verdict::Done(u32::try_from(data.len()).expect("capped")))
        })
    }
    fn process_source(
        &mut self,
        token: Token,
        _events: EventSet,
        io: &mut Io<'_>,
    ) -> Result<(), GuestFault> {
        assert_eq!(token, 3);
        self.bell.read().expect("it rang");
        self.rings += 1;
        io.irq.config();
        Ok(())
    }
    fn deactivate(&mut self, watch: &mut dyn Watch) {
        self.note("deactivate");
        watch.remove(self.interest()).expect("was watched");
    }
}

pub(super) fn echo(driver: &mut Driver, text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("short");
    let (from, to) = (driver.place(text), driver.allocate(text.len()));
    assert_eq!(
        driver.request(0, &[(from, length)], &[(to, length)]),
        length
    );
    driver.fetch(to, text.len())
}

#[test]
fn the_registers_identify_the_device() {
    let driver = Driver::new(Echo::boxed());
    let ids = [0, 4, 8, 0xc].map(|offset| driver.read(offset));
    assert_eq!(ids, [0x7472_6976, 2, 42, 0x6b73_7568]);
    assert_eq!(driver.offered(), FEATURE | INDIRECT | EVENT_IDX | VERSION_1);
    driver.write(0x14, 2);
    assert_eq!(driver.read(0x10), 0, "there are 64 feature bits");
    driver.write(0x30, 1);
    assert_eq!(driver.read(0x34), 16);
    driver.write(0x30, 2);
    assert_eq!(driver.read(0x34), 0, "no such queue");
    assert_eq!(driver.read(0xb0), u32::MAX, "no shared memory");
    assert_eq!(driver.config::<2>(1), [0xa1, 0xa2]);
    assert_eq!(driver.config::<4>(2), [0xa2, 0, 0, 0]);
    assert_eq!(driver.mmio.fault_count(), 0);
}

#[test]
fn odd_accesses_read_zero_and_change_nothing() {
    let driver = Driver::new(Echo::boxed());
    let mut bytes = [0; 2];
    driver.mmio.read(0, &mut bytes);
    assert_eq!(bytes, [0; 2]);
    let mut wide = [0; 8];
    driver.mmio.read(0, &mut wide);
    assert_eq!(wide, [0; 8]);
    assert_eq!(driver.read(0x2), 0);
    assert_eq!(driver.read(0xf4), 0);
    driver.mmio.write(0x70, &[1]);
    driver.mmio.write(0x70, &[1; 8]);
    driver.write(0xf4, 1);
    driver.mmio.write(0xfff, &[1; 8]);
    driver.mmio.write(0x70, &[]);
    driver.mmio.read(u64::MAX, &mut wide);
    assert_eq!(driver.status(), 0);
    assert_eq!(driver.mmio.fault_count(), 8);
}

#[test]
fn features_the_device_lacks_are_refused_and_so_is_a_legacy_driver() {
    for features in [VERSION_1 | 1 << 8, FEATURE, VERSION_1 | 1 << 63] {
        let driver = Driver::new(Echo::boxed());
        driver.write(0x70, 1);
        driver.write(0x70, 3);
        driver.accept(features);
        driver.write(0x70, 11);
        assert_eq!(driver.status(), 3, "{features:#x}");
        driver.write(0x70, 7);
        assert_eq!(driver.status(), 3, "no DRIVER_OK without FEATURES_OK");
    }
}

#[test]
fn status_bits_are_never_taken_back_and_features_stay_as_agreed() {
    let mut driver = Driver::new(Echo::boxed());
    driver.write(0x70, 8);
    assert_eq!(driver.status(), 0, "no FEATURES_OK without DRIVER");
    driver.negotiate(0);
    let before = driver.mmio.fault_count();
    driver.write(0x70, 3);
    assert_eq!(driver.status(), 11);
    assert_eq!(driver.mmio.fault_count(), before + 1);
    let before = driver.mmio.fault_count();
    driver.accept(FEATURE);
    assert_eq!(driver.mmio.fault_count(), before + 2);
    driver.write(0x70, 0xffff_ff8b);
    assert_eq!(driver.status(), 0x8b, "unknown bits vanish, FAILED sticks");
    driver.write(0x70, 0x8f);
    assert_eq!(driver.status(), 0x8b, "a driver that failed does not go on");
    driver.write(0x70, 0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn a_request_is_answered_with_one_interrupt() {
    let mut driver = Driver::started(Echo::boxed(), 0);
    assert_eq!(echo(&mut driver, b"hello"), b"hello");
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(driver.read(0x60), 1);
    driver.write(0x64, 1);
    assert_eq!(driver.read(0x60), 0);
    assert_eq!(driver.mmio.fault_count(), 0);
}

#[test]
fn a_batch_costs_one_interrupt_and_every_chain_of_it_is_served() {
    let mut driver = Driver::started(Echo::boxed(), 0);
    let (from, to) = (driver.place(b"abc"), driver.allocate(64));
    for _ in 0..20 {
        driver.offer(0, &[(from, 3)], &[(to, 3)]);
    }
    driver.kick(0);
    driver.settle();
    let used: Vec<_> = std::iter::from_fn(|| driver.used(0)).collect();
    assert_eq!(used.len(), 20);
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn interrupts_the_driver_does_not_want_are_not_sent() {
    // By flag.
    let mut driver = Driver::started(Echo::boxed(), 0);
    let [_, available, _] = Driver::rings_of(0);
    driver.set_u16(available, 1);
    echo(&mut driver, b"quiet");
    assert_eq!(driver.interrupts(), 0);
    driver.set_u16(available, 0);
    echo(&mut driver, b"loud");
    assert_eq!(driver.interrupts(), 1);

    // By event index: "tell me once the third chain is used".
    let mut driver = Driver::started(Echo::boxed(), EVENT_IDX);
    let used_event = available + 4 + 2 * 64;
    driver.set_u16(used_event, 2);
    let expected = [0, 0, 1, 0];
    for (index, expected) in expected.into_iter().enumerate() {
        echo(&mut driver, b"x");
        assert_eq!(driver.interrupts(), expected, "chain {index}");
    }
    let [.., used] = Driver::rings_of(0);
    let avail_event = driver.get_u16(used + 4 + 8 * 64);
    assert_eq!(avail_event, 4, "the device wants a kick for the next chain");
}

#[test]
fn the_device_is_told_of_kicks_that_came_before_it_was_ready() {
    let mut driver = Driver::new(Echo::boxed());
    driver.negotiate(0);
    driver.set_up_queue(0);
    let (from, to) = (driver.place(b"early"), driver.allocate(8));
    driver.offer(0, &[(from, 5)], &[(to, 5)]);
    driver.kick(0);
    driver.settle();
    assert_eq!(driver.used(0), None, "not before DRIVER_OK");
    driver.write(0x70, 15);
    driver.settle();
    assert!(driver.used(0).is_some());
}

#[test]
fn an_indirect_table_is_followed_and_bad_ones_are_dropped() {
    let mut driver = Driver::started(Echo::boxed(), INDIRECT);
    let (from, to) = (driver.place(b"table"), driver.allocate(8));
    let table = driver.allocate(64);
    let entry = |address, flags, next| RawDescriptor {
        address,
        length: 5,
        flags,
        next,
    };
    entry(from, NEXT, 2).store(&driver.memory, table);
    entry(to, WRITE, 0).store(&driver.memory, table + 32);
    let refer = |address, length, flags| RawDescriptor {
        address,
        length,
        flags: INDIRECT_TABLE | flags,
        next: 0,
    };
    let mut run = |descriptor| {
        driver.store(0, 0, descriptor);
        driver.make_available(0, 0);
        driver.kick(0);
        driver.until(|driver| driver.used(0)).1
    };
    assert_eq!(run(refer(table, 48, 0)), 5);
    assert_eq!(run(refer(table, 48, WRITE)), 5, "the flag is ignored here");
    assert_eq!(run(refer(table, 32, 0)), 0, "entry 2 of 2");
    assert_eq!(run(refer(table, 47, 0)), 0, "not a whole table");
    assert_eq!(run(refer(table, 0, 0)), 0);
    assert_eq!(run(refer(table, 16 << 16, 0)), 0, "too long");
    assert_eq!(run(refer(table, 48, NEXT)), 0, "goes on after the table");
    assert_eq!(run(refer(u64::MAX - 15, 48, 0)), 0, "nowhere");
    // A table that refers to a second one, which would be fine by itself.
    let inner = driver.allocate(32);
    entry(from, NEXT, 1).store(&driver.memory, inner);
    entry(to, WRITE, 0).store(&driver.memory, inner + 16);
    refer(inner, 32, 0).store(&driver.memory, table);
    let mut again = |descriptor| {
        driver.store(0, 0, descriptor);
        driver.make_available(0, 0);
        driver.kick(0);
        driver.until(|driver| driver.used(0)).1
    };
    assert_eq!(again(refer(table, 48, 0)), 0, "a table in a table");
    assert_eq!(driver.mmio.fault_count(), 7);
    assert_eq!(driver.status(), 15);
}

#[test]
fn malformed_chains_come_back_empty_and_the_next_one_is_served() {
    let mut driver = Driver::started(Echo::boxed(), 0);
    let at = driver.place(b"data");
    let descriptor = |address, length, flags, next| RawDescriptor {
        address,
        length,
        flags,
        next,
    };
    let huge = u32::try_from(MAX_CHAIN_BYTES).expect("fits") + 1;
    let cases = [
        ("loops", descriptor(at, 4, NEXT, 0)),
        ("loops through nothing", descriptor(at, 0, NEXT, 0)),
        ("leaves the table", descriptor(at, 4, NEXT, 64)),
        ("leaves memory", descriptor(MEMORY - 2, 4, WRITE, 0)),
        ("wraps", descriptor(u64::MAX - 2, 4, 0, 0)),
        ("is huge", descriptor(0, huge, WRITE, 0)),
        ("is all there is", descriptor(0, u32::MAX, WRITE, 0)),
        ("has nowhere to answer", descriptor(at, 4, 0, 0)),
    ];
    for (faults, (what, bad)) in (1..).zip(cases) {
        driver.store(0, 0, bad);
        driver.make_available(0, 0);
        driver.kick(0);
        assert_eq!(driver.until(|driver| driver.used(0)), (0, 0), "{what}");
        assert_eq!(driver.mmio.fault_count(), faults, "{what}");
    }
    driver.store(0, 0, descriptor(at, 4, WRITE | NEXT, 1));
    driver.store(0, 1, descriptor(at, 4, 0, 0));
    driver.make_available(0, 0);
    driver.kick(0);
    assert_eq!(driver.until(|driver| driver.used(0)), (0, 0), "wrong order");
    // Every part lies in memory, but they are too many bytes.
    let part = (0, u32::try_from(MAX_CHAIN_BYTES / 2).expect("fits"));
    assert_eq!(driver.request(0, &[(at, 4)], &[part, part, (at, 1)]), 0);
    assert_eq!(driver.mmio.fault_count(), 10);
    assert_eq!(echo(&mut driver, b"still there"), b"still there");
    assert_eq!(driver.status(), 15);
}

#[test]
fn a_guest_that_refills_its_queue_gets_one_turn_at_a_time() {
    let device = Echo::boxed();
    let refill = device.refill.clone();
    let mut driver = Driver::started(device, 0);
    let (from, to) = (driver.place(b"more"), driver.allocate(4));
    driver.offer(0, &[(from, 4)], &[(to, 4)]);
    *refill.lock().expect("no panic") = Some((driver.memory.clone(), 999));
    driver.kick(0);
    let [.., used] = Driver::rings_of(0);
    driver.events.turn(0).expect("event loop");
    assert_eq!(driver.get_u16(used + 2), 256);
    driver.events.turn(0).expect("event loop");
    assert_eq!(driver.get_u16(used + 2), 512);
    driver.settle();
    assert_eq!(driver.get_u16(used + 2), 1000);
}

#[test]
fn a_ring_broken_before_the_start_is_one_fault() {
    let mut driver = Driver::new(Echo::boxed());
    driver.negotiate(0);
    driver.set_up_queue(0);
    let [_, available, _] = Driver::rings_of(0);
    driver.set_u16(available + 2, 1000);
    driver.settle();
    // The kick is what the event thread sees first.
    driver.kick(0);
    driver.write(0x70, 15);
    driver.settle();
    assert_eq!(driver.status(), 15 | 64);
    assert_eq!(driver.mmio.fault_count(), 1);
}

#[test]
fn a_driver_may_reset_while_the_device_works() {
    let device = Echo::boxed();
    let log = device.log.clone();
    let mut driver = Driver::started(device, EVENT_IDX);
    let (from, to) = (driver.place(b"busy"), driver.allocate(4));
    for _ in 0..32 {
        driver.offer(0, &[(from, 4)], &[(to, 4)]);
    }
    let mmio = driver.mmio.clone();
    let guest = std::thread::spawn(move || {
        let write = |offset, value: u32| mmio.write(offset, &value.to_le_bytes());
        for _ in 0..2000 {
            write(0x50, 0);
            write(0x70, 0);
            for (offset, value) in [(0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11), (0x30, 0)] {
                write(offset, value);
            }
            let [descriptors, available, used] = Driver::rings_of(0);
            for (register, address) in [(0x80, descriptors), (0x90, available), (0xa0, used)] {
                write(register, u32::try_from(address).expect("low"));
            }
            write(0x44, 1);
            write(0x70, 15);
        }
    });
    while !guest.is_finished() {
        driver.events.turn(1).expect("event loop");
    }
    guest.join().expect("guest");
    driver.start(0);
    assert_eq!(echo(&mut driver, b"sane"), b"sane");
    assert_eq!(driver.mmio.fault_count(), 0);
    let log = log.lock().expect("no panic");
    let pairs = log.chunks_exact(2);
    assert!(
        pairs
            .into_iter()
            .all(|pair| pair == ["activate", "deactivate"])
    );
}

#[test]
fn a_broken_ring_needs_a_reset_and_a_reset_mends_it() {
    let [_, available, _] = Driver::rings_of(0);
    type Break = fn(&Driver, u64);
    let breaks: [Break; 2] = [
        |driver, available| driver.set_u16(available + 2, 1000),
        |driver, available| {
            driver.set_u16(available + 4, 64);
            driver.set_u16(available + 2, 1);
        },
    ];
    for break_it in breaks {
        let device = Echo::boxed();
        let log = device.log.clone();
        let mut driver = Driver::started(device, 0);
        break_it(&driver, available);
        driver.kick(0);
        driver.settle();
        assert_eq!(driver.status(), 15 | 64);
        assert_eq!(driver.interrupts(), 1);
        assert_eq!(driver.read(0x60), 2, "a change of configuration");
        assert_eq!(*log.lock().expect("no panic"), ["activate", "deactivate"]);
        driver.kick(0);
        driver.settle();
        assert_eq!(driver.mmio.fault_count(), 1, "a dead device stays quiet");
        driver.start(0);
        assert_eq!(echo(&mut driver, b"again"), b"again");
    }
}

#[test]
fn queues_that_cannot_lie_where_the_driver_says_are_refused() {
    let fine = (16, 0x1_0000, 0x1_2000, 0x1_3000);
    let cases = [
        ((0, fine.1, fine.2, fine.3), "no size"),
        ((15, fine.1, fine.2, fine.3), "not a power of two"),
        ((128, fine.1, fine.2, fine.3), "beyond the maximum"),
        ((0x1_0010, fine.1, fine.2, fine.3), "more than 16 bits"),
        ((16, 0x1_0008, fine.2, fine.3), "table misaligned"),
        ((16, fine.1, 0x1_2001, fine.3), "available ring misaligned"),
        ((16, fine.1, fine.2, 0x1_3002), "used ring misaligned"),
        ((16, MEMORY - 16, fine.2, fine.3), "table leaves memory"),
        ((16, fine.1, MEMORY, fine.3), "available ring outside"),
        ((16, fine.1, fine.2, u64::MAX - 3), "used ring wraps"),
        ((16, fine.1, 0, fine.3), "available ring at zero"),
    ];
    for ((size, descriptors, available, used), what) in cases {
        let mut driver = Driver::new(Echo::boxed());
        driver.negotiate(0);
        driver.write(0x30, 0);
        driver.write(0x38, size);
        for (register, address) in [(0x80, descriptors), (0x90, available), (0xa0, used)] {
            driver.write(
                register,
                u32::try_from(address & 0xffff_ffff).expect("masked"),
            );
            driver.write(register + 4, u32::try_from(address >> 32).expect("shifted"));
        }
        driver.write(0x44, 1);
        assert_eq!(driver.read(0x44), 0, "{what}");
        assert_eq!(driver.status() & 64, 64, "{what}");
    }
}

#[test]
fn a_live_queue_cannot_be_moved() {
    let mut driver = Driver::started(Echo::boxed(), 0);
    driver.write(0x30, 0);
    driver.write(0x80, 0x5000);
    driver.write(0x38, 8);
    assert_eq!(driver.mmio.fault_count(), 2);
    assert_eq!(echo(&mut driver, b"here"), b"here");
}

#[test]
fn a_reset_takes_the_queues_away_at_once() {
    let device = Echo::boxed();
    let (log, bell) = (device.log.clone(), device.bell.try_clone().expect("dup"));
    let mut driver = Driver::started(device, 0);
    let (from, to) = (driver.place(b"late"), driver.allocate(8));
    driver.offer(0, &[(from, 4)], &[(to, 4)]);
    driver.kick(0);
    bell.write(1).expect("eventfd");
    driver.write(0x70, 0);
    assert_eq!(driver.status(), 0);
    driver.settle();
    assert_eq!(driver.used(0), None);
    assert_eq!(driver.fetch(to, 4), [0; 4]);
    assert_eq!(*log.lock().expect("no panic"), ["activate", "deactivate"]);

    // Reset and start again before the event thread has seen either.
    driver.start(0);
    driver.write(0x70, 0);
    driver.start(FEATURE);
    let expected = ["activate", "deactivate"].repeat(2);
    assert_eq!(log.lock().expect("no panic")[..4], expected);
    assert_eq!(echo(&mut driver, b"anew"), b"anew");
}

#[test]
fn a_source_of_the_device_changes_its_configuration() {
    let device = Echo::boxed();
    let bell = device.bell.try_clone().expect("dup");
    let mut driver = Driver::started(device, 0);
    let generation = driver.read(0xfc);
    bell.write(1).expect("eventfd");
    driver.settle();
    assert_eq!(driver.config::<1>(3), [1]);
    assert_ne!(driver.read(0xfc), generation);
    assert_eq!(driver.read(0x60), 2);
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn a_kick_for_a_queue_that_does_not_exist_is_a_fault() {
    let driver = Driver::started(Echo::boxed(), 0);
    driver.write(0x50, 2);
    driver.write(0x50, u32::MAX);
    assert_eq!(driver.mmio.fault_count(), 2);
    assert_eq!(driver.mmio.queue_notifiers().len(), 2);
}

#[test]
fn milestones_are_told_in_order() {
    let reached = Arc::new(Mutex::new(Vec::new()));
    let log = reached.clone();
    let memory = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory"));
    let observer: super::Observer = Arc::new(move |step| log.lock().expect("no panic").push(step));
    let irq = crate::irq::IrqLine::new().expect("eventfd");
    let mmio = super::Mmio::new(Echo::boxed(), memory, irq, Some(observer)).expect("eventfds");
    let write = |offset, value: u32| mmio.write(offset, &value.to_le_bytes());
    for status in [0, 1, 3] {
        write(0x70, status);
    }
    write(0x24, 1);
    write(0x20, 1);
    for status in [11, 15, 15] {
        write(0x70, status);
    }
    use super::Milestone::{Acknowledged, DriverOk};
    assert_eq!(*reached.lock().expect("no panic"), [Acknowledged, DriverOk]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever lies in its tables, the device neither panics nor hangs nor dies for good.
    #[test]
    fn no_ring_content_harms_more_than_the_device(
        table in proptest::collection::vec(any_descriptor(), 64),
        heads in proptest::collection::vec(prop_oneof![0..64u16, any::<u16>()], 1..64),
        index in prop_oneof![1..64u16, any::<u16>()],
        features in prop_oneof![Just(0), Just(EVENT_IDX), Just(INDIRECT | EVENT_IDX)],
    ) {
        let mut driver = Driver::started(Echo::boxed(), features);
        for (slot, descriptor) in (0..).zip(table) {
            driver.store(0, slot, descriptor);
        }
        let [_, available, _] = Driver::rings_of(0);
        for (slot, head) in (0..).zip(heads) {
            driver.set_u16(available + 4 + 2 * slot, head);
        }
        driver.set_u16(available + 2, index);
        driver.kick(0);
        // An echo may land in the rings and make more work: bounded turns, not rest.
        for _ in 0..50 {
            driver.events.turn(0).expect("event loop");
        }
        driver.start(features);
        prop_assert_eq!(echo(&mut driver, b"alive"), b"alive");
    }

    /// Whatever is written to the registers, they answer, and a reset mends everything.
    #[test]
    fn no_register_access_harms_more_than_the_device(
        accesses in proptest::collection::vec(
            (prop_oneof![(0..0x48u64).prop_map(|word| word * 4), 0..0x1000u64],
             prop_oneof![0..16u32, any::<u32>()], 0..9usize, any::<bool>()), 0..64),
    ) {
        let mut driver = Driver::new(Echo::boxed());
        driver.negotiate(EVENT_IDX);
        for (offset, value, width, write) in accesses {
            let mut data = [0; 8];
            data[..4].copy_from_slice(&value.to_le_bytes());
            let data = &mut data[..width];
            if write { driver.mmio.write(offset, data) } else { driver.mmio.read(offset, data) }
            driver.events.turn(0).expect("event loop");
        }
        driver.start(0);
        prop_assert_eq!(echo(&mut driver, b"alive"), b"alive");
    }
}
