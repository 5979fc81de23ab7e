// SPDX-License-Identifier: Apache-2.0
//! virtio-balloon, section 5.5: memory the guest does not need goes back to the host.
//!
//! Event thread. By free page reporting the guest says, of itself and all the time, which of
//! its pages nobody uses: those the host takes back, and gives empty ones when they are
//! touched again. The balloon proper takes pages away that are in use, down to a target the
//! host sets, and is let go by a guest that runs out of memory. Whatever a guest says of its
//! pages, it says it of its own, and costs itself what was in them.

use crate::events::{EventSet, Interest, Token, Watch};
use crate::memory;
use crate::virtio::device::{Io, Kind, Verdict, VirtioDevice, read_config};
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::Chain;
use crate::virtio::state::{DeviceState, StateFault, TransportState};
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::{GuestAddress, GuestMemoryBackend as _};
use vmm_sys_util::eventfd::EventFd;

const F_STATS: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_REPORTING: u64 = 1 << 5;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// A balloon's pages have 4 KiB, whatever the guest's have (section 5.5.6).
const PAGE: u64 = 4096;
/// Page numbers of one chain; Linux sends 256. Stops a guest from keeping the event thread
/// in one chain.
const MAX_PAGES: usize = 4096;
/// Bytes that one report may give back: Linux's is at most 32 pieces of 4 MiB.
const MAX_REPORT: usize = 256 << 20;
/// Statistics of one buffer; there are not twenty kinds.
const MAX_STATISTICS: usize = 64;

/// What the guest says of its memory, in bytes and counts; what it does not say is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub free: u64,
    pub total: u64,
    /// What programs could still have, caches included.
    pub available: u64,
    pub disk_caches: u64,
    pub swap_in: u64,
    pub swap_out: u64,
    pub major_faults: u64,
    pub minor_faults: u64,
}

/// The balloon from outside the guest. Any thread.
pub struct Control {
    target: AtomicU32,
    actual: AtomicU32,
    statistics: Mutex<Statistics>,
    changed: EventFd,
}

impl Control {
    /// How many bytes the guest is to do without.
    pub fn set_target(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        self.target.store(pages, Ordering::Release);
        let _ = self.changed.write(1);
    }

    /// How many bytes it does without.
    pub fn actual(&self) -> u64 {
        u64::from(self.actual.load(Ordering::Acquire)) * PAGE
    }

    /// What the guest said last; and asks it to say it anew.
    pub fn statistics(&self) -> Statistics {
        let _ = self.changed.write(1);
        let last = self.statistics.lock();
        *last.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A balloon.
pub struct Balloon {
    control: Arc<Control>,
    /// Queues that exist, by what the driver accepted.
    statistics: Option<usize>,
    reporting: Option<usize>,
    /// The buffer the guest sends its statistics in, kept until they are wanted anew.
    held: Option<u16>,
    told: u32,
}

impl Balloon {
    pub fn new() -> io::Result<(Self, Arc<Control>)> {
        let control = Arc::new(Control {
            target: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            statistics: Mutex::default(),
            changed: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        });
        let balloon = Self {
            control: Arc::clone(&control),
            statistics: None,
            reporting: None,
            held: None,
            told: 0,
        };
        Ok((balloon, control))
    }

    fn interest(&self) -> Interest {
        Interest {
            fd: self.control.changed.as_raw_fd(),
            token: 0,
            events: EventSet::IN,
        }
    }

    fn hear(&mut self, chain: &mut Chain<'_>) -> Result<Verdict, GuestFault> {
        let mut said = Statistics::default();
        for _ in 0..MAX_STATISTICS {
            let mut entry = [0; 10];
            if chain.readable.len() < entry.len() {
                break;
            }
            chain.readable.read(&mut entry)?;
            let [t0, t1, value @ ..] = entry;
            let value = u64::from_le_bytes(value);
            // Section 5.5.6.4.
            match u16::from_le_bytes([t0, t1]) {
                0 => said.swap_in = value,
                1 => said.swap_out = value,
                2 => said.major_faults = value,
                3 => said.minor_faults = value,
                4 => said.free = value,
                5 => said.total = value,
                6 => said.available = value,
                7 => said.disk_caches = value,
                _ => {}
            }
        }
        let last = self.control.statistics.lock();
        *last.unwrap_or_else(PoisonError::into_inner) = said;
        // One buffer is enough to hold, whatever a guest sends.
        Ok(match self.held {
            None => {
                self.held = Some(chain.head);
                Verdict::Pending
            }
            Some(_) => Verdict::Done(0),
        })
    }
}

/// The queues for statistics and for reports: those that were not negotiated do not exist,
/// and those behind them move up.
fn places(features: u64) -> (Option<usize>, Option<usize>) {
    let mut next = DEFLATE;
    let mut place = |wanted: u64| {
        (features & wanted != 0).then(|| {
            next += 1;
            next
        })
    };
    (place(F_STATS), place(F_REPORTING))
}

/// Pages by their numbers: those next to each other go in one call.
fn inflate(chain: &mut Chain<'_>, ram: &memory::GuestRam) -> Result<Verdict, GuestFault> {
    let count = (chain.readable.len() / 4).min(MAX_PAGES);
    let mut run: Option<(u64, u64)> = None;
    let release = |(start, length)| {
        let length = usize::try_from(length).unwrap_or(0);
        if let Ok(slice) = ram.get_slice(GuestAddress(start), length) {
            memory::release(&slice);
        }
    };
    for _ in 0..count {
        let mut number = [0; 4];
        chain.readable.read(&mut number)?;
        let at = u64::from(u32::from_le_bytes(number)) * PAGE;
        run = match run {
            Some((start, length)) if start + length == at => Some((start, length + PAGE)),
            // Linux goes from high pages to low ones.
            Some((start, length)) if at + PAGE == start => Some((at, length + PAGE)),
            before => {
                before.into_iter().for_each(release);
                Some((at, PAGE))
            }
        };
    }
    run.into_iter().for_each(release);
    Ok(Verdict::Done(0))
}

fn report(chain: &mut Chain<'_>) -> Result<Verdict, GuestFault> {
    for slice in chain.writable.slices() {
        memory::release(slice);
    }
    Ok(Verdict::Done(0))
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> Kind {
        Kind {
            id: 5,
            name: "virtio-balloon",
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[128, 128, 16, 64]
    }

    fn features(&self) -> u64 {
        F_STATS | F_DEFLATE_ON_OOM | F_REPORTING
    }

    fn config(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; 8];
        let (target, actual) = (&self.control.target, &self.control.actual);
        space[..4].copy_from_slice(&target.load(Ordering::Acquire).to_le_bytes());
        space[4..].copy_from_slice(&actual.load(Ordering::Acquire).to_le_bytes());
        read_config(&space, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (4, Ok(actual)) = (offset, data.try_into()) {
            let actual = u32::from_le_bytes(actual);
            self.control.actual.store(actual, Ordering::Release);
        }
    }

    fn activate(&mut self, features: u64, io: &mut Io<'_>) {
        (self.statistics, self.reporting) = places(features);
        if let Some(queue) = self.reporting.and_then(|index| io.queues.get_mut(index)) {
            queue.allow(MAX_REPORT);
        }
        self.told = self.control.target.load(Ordering::Acquire);
        // Unwatched it still reports free pages, which is what matters.
        let _ = io.watch.add(self.interest());
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), GuestFault> {
        let memory = io.memory;
        match index {
            INFLATE => io.serve(index, |chain| inflate(chain, memory)),
            // Pages the guest uses again are given to it when it touches them.
            DEFLATE => io.serve(index, |_| Ok(Verdict::Done(0))),
            _ if Some(index) == self.statistics => io.serve(index, |chain| self.hear(chain)),
            _ if Some(index) == self.reporting => io.serve(index, report),
            _ => Ok(()),
        }
    }

    fn process_source(
        &mut self,
        _token: Token,
        _events: EventSet,
        io: &mut Io<'_>,
    ) -> Result<(), GuestFault> {
        let _ = self.control.changed.read();
        let target = self.control.target.load(Ordering::Acquire);
        if target != std::mem::replace(&mut self.told, target) {
            io.irq.config();
        }
        if let (Some(queue), Some(head)) = (self.statistics, self.held.take()) {
            io.give_back(queue, [(head, 0)]);
        }
        Ok(())
    }

    fn save(&self) -> DeviceState {
        DeviceState::Balloon {
            actual: self.control.actual.load(Ordering::Acquire),
            target: self.control.target.load(Ordering::Acquire),
            held: self.held,
        }
    }

    fn restore(&mut self, state: &TransportState) -> Result<(), StateFault> {
        let (actual, target, held) = match state.own {
            DeviceState::None => return Ok(()),
            DeviceState::Balloon {
                actual,
                target,
                held,
            } => (actual, target, held),
            _ => return Err(StateFault::Own),
        };
        // A head beyond its queue could not be given back.
        let (statistics, _) = places(state.core.accepted);
        let queue = statistics.and_then(|index| state.core.queues.get(index));
        let size = queue.filter(|queue| queue.progress.is_some());
        let size = size.map_or(0, |queue| queue.size);
        if held.is_some_and(|head| head >= size || !state.is_live()) {
            return Err(StateFault::Own);
        }
        self.control.actual.store(actual, Ordering::Release);
        self.control.target.store(target, Ordering::Release);
        Ok(())
    }

    fn resume(&mut self, features: u64, state: &DeviceState, io: &mut Io<'_>) {
        self.activate(features, io);
        if let DeviceState::Balloon { target, held, .. } = *state {
            self.told = target;
            self.held = held;
        }
    }

    fn deactivate(&mut self, watch: &mut dyn Watch) {
        self.held = None;
        self.statistics = None;
        self.reporting = None;
        self.control.actual.store(0, Ordering::Release);
        let _ = watch.remove(self.interest());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::Driver;
    use vm_memory::Bytes as _;

    const ALL: u64 = F_STATS | F_DEFLATE_ON_OOM | F_REPORTING;

    fn balloon(features: u64) -> (Driver, Arc<Control>) {
        let (balloon, control) = Balloon::new().expect("a balloon");
        (Driver::started(Box::new(balloon), features), control)
    }

    fn filled(driver: &Driver, at: u64, length: usize) {
        let bytes = vec![0xaa; length];
        driver
            .memory
            .write_slice(&bytes, GuestAddress(at))
            .expect("memory");
    }

    #[test]
    fn reported_pages_are_the_hosts_again_and_no_other() {
        for (features, queue) in [(ALL, 3), (F_REPORTING, 2)] {
            let (mut driver, _) = balloon(features);
            let at = 0x40_0000;
            filled(&driver, at - 4096, 6 * 4096);
            // A page and a half: only what is whole goes.
            let length = u32::try_from(2 * 4096 + 2048).expect("small");
            assert_eq!(driver.request(queue, &[], &[(at, length)]), 0);
            assert_eq!(driver.fetch(at, 2 * 4096), vec![0; 2 * 4096]);
            assert_eq!(driver.fetch(at - 4096, 4096), vec![0xaa; 4096]);
            assert_eq!(driver.fetch(at + 2 * 4096, 4096), vec![0xaa; 4096]);
            assert_eq!(driver.mmio.fault_count(), 0);
        }
    }

    #[test]
    fn pages_in_the_balloon_are_empty_and_numbers_without_a_page_are_nothing() {
        let (mut driver, control) = balloon(ALL);
        filled(&driver, 0x40_0000, 4 * 4096);
        let numbers: Vec<u8> = [0x403u32, 0x402, 0x400, u32::MAX, 0x7fff_0000]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        let list = driver.place(&numbers);
        assert_eq!(driver.request(INFLATE, &[(list, 20)], &[]), 0);
        assert_eq!(driver.fetch(0x40_0000, 4096), vec![0; 4096]);
        assert_eq!(driver.fetch(0x40_1000, 4096), vec![0xaa; 4096]);
        assert_eq!(driver.fetch(0x40_2000, 8192), vec![0; 8192]);
        driver.mmio_actual(3);
        assert_eq!(control.actual(), 3 * 4096);
        assert_eq!(driver.request(DEFLATE, &[(list, 20)], &[]), 0);
    }

    #[test]
    fn a_target_is_told_and_statistics_are_heard() {
        let (mut driver, control) = balloon(ALL);
        driver.interrupts();
        control.set_target(8 << 20);
        driver.settle();
        assert_eq!(u32::from_le_bytes(driver.config(0)), 2048);
        assert!(driver.interrupts() > 0);

        let mut said = Vec::new();
        for (tag, value) in [(4u16, 1000u64), (5, 2000), (99, 1), (6, 1500)] {
            said.extend(tag.to_le_bytes());
            said.extend(value.to_le_bytes());
        }
        said.extend([1, 2, 3]);
        let length = u32::try_from(said.len()).expect("small");
        let at = driver.place(&said);
        let head = driver.offer(2, &[(at, length)], &[]);
        driver.kick(2);
        driver.settle();
        assert_eq!(driver.used(2), None, "held until they are wanted anew");
        let heard = control.statistics();
        assert_eq!(
            (heard.free, heard.total, heard.available),
            (1000, 2000, 1500)
        );
        driver.settle();
        assert_eq!(driver.used(2), Some((head, 0)));
    }

    fn restored(driver: &Driver) -> (Driver, Arc<Control>) {
        let (balloon, control) = Balloon::new().expect("a balloon");
        (driver.restored(Box::new(balloon)), control)
    }

    #[test]
    fn a_restored_balloon_has_its_size_its_target_and_the_buffer_it_was_lent() {
        for (features, queue) in [(ALL, 3), (F_REPORTING, 2), (F_STATS, 2)] {
            let (mut driver, control) = balloon(features);
            control.set_target(64 << 20);
            driver.settle();
            driver.mmio_actual(1000);
            let lends = features & F_STATS != 0;
            let at = driver.place(&[0; 30]);
            let head = lends.then(|| driver.offer(2, &[(at, 30)], &[]));
            driver.kick(2);
            driver.settle();
            let (mut copy, control) = restored(&driver);
            assert_eq!(control.actual(), 1000 * PAGE);
            assert_eq!(copy.config::<4>(0), 16384u32.to_le_bytes());
            control.statistics();
            copy.settle();
            assert_eq!(copy.used(2), head.map(|head| (head, 0)));
            // Reports find their queue.
            if features & F_REPORTING != 0 {
                filled(&copy, 0x40_0000, 8192);
                assert_eq!(copy.request(queue, &[], &[(0x40_0000, 8192)]), 0);
                assert_eq!(copy.fetch(0x40_0000, 8192), vec![0; 8192]);
            }
            let number = copy.place(&0x400u32.to_le_bytes());
            filled(&copy, 0x40_0000, 4096);
            assert_eq!(copy.request(INFLATE, &[(number, 4)], &[]), 0);
            assert_eq!(copy.fetch(0x40_0000, 4096), vec![0; 4096]);
            let interrupts = copy.read(0xfc);
            control.set_target(0);
            copy.settle();
            assert_eq!(copy.read(0xfc), interrupts + 1, "a new target is told");
        }
    }

    #[test]
    fn a_buffer_that_nobody_can_have_lent_is_refused() {
        type Change = fn(&mut TransportState);
        let cases: [(u64, Change); 5] = [
            (ALL, |state| held(state, 16)),
            (ALL, |state| held(state, u16::MAX)),
            (F_REPORTING, |state| held(state, 0)),
            (ALL, |state| state.core.queues[2].progress = None),
            (ALL, |state| state.own = DeviceState::Console { sent: 0 }),
        ];
        fn held(state: &mut TransportState, head: u16) {
            state.own = DeviceState::Balloon {
                actual: 0,
                target: 0,
                held: Some(head),
            };
        }
        for (features, change) in cases {
            let (driver, _) = balloon(features);
            let mut state = driver.saved();
            held(&mut state, 3);
            change(&mut state);
            let (other, _) = Balloon::new().expect("a balloon");
            let copy = driver.copied(Box::new(other));
            assert_eq!(copy.mmio.restore(&state), Err(StateFault::Own));
        }
    }
}
