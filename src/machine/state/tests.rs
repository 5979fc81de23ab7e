// SPDX-License-Identifier: Apache-2.0
//! States of real devices, changed by somebody who means harm: each is refused with its
//! reason, or makes a device that does what devices do. None panics.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use super::*;
use crate::config::net::MacAddr;
use crate::devices::blk;
use crate::devices::{self, Spec};
use crate::net::Frames;
use crate::virtio::state::{DeviceState, Progress, StateFault};
use crate::virtio::testing::Driver;
use proptest::prelude::*;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

/// The state in the frozen snapshot, of a machine that ran.
fn real() -> Vec<u8> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("tests/golden/snapshot-v1/base.husk");
    let packed = std::fs::read(path).unwrap();
    let stream = ruzstd::decoding::StreamingDecoder::new(&packed[..]).unwrap();
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with("state") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            return bytes;
        }
    }
    panic!("it has a state");
}

fn read(bytes: &[u8]) -> Result<MachineState, StateFileError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.rewind().unwrap();
    MachineState::read(&file)
}

/// A device of this number as the frozen machine had it, not touched yet.
fn device(number: u32) -> Driver {
    static DISK: OnceLock<(u64, bool)> = OnceLock::new();
    let spec = match number {
        19 => Spec::Vsock {
            cid: 3,
            ports: Vec::new(),
            listener: None,
        },
        5 => Spec::Balloon,
        2 => {
            let (sectors, read_only) = *DISK.get_or_init(|| {
                let state = read(&real()).unwrap();
                let mut owns = state.devices.iter().map(|device| &device.own);
                let disk = owns.find_map(|own| match own {
                    DeviceState::Disk { sectors, read_only } => Some((*sectors, *read_only)),
                    _ => None,
                });
                disk.unwrap()
            });
            let file = tempfile::tempfile().unwrap();
            file.set_len(sectors * 512).unwrap();
            Spec::Blk {
                file,
                read_only,
                stand_in: false,
                id: "root".to_owned(),
                limits: blk::Limits::default(),
            }
        }
        1 => Spec::Net {
            link: Box::new(Frames::new(Frames::pair().unwrap().0)),
            stand_in: false,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            bps: None,
        },
        _ => Spec::Rng,
    };
    Driver::new(devices::build(spec).unwrap().device)
}

/// The device with this state at work for a while, and then with a driver of its own: it may
/// be broken, it may not be lost.
fn restored(state: &TransportState) -> Result<(), StateFault> {
    let mut driver = device(state.device);
    driver.mmio.restore(state)?;
    for queue in 0..4 {
        driver.kick(queue);
    }
    for _ in 0..20 {
        driver.events.turn(0).unwrap();
    }
    let _ = driver.mmio.save();
    driver.start(0);
    assert_eq!(driver.status(), 15);
    driver.settle();
    Ok(())
}

/// A state whose rings are where this test's driver has memory.
fn at_home(state: &TransportState) -> TransportState {
    let mut state = state.clone();
    for (number, queue) in state.core.queues.iter_mut().enumerate() {
        [queue.descriptors, queue.available, queue.used] = Driver::rings_of(number);
        // Which are empty.
        let begun = queue.progress.is_some();
        queue.progress = begun.then_some(Progress {
            next_avail: 0,
            next_used: 0,
            told: 0,
        });
    }
    state
}

#[test]
fn a_real_state_is_taken_by_its_devices_and_by_no_others() {
    let state = read(&real()).unwrap();
    let numbers: Vec<u32> = state.devices.iter().map(|device| device.device).collect();
    assert_eq!(numbers, [19, 4, 2, 1, 5]);
    for device in &state.devices {
        restored(&at_home(device)).unwrap();
        let other = self::device(if device.device == 4 { 5 } else { 4 });
        let refused = other.mmio.restore(&at_home(device));
        assert_eq!(refused, Err(StateFault::Device(device.device)));
    }
}

#[test]
fn every_fault_of_a_state_is_found() {
    let state = read(&real()).unwrap();
    for device in state.devices.iter().map(at_home) {
        let with = |change: &dyn Fn(&mut TransportState)| {
            let mut bad = device.clone();
            change(&mut bad);
            restored(&bad)
        };
        let foreign = 1 << 40;
        let features = with(&|bad| bad.core.accepted |= foreign);
        assert_eq!(features, Err(StateFault::Features(foreign)));
        let count = device.core.queues.len();
        assert_eq!(
            with(&|bad| bad.core.queues.truncate(count - 1)),
            Err(StateFault::Queues(count - 1))
        );
        let more = with(&|bad| bad.core.queues.push(bad.core.queues[0]));
        assert_eq!(more, Err(StateFault::Queues(count + 1)));
        let begun = device
            .core
            .queues
            .iter()
            .any(|queue| queue.progress.is_some());
        // Queues at work in a device whose driver has not agreed with it.
        let early = begun.then_some(3);
        for status in [1 << 4, 1 << 31, 4].into_iter().chain(early) {
            let refused = with(&|bad| bad.core.status = status);
            assert_eq!(refused, Err(StateFault::Status(status)), "{status}");
        }
        for queue in 0..count {
            if device.core.queues[queue].progress.is_none() {
                continue;
            }
            let places: [fn(&mut TransportState, usize); 6] = [
                |bad, queue| bad.core.queues[queue].descriptors = 1 << 50,
                |bad, queue| bad.core.queues[queue].available = u64::MAX - 1,
                |bad, queue| bad.core.queues[queue].used += 2,
                |bad, queue| bad.core.queues[queue].size = 0,
                |bad, queue| bad.core.queues[queue].size = 3,
                |bad, queue| bad.core.queues[queue].size = 1 << 15,
            ];
            for place in places {
                let refused = with(&|bad| place(bad, queue));
                assert_eq!(refused, Err(StateFault::Queue(queue)));
            }
        }
    }
}

#[test]
fn what_another_kind_of_device_remembers_is_refused() {
    let state = read(&real()).unwrap();
    let owns = [
        DeviceState::None,
        DeviceState::Balloon {
            actual: u32::MAX,
            target: u32::MAX,
            held: Some(u16::MAX),
        },
        DeviceState::Disk {
            sectors: 1,
            read_only: false,
        },
        DeviceState::Share {
            table: vec![0xff; 100],
        },
        DeviceState::Console { sent: u64::MAX },
    ];
    for device in state.devices.iter().map(at_home) {
        for own in &owns {
            let mut bad = device.clone();
            bad.own = own.clone();
            match restored(&bad) {
                Ok(()) | Err(StateFault::Own | StateFault::Disk(_)) => {}
                Err(other) => panic!("{own:?} in device {}: {other}", device.device),
            }
        }
    }
}

/// Bytes like the real ones, but for some.
fn like_real() -> impl Strategy<Value = Vec<u8>> {
    let good = real();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6);
    // The devices are at the end of it: half of all edits go there.
    (edits, any::<bool>()).prop_map(move |(edits, devices)| {
        let mut bytes = good.clone();
        let from = if devices { bytes.len() - 300 } else { 0 };
        for (at, byte, how) in edits {
            let at = from + at.index(bytes.len() - from);
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_state_of_any_bytes_harms_more_than_its_device(bytes in like_real()) {
        if let Ok(state) = read(&bytes) {
            for device in state.devices.iter().take(8) {
                let _ = restored(device);
                let _ = restored(&at_home(device));
            }
        }
    }
}
