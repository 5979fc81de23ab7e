// SPDX-License-Identifier: Apache-2.0
//! The interface from the driver's side, with an ordinary socket as the world.

use super::*;
use crate::net::Frames;
use crate::virtio::testing::{Driver, EVENT_IDX};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

struct Card {
    driver: Driver,
    world: OwnedFd,
    control: Arc<Control>,
}

impl Card {
    fn new(features: u64) -> Self {
        Self::limited(features, None)
    }

    fn limited(features: u64, bps: Option<u64>) -> Self {
        let (ours, world) = Frames::pair().expect("sockets");
        let link = Box::new(Frames::new(ours));
        let (net, control) = Net::new(link, MAC, 1500, bps).expect("timers");
        Self {
            driver: Driver::started(Box::new(net), features),
            world,
            control,
        }
    }

    fn say(&mut self, frame: &[u8]) {
        send(self.world.as_raw_fd(), frame, MsgFlags::empty()).expect("room");
        self.driver.settle();
    }

    fn hear(&self) -> Result<Vec<u8>, Errno> {
        let mut frame = vec![0; MAX_FRAME];
        let length = recv(self.world.as_raw_fd(), &mut frame, MsgFlags::empty())?;
        frame.truncate(length);
        Ok(frame)
    }

    /// Transmits a header and a frame as one chain.
    fn transmit(&mut self, header: [u8; HEADER], frame: &[u8]) {
        let at = self.driver.place(&[&header[..], frame].concat());
        let length = u32::try_from(HEADER + frame.len()).expect("short");
        self.driver.offer(TRANSMIT, &[(at, length)], &[]);
        self.driver.kick(TRANSMIT);
        self.driver.settle();
        self.driver.used(TRANSMIT).expect("given back");
    }

    fn offer_room(&mut self, length: u32) -> u64 {
        let at = self
            .driver
            .allocate(usize::try_from(length).expect("small"));
        self.driver.offer(RECEIVE, &[], &[(at, length)]);
        at
    }
}

fn frame(length: usize) -> Vec<u8> {
    (0..=250u8).cycle().take(length).collect()
}

#[test]
fn the_card_says_what_it_is() {
    let card = Card::new(0);
    assert_eq!(card.driver.config::<6>(0), MAC.0);
    assert_eq!(card.driver.config::<2>(10), 1500u16.to_le_bytes());
    let offered = card.driver.offered() & 0xff_ffff;
    assert_eq!(offered, F_CSUM | F_GUEST_CSUM | F_MTU | F_MAC | F_MRG_RXBUF);
}

#[test]
fn frames_arrive_whole_in_both_directions() {
    for features in [0, F_MRG_RXBUF, F_MRG_RXBUF | EVENT_IDX] {
        let mut card = Card::new(features);
        for length in [14, 60, 1514] {
            card.transmit([0; HEADER], &frame(length));
            assert_eq!(card.hear().expect("a frame"), frame(length));
            let at = card.offer_room(2000);
            card.driver.kick(RECEIVE);
            card.say(&frame(length));
            let (_, used) = card.driver.used(RECEIVE).expect("delivered");
            assert_eq!(used, u32::try_from(HEADER + length).expect("short"));
            let got = card.driver.fetch(at, HEADER + length);
            assert_eq!(got[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            assert_eq!(got[HEADER..], frame(length));
            // This driver never moves the index it wants to be woken at.
            let told = card.driver.interrupts() > 0;
            assert!(told || (features & EVENT_IDX != 0 && length > 14));
        }
        assert_eq!(card.driver.mmio.fault_count(), 0);
    }
}

#[test]
fn a_long_frame_is_spread_over_buffers_that_appear_together() {
    let mut card = Card::new(F_MRG_RXBUF | F_GUEST_CSUM);
    let places: Vec<u64> = (0..2).map(|_| card.offer_room(1000)).collect();
    card.driver.kick(RECEIVE);
    card.say(&frame(2500));
    assert!(
        !card.driver.peek_used(RECEIVE),
        "it does not fit: nothing is used"
    );
    let last = card.offer_room(1000);
    card.driver.kick(RECEIVE);
    card.driver.settle();
    let mut got = Vec::new();
    for at in places.into_iter().chain([last]) {
        let (_, used) = card.driver.used(RECEIVE).expect("delivered");
        got.extend(card.driver.fetch(at, usize::try_from(used).expect("small")));
    }
    assert_eq!(got[..HEADER], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]);
    assert_eq!(got[HEADER..], frame(2500));
}

#[test]
fn without_mergeable_buffers_a_frame_that_does_not_fit_is_dropped() {
    let mut card = Card::new(0);
    card.offer_room(100);
    let at = card.offer_room(2000);
    card.driver.kick(RECEIVE);
    card.say(&frame(1000));
    assert_eq!(card.driver.used(RECEIVE).map(|used| used.1), Some(0));
    assert_eq!(card.driver.mmio.fault_count(), 1);
    card.say(&frame(700));
    assert_eq!(card.driver.used(RECEIVE).map(|used| used.1), Some(712));
    assert_eq!(card.driver.fetch(at + 12, 700), frame(700));
}

#[test]
fn a_full_link_is_waited_for_and_nothing_is_lost() {
    let mut card = Card::new(0);
    let at = card
        .driver
        .place(&[&[0; HEADER][..], &frame(60_000)].concat());
    let mut offered = 0;
    while offered < 200 {
        card.driver.offer(TRANSMIT, &[(at, 60_012)], &[]);
        offered += 1;
    }
    card.driver.kick(TRANSMIT);
    card.driver.settle();
    let mut heard = 0;
    while heard < offered {
        match card.hear() {
            Ok(got) => {
                assert_eq!(got, frame(60_000));
                heard += 1;
            }
            Err(Errno::EAGAIN) => card.driver.settle(),
            Err(other) => panic!("{other}"),
        }
    }
    let mut used = 0;
    card.driver.settle();
    while card.driver.used(TRANSMIT).is_some() {
        used += 1;
    }
    assert_eq!(used, offered);
}

#[test]
fn headers_say_only_what_was_negotiated() {
    let mut card = Card::new(F_CSUM);
    let header = |flags, kind| {
        let mut header = [0xff; HEADER];
        (header[0], header[1]) = (flags, kind);
        header
    };
    for bad in [
        header(0, 1),
        header(1, 1),
        header(1, 4),
        header(1, 3),
        header(1, 5),
    ] {
        card.transmit(bad, &frame(100));
        assert_eq!(card.hear(), Err(Errno::EAGAIN));
    }
    card.transmit(header(1, 0), &frame(100));
    assert_eq!(card.hear().expect("a frame"), frame(100));
    assert_eq!(card.driver.mmio.fault_count(), 5);
    let mut plain = Card::new(0);
    plain.transmit(header(1, 0), &frame(100));
    assert_eq!(plain.hear(), Err(Errno::EAGAIN), "no checksum was promised");
}

#[test]
fn frames_too_short_or_too_long_are_faults() {
    let mut card = Card::new(0);
    card.transmit([0; HEADER], &frame(13));
    card.transmit([0; HEADER], &frame(MAX_FRAME + 1));
    assert_eq!(card.hear(), Err(Errno::EAGAIN));
    assert_eq!(card.driver.mmio.fault_count(), 2);
    // A receive buffer nothing can be written to.
    let at = card.driver.allocate(64);
    card.driver.offer(RECEIVE, &[(at, 64)], &[]);
    card.driver.kick(RECEIVE);
    card.say(&frame(64));
    assert_eq!(card.driver.used(RECEIVE).map(|used| used.1), Some(0));
    assert_eq!(card.driver.mmio.fault_count(), 3);
}

#[test]
fn a_world_that_ends_leaves_a_card_that_takes_frames_and_rests() {
    let mut card = Card::new(0);
    card.offer_room(100);
    card.driver.kick(RECEIVE);
    card.driver.settle();
    let (ours, _) = Frames::pair().expect("sockets");
    drop(std::mem::replace(&mut card.world, ours));
    card.driver.settle();
    for _ in 0..3 {
        card.transmit([0; HEADER], &frame(100));
    }
    assert_eq!(card.driver.events.turn(20).expect("event loop"), 0);
}

#[test]
fn a_reset_forgets_the_frame_that_was_held() {
    let mut card = Card::new(0);
    card.say(&frame(100));
    card.driver.start(0);
    card.say(&frame(50));
    card.offer_room(2000);
    card.driver.kick(RECEIVE);
    card.driver.settle();
    assert_eq!(card.driver.used(RECEIVE).map(|used| used.1), Some(62));
}

/// Thirty frames each way at a hundred a second, ten of which come at once.
#[test]
fn a_limit_holds_frames_back_in_each_direction_and_loses_none() {
    const COUNT: u32 = 30;
    let least = Duration::from_millis(180);
    let mut card = Card::limited(F_MRG_RXBUF, Some(100_000));
    let at = card
        .driver
        .place(&[&[0; HEADER][..], &frame(1000)].concat());
    for _ in 0..COUNT {
        card.driver.offer(TRANSMIT, &[(at, 1012)], &[]);
        card.offer_room(1100);
        send(card.world.as_raw_fd(), &frame(1000), MsgFlags::empty()).expect("room");
    }
    let start = Instant::now();
    for queue in [TRANSMIT, RECEIVE] {
        card.driver.kick(queue);
    }
    for queue in [TRANSMIT, RECEIVE] {
        for _ in 0..COUNT {
            card.driver.until(|driver| driver.used(queue));
        }
        let took = start.elapsed();
        assert!(took >= least, "{took:?}");
    }
    let heard = std::iter::from_fn(|| card.hear().ok());
    assert_eq!(heard.filter(|got| *got == frame(1000)).count(), 30);
    assert_eq!(card.control.sent(), (30_000, 30));
    assert_eq!(card.control.received(), (30_000, 30));
}

/// While a limit's time has not come nothing wakes the device: not the link, which has more,
/// nor the queue.
#[test]
fn a_device_at_its_limit_sleeps() {
    let mut card = Card::limited(F_MRG_RXBUF, Some(10));
    for _ in 0..4 {
        card.offer_room(1100);
        send(card.world.as_raw_fd(), &frame(1000), MsgFlags::empty()).expect("room");
    }
    card.driver.kick(RECEIVE);
    let at = card
        .driver
        .place(&[&[0; HEADER][..], &frame(1000)].concat());
    for _ in 0..4 {
        card.driver.offer(TRANSMIT, &[(at, 1012)], &[]);
    }
    card.driver.kick(TRANSMIT);
    card.driver.settle();
    assert_eq!(card.driver.events.turn(50).expect("event loop"), 0);
    assert_eq!((card.control.sent().1, card.control.received().1), (1, 1));
    // A reset forgets what waited, and the timers with it.
    card.driver.start(F_MRG_RXBUF);
    assert_eq!(card.driver.events.turn(50).expect("event loop"), 0);
}

impl Card {
    /// The same guest with a fresh interface to another world.
    fn restored(&self) -> Self {
        let (ours, world) = Frames::pair().expect("sockets");
        let link = Box::new(Frames::new(ours));
        let (net, control) = Net::new(link, MAC, 1500, None).expect("timers");
        Self {
            driver: self.driver.restored(Box::new(net)),
            world,
            control,
        }
    }
}

#[test]
fn a_restored_card_is_mute_until_it_is_released_and_then_works_in_both_directions() {
    for features in [
        0,
        F_MRG_RXBUF | F_CSUM | F_GUEST_CSUM,
        F_MRG_RXBUF | F_CSUM | EVENT_IDX,
    ] {
        let mut card = Card::new(features);
        for _ in 0..300 {
            card.transmit([0; HEADER], &frame(60));
            card.hear().expect("a frame");
        }
        // Half of what it needs for a frame; and one that waits for the other half.
        let first = card.offer_room(700);
        card.driver.kick(RECEIVE);
        if features & F_MRG_RXBUF != 0 {
            card.say(&frame(1000));
        }
        let mut copy = card.restored();
        assert!(copy.control.is_mute());
        copy.transmit([0; HEADER], &frame(100));
        assert_eq!(copy.hear(), Err(Errno::EAGAIN), "dropped");
        copy.say(&frame(300));
        assert_eq!(copy.driver.used(RECEIVE), None, "not taken");
        assert_eq!(copy.driver.events.turn(20).expect("event loop"), 0);

        copy.control.release();
        copy.control.release();
        copy.driver.settle();
        assert!(!copy.control.is_mute());
        assert_eq!(copy.driver.used(RECEIVE).map(|used| used.1), Some(312));
        assert_eq!(copy.driver.fetch(first + 12, 300), frame(300));
        assert_eq!(copy.hear(), Err(Errno::EAGAIN), "nothing of before");
        for length in [14, 1514] {
            copy.transmit([0; HEADER], &frame(length));
            assert_eq!(copy.hear().expect("a frame"), frame(length));
            copy.offer_room(2000);
            copy.driver.kick(RECEIVE);
            copy.say(&frame(length));
            let used = copy.driver.used(RECEIVE).map(|used| used.1);
            assert_eq!(used, u32::try_from(HEADER + length).ok());
        }
        // What was negotiated holds on, and no more.
        let mut header = [0; HEADER];
        header[0] = NEEDS_CSUM;
        copy.transmit(header, &frame(100));
        let allowed = features & F_CSUM != 0;
        assert_eq!(copy.hear().is_ok(), allowed);
        // The parent never noticed.
        card.offer_room(700);
        card.driver.kick(RECEIVE);
        card.driver.settle();
        let waited = features & F_MRG_RXBUF != 0;
        assert_eq!(card.driver.used(RECEIVE).is_some(), waited);
        card.transmit([0; HEADER], &frame(77));
        assert_eq!(card.hear().expect("a frame"), frame(77));
    }
}

#[test]
fn a_frame_in_several_buffers_goes_into_those_of_before_and_after() {
    let mut card = Card::new(F_MRG_RXBUF);
    let places: Vec<u64> = (0..2).map(|_| card.offer_room(1000)).collect();
    card.driver.kick(RECEIVE);
    card.driver.settle();
    let mut copy = card.restored();
    copy.control.release();
    copy.say(&frame(2500));
    assert!(!copy.driver.peek_used(RECEIVE));
    let last = copy.offer_room(1000);
    copy.driver.kick(RECEIVE);
    copy.driver.settle();
    let mut got = Vec::new();
    for at in places.into_iter().chain([last]) {
        let (_, used) = copy.driver.used(RECEIVE).expect("delivered");
        got.extend(copy.driver.fetch(at, usize::try_from(used).expect("small")));
    }
    assert_eq!(got[HEADER..], frame(2500));
}

#[test]
fn a_restored_card_stays_mute_across_a_reset_of_its_driver() {
    let card = Card::new(0);
    let mut copy = card.restored();
    copy.driver.start(0);
    copy.transmit([0; HEADER], &frame(100));
    assert_eq!(copy.hear(), Err(Errno::EAGAIN));
    copy.control.release();
    copy.driver.settle();
    copy.transmit([0; HEADER], &frame(100));
    assert_eq!(copy.hear().expect("a frame"), frame(100));
}

#[test]
fn a_card_whose_link_does_less_than_was_agreed_is_refused() {
    let card = Card::new(0);
    let mut state = card.driver.saved();
    state.core.accepted |= F_HOST_TSO4;
    let (ours, _world) = Frames::pair().expect("sockets");
    let (net, _) = Net::new(Box::new(Frames::new(ours)), MAC, 1500, None).expect("timers");
    let copy = card.driver.copied(Box::new(net));
    assert_eq!(
        copy.mmio.restore(&state),
        Err(StateFault::Features(F_HOST_TSO4))
    );
}

#[test]
fn a_card_that_takes_the_place_of_one_that_led_nowhere_speaks_at_once() {
    let card = Card::new(0);
    let mut state = card.driver.saved();
    state.own = DeviceState::StandIn;
    let (ours, _world) = Frames::pair().expect("sockets");
    let link = Box::new(Frames::new(ours));
    let (net, control) = Net::new(link, MAC, 1500, None).expect("timers");
    assert_eq!(
        card.driver.copied(Box::new(net)).mmio.restore(&state),
        Ok(())
    );
    assert!(!control.is_mute());

    let (ours, _world) = Frames::pair().expect("sockets");
    let (net, _) = Net::new(Box::new(Frames::new(ours)), MAC, 1500, None).expect("timers");
    let copy = card.driver.restored(Box::new(net.standing_in()));
    assert_eq!(copy.saved().own, DeviceState::StandIn);
}
