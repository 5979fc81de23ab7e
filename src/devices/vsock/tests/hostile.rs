// SPDX-License-Identifier: Apache-2.0
//! Guests that lie, flood and babble: each harms itself only.

use super::super::connection::WINDOW;
use super::*;
use proptest::prelude::*;

/// A connection beside the one that is abused, to see that it does not suffer.
fn bystander(guest: &mut Guest, host: &mut UnixStream) {
    let mut socket = guest.connect(99, 4242);
    socket.write(guest, b"ping");
    let mut seen = [0; 4];
    host.read_exact(&mut seen).expect("sent");
    host.write_all(b"pong").expect("room");
    assert_eq!(guest.receive().1, b"pong");
}

#[test]
fn lies_about_credit_end_the_connection() {
    // (lie, what the host sent before it)
    type Lie = fn(&mut Socket, &mut Guest);
    let lies: [(Lie, &[u8]); 4] = [
        (
            |socket, guest| {
                socket.consumed = 1;
                socket.update(guest);
            },
            b"",
        ),
        (
            |socket, guest| {
                socket.consumed = 10;
                socket.update(guest);
            },
            b"seven!!",
        ),
        (
            |socket, guest| {
                socket.consumed = 7;
                socket.update(guest);
                socket.consumed = 6;
                socket.update(guest);
            },
            b"seven!!",
        ),
        (
            |socket, guest| {
                socket.consumed = u32::MAX;
                socket.update(guest);
            },
            b"seven!!",
        ),
    ];
    for (index, (lie, before)) in lies.into_iter().enumerate() {
        let (mut guest, mut hosts) = Guest::new(&[50, 99], None);
        let mut socket = guest.connect(50, 9);
        if !before.is_empty() {
            hosts[0].write_all(before).expect("room");
            guest.expect_op(RW);
        }
        lie(&mut socket, &mut guest);
        guest.expect_op(RST);
        assert_eq!(hosts[0].read(&mut [0]).expect("end"), 0, "lie {index}");
        bystander(&mut guest, &mut hosts[1]);
    }
}

#[test]
fn more_than_the_window_ends_the_connection_and_the_window_does_not() {
    let (mut guest, hosts) = Guest::new(&[50], None);
    let mut socket = guest.connect(50, 9);
    // Until the host's socket is full and credit only goes down.
    while socket.free() > 0 {
        let count = usize::try_from(socket.free().min(50_000)).expect("small");
        socket.write(&mut guest, &vec![1; count]);
        while let Some((header, _)) = guest.packet() {
            assert_eq!(header.op, CREDIT_UPDATE);
            socket.note(&header);
        }
    }
    guest.expect_nothing();
    socket.write(&mut guest, &[1]);
    guest.expect_op(RST);
    drop(hosts);

    let (mut guest, _hosts) = Guest::new(&[50], None);
    let socket = guest.connect(50, 9);
    let header = Header {
        len: WINDOW + 1,
        ..socket.header(RW)
    };
    // All of it is there, twice the same memory.
    let mut driver_bytes = header.encode().to_vec();
    driver_bytes.resize(HEADER + 1000, 0);
    let at = guest.driver.place(&driver_bytes);
    let part = WINDOW / 2 + 1;
    guest.driver.request(
        TRANSMIT,
        &[(at, 44), (0x10_0000, part), (0x10_0000, part)],
        &[],
    );
    guest.expect_op(RST);
}

#[test]
fn packets_that_make_no_sense_are_refused() {
    let (mut guest, mut hosts) = Guest::new(&[50, 99], None);
    let good = Socket::new(50, 9).header(REQUEST);
    guest.send(Header { src_cid: 4, ..good }, &[]);
    guest.expect_nothing();
    assert_eq!(guest.driver.mmio.fault_count(), 1);
    for refused in [
        Header { kind: 2, ..good },
        Header { kind: 0, ..good },
        Header { op: 0, ..good },
        Header { op: 8, ..good },
        Header { op: RW, ..good },
        Header {
            op: RESPONSE,
            ..good
        },
        Header {
            op: SHUTDOWN,
            ..good
        },
        Header {
            op: CREDIT_REQUEST,
            ..good
        },
    ] {
        guest.send(refused, &[]);
        assert_eq!(guest.expect_op(RST).kind, refused.kind);
    }
    guest.send(Header { op: RST, ..good }, &[]);
    guest.expect_nothing();
    // A header cut short, and none at all.
    guest.send_raw(&good.encode()[..43]);
    assert_eq!(guest.driver.mmio.fault_count(), 2);
    bystander(&mut guest, &mut hosts[1]);
}

#[test]
fn a_packet_for_another_host_is_answered_in_its_name() {
    let (mut guest, _hosts) = Guest::new(&[50], None);
    let header = Header {
        dst_cid: 77,
        ..Socket::new(50, 9).header(REQUEST)
    };
    guest.send(header, &[]);
    let (_, length) = guest.driver.until(|driver| driver.used(RECEIVE));
    assert_eq!(length, 44);
}

#[test]
fn odd_operations_end_an_open_connection() {
    for op in [0, REQUEST, RESPONSE, 8, u16::MAX] {
        let (mut guest, mut hosts) = Guest::new(&[50, 99], None);
        let socket = guest.connect(50, 9);
        guest.send(socket.header(op), &[]);
        guest.expect_op(RST);
        assert_eq!(hosts[0].read(&mut [0]).expect("end of file"), 0);
        bystander(&mut guest, &mut hosts[1]);
    }
    // Data after the promise to send none.
    let (mut guest, _hosts) = Guest::new(&[50], None);
    let mut socket = guest.connect(50, 9);
    socket.shutdown(&mut guest, NO_SEND);
    socket.write(&mut guest, b"more");
    guest.expect_op(RST);
}

#[test]
fn a_packet_shorter_than_it_says_ends_the_connection() {
    let (mut guest, mut hosts) = Guest::new(&[50, 99], None);
    let socket = guest.connect(50, 9);
    for len in [5, u32::MAX] {
        let header = Header {
            len,
            ..socket.header(RW)
        };
        guest.send(header, b"four");
        guest.expect_op(RST);
    }
    assert_eq!(guest.driver.mmio.fault_count(), 2);
    assert_eq!(hosts[0].read(&mut [0]).expect("end of file"), 0);
    bystander(&mut guest, &mut hosts[1]);
}

#[test]
fn a_flood_of_requests_is_held_back_until_its_answers_are_taken() {
    let (mut guest, mut hosts) = Guest::new(&[99], None);
    // More than fit into our buffers and the device's memory of replies together.
    let request = Socket::new(50, 9).header(REQUEST).encode();
    let (mut sent, mut done) = (0u32, 0u32);
    let mut flood = |guest: &mut Guest| {
        for _ in 0..200 {
            guest.queue_raw(&request);
            sent += 1;
        }
        guest.driver.kick(TRANSMIT);
        guest.driver.settle();
        while guest.driver.used(TRANSMIT).is_some() {
            done += 1;
        }
        (sent, done)
    };
    flood(&mut guest);
    let (sent, done) = flood(&mut guest);
    assert!(
        done < sent,
        "{done} of {sent} taken, with no buffer for replies"
    );
    guest.rests("a flood held back is no busy loop");
    let mut replies = 0;
    while replies < sent {
        guest.expect_op(RST);
        replies += 1;
    }
    guest.expect_nothing();
    while guest.driver.used(TRANSMIT).is_some() {}
    bystander(&mut guest, &mut hosts[0]);
}

#[test]
fn buffers_too_small_for_a_packet_are_faults() {
    let (mut guest, _hosts) = Guest::new(&[50], None);
    let at = guest.driver.allocate(64);
    for _ in 0..guest::RX_BUFFERS {
        guest.send(Socket::new(1, 1).header(REQUEST), &[]);
        guest.driver.used(RECEIVE);
    }
    guest.driver.offer(RECEIVE, &[], &[(at, 44)]);
    guest.driver.kick(RECEIVE);
    let (_, length) = guest.driver.until(|driver| driver.used(RECEIVE));
    assert_eq!(length, 0);
    assert_eq!(guest.driver.mmio.fault_count(), 1);
}

fn any_header() -> impl Strategy<Value = Header> {
    let cid = prop_oneof![9 => Just(CID), 1 => any::<u64>()];
    let host = prop_oneof![9 => Just(2), 1 => any::<u64>()];
    let port = prop_oneof![4 => 50..53u32, 1 => Just(1 << 30), 1 => any::<u32>()];
    let counters = (
        prop_oneof![2 => Just(0), 2 => 0..100u32, 1 => any::<u32>()],
        prop_oneof![4 => Just(0), 1 => 0..100u32, 1 => any::<u32>()],
    );
    let len = prop_oneof![4 => 0..100u32, 1 => any::<u32>()];
    let op = prop_oneof![9 => 0..9u16, 1 => any::<u16>()];
    (
        (cid, host, 8..10u32, port),
        (
            op,
            0..5u32,
            len,
            counters,
            prop_oneof![9 => Just(1u16), 1 => any::<u16>()],
        ),
    )
        .prop_map(
            |((src_cid, dst_cid, src_port, dst_port), (op, flags, len, counters, kind))| Header {
                src_cid,
                dst_cid,
                src_port,
                dst_port,
                len,
                kind,
                op,
                flags,
                buf_alloc: counters.0,
                fwd_cnt: counters.1,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever a guest sends, the device answers within bounds, rests, and serves the next.
    #[test]
    fn no_talk_harms_more_than_itself(
        talk in proptest::collection::vec((any_header(), 0..120usize), 1..60),
    ) {
        let (mut guest, mut hosts) = Guest::new(&[50, 51, 52, 99], None);
        let (host, far) = UnixStream::pair().expect("sockets");
        guest.dialer.connect(8, far);
        for host in &mut hosts[..3] {
            host.write_all(&text(1000)).expect("room");
        }
        let mut replies = 0;
        for (header, length) in &talk {
            guest.send(*header, &text(*length));
            while let Some(length) = guest.driver.used(RECEIVE) {
                // Not reposted: some run without buffers for a while.
                prop_assert!(length.1 >= 44);
                replies += 1;
            }
        }
        prop_assert!(replies <= usize::from(guest::RX_BUFFERS));
        guest.rests("whatever was said");
        drop(host);
        guest.start();
        bystander(&mut guest, &mut hosts[3]);
    }
}
