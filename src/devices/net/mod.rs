// SPDX-License-Identifier: Apache-2.0
//! virtio-net, section 5.1: one pair of queues between a guest's driver and a link.
//!
//! Event thread. Each frame is copied once, out of the guest or into it, so that a guest
//! which changes it meanwhile changes nothing. A frame the link does not take now stays in
//! the guest's buffers; one the guest has no room for stays here, and the rest in the link.
//! So do those for which a limit's time has not come. A restored interface is mute at first:
//! until it is released the guest still believes to be another machine, and nothing it sends
//! under that one's name reaches anybody.

#[cfg(test)]
mod tests;

use super::bucket::Throttle;
use crate::config::net::MacAddr;
use crate::events::{EventSet, Interest, Token, Watch};
use crate::net::{HEADER, Link, MAX_FRAME, MIN_FRAME, Offloads};
use crate::virtio::device::{Io, Kind, Verdict, VirtioDevice, read_config};
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::{Buffers, Chain};
use crate::virtio::state::{DeviceState, StateFault, TransportState};
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vmm_sys_util::eventfd::EventFd;

const F_CSUM: u64 = 1 << 0;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_GUEST_ECN: u64 = 1 << 9;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_HOST_ECN: u64 = 1 << 13;
const F_MRG_RXBUF: u64 = 1 << 15;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Tokens of what is watched: the link, a direction's timer at `TIMERS` and its queue, and
/// the word that the interface is to speak.
const LINK: Token = 0;
const TIMERS: Token = 1;
const RELEASED: Token = 3;

/// Frames taken in before other devices have their turn. Stops a flood from the link from
/// having the event thread for itself.
const BATCH: usize = 64;
/// VIRTIO_NET_HDR_F_NEEDS_CSUM, the only flag a driver may set (section 5.1.6.2).
const NEEDS_CSUM: u8 = 1;

/// What became of a frame for the guest.
#[derive(PartialEq, Eq)]
enum Fate {
    /// Delivered, or dropped for a fault of the guest's.
    Gone,
    /// The guest has no buffers: its next kick brings us back.
    NoRoom,
}

/// The interface from outside the guest. Any thread.
#[derive(Debug)]
pub struct Control {
    received: Direction,
    sent: Direction,
    mute: AtomicBool,
    released: EventFd,
}

#[derive(Debug, Default)]
struct Direction {
    bytes: AtomicU64,
    frames: AtomicU64,
}

impl Direction {
    /// On the event thread alone.
    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.bytes), read(&self.frames))
    }
}

impl Control {
    fn new() -> io::Result<Self> {
        Ok(Self {
            received: Direction::default(),
            sent: Direction::default(),
            mute: AtomicBool::new(false),
            released: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        })
    }

    /// A restored guest has an identity of its own by now: its interface speaks from here on.
    /// Without meaning for one that does already.
    pub fn release(&self) {
        if self.mute.swap(false, Ordering::AcqRel) {
            let _ = self.released.write(1);
        }
    }

    /// Whether it waits for its release.
    #[must_use]
    pub fn is_mute(&self) -> bool {
        self.mute.load(Ordering::Acquire)
    }

    /// Bytes and frames that went through, as the guest names the directions.
    #[must_use]
    pub fn received(&self) -> (u64, u64) {
        self.received.read()
    }

    #[must_use]
    pub fn sent(&self) -> (u64, u64) {
        self.sent.read()
    }
}

/// A network interface.
pub struct Net {
    link: Box<dyn Link>,
    control: Arc<Control>,
    /// By queue: how much may pass in a second.
    limits: [Option<Throttle>; 2],
    space: [u8; 12],
    features: u64,
    out: Box<[u8]>,
    into: Box<[u8]>,
    /// Bytes of `into` that wait for room in the guest.
    held: usize,
    stand_in: bool,
    /// What to wait for, and what is waited for now.
    wanted: EventSet,
    watched: Option<EventSet>,
}

impl Net {
    /// `bps`: most bytes a second, in each direction.
    pub fn new(
        link: Box<dyn Link>,
        mac: MacAddr,
        mtu: u16,
        bps: Option<u64>,
    ) -> io::Result<(Self, Arc<Control>)> {
        let mut space = [0; 12];
        space[..6].copy_from_slice(&mac.0);
        space[10..].copy_from_slice(&mtu.to_le_bytes());
        let rates: Vec<u64> = bps.into_iter().collect();
        let control = Arc::new(Control::new()?);
        let net = Self {
            link,
            control: Arc::clone(&control),
            limits: [Throttle::new(&rates)?, Throttle::new(&rates)?],
            space,
            features: 0,
            out: vec![0; HEADER + MAX_FRAME].into(),
            into: vec![0; HEADER + MAX_FRAME].into(),
            held: 0,
            stand_in: false,
            wanted: EventSet::empty(),
            watched: None,
        };
        Ok((net, control))
    }

    /// It leads nowhere, but stands for one that does: see `DeviceState::StandIn`.
    #[must_use]
    pub fn standing_in(self) -> Self {
        Self {
            stand_in: true,
            ..self
        }
    }

    /// Link to guest, while both have something to give.
    fn receive(&mut self, io: &mut Io<'_>) -> Result<(), GuestFault> {
        self.wanted.remove(EventSet::IN);
        if self.control.is_mute() {
            // Its release brings us back.
            self.listen(io.watch);
            return Ok(());
        }
        if let Some(queue) = io.queues.get_mut(RECEIVE) {
            queue.mute(io.memory);
        }
        let mut left = BATCH;
        let outcome = loop {
            if left == 0 {
                io.again(RECEIVE);
                break Ok(());
            }
            left -= 1;
            let limit = self.limits[RECEIVE].as_mut();
            if limit.is_some_and(|limit| !limit.admits()) {
                break Ok(());
            }
            if self.held == 0 {
                let Some(length) = self.link.recv(&mut self.into) else {
                    self.wanted.set(EventSet::IN, self.link.is_alive());
                    break Ok(());
                };
                self.held = length;
            }
            let fate = self.deliver(io);
            if fate == Ok(Fate::NoRoom) {
                break Ok(());
            }
            let length = std::mem::take(&mut self.held).saturating_sub(HEADER);
            if let Some(limit) = &mut self.limits[RECEIVE] {
                limit.spend([length as u64]);
            }
            match fate {
                Ok(_) => self.control.received.add(length),
                Err(fault) => break Err(fault),
            }
        };
        let queue = io.queues.get_mut(RECEIVE);
        if queue.is_some_and(|queue| queue.needs_interrupt(io.memory)) {
            io.irq.used();
        }
        self.listen(io.watch);
        outcome
    }

    /// Moves the frame that is held into as many chains as it takes.
    fn deliver(&mut self, io: &mut Io<'_>) -> Result<Fate, GuestFault> {
        let most = if self.features & F_MRG_RXBUF != 0 {
            usize::MAX
        } else {
            1
        };
        let mut chains: Vec<Chain<'_>> = Vec::new();
        let mut room = 0usize;
        let mut fault = None;
        let Some(queue) = io.queues.get_mut(RECEIVE) else {
            return Ok(Fate::Gone);
        };
        while room < self.held && fault.is_none() {
            match queue.pop(io.memory) {
                Ok(Some(chain)) => {
                    room += chain.writable.len();
                    let useless = chain.writable.is_empty();
                    chains.push(chain);
                    if useless || (chains.len() >= most && room < self.held) {
                        fault = Some(GuestFault::TooShort);
                    }
                }
                Ok(None) if queue.unmute(io.memory) => queue.mute(io.memory),
                Ok(None) => {
                    chains.iter().for_each(|_| queue.unpop());
                    return Ok(Fate::NoRoom);
                }
                Err((why, Some(head))) => {
                    queue.put(io.memory, head, 0);
                    fault = Some(why);
                }
                Err((why, None)) => return Err(why),
            }
        }
        if let Some(fault) = fault {
            let back: Vec<_> = chains.iter().map(|chain| (chain.head, 0)).collect();
            queue.put_together(io.memory, &back);
            io.complain(fault);
            return Ok(Fate::Gone);
        }
        // Fits: no queue has more than 32768 chains.
        let count = u16::try_from(chains.len()).unwrap_or(u16::MAX);
        self.into[10..HEADER].copy_from_slice(&count.to_le_bytes());
        let mut rest = &self.into[..self.held];
        let mut used = Vec::with_capacity(chains.len());
        for chain in &mut chains {
            let (part, later) = rest.split_at(rest.len().min(chain.writable.len()));
            chain.writable.write(part)?;
            used.push((chain.head, u32::try_from(part.len()).unwrap_or(0)));
            rest = later;
        }
        queue.put_together(io.memory, &used);
        Ok(Fate::Gone)
    }

    /// Guest to link, until the link takes no more.
    fn transmit(&mut self, io: &mut Io<'_>) -> Result<(), GuestFault> {
        let mut full = false;
        let mute = self.control.is_mute();
        let outcome = io.serve(TRANSMIT, |chain| {
            if mute {
                return Ok(Verdict::Done(0));
            }
            let limit = &mut self.limits[TRANSMIT];
            if limit.as_mut().is_some_and(|limit| !limit.admits()) {
                return Ok(Verdict::Stop);
            }
            let packet = copy(&mut chain.readable, &mut self.out)?;
            judge(packet, self.features)?;
            full = !self.link.send(packet);
            if full {
                return Ok(Verdict::Stop);
            }
            let length = packet.len() - HEADER;
            if let Some(limit) = limit {
                limit.spend([length as u64]);
            }
            self.control.sent.add(length);
            Ok(Verdict::Done(0))
        });
        self.wanted.set(EventSet::OUT, full && self.link.is_alive());
        self.listen(io.watch);
        outcome
    }

    fn interest(&self, events: EventSet) -> Interest {
        Interest {
            fd: self.link.fd().as_raw_fd(),
            token: LINK,
            events,
        }
    }

    fn timers(&self) -> impl Iterator<Item = Interest> + use<> {
        let fds = self
            .limits
            .each_ref()
            .map(|limit| limit.as_ref().map(Throttle::fd));
        (TIMERS..).zip(fds).filter_map(|(token, fd)| {
            Some(Interest {
                fd: fd?,
                token,
                events: EventSet::IN,
            })
        })
    }

    fn released(&self) -> Interest {
        Interest {
            fd: self.control.released.as_raw_fd(),
            token: RELEASED,
            events: EventSet::IN,
        }
    }

    fn listen(&mut self, watch: &mut dyn Watch) {
        let wanted = (!self.wanted.is_empty()).then_some(self.wanted);
        if wanted == self.watched {
            return;
        }
        // Fails only if the host is out of memory: the link is silent then.
        let _ = match (self.watched, wanted) {
            (None, Some(events)) => watch.add(self.interest(events)),
            (Some(_), Some(events)) => watch.change(self.interest(events)),
            (_, None) => watch.remove(self.interest(EventSet::empty())),
        };
        self.watched = wanted;
    }
}

/// The guest's buffers as one packet.
fn copy<'b>(from: &mut Buffers<'_>, into: &'b mut [u8]) -> Result<&'b mut [u8], GuestFault> {
    let length = from.len();
    if length < HEADER + MIN_FRAME {
        return Err(GuestFault::TooShort);
    }
    let packet = into
        .get_mut(..length)
        .ok_or(GuestFault::Request("a frame longer than any"))?;
    from.read(packet)?;
    Ok(packet)
}

/// Lets a header say only what was negotiated: the host's kernel reads it too.
fn judge(packet: &mut [u8], features: u64) -> Result<(), GuestFault> {
    const GSO_TCPV4: u8 = 1;
    const GSO_TCPV6: u8 = 4;
    const GSO_ECN: u8 = 0x80;
    let [flags, kind, ..] = packet else {
        return Err(GuestFault::TooShort);
    };
    let needs_checksum = *flags & NEEDS_CSUM != 0;
    let allowed = match *kind & !GSO_ECN {
        0 => true,
        GSO_TCPV4 => features & F_HOST_TSO4 != 0 && needs_checksum,
        GSO_TCPV6 => features & F_HOST_TSO6 != 0 && needs_checksum,
        _ => false,
    };
    if !allowed || (needs_checksum && features & F_CSUM == 0) {
        return Err(GuestFault::Request("an offload that was not negotiated"));
    }
    *flags &= NEEDS_CSUM;
    packet[10..HEADER].fill(0);
    Ok(())
}

impl VirtioDevice for Net {
    fn kind(&self) -> Kind {
        Kind {
            id: 1,
            name: "virtio-net",
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256]
    }

    fn features(&self) -> u64 {
        let offers = self.link.offloads();
        let mut features = F_MAC | F_MTU | F_MRG_RXBUF;
        for (offered, bits) in [
            (offers.checksum_from_guest, F_CSUM),
            (offers.checksum_to_guest, F_GUEST_CSUM),
            (
                offers.segments_from_guest,
                F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN,
            ),
            (
                offers.segments_to_guest,
                F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN,
            ),
        ] {
            if offered {
                features |= bits;
            }
        }
        features
    }

    fn config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.space, offset, data);
    }

    fn activate(&mut self, features: u64, io: &mut Io<'_>) {
        self.features = features;
        // Fails only if the host is out of memory: mute, it stays so.
        let _ = io.watch.add(self.released());
        for timer in self.timers() {
            // Fails only if the host is out of memory: the device stops at its limit then.
            let _ = io.watch.add(timer);
        }
        let both = |bits: u64| features & bits == bits;
        self.link.accept(Offloads {
            checksum_from_guest: both(F_CSUM),
            checksum_to_guest: both(F_GUEST_CSUM),
            segments_from_guest: both(F_HOST_TSO4 | F_HOST_TSO6),
            segments_to_guest: both(F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6),
        });
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), GuestFault> {
        match index {
            RECEIVE => self.receive(io),
            _ => self.transmit(io),
        }
    }

    fn process_source(
        &mut self,
        token: Token,
        events: EventSet,
        io: &mut Io<'_>,
    ) -> Result<(), GuestFault> {
        if token == RELEASED {
            let _ = self.control.released.read();
            return self.receive(io);
        }
        if let Some(queue) = token.checked_sub(TIMERS) {
            let queue = queue as usize;
            if let Some(Some(limit)) = self.limits.get(queue) {
                limit.acknowledge();
                self.process_queue(queue, io)?;
            }
            return Ok(());
        }
        // A hang-up is found by whoever reads or writes.
        let both = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if both || events.contains(EventSet::OUT) {
            self.transmit(io)?;
        }
        if both || events.contains(EventSet::IN) {
            self.receive(io)?;
        }
        Ok(())
    }

    fn save(&self) -> DeviceState {
        match self.stand_in {
            true => DeviceState::StandIn,
            false => DeviceState::None,
        }
    }

    /// The frame that waits for room is the saved machine's; the restored one hears others.
    fn restore(&mut self, state: &TransportState) -> Result<(), StateFault> {
        match state.own {
            // Nobody was ever behind it: there is nothing to be silent about.
            DeviceState::StandIn => return Ok(()),
            DeviceState::None => {}
            _ => return Err(StateFault::Own),
        }
        self.control.mute.store(true, Ordering::Release);
        Ok(())
    }

    fn deactivate(&mut self, watch: &mut dyn Watch) {
        let _ = watch.remove(self.released());
        self.held = 0;
        self.wanted = EventSet::empty();
        self.listen(watch);
        for timer in self.timers() {
            let _ = watch.remove(timer);
        }
    }
}
