// SPDX-License-Identifier: Apache-2.0
//! The device between a driver and a server that are both the tests' own.

use super::*;
use crate::virtio::testing::Driver;
use vm_memory::{Bytes as _, GuestAddress};

fn share() -> (Driver, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let fs = Fs::new(ours, "work").expect("a device");
    theirs
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .expect("a socket");
    (Driver::started(Box::new(fs), 0), theirs)
}

fn heard(mut server: &UnixStream) -> (Vec<u8>, u32) {
    let mut prefix = [0; PREFIX];
    server.read_exact(&mut prefix).expect("a request");
    let word = |at: usize| u32::from_le_bytes(prefix[at..at + 4].try_into().expect("four"));
    let mut body = vec![0; word(0) as usize];
    server.read_exact(&mut body).expect("a request");
    (body, word(4))
}

fn say(mut server: &UnixStream, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("small");
    server.write_all(&length.to_le_bytes()).expect("sent");
    server.write_all(bytes).expect("sent");
}

#[test]
fn messages_go_both_ways_in_their_order() {
    let (mut driver, server) = share();
    assert_eq!(&driver.config::<5>(0), b"work\0");
    assert_eq!(u32::from_le_bytes(driver.config(36)), 1);
    let (one, two) = (driver.place(b"first"), driver.place(b"second"));
    let (a, b) = (driver.allocate(8), driver.allocate(8));
    let first = driver.offer(1, &[(one, 5)], &[(a, 3), (b, 8)]);
    let second = driver.offer(0, &[(two, 6)], &[]);
    driver.kick(1);
    driver.settle();
    driver.kick(0);
    driver.settle();
    assert_eq!(heard(&server), (b"first".to_vec(), 11));
    assert_eq!(heard(&server), (b"second".to_vec(), 0));
    say(&server, b"answer");
    say(&server, b"");
    let used = driver.until(|driver| driver.used(1));
    assert_eq!(used, (first, 6));
    assert_eq!(
        (driver.fetch(a, 3), driver.fetch(b, 4)),
        (b"ans".to_vec(), b"wer\0".to_vec())
    );
    assert_eq!(driver.until(|driver| driver.used(0)), (second, 0));
}

#[test]
fn a_server_that_is_gone_or_says_too_much_is_an_input_output_error() {
    for too_much in [false, true] {
        let (mut driver, server) = share();
        let (at, room) = (driver.place(b"hello"), driver.allocate(64));
        let head = driver.offer(1, &[(at, 5)], &[(room, 20)]);
        driver.kick(1);
        driver.settle();
        match too_much {
            true => say(&server, &[1; 21]),
            false => drop(server),
        }
        assert_eq!(driver.until(|driver| driver.used(1)), (head, 16));
        let header = driver.fetch(room, 8);
        assert_eq!(header[..4], [16, 0, 0, 0]);
        assert_eq!(header[4..], (-libc::EIO).to_le_bytes());
        assert_eq!(driver.fetch(room + 20, 1), [0], "not a byte more");
        assert_eq!(driver.request(1, &[(at, 5)], &[(room, 20)]), 16);
    }
}

#[test]
fn an_answer_to_a_guest_that_is_gone_goes_nowhere() {
    let (mut driver, server) = share();
    let (at, room) = (driver.place(&[7; 4096]), driver.allocate(64));
    driver.offer(1, &[(at, 4096)], &[(room, 64)]);
    driver.kick(1);
    driver.settle();
    driver.write(0x70, 0);
    driver.settle();
    driver
        .memory
        .write_slice(&[0x55; 64], GuestAddress(room))
        .expect("memory");
    assert_eq!(heard(&server).0.len(), 4096);
    driver.start(0);
    say(&server, &[9; 64]);
    let (at, other) = (driver.place(b"new"), driver.allocate(8));
    driver.offer(1, &[(at, 3)], &[(other, 8)]);
    driver.kick(1);
    driver.settle();
    assert_eq!(heard(&server).0, b"new");
    say(&server, b"for you");
    driver.until(|driver| driver.used(1));
    assert_eq!(driver.fetch(other, 7), b"for you");
    assert_eq!(
        driver.fetch(room, 64),
        [0x55; 64],
        "the old one left no byte"
    );
}

#[test]
fn a_request_without_end_is_a_fault() {
    let (mut driver, _server) = share();
    let at = driver.allocate(2 << 20);
    assert_eq!(driver.request(1, &[(at, 2 << 20)], &[(at, 16)]), 0);
    assert_eq!(driver.mmio.fault_count(), 1);
}

#[test]
fn a_server_that_dies_within_an_answer_is_an_error_and_no_part_of_an_answer() {
    let (mut driver, mut server) = share();
    let (at, room) = (driver.place(b"hello"), driver.allocate(64));
    let head = driver.offer(1, &[(at, 5)], &[(room, 8), (room + 8, 56)]);
    driver.kick(1);
    driver.settle();
    // Says 64 bytes, a header of success among them, and is gone after 40.
    let mut answer = 64u32.to_le_bytes().to_vec();
    answer.extend(64u32.to_le_bytes());
    answer.extend([0; 36]);
    server.write_all(&answer).expect("sent");
    driver.settle();
    drop(server);
    assert_eq!(driver.until(|driver| driver.used(1)), (head, 16));
    let header = driver.fetch(room, 8);
    assert_eq!(header[..4], [16, 0, 0, 0]);
    assert_eq!(header[4..], (-libc::EIO).to_le_bytes());
}

#[test]
fn requests_that_waited_for_room_are_refused_too_when_the_server_is_gone() {
    let (mut driver, server) = share();
    let (at, room) = (driver.place(&[7; 4096]), driver.allocate(64));
    let head = driver.offer(1, &[(at, 4096)], &[(room, 64)]);
    // The same one over and over, until no more are remembered.
    let mut offered = 1;
    while offered < MAX_WAITING {
        driver.make_available(1, head);
        offered += 1;
        if offered % 100 == 0 {
            driver.kick(1);
            driver.settle();
        }
    }
    driver.kick(1);
    driver.settle();
    for _ in 0..10 {
        driver.make_available(1, head);
    }
    // The kick is heard of before the end is.
    driver.kick(1);
    drop(server);
    driver.settle();
    let mut used = 0;
    while driver.used(1).is_some() {
        used += 1;
    }
    assert_eq!(used, MAX_WAITING + 10);
}

/// Answers `count` messages on a thread: requests with their own words reversed, our own with
/// a table. Returns what it heard.
fn serving(server: UnixStream, count: usize) -> std::thread::JoinHandle<Vec<(u32, Vec<u8>)>> {
    std::thread::spawn(move || {
        let mut said = Vec::new();
        for _ in 0..count {
            let mut prefix = [0; PREFIX];
            (&server).read_exact(&mut prefix).expect("a message");
            let word = |at: usize| u32::from_le_bytes(prefix[at..at + 4].try_into().expect("four"));
            let length = match word(0) {
                EXPORT => 0,
                IMPORT => word(4),
                length => length,
            };
            let mut body = vec![0; usize::try_from(length).expect("small")];
            (&server).read_exact(&mut body).expect("a message");
            match word(0) {
                EXPORT => say(&server, b"all that it holds"),
                IMPORT => say(&server, b""),
                _ => say(&server, &body.iter().rev().copied().collect::<Vec<u8>>()),
            }
            said.push((word(0), body));
        }
        said
    })
}

#[test]
fn what_is_under_way_is_answered_before_a_save_and_the_copys_server_hears_the_table_first() {
    let (mut driver, server) = share();
    let asked: Vec<(u16, u64)> = (0..20u8)
        .map(|nth| {
            let (text, room) = (driver.place(&[nth, 1, 2]), driver.allocate(8));
            (driver.offer(1, &[(text, 3)], &[(room, 8)]), room)
        })
        .collect();
    driver.kick(1);
    driver.events.turn(0).expect("event loop");
    let served = serving(server, 21);
    let state = driver.saved();
    let table = b"all that it holds".to_vec();
    assert_eq!(
        state.own,
        DeviceState::Share {
            table: table.clone()
        }
    );
    assert_eq!(served.join().expect("it answered").len(), 21);

    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let fs = Fs::new(ours, "work").expect("a device");
    let mut copy = driver.copied(Box::new(fs));
    copy.mmio.restore(&state).expect("its own state");
    copy.settle();
    for machine in [&mut driver, &mut copy] {
        for (nth, (head, room)) in (0u8..).zip(&asked) {
            assert_eq!(machine.until(|driver| driver.used(1)), (*head, 3));
            assert_eq!(machine.fetch(*room, 3), [2, 1, nth]);
        }
    }
    let served = serving(theirs, 2);
    let (text, room) = (copy.place(b"next"), copy.allocate(8));
    assert_eq!(copy.request(1, &[(text, 4)], &[(room, 8)]), 4);
    assert_eq!(copy.fetch(room, 4), b"txen");
    let heard = served.join().expect("it answered");
    assert_eq!(heard, [(IMPORT, table), (4, b"next".to_vec())]);
}

#[test]
fn a_save_waits_for_a_server_that_is_slow_and_the_machine_goes_on_if_it_is_too_slow() {
    let (mut driver, server) = share();
    let (text, room) = (driver.place(b"slow"), driver.allocate(8));
    let head = driver.offer(1, &[(text, 4)], &[(room, 8)]);
    driver.kick(1);
    driver.settle();
    assert!(driver.mmio.save().is_err(), "it is not answered");
    driver.settle();
    assert_eq!(driver.used(1), None);
    let served = serving(server, 3);
    assert_eq!(driver.until(|driver| driver.used(1)), (head, 4));
    assert_eq!(driver.fetch(room, 4), b"wols");
    // Nothing of the save that failed is left.
    let table = b"all that it holds".to_vec();
    assert_eq!(driver.saved().own, DeviceState::Share { table });
    assert_eq!(driver.request(1, &[(text, 4)], &[(room, 8)]), 4);
    assert_eq!(served.join().expect("it answered").len(), 3);
}

#[test]
fn a_share_whose_server_is_gone_is_saved_with_nothing_held() {
    let (mut driver, server) = share();
    drop(server);
    driver.settle();
    let state = driver.saved();
    assert_eq!(state.own, DeviceState::Share { table: Vec::new() });
    for table in [MAX_TABLE + 1, MAX_TABLE] {
        let mut state = state.clone();
        state.own = DeviceState::Share {
            table: vec![0; table],
        };
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let copy = driver.copied(Box::new(Fs::new(ours, "work").expect("a device")));
        assert_eq!(copy.mmio.restore(&state).is_ok(), table <= MAX_TABLE);
    }
}

#[test]
fn a_server_that_is_gone_at_the_restore_is_an_error_to_the_guest_alone() {
    let (driver, server) = share();
    let served = serving(server, 1);
    let state = driver.saved();
    served.join().expect("it answered");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut copy = driver.copied(Box::new(Fs::new(ours, "work").expect("a device")));
    drop(theirs);
    copy.mmio.restore(&state).expect("its own state");
    copy.settle();
    let (text, room) = (copy.place(b"gone"), copy.allocate(64));
    assert_eq!(copy.request(1, &[(text, 4)], &[(room, 64)]), 16);
}
