// SPDX-License-Identifier: Apache-2.0
//! Tests: a transport saved, restored into another one, and going on; and states that lie.

use super::tests::{Echo, FEATURE, echo};
use super::{DRIVER_OK, NEEDS_RESET};
use crate::virtio::state::{DeviceState, Progress, StateFault, TransportState};
use crate::virtio::testing::{Driver, EVENT_IDX, MEMORY, VERSION_1};
use proptest::prelude::*;

fn used() -> Driver {
    let mut driver = Driver::started(Echo::boxed(), FEATURE);
    for text in [&b"one"[..], b"two", b"three"] {
        assert_eq!(echo(&mut driver, text), text);
    }
    driver
}

#[test]
fn registers_queues_and_interrupts_go_on_where_they_were() {
    for features in [0, FEATURE, FEATURE | EVENT_IDX] {
        let mut driver = Driver::started(Echo::boxed(), features);
        for round in 0..200u8 {
            assert_eq!(echo(&mut driver, &[round; 9]), [round; 9]);
        }
        driver.write(0x14, 1);
        driver.write(0x24, 1);
        driver.write(0x30, 1);
        driver.interrupts();
        let (status, generation) = (driver.read(0x60), driver.read(0xfc));
        let mut copy = driver.restored(Echo::boxed());
        assert_eq!(copy.read(0x10), 1, "the high half of the features");
        assert_eq!(
            (copy.read(0x34), copy.read(0x44)),
            (16, 1),
            "the second queue"
        );
        assert_eq!((copy.read(0x60), copy.read(0xfc)), (status, generation));
        assert_eq!(copy.interrupts(), u64::from(status != 0), "raised again");
        // Both go on, each by itself.
        for round in 0..200u8 {
            assert_eq!(echo(&mut copy, &[round; 7]), [round; 7]);
            assert_eq!(echo(&mut driver, &[round; 5]), [round; 5]);
        }
        assert_eq!((copy.mmio.fault_count(), driver.mmio.fault_count()), (0, 0));
    }
}

#[test]
fn what_was_offered_and_not_kicked_is_found_by_the_copy() {
    let mut driver = used();
    let (from, to) = (driver.place(b"late"), driver.allocate(4));
    let head = driver.offer(0, &[(from, 4)], &[(to, 4)]);
    // The kick came, and the event thread had no time for it.
    driver.kick(0);
    let mut copy = driver.restored(Echo::boxed());
    assert_eq!(copy.used(0), Some((head, 4)));
    assert_eq!(copy.fetch(to, 4), b"late");
    assert_eq!(driver.used(0), None, "it is another machine");
    driver.settle();
    assert_eq!(driver.used(0), Some((head, 4)));
}

#[test]
fn a_device_between_drivers_is_restored_to_one_nobody_uses() {
    let touches: [fn(&mut Driver); 5] = [
        |_| {},
        |driver| driver.write(0x70, 1),
        |driver| driver.negotiate(FEATURE),
        // Reset, and the event thread has not heard of it.
        |driver| {
            driver.start(FEATURE);
            driver.write(0x70, 0);
        },
        |driver| driver.write(0x70, 128),
    ];
    for touch in touches {
        let mut driver = Driver::new(Echo::boxed());
        touch(&mut driver);
        let echo_device = Echo::boxed();
        let log = echo_device.log.clone();
        let mut copy = driver.restored(echo_device);
        assert_eq!(copy.status(), driver.status());
        assert!(log.lock().expect("no panic").is_empty(), "not activated");
        copy.start(FEATURE);
        assert_eq!(echo(&mut copy, b"new"), b"new");
    }
}

#[test]
fn a_driver_that_resets_before_the_device_went_on_gets_a_fresh_one() {
    let driver = used();
    let state = driver.saved();
    let mut copy = driver.copied(Echo::boxed());
    copy.mmio.restore(&state).expect("its own state");
    copy.start(FEATURE);
    assert_eq!(echo(&mut copy, b"again"), b"again");
}

#[test]
fn a_broken_queue_stays_broken_until_the_driver_resets() {
    let mut driver = used();
    for _ in 0..100 {
        driver.make_available(0, 0);
    }
    driver.kick(0);
    driver.settle();
    assert_eq!(driver.status() & NEEDS_RESET, NEEDS_RESET);
    let mut copy = driver.restored(Echo::boxed());
    assert_eq!(copy.status(), driver.status());
    copy.start(FEATURE);
    assert_eq!(echo(&mut copy, b"mended"), b"mended");
}

/// Each is refused, with nothing of the guest's touched.
#[test]
fn states_that_no_device_has_are_refused() {
    type Change = fn(&mut TransportState);
    fn progress(state: &mut TransportState) -> &mut Progress {
        state.core.queues[0].progress.as_mut().expect("in use")
    }
    fn back(index: &mut u16) {
        *index = index.wrapping_sub(65);
    }
    let cases: &[(&str, Change)] = &[
        ("another device", |state| state.device = 1),
        ("a feature it lacks", |state| state.core.accepted |= 1 << 50),
        ("an old driver at work", |state| {
            state.core.accepted &= !VERSION_1
        }),
        ("a status bit of none", |state| state.core.status |= 1 << 8),
        ("at work, nothing agreed", |state| state.core.status &= !8),
        ("agreed with no driver", |state| state.core.status &= !2),
        ("no queues", |state| state.core.queues.clear()),
        ("a queue too few", |state| state.core.queues.truncate(1)),
        ("a queue too many", |state| {
            let one = state.core.queues[0];
            state.core.queues.push(one);
        }),
        ("a size of zero", |state| state.core.queues[0].size = 0),
        ("an odd size", |state| state.core.queues[0].size = 63),
        ("too large a size", |state| state.core.queues[0].size = 128),
        ("descriptors behind memory", |state| {
            state.core.queues[0].descriptors = MEMORY
        }),
        ("descriptors at the end of memory", |state| {
            state.core.queues[0].descriptors = MEMORY - 16;
        }),
        ("descriptors at no address", |state| {
            state.core.queues[0].descriptors = u64::MAX - 15;
        }),
        ("descriptors between addresses", |state| {
            state.core.queues[0].descriptors += 1
        }),
        ("an available ring at zero", |state| {
            state.core.queues[0].available = 0
        }),
        ("an available ring behind memory", |state| {
            state.core.queues[0].available = MEMORY
        }),
        ("an available ring at no address", |state| {
            state.core.queues[0].available = u64::MAX - 1;
        }),
        ("a used ring behind memory", |state| {
            state.core.queues[0].used = MEMORY
        }),
        ("a used ring at the end of memory", |state| {
            state.core.queues[0].used = MEMORY - 4
        }),
        ("a used ring at no address", |state| {
            state.core.queues[0].used = u64::MAX - 3
        }),
        ("more on offer than the ring holds", |state| {
            back(&mut progress(state).next_avail)
        }),
        ("taken what was not offered", |state| {
            progress(state).next_avail += 1
        }),
        ("given back what was not taken", |state| {
            progress(state).next_used += 1
        }),
        ("more under way than the ring holds", |state| {
            back(&mut progress(state).next_used)
        }),
        ("a queue in use before it was agreed", |state| {
            state.core.status = 3
        }),
        ("an interrupt of none", |state| state.interrupt = 4),
        ("the memory of a balloon", |state| {
            state.own = DeviceState::Balloon {
                actual: 0,
                target: 0,
                held: None,
            };
        }),
        ("the memory of a share", |state| {
            state.own = DeviceState::Share {
                table: vec![0; 100],
            };
        }),
    ];
    let driver = used();
    for (name, change) in cases {
        let mut state = driver.saved();
        change(&mut state);
        let mut copy = driver.copied(Echo::boxed());
        let outcome: Result<(), StateFault> = copy.mmio.restore(&state);
        assert!(outcome.is_err(), "{name}");
        copy.settle();
        let pages = usize::try_from(MEMORY).expect("small");
        assert!(
            copy.fetch(0, pages) == driver.fetch(0, pages),
            "{name}: memory changed"
        );
    }
}

prop_compose! {
    /// Anything in the place of a queue.
    fn any_queue()(
        size in prop_oneof![Just(64u16), any::<u16>()],
        addresses in prop::array::uniform3(prop_oneof![0..MEMORY, any::<u64>()]),
        progress in any::<Option<(u16, u16, u16)>>(),
    ) -> crate::virtio::state::QueueState {
        let [descriptors, available, used] = addresses;
        let progress = progress.map(|(next_avail, next_used, told)| Progress {
            next_avail,
            next_used,
            told,
        });
        crate::virtio::state::QueueState { size, descriptors, available, used, progress }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever a file says: a device that works or does not, and never a panic.
    #[test]
    fn any_state_is_refused_or_carried(
        queues in prop::collection::vec(any_queue(), 0..4),
        accepted in prop_oneof![Just(VERSION_1), Just(VERSION_1 | EVENT_IDX), any::<u64>()],
        status in prop_oneof![Just(15u32), 0..256u32, any::<u32>()],
        selects in any::<(u32, u32, u32)>(),
        interrupt in 0..5u32,
    ) {
        let driver = used();
        let mut state = driver.saved();
        if !queues.is_empty() {
            state.core.queues = queues;
        }
        (state.core.accepted, state.core.status, state.interrupt) = (accepted, status, interrupt);
        let core = &mut state.core;
        (core.device_features_select, core.driver_features_select, core.queue_select) = selects;
        let mut copy = driver.copied(Echo::boxed());
        if copy.mmio.restore(&state).is_ok() {
            copy.settle();
            for register in (0..0x100).step_by(4) {
                copy.read(register);
            }
            if copy.status() & DRIVER_OK != 0 {
                copy.kick(0);
            }
            copy.settle();
            copy.mmio.save().expect("at rest");
        }
    }
}
