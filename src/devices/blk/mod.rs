// SPDX-License-Identifier: Apache-2.0
//! virtio-blk, section 5.2: a disk that is a file of the host.
//!
//! Event thread, which never waits for the file: a `Backend` does. The guest reaches no byte
//! outside the file, and none for writing if the disk is read-only, whatever it negotiated.
//! Whatever happens to the file is an error the guest is told, and never the end of it.

mod backend;
mod request;
#[cfg(test)]
mod tests;
mod worker;

pub use backend::Choice;

use super::bucket::Throttle;
use crate::events::{EventSet, Interest, Token};
use crate::memory::{GuestRam, Pinned, Transfer};
use crate::telemetry;
use crate::virtio::device::{Io, Kind, Verdict, VirtioDevice, read_config};
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::Chain;
use crate::virtio::state::{DeviceState, StateFault, TransportState};
use backend::{Backend, DEPTH};
use request::{Asks, MAX_HOLE, Request, Rules, S_IOERR, S_OK, S_UNSUPP, SECTOR};
use request::{SEGMENT_BYTES, SEGMENTS};
use std::fs::File;
use std::io::{self, Seek as _};

const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const ID_BYTES: usize = 20;

/// Tokens of what is watched.
const ENDED: Token = 0;
const TIMER: Token = 1;

/// How much a guest may ask of a disk in a second; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub bytes: Option<u64>,
    pub operations: Option<u64>,
}

/// A request the backend works on.
struct Pending {
    head: u16,
    status: Pinned,
    room: usize,
    /// Of a driver that knows no flush: a write that is to be made durable.
    then_flush: bool,
    /// A discard: a host that cannot do it has done no harm.
    advice: bool,
}

/// A disk.
pub struct Blk {
    backend: Box<dyn Backend>,
    rules: Rules,
    /// The driver knows no flush, so every write must be durable (section 5.2.6.2).
    write_through: bool,
    id: [u8; ID_BYTES],
    space: [u8; 60],
    /// The guest's memory, while there is a driver.
    ram: Option<GuestRam>,
    /// A place is the tag of its transfer.
    pending: Vec<Option<Pending>>,
    free: Vec<u32>,
    /// The queue is to be served again when a place is free.
    stalled: bool,
    limits: Limits,
    throttle: Option<Throttle>,
    stand_in: bool,
}

impl Blk {
    /// `file` is open for reading, and for writing unless `read_only`; `id` is what the guest
    /// sees as the serial number, its first 20 bytes. A last part of the file that fills no
    /// sector is not on the disk.
    pub fn new(
        mut file: File,
        read_only: bool,
        id: &str,
        limits: Limits,
        choice: Choice,
    ) -> io::Result<Self> {
        // Not `metadata`: a block device has its length here only.
        let length = file.seek(io::SeekFrom::End(0))?;
        let stray = length % SECTOR;
        if stray != 0 {
            telemetry::line(&format!(
                "disk {id}: the last {stray} bytes fill no 512-byte sector and stay hidden"
            ));
        }
        let backend = backend::open(file, choice)?;
        Self::over(backend, length, read_only, id, limits)
    }

    fn over(
        backend: Box<dyn Backend>,
        length: u64,
        read_only: bool,
        id: &str,
        limits: Limits,
    ) -> io::Result<Self> {
        let mut name = [0; ID_BYTES];
        for (to, from) in name.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        let features = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH;
        let features = match read_only {
            true => features | F_RO,
            false => features | F_DISCARD | F_WRITE_ZEROES,
        };
        let rates: Vec<u64> = limits.bytes.into_iter().chain(limits.operations).collect();
        let throttle = Throttle::new(&rates)?;
        Ok(Self {
            backend,
            rules: Rules {
                length,
                read_only,
                features,
            },
            write_through: true,
            id: name,
            space: space(length),
            ram: None,
            pending: (0..DEPTH).map(|_| None).collect(),
            free: (0..u32::from(DEPTH)).rev().collect(),
            stalled: false,
            limits,
            throttle,
            stand_in: false,
        })
    }

    /// It is no disk, but stands for one: see `DeviceState::StandIn`.
    #[must_use]
    pub fn standing_in(self) -> Self {
        Self {
            stand_in: true,
            ..self
        }
    }

    fn request(&mut self, chain: &mut Chain<'_>) -> Result<Verdict, GuestFault> {
        let Some(ram) = &self.ram else {
            return Ok(Verdict::Stop);
        };
        let Some(&tag) = self.free.last() else {
            self.stalled = true;
            return Ok(Verdict::Stop);
        };
        let bytes = chain.readable.len() + chain.writable.len();
        if let Some(throttle) = &mut self.throttle {
            if !throttle.admits() {
                return Ok(Verdict::Stop);
            }
            let (bytes, one) = (
                self.limits.bytes.map(|_| bytes as u64),
                self.limits.operations.map(|_| 1),
            );
            throttle.spend(bytes.into_iter().chain(one));
        }
        let Request {
            mut status,
            room,
            asks,
        } = self.rules.read(chain, ram)?;
        let (code, written) = match asks {
            Asks::For(work) => {
                let pending = Pending {
                    head: chain.head,
                    status,
                    room: if work_reads(&work) { room } else { 0 },
                    then_flush: self.write_through && !work_reads(&work),
                    advice: matches!(work, Transfer::Discard { .. }),
                };
                if self.backend.submit(tag, work).is_err() {
                    self.stalled = true;
                    return Ok(Verdict::Stop);
                }
                self.free.pop();
                self.pending[tag as usize] = Some(pending);
                return Ok(Verdict::Pending);
            }
            Asks::Id(mut data) => (S_OK, data.store(&self.id)),
            Asks::Nothing(code) => (code, 0),
        };
        status.store(&[code]);
        Ok(Verdict::Done(u32::try_from(written + 1).unwrap_or(0)))
    }

    /// Answers what the backend is done with.
    fn answer(&mut self, io: &mut Io<'_>) {
        let (mut again, mut done) = (Vec::new(), Vec::new());
        let (pending, free) = (&mut self.pending, &mut self.free);
        self.backend.completions(&mut |tag, left, result| {
            let Some(place) = pending.get_mut(tag as usize) else {
                return;
            };
            let Some(mut request) = place.take() else {
                return;
            };
            if result.is_ok() && std::mem::take(&mut request.then_flush) {
                *place = Some(request);
                again.push(tag);
                return;
            }
            let code = match result {
                Ok(()) => S_OK,
                Err(error) => judge(&error, request.advice),
            };
            request.status.store(&[code]);
            let written = request.room.saturating_sub(left) + 1;
            done.push((request.head, u32::try_from(written).unwrap_or(0)));
            free.push(tag);
        });
        for tag in again {
            // There is room: the write whose place this is has just ended.
            if self.backend.submit(tag, Transfer::Flush).is_err() {
                debug_assert!(false, "a place of the backend for each of ours");
            }
        }
        self.backend.kick();
        io.give_back(0, done);
    }

    fn forget(&mut self) {
        self.backend.drain();
        self.pending.fill_with(|| None);
        self.free = (0..u32::from(DEPTH)).rev().collect();
        self.stalled = false;
    }

    fn interests(&self) -> impl Iterator<Item = Interest> + use<> {
        let interest = |fd, token| Interest {
            fd,
            token,
            events: EventSet::IN,
        };
        let timer = self.throttle.as_ref().map(Throttle::fd);
        let ended = interest(self.backend.fd(), ENDED);
        std::iter::once(ended).chain(timer.map(|fd| interest(fd, TIMER)))
    }
}

fn work_reads(work: &Transfer) -> bool {
    matches!(work, Transfer::Read { .. } | Transfer::Flush)
}

/// The error as the guest may know it. What a host's file system cannot do at all, the
/// guest's does by other means.
fn judge(error: &io::Error, advice: bool) -> u8 {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) if advice => S_OK,
        Some(libc::EOPNOTSUPP) => S_UNSUPP,
        _ => S_IOERR,
    }
}

/// Configuration space, section 5.2.4.
fn space(length: u64) -> [u8; 60] {
    let mut space = [0; 60];
    space[..8].copy_from_slice(&(length / SECTOR).to_le_bytes());
    let mut word = |at: usize, value: u32| {
        space[at..at + 4].copy_from_slice(&value.to_le_bytes());
    };
    word(8, SEGMENT_BYTES);
    word(12, SEGMENTS);
    word(20, 512);
    // Discard: sectors and segments of a request, alignment in sectors.
    word(36, MAX_HOLE);
    word(40, 1);
    word(44, 8);
    // Zeroes: sectors and segments of a request; they may give the room back.
    word(48, MAX_HOLE);
    word(52, 1);
    space[56] = 1;
    space
}

impl VirtioDevice for Blk {
    fn kind(&self) -> Kind {
        Kind {
            id: 2,
            name: "virtio-blk",
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[DEPTH]
    }

    fn features(&self) -> u64 {
        self.rules.features
    }

    fn config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.space, offset, data);
    }

    fn activate(&mut self, features: u64, io: &mut Io<'_>) {
        self.write_through = features & F_FLUSH == 0;
        self.ram = Some(io.memory.clone());
        for interest in self.interests() {
            // A disk whose end cannot be heard of is a disk that never answers.
            if io.watch.add(interest).is_err() {
                telemetry::line("a disk cannot be watched, and will not answer");
            }
        }
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), GuestFault> {
        self.stalled = false;
        let served = io.serve(index, |chain| self.request(chain));
        self.backend.kick();
        // What the host had in its memory is done by now.
        self.answer(io);
        if self.stalled && !self.free.is_empty() {
            io.again(index);
        }
        served
    }

    fn process_source(
        &mut self,
        token: Token,
        _events: EventSet,
        io: &mut Io<'_>,
    ) -> Result<(), GuestFault> {
        match (token, &self.throttle) {
            (ENDED, _) => {
                self.answer(io);
                match self.stalled {
                    true => self.process_queue(0, io),
                    false => Ok(()),
                }
            }
            (TIMER, Some(throttle)) => {
                throttle.acknowledge();
                self.process_queue(0, io)
            }
            _ => Ok(()),
        }
    }

    fn quiesce(&mut self) {
        self.forget();
    }

    fn settle(&mut self, io: &mut Io<'_>) -> io::Result<()> {
        while self.free.len() < self.pending.len() {
            self.backend.wait();
            self.answer(io);
        }
        // What told of a free place was heard here, and nobody hears it again.
        if self.stalled {
            io.again(0);
        }
        Ok(())
    }

    /// What was written and not flushed is in the file already, as every reader of it sees it;
    /// whether it would outlive the host is for the next flush, which covers it still.
    fn save(&self) -> DeviceState {
        if self.stand_in {
            return DeviceState::StandIn;
        }
        DeviceState::Disk {
            sectors: self.rules.length / SECTOR,
            read_only: self.rules.read_only,
        }
    }

    /// A driver believes in the length it read.
    fn restore(&mut self, state: &TransportState) -> Result<(), StateFault> {
        match state.own {
            DeviceState::None => Ok(()),
            DeviceState::StandIn if self.rules.read_only => Ok(()),
            ref own if *own == self.save() => Ok(()),
            DeviceState::Disk { sectors, .. } => Err(StateFault::Disk(sectors)),
            _ => Err(StateFault::Own),
        }
    }

    fn resume(&mut self, features: u64, state: &DeviceState, io: &mut Io<'_>) {
        self.activate(features, io);
        if *state == DeviceState::StandIn {
            // The driver learns how long the disk is. What it believes meanwhile is more.
            io.irq.config();
        }
    }

    fn deactivate(&mut self, watch: &mut dyn crate::events::Watch) {
        self.forget();
        self.ram = None;
        for interest in self.interests() {
            let _ = watch.remove(interest);
        }
    }
}
