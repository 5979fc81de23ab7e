// SPDX-License-Identifier: Apache-2.0
//! The device from both its sides: a guest's driver and the host's sockets.

mod guest;
mod hostile;
mod saved;

use super::packet::*;
use super::*;
use guest::{CID, Guest, Socket};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;

/// Bytes in which every displacement shows.
pub fn text(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

const MANY: usize = 10 << 20;

#[test]
fn a_guest_reaches_each_port_once_and_no_other() {
    let (mut guest, mut hosts) = Guest::new(&[50, 51], None);
    assert_eq!(u64::from_le_bytes(guest.driver.config(0)), CID);
    let mut socket = guest.connect(51, 1000);
    socket.write(&mut guest, b"hello");
    let mut seen = [0; 5];
    hosts[1].read_exact(&mut seen).expect("sent");
    assert_eq!(&seen, b"hello");

    for (host, port) in [(51, 1001), (52, 1000), (51, 1002)] {
        guest.send(Socket::new(host, port).header(REQUEST), &[]);
        let reset = guest.expect_op(RST);
        assert_eq!((reset.src_port, reset.dst_port), (host, port));
    }
    guest.connect(50, 1000);
    hosts[1].write_all(b"still here").expect("room");
    let (header, payload) = guest.receive();
    assert_eq!((header.src_port, header.dst_port), (51, 1000));
    assert_eq!(payload, b"still here");
    guest.rests("two idle connections");
}

#[test]
fn ten_mebibytes_to_the_guest_arrive_whole_with_little_credit() {
    let (mut guest, mut hosts) = Guest::new(&[50], None);
    let data = text(MANY);
    let mut host = hosts.remove(0);
    let sent = data.clone();
    let sender = std::thread::spawn(move || {
        host.write_all(&sent).expect("the guest lives");
    });
    let mut socket = Socket::new(50, 9);
    socket.alloc = 5000;
    guest.send(socket.header(REQUEST), &[]);
    guest.expect_op(RESPONSE);
    let (mut seen, mut asked, mut given) = (Vec::with_capacity(MANY), 0, 0);
    loop {
        let (header, payload) = guest.receive();
        socket.note(&header);
        seen.extend(payload);
        match header.op {
            RW if socket.consumed.wrapping_sub(socket.said) < 4000 => {}
            RW => {
                given += 1;
                socket.update(&mut guest);
            }
            CREDIT_REQUEST => {
                asked += 1;
                given += 1;
                socket.update(&mut guest);
            }
            // That it reads no more may be said before all it wrote has come.
            SHUTDOWN if header.flags == NO_RECEIVE => {}
            SHUTDOWN => break,
            _ => panic!("{header:?}"),
        }
    }
    sender.join().expect("sender");
    assert!(seen == data);
    assert!(asked <= given, "one request for credit at a time");
}

#[test]
fn the_device_sends_what_it_has_credit_for_and_asks_for_more_each_time() {
    let (mut guest, mut hosts) = Guest::new(&[50], None);
    let data = text(60_000);
    hosts[0].write_all(&data).expect("room");
    let mut socket = Socket::new(50, 9);
    socket.alloc = 5000;
    guest.send(socket.header(REQUEST), &[]);
    guest.expect_op(RESPONSE);
    let mut seen = Vec::new();
    for round in 1..=3 {
        guest.driver.settle();
        let mut last = 0;
        while let Some((header, payload)) = guest.packet() {
            seen.extend(payload);
            last = header.op;
            guest.driver.settle();
        }
        assert_eq!((seen.len(), last), (5000 * round, CREDIT_REQUEST));
        socket.consumed = u32::try_from(seen.len()).expect("small");
        socket.update(&mut guest);
    }
    // A buffer that shrinks below what is under way is no credit, and no overflow.
    socket.alloc = 10;
    socket.update(&mut guest);
    while let Some((_, payload)) = guest.packet() {
        seen.extend(payload);
    }
    assert_eq!(seen.len(), 20_000);
    assert!(data.starts_with(&seen));
    guest.expect_nothing();
}

#[test]
fn ten_mebibytes_to_the_host_arrive_whole_past_a_slow_reader() {
    let (mut guest, mut hosts) = Guest::new(&[50], None);
    let data = text(MANY);
    let mut host = hosts.remove(0);
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::with_capacity(MANY);
        let mut chunk = vec![0; 1777];
        loop {
            match host.read(&mut chunk).expect("the device lives") {
                0 => return seen,
                count => seen.extend_from_slice(&chunk[..count]),
            }
        }
    });
    let mut socket = guest.connect(50, 9);
    let mut left = &data[..];
    while !left.is_empty() {
        let count = left.len().min(socket.free() as usize).min(60_000);
        if count == 0 {
            let (header, _) = guest.receive();
            assert_eq!(header.op, CREDIT_UPDATE);
            socket.note(&header);
            continue;
        }
        socket.write(&mut guest, &left[..count]);
        left = &left[count..];
        while let Some((header, _)) = guest.packet() {
            socket.note(&header);
        }
    }
    socket.shutdown(&mut guest, NO_SEND | NO_RECEIVE);
    guest.driver.until(|_| reader.is_finished().then_some(()));
    assert!(reader.join().expect("reader") == data);
    loop {
        let (header, _) = guest.receive();
        if header.op == RST {
            break;
        }
        assert_eq!(header.op, CREDIT_UPDATE);
    }
    guest.rests("nothing is left");
}

#[test]
fn an_echo_of_much_data_does_not_stall_however_small_the_buffers() {
    let (mut guest, mut hosts) = Guest::new(&[50], None);
    let mut host = hosts.remove(0);
    let echo = std::thread::spawn(move || {
        let mut chunk = vec![0; 30_000];
        loop {
            match host.read(&mut chunk).expect("the device lives") {
                0 => return,
                count => host.write_all(&chunk[..count]).expect("the device lives"),
            }
        }
    });
    let data = text(2 << 20);
    let mut socket = Socket::new(50, 9);
    socket.alloc = 100;
    guest.send(socket.header(REQUEST), &[]);
    guest.expect_op(RESPONSE);
    let (mut left, mut seen) = (&data[..], Vec::new());
    while seen.len() < data.len() {
        // No more under way than the echo can hold, or it is we who stall.
        let under_way = data.len() - left.len() - seen.len();
        let count = left.len().min(socket.free() as usize).min(1000);
        if count > 0 && under_way < 20_000 {
            socket.write(&mut guest, &left[..count]);
            left = &left[count..];
        } else {
            let (header, payload) = guest.receive();
            socket.note(&header);
            seen.extend(payload);
            if header.op != CREDIT_UPDATE && socket.consumed != socket.said {
                socket.update(&mut guest);
            }
        }
    }
    assert!(seen == data);
    socket.shutdown(&mut guest, NO_SEND);
    echo.join().expect("echo");
}

#[test]
fn each_direction_closes_by_itself() {
    let (mut guest, mut hosts) = Guest::new(&[50], None);
    let mut host = hosts.remove(0);
    let mut socket = guest.connect(50, 9);
    socket.write(&mut guest, b"the question");
    socket.shutdown(&mut guest, NO_SEND);
    let mut seen = String::new();
    host.read_to_string(&mut seen).expect("end of file");
    assert_eq!(seen, "the question");

    host.write_all(b"the answer").expect("room");
    assert_eq!(guest.receive().1, b"the answer");
    host.shutdown(Shutdown::Write).expect("open");
    let header = guest.expect_op(SHUTDOWN);
    assert_eq!(header.flags & NO_SEND, NO_SEND);
    guest.rests("half closed on both sides");
    socket.shutdown(&mut guest, NO_SEND | NO_RECEIVE);
    loop {
        let (header, _) = guest.receive();
        if header.op == RST {
            break;
        }
        assert_eq!(header.op, SHUTDOWN);
    }
    guest.rests("nothing is left");
}

#[test]
fn the_host_closing_its_sending_half_still_hears_the_guest() {
    let (mut guest, mut hosts) = Guest::new(&[50], None);
    let mut host = hosts.remove(0);
    let mut socket = guest.connect(50, 9);
    host.write_all(b"request").expect("room");
    host.shutdown(Shutdown::Write).expect("open");
    assert_eq!(guest.receive().1, b"request");
    assert_eq!(guest.expect_op(SHUTDOWN).flags, NO_SEND);
    guest.rests("an end of file is no busy loop");
    socket.write(&mut guest, b"response");
    let mut seen = [0; 8];
    host.read_exact(&mut seen).expect("sent");
    assert_eq!(&seen, b"response");
    drop(host);
    assert_eq!(guest.expect_op(SHUTDOWN).flags, NO_SEND | NO_RECEIVE);
    socket.write(&mut guest, b"too late");
    guest.rests("a closed host is no busy loop");
    guest.send(socket.header(RST), &[]);
    guest.expect_nothing();
}

#[test]
fn what_the_guest_wrote_before_it_left_reaches_the_host() {
    for parting in [SHUTDOWN, RST] {
        let (mut guest, mut hosts) = Guest::new(&[50], None);
        let mut host = hosts.remove(0);
        let mut socket = guest.connect(50, 9);
        // Fill the host's socket, then half the window, while nobody reads.
        let data = text(1 << 20);
        let mut sent = 0;
        while socket.free() > 60_000 {
            socket.write(&mut guest, &data[sent..sent + 10_000]);
            sent += 10_000;
            while let Some((header, _)) = guest.packet() {
                socket.note(&header);
            }
        }
        guest.rests("a host that does not read is no busy loop");
        let header = Header {
            flags: NO_SEND | NO_RECEIVE,
            ..socket.header(parting)
        };
        guest.send(header, &[]);
        guest.expect_nothing();
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            host.read_to_end(&mut seen).expect("end of file");
            seen
        });
        guest.driver.until(|_| reader.is_finished().then_some(()));
        assert!(reader.join().expect("reader") == data[..sent], "{parting}");
    }
}

#[test]
fn a_connection_that_stalls_does_not_stall_another() {
    let (mut guest, mut hosts) = Guest::new(&[50, 51, 52], None);
    let mut stuck = guest.connect(50, 9);
    // No credit for one, so its host's data stays where it is.
    let mut broke = Socket::new(51, 9);
    broke.alloc = 0;
    guest.send(broke.header(REQUEST), &[]);
    guest.expect_op(RESPONSE);
    hosts[1].write_all(b"waiting").expect("room");
    guest.expect_op(CREDIT_REQUEST);
    guest.rests("no credit is no busy loop");
    // A host that reads nothing for the other.
    while stuck.free() > 50_000 {
        stuck.write(&mut guest, &[7; 50_000]);
        while let Some((header, _)) = guest.packet() {
            stuck.note(&header);
        }
    }
    guest.rests("a full host is no busy loop");

    let mut socket = guest.connect(52, 9);
    socket.write(&mut guest, b"ping");
    let mut seen = [0; 4];
    hosts[2].read_exact(&mut seen).expect("sent");
    hosts[2].write_all(b"pong").expect("room");
    assert_eq!(guest.receive().1, b"pong");

    broke.alloc = 100;
    broke.update(&mut guest);
    assert_eq!(guest.receive().1, b"waiting");
}

#[test]
fn the_host_may_dial() {
    let (mut guest, _) = Guest::new(&[], None);
    let (mut host, far) = UnixStream::pair().expect("sockets");
    host.write_all(b"early").expect("room");
    guest.dialer.connect(80, far);
    let request = guest.expect_op(REQUEST);
    assert_eq!(request.dst_port, 80);
    guest.expect_nothing();
    let mut socket = Socket::new(request.src_port, 80);
    guest.send(socket.header(RESPONSE), &[]);
    assert_eq!(guest.receive().1, b"early");
    socket.consumed = 5;
    socket.write(&mut guest, b"late");
    let mut seen = [0; 4];
    host.read_exact(&mut seen).expect("sent");
    assert_eq!(&seen, b"late");

    // Refused: the stream just ends.
    let (mut host, far) = UnixStream::pair().expect("sockets");
    guest.dialer.connect(81, far);
    let request = guest.expect_op(REQUEST);
    guest.send(Socket::new(request.src_port, 81).header(RST), &[]);
    assert_eq!(host.read(&mut seen).expect("end of file"), 0);

    // Given up before the guest answered.
    let (host, far) = UnixStream::pair().expect("sockets");
    guest.dialer.connect(82, far);
    guest.expect_op(REQUEST);
    drop(host);
    guest.expect_op(RST);
    guest.rests("nothing is left");
}

#[test]
fn clients_of_the_listener_say_where_they_want_to_go() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("v.sock");
    let listener = UnixListener::bind(&path).expect("socket");
    let (mut guest, _) = Guest::new(&[], Some(listener.into()));
    let mut client = UnixStream::connect(&path).expect("listening");
    client.write_all(b"CONNECT 7").expect("room");
    guest.rests("half a line is no busy loop");
    client.write_all(b"000\nGET").expect("room");
    let request = guest.expect_op(REQUEST);
    assert_eq!(request.dst_port, 7000);
    let socket = Socket::new(request.src_port, 7000);
    guest.send(socket.header(RESPONSE), &[]);
    assert_eq!(guest.receive().1, b"GET");
    let mut seen = [0; 64];
    let count = client.read(&mut seen).expect("greeting");
    assert_eq!(
        seen[..count],
        *format!("OK {}\n", request.src_port).as_bytes()
    );

    let mut stranger = UnixStream::connect(&path).expect("listening");
    stranger.write_all(b"HELLO\n").expect("room");
    guest.driver.settle();
    assert_eq!(stranger.read(&mut seen).expect("end of file"), 0);
    drop(client);
    guest.expect_op(SHUTDOWN);
    guest.send(socket.header(RST), &[]);
    guest.rests("nothing is left");
}

#[test]
fn the_table_has_an_end_and_places_come_free_again() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("v.sock");
    let listener = UnixListener::bind(&path).expect("socket");
    let (mut guest, _) = Guest::new(&[50], Some(listener.into()));
    let mut hosts = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let (host, far) = UnixStream::pair().expect("sockets");
        guest.dialer.connect(80, far);
        guest.expect_op(REQUEST);
        hosts.push(host);
    }
    let (mut host, far) = UnixStream::pair().expect("sockets");
    guest.dialer.connect(80, far);
    guest.expect_nothing();
    assert_eq!(host.read(&mut [0]).expect("end of file"), 0);
    guest.send(Socket::new(50, 9).header(REQUEST), &[]);
    guest.expect_op(RST);
    let mut client = UnixStream::connect(&path).expect("listening");
    client.write_all(b"CONNECT 81\n").expect("room");
    guest.rests("a client that waits is no busy loop");

    hosts.clear();
    // A reset for each, and the client's request at last.
    let mut resets = 0;
    for _ in 0..=MAX_CONNECTIONS {
        let (header, _) = guest.receive();
        match header.op {
            RST => resets += 1,
            _ => assert_eq!((header.op, header.dst_port), (REQUEST, 81)),
        }
    }
    assert_eq!(resets, MAX_CONNECTIONS);
    guest.connect(50, 9);
}

#[test]
fn a_reset_ends_every_connection_and_the_next_driver_starts_afresh() {
    let (mut guest, mut hosts) = Guest::new(&[50, 51], None);
    let mut socket = guest.connect(50, 9);
    socket.write(&mut guest, b"unfinished");
    guest.driver.write(0x70, 0);
    guest.rests("nothing is watched");
    let mut seen = Vec::new();
    hosts[0].read_to_end(&mut seen).expect("end of file");
    assert_eq!(seen, b"unfinished");

    let (mut host, far) = UnixStream::pair().expect("sockets");
    guest.dialer.connect(80, far);
    guest.start();
    guest.expect_op(REQUEST);
    let mut socket = guest.connect(51, 9);
    socket.write(&mut guest, b"again");
    let mut seen = [0; 5];
    hosts[1].read_exact(&mut seen).expect("sent");
    host.set_nonblocking(true).expect("socket");
    assert_eq!(
        host.read(&mut seen).map_err(|error| error.kind()),
        Err(ErrorKind::WouldBlock)
    );
}

#[test]
fn a_burst_costs_one_interrupt() {
    let (mut guest, mut hosts) = Guest::new(&[50], None);
    guest.connect(50, 9);
    guest.driver.interrupts();
    hosts[0].write_all(&text(40_000)).expect("room");
    guest.driver.settle();
    assert_eq!(guest.driver.interrupts(), 1);
    let mut seen = Vec::new();
    while let Some((_, payload)) = guest.packet() {
        seen.extend(payload);
    }
    assert!(seen == text(40_000));
}
