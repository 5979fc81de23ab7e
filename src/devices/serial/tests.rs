// SPDX-License-Identifier: Apache-2.0
//! The serial port from the guest's side and the host's.

use super::*;
use crate::bus::Device as _;
use crate::events::Loop;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::time::Instant;

const LINE_STATUS: u64 = 5;
const DATA_READY: u8 = 1;

struct Port {
    serial: Arc<Serial>,
    events: Loop,
    log: Arc<ConsoleLog>,
}

impl Port {
    fn new(input: Option<OwnedFd>, output: Option<OwnedFd>) -> Self {
        let log = ConsoleLog::new(None);
        let irq = IrqLine::new().expect("eventfd");
        let serial = Serial::new(irq, input, output, log.clone()).expect("descriptors");
        let mut events = Loop::new().expect("epoll");
        events.add(serial.clone());
        Self {
            serial,
            events,
            log,
        }
    }

    fn print(&self, text: &[u8]) {
        text.iter().for_each(|&byte| self.serial.write(0, &[byte]));
    }

    fn get(&self, offset: u64) -> u8 {
        let mut data = [0];
        self.serial.read(offset, &mut data);
        data[0]
    }

    fn open(&self) {
        self.serial.write(1, &[RECEIVE_ENABLED]);
    }

    fn settle(&mut self) {
        while self.events.turn(0).expect("event loop") > 0 {}
    }

    /// Nothing keeps the event loop awake, but for a tick that was due anyway.
    fn rests(&mut self, what: &str) {
        self.events.turn(20).expect("event loop");
        assert_eq!(self.events.turn(20).expect("event loop"), 0, "{what}");
    }

    /// Reads as a driver does, until `count` bytes came.
    fn take(&mut self, count: usize) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(20);
        let mut bytes = Vec::new();
        while bytes.len() < count {
            while self.get(LINE_STATUS) & DATA_READY != 0 {
                bytes.push(self.get(0));
            }
            assert!(Instant::now() < end, "{} of {count}", bytes.len());
            self.events.turn(1).expect("event loop");
        }
        bytes
    }
}

fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = nix::unistd::pipe().expect("pipe");
    (File::from(reader), writer)
}

#[test]
fn output_gathers_and_arrives_whole() {
    let (mut reader, writer) = pipe();
    let mut port = Port::new(None, Some(writer));
    port.settle();
    port.print(b"Linux version 6.12\nlogin: ");
    assert_eq!(port.events.turn(5000).expect("event loop"), 1, "one tick");
    let mut seen = [0; 64];
    let count = reader.read(&mut seen).expect("one write");
    assert_eq!(&seen[..count], b"Linux version 6.12\nlogin: ");
    assert_eq!(port.log.tail(9), ["Linux version 6.12", "login: "]);
    port.rests("then rest");
}

#[test]
fn flush_leaves_nothing_behind() {
    let (mut reader, writer) = pipe();
    let port = Port::new(None, Some(writer));
    port.print(b"the last words");
    port.serial.flush();
    let mut seen = [0; 64];
    let count = reader.read(&mut seen).expect("written");
    assert_eq!(&seen[..count], b"the last words");
}

#[test]
fn a_slow_reader_gets_every_byte() {
    let (mut reader, writer) = pipe();
    let mut port = Port::new(None, Some(writer));
    // More than a pipe and our buffer hold together.
    let text: Vec<u8> = (0..300_000u32)
        .map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1])
        .collect();
    let serial = port.serial.clone();
    let sent = text.clone();
    let guest = std::thread::spawn(move || {
        sent.iter().for_each(|&byte| serial.write(0, &[byte]));
    });
    let mut seen = Vec::new();
    let mut buffer = [0; 1000];
    while seen.len() < text.len() {
        port.events.turn(1).expect("event loop");
        let count = reader.read(&mut buffer).expect("the writer lives");
        seen.extend_from_slice(&buffer[..count]);
        if guest.is_finished() {
            port.settle();
        }
    }
    guest.join().expect("guest");
    assert!(seen == text);
    port.settle();
    port.rests("nothing left to watch");
}

#[test]
fn a_reader_that_leaves_does_not_stop_the_guest() {
    let (reader, writer) = pipe();
    drop(reader);
    let mut port = Port::new(None, Some(writer));
    port.print(&[b'x'; PENDING + 10]);
    port.settle();
    port.rests("no busy loop");
    assert_eq!(
        port.log.tail(1)[0].len(),
        PENDING,
        "the log has it all the same"
    );
}

#[test]
fn input_waits_for_a_guest_that_listens_and_for_room() {
    let (reader, writer) = pipe();
    let mut port = Port::new(Some(reader.into()), None);
    let text: Vec<u8> = (0..5000u16).map(|at| at.to_le_bytes()[0]).collect();
    File::from(writer).write_all(&text).expect("room");
    port.settle();
    assert_eq!(port.get(LINE_STATUS) & DATA_READY, 0);
    port.serial.write(4, &[LOOPBACK]);
    port.open();
    port.settle();
    assert_eq!(port.get(LINE_STATUS) & DATA_READY, 0, "loopback: a probe");
    port.serial.write(4, &[0]);
    port.settle();
    assert!(port.serial.irq().take() > 0, "an interrupt for input");
    port.rests("a full FIFO is no busy loop");
    assert_eq!(port.take(text.len()), text);
    port.settle();
    port.rests("nor is the end of input");
}

#[test]
fn input_may_be_a_plain_file() {
    let mut file = tempfile::tempfile().expect("file");
    let text = vec![b'k'; 300];
    file.write_all(&text).expect("room");
    file.rewind().expect("file");
    let mut port = Port::new(Some(file.into()), None);
    port.open();
    assert_eq!(port.take(text.len()), text);
}

#[test]
fn odd_accesses_do_nothing() {
    let port = Port::new(None, None);
    port.serial.write(0, &[]);
    port.serial.write(0, b"ab");
    port.serial.write(u64::MAX, b"a");
    let mut wide = [0; 4];
    port.serial.read(0, &mut wide);
    port.serial.read(0, &mut []);
    assert_eq!(wide, [0; 4]);
    assert!(port.log.tail(1).is_empty());
    assert_eq!(port.serial.faults.count(), 5);
}

#[test]
fn the_divisor_latch_is_not_printed() {
    let port = Port::new(None, None);
    port.serial.write(3, &[0x80]);
    port.print(b"\x01");
    port.serial.write(3, &[3]);
    port.print(b"a");
    assert_eq!(port.log.tail(1), ["a"]);
}

#[test]
fn registers_keys_and_interrupts_go_on_in_another_port() {
    let (input, keyboard) = nix::unistd::pipe().expect("pipe");
    let mut port = Port::new(Some(input), None);
    // The divisor, the frame, the modem lines, a scratch byte.
    for (register, value) in [
        (3, 0x83),
        (0, 0x12),
        (1, 0x34),
        (3, 0x1b),
        (4, 0x0b),
        (7, 0x77),
    ] {
        port.serial.write(register, &[value]);
    }
    port.open();
    File::from(keyboard).write_all(b"abc").expect("room");
    port.settle();
    let state = port.serial.save();
    assert_eq!(state.typed, b"abc");
    let bytes = postcard::to_stdvec(&state).expect("data");
    let state: SerialState = postcard::from_bytes(&bytes).expect("data");

    let (input, keyboard) = nix::unistd::pipe().expect("pipe");
    let mut copy = Port::new(Some(input), None);
    copy.serial.restore(&state).expect("its own state");
    assert_eq!(copy.serial.save(), state);
    assert!(copy.serial.irq().take() > 0, "there is something to read");
    assert_eq!(copy.take(3), b"abc");
    for port in [&port, &copy] {
        assert_eq!(
            [3, 4, 7].map(|register| port.get(register)),
            [0x1b, 0x0b, 0x77]
        );
        port.serial.write(3, &[0x9b]);
        assert_eq!([0, 1].map(|register| port.get(register)), [0x12, 0x34]);
        port.serial.write(3, &[0x1b]);
    }
    File::from(keyboard).write_all(b"def").expect("room");
    assert_eq!(copy.take(3), b"def");
    copy.print(b"and it prints\n");
    assert_eq!(copy.log.tail(1), ["and it prints"]);
    assert_eq!(port.take(3), b"abc", "the parent has what it had");
}

#[test]
fn what_gathered_is_printed_by_the_machine_that_said_it() {
    let mut screen = tempfile::tempfile().expect("file");
    let other = screen.try_clone().expect("dup");
    let port = Port::new(None, Some(other.into()));
    port.print(b"once");
    let state = port.serial.save();
    let again = screen.try_clone().expect("dup");
    let mut copy = Port::new(None, Some(again.into()));
    copy.serial.restore(&state).expect("its own state");
    copy.serial.flush();
    copy.settle();
    screen.rewind().expect("file");
    let mut text = String::new();
    screen.read_to_string(&mut text).expect("text");
    assert_eq!(text, "once");
}

#[test]
fn a_state_with_more_keys_than_a_port_holds_is_refused() {
    let port = Port::new(None, None);
    let mut state = port.serial.save();
    state.typed = vec![b'x'; 65];
    assert_eq!(port.serial.restore(&state), Err(StateFault::Own));
    // Registers are bytes, and any byte will do.
    let wild = SerialState {
        divisor: [0xff; 2],
        interrupt_enable: 0xff,
        interrupt_identification: 0xff,
        line_control: 0xff,
        line_status: 0xff,
        modem_control: 0xff,
        modem_status: 0xff,
        scratch: 0xff,
        typed: vec![0xff; 64],
    };
    port.serial.restore(&wild).expect("bytes");
    for register in 0..8 {
        port.get(register);
        port.serial.write(register, &[0xff]);
    }
}
