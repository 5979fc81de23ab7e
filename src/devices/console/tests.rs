// SPDX-License-Identifier: Apache-2.0
//! The console from the driver's side and the host's.

use super::*;
use crate::virtio::testing::Driver;
use std::fs::File;
use std::io::{Read as _, Write as _};

struct Rig {
    driver: Driver,
    window: Arc<Window>,
    log: Arc<ConsoleLog>,
    /// The far ends.
    keyboard: Option<File>,
    screen: Option<File>,
}

impl Rig {
    fn new() -> Self {
        let (input, keyboard) = nix::unistd::pipe().expect("pipe");
        let (screen, output) = nix::unistd::pipe().expect("pipe");
        let log = ConsoleLog::new(None);
        let (console, window) =
            Console::new(Some(input), Some(output), log.clone(), (80, 24)).expect("eventfd");
        Self {
            driver: Driver::started(Box::new(console), F_SIZE),
            window,
            log,
            keyboard: Some(keyboard.into()),
            screen: Some(screen.into()),
        }
    }

    fn press(&mut self, keys: &[u8]) {
        let keyboard = self.keyboard.as_mut().expect("not unplugged");
        keyboard.write_all(keys).expect("room");
    }

    fn rests(&mut self, what: &str) {
        self.driver.settle();
        let woken = self.driver.events.turn(20).expect("event loop");
        assert_eq!(woken, 0, "{what}");
    }
}

#[test]
fn output_reaches_the_host_and_the_log() {
    let mut rig = Rig::new();
    let one = rig.driver.place(b"hello ");
    let two = rig.driver.place(b"world\n");
    assert_eq!(rig.driver.request(TRANSMIT, &[(one, 6), (two, 6)], &[]), 0);
    let mut seen = [0; 64];
    let count = rig
        .screen
        .as_mut()
        .expect("there")
        .read(&mut seen)
        .expect("text");
    assert_eq!(&seen[..count], b"hello world\n");
    assert_eq!(rig.log.tail(2), ["hello world"]);
}

#[test]
fn a_host_that_does_not_read_holds_the_guest_up_and_loses_nothing() {
    let mut rig = Rig::new();
    // 4 MiB of text nobody reads, in chains larger than a pipe.
    let text: Vec<u8> = (0..200_000u32).map(|at| at.to_le_bytes()[1]).collect();
    let length = u32::try_from(text.len()).expect("small");
    let at = rig.driver.place(&text);
    for _ in 0..20 {
        rig.driver.offer(TRANSMIT, &[(at, length)], &[]);
    }
    rig.driver.kick(TRANSMIT);
    rig.rests("a full pipe is no busy loop");
    assert_eq!(rig.driver.used(TRANSMIT), None);

    let mut screen = rig.screen.take().expect("there");
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        let mut buffer = vec![0; 7001];
        while seen.len() < 20 * 200_000 {
            let count = screen.read(&mut buffer).expect("the writer lives");
            seen.extend_from_slice(&buffer[..count]);
        }
        seen
    });
    for _ in 0..20 {
        rig.driver.until(|driver| driver.used(TRANSMIT));
    }
    let seen = reader.join().expect("reader");
    assert!(seen.chunks(text.len()).all(|chunk| chunk == text));
    rig.rests("nothing left to do");
}

#[test]
fn a_host_that_hangs_up_does_not_stop_the_guest() {
    let mut rig = Rig::new();
    rig.screen = None;
    let at = rig.driver.place(b"anyone?");
    for _ in 0..3 {
        rig.driver.request(TRANSMIT, &[(at, 7)], &[]);
    }
    rig.rests("a closed pipe is no busy loop");
}

#[test]
fn input_waits_for_buffers_and_its_end_is_quiet() {
    let mut rig = Rig::new();
    rig.press(b"more keys than fit");
    rig.rests("no buffers, no watching");
    let small = rig.driver.allocate(8);
    assert_eq!(rig.driver.request(RECEIVE, &[], &[(small, 8)]), 8);
    assert_eq!(rig.driver.fetch(small, 8), b"more key");

    let large = rig.driver.allocate(100);
    rig.driver.offer(RECEIVE, &[], &[(large, 100)]);
    rig.driver.offer(RECEIVE, &[], &[(small, 8)]);
    rig.driver.kick(RECEIVE);
    rig.driver.settle();
    assert_eq!(rig.driver.used(RECEIVE).map(|used| used.1), Some(10));
    assert_eq!(rig.driver.fetch(large, 10), b"s than fit");
    rig.rests("an empty pipe");

    rig.press(b"!");
    let (_, length) = rig.driver.until(|driver| driver.used(RECEIVE));
    assert_eq!((length, rig.driver.fetch(small, 1)), (1, b"!".to_vec()));

    rig.driver.offer(RECEIVE, &[], &[(small, 8)]);
    rig.driver.kick(RECEIVE);
    rig.keyboard = None;
    rig.rests("the end of input is no busy loop");
    assert_eq!(rig.driver.used(RECEIVE), None);
}

#[test]
fn the_guest_learns_of_a_new_size() {
    let mut rig = Rig::new();
    assert_eq!(rig.driver.config::<4>(0), [80, 0, 24, 0]);
    rig.driver.interrupts();
    rig.window.resize(300, 100);
    rig.driver.settle();
    assert_eq!(rig.driver.config::<4>(0), [44, 1, 100, 0]);
    assert_eq!(rig.driver.interrupts(), 1);
    assert_eq!(rig.driver.read(0x60), 2);
}

#[test]
fn a_reset_mid_sentence_starts_afresh() {
    let mut rig = Rig::new();
    let text = vec![b'a'; 100_000];
    let at = rig.driver.place(&text);
    rig.driver.offer(TRANSMIT, &[(at, 100_000)], &[]);
    rig.driver.kick(TRANSMIT);
    rig.driver.settle();
    rig.driver.write(0x70, 0);
    rig.press(b"typed between two drivers");
    rig.rests("nothing is watched for a guest that left");

    rig.driver.start(F_SIZE);
    let mut screen = rig.screen.take().expect("there");
    let mut buffer = vec![0; 1 << 17];
    let count = screen.read(&mut buffer).expect("text");
    assert!(count < text.len());
    let at = rig.driver.place(b"new");
    rig.driver.request(TRANSMIT, &[(at, 3)], &[]);
    let count = screen.read(&mut buffer).expect("text");
    assert_eq!(&buffer[..count], b"new");
    let at = rig.driver.allocate(64);
    assert_eq!(rig.driver.request(RECEIVE, &[], &[(at, 64)]), 25);
}

#[test]
fn odd_chains_are_faults() {
    let mut rig = Rig::new();
    rig.press(b"x");
    let at = rig.driver.place(b"text");
    assert_eq!(rig.driver.request(RECEIVE, &[(at, 4)], &[]), 0);
    assert_eq!(rig.driver.mmio.fault_count(), 1);
    assert_eq!(rig.driver.request(TRANSMIT, &[], &[(at, 4)]), 0);
    assert_eq!(rig.driver.fetch(at, 4), b"text");
}

impl Rig {
    fn restored(&self, size: (u16, u16)) -> Self {
        let (input, keyboard) = nix::unistd::pipe().expect("pipe");
        let (screen, output) = nix::unistd::pipe().expect("pipe");
        let log = ConsoleLog::new(None);
        let console = Console::new(Some(input), Some(output), log.clone(), size);
        let (console, window) = console.expect("eventfd");
        Self {
            driver: self.driver.restored(Box::new(console)),
            window,
            log,
            keyboard: Some(keyboard.into()),
            screen: Some(screen.into()),
        }
    }

    /// What the screen takes in until the chain at the head is used.
    fn shown(&mut self) -> Vec<u8> {
        let mut screen = self.screen.take().expect("there");
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            screen.read_to_end(&mut seen).expect("text");
            seen
        });
        self.driver.until(|driver| driver.used(TRANSMIT));
        // Hangs the screen up.
        let (console, _) = Console::new(None, None, self.log.clone(), (0, 0)).expect("eventfd");
        self.driver = Driver::new(Box::new(console));
        reader.join().expect("reader")
    }
}

#[test]
fn a_text_shown_in_part_is_shown_to_its_end_by_whoever_goes_on() {
    let mut rig = Rig::new();
    let text: Vec<u8> = (0..200_000u32).map(|at| at.to_le_bytes()[1]).collect();
    let at = rig.driver.place(&text);
    rig.driver.offer(TRANSMIT, &[(at, 200_000)], &[]);
    rig.driver.kick(TRANSMIT);
    rig.driver.settle();
    let DeviceState::Console { sent } = rig.driver.saved().own else {
        panic!("a console's state");
    };
    let sent = usize::try_from(sent).expect("small");
    assert!(sent > 0 && sent < text.len());
    let mut copy = rig.restored((80, 24));
    assert_eq!(copy.shown(), text[sent..]);
    assert_eq!(rig.shown(), text);
}

#[test]
fn keys_and_the_size_reach_a_restored_guest() {
    let mut rig = Rig::new();
    let at = rig.driver.allocate(64);
    rig.driver.offer(RECEIVE, &[], &[(at, 64)]);
    rig.driver.kick(RECEIVE);
    rig.driver.settle();
    rig.driver.interrupts();
    let mut copy = rig.restored((100, 30));
    assert_eq!(copy.driver.config::<4>(0), [100, 0, 30, 0]);
    assert_eq!(copy.driver.read(0x60) & 2, 2, "the size may be new");
    copy.press(b"typed");
    copy.driver.until(|driver| driver.used(RECEIVE));
    assert_eq!(copy.driver.fetch(at, 5), b"typed");
    assert!(!rig.driver.peek_used(RECEIVE));
    copy.rests("nothing left to do");
}

#[test]
fn a_state_that_showed_more_than_there_was_shows_nothing_of_it() {
    let rig = Rig::new();
    let mut state = rig.driver.saved();
    state.own = DeviceState::Console { sent: u64::MAX };
    let log = ConsoleLog::new(None);
    let (console, _) = Console::new(None, None, log.clone(), (80, 24)).expect("eventfd");
    let mut copy = rig.driver.copied(Box::new(console));
    copy.mmio.restore(&state).expect("any number will do");
    copy.settle();
    for text in [b"first\n", b"other\n"] {
        let at = copy.place(text);
        copy.request(TRANSMIT, &[(at, 6)], &[]);
    }
    assert_eq!(log.tail(2), ["other"]);
}
