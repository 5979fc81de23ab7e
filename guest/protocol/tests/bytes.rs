// SPDX-License-Identifier: Apache-2.0
//! Every message survives the wire however it is cut, and no bytes whatsoever panic.

use husk_protocol::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::IpAddr;

fn stream() -> impl Strategy<Value = Stream> {
    prop::sample::select(Stream::ALL.to_vec())
}

fn size() -> impl Strategy<Value = Size> {
    (any::<u16>(), any::<u16>()).prop_map(|(columns, rows)| Size { columns, rows })
}

/// Bytes without NUL.
fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(1..=255u8, 0..50)
}

fn root() -> impl Strategy<Value = Root> {
    let kinds = vec![Filesystem::Erofs, Filesystem::Ext4, Filesystem::Squashfs];
    let (device, upper) = (any::<String>(), any::<String>());
    (device, prop::sample::select(kinds), any::<bool>(), upper).prop_map(
        |(device, filesystem, writable, upper)| Root {
            device,
            filesystem,
            writable,
            upper,
        },
    )
}

fn mount() -> impl Strategy<Value = Mount> {
    let kinds = prop::sample::select(MountKind::ALL.to_vec());
    let rest = (any::<String>(), text(), any::<bool>(), any::<u64>());
    (kinds, rest).prop_map(|(kind, (source, target, read_only, size))| Mount {
        kind,
        source,
        target,
        read_only,
        size,
    })
}

fn terminal() -> impl Strategy<Value = Terminal> {
    (size(), any::<String>()).prop_map(|(size, term)| Terminal { size, term })
}

fn rebirth() -> impl Strategy<Value = Rebirth> {
    let names = || vec("[a-z.0-9-]{0,20}", 0..4);
    let bytes = (vec(any::<u8>(), 0..70), names(), names());
    let words = any::<(String, String, String, u64, String)>();
    (bytes, words, prop::option::of(network())).prop_map(
        |((seed, devices, later), words, network)| {
            let (machine_id, boot_id, generation, wall_clock, hostname) = words;
            Rebirth {
                seed,
                devices,
                later,
                machine_id,
                boot_id,
                generation,
                wall_clock,
                hostname,
                network: network.map(Box::new),
            }
        },
    )
}

fn failure() -> impl Strategy<Value = Failure> {
    let stages = vec![
        Stage::Root,
        Stage::User,
        Stage::WorkingDirectory,
        Stage::Terminal,
        Stage::Spawn,
        Stage::Exec,
        Stage::Network,
        Stage::Identity,
    ];
    (prop::sample::select(stages), any::<(u8, u16, String)>()).prop_map(
        |(stage, (code, errno, message))| Failure {
            stage,
            code,
            errno,
            message,
        },
    )
}

fn running() -> impl Strategy<Value = Running> {
    any::<(u32, bool, bool)>().prop_map(|(pid, terminal, stdin)| Running {
        pid,
        terminal,
        stdin,
    })
}

fn network() -> impl Strategy<Value = Network> {
    let address = (any::<IpAddr>(), any::<u8>()).prop_map(|(ip, prefix)| Address { ip, prefix });
    (
        (
            any::<String>(),
            any::<[u8; 6]>(),
            any::<u16>(),
            vec(address, 0..4),
        ),
        (vec(any::<IpAddr>(), 0..3), text(), text()),
    )
        .prop_map(|(a, b)| Network {
            interface: a.0,
            mac: a.1,
            mtu: a.2,
            addresses: a.3,
            gateways: b.0,
            resolv_conf: b.1,
            hosts: b.2,
        })
}

fn start() -> impl Strategy<Value = Start> {
    (
        (
            vec(text(), 0..9),
            vec(text(), 0..9),
            any::<String>(),
            text(),
        ),
        (any::<String>(), prop::option::of(terminal()), any::<bool>()),
        (
            prop::option::of(root()),
            any::<bool>(),
            any::<u64>(),
            any::<bool>(),
            vec(mount(), 0..5),
            prop::option::of(network()),
            prop::option::of(rebirth()),
        ),
    )
        .prop_map(|((argv, env, user, cwd), b, c)| Start {
            argv,
            env,
            user,
            cwd,
            hostname: b.0,
            terminal: b.1,
            stdin: b.2,
            root: c.0,
            own: c.3,
            kernel_log: c.1,
            wall_clock: c.2,
            mounts: c.4,
            network: c.5.map(Box::new),
            rebirth: c.6.map(Box::new),
        })
}

fn record() -> impl Strategy<Value = LogRecord> {
    (any::<u64>(), any::<u8>(), any::<String>()).prop_map(|(time, level, text)| LogRecord {
        time,
        level,
        text,
    })
}

fn message() -> impl Strategy<Value = Message<'static>> {
    prop_oneof![
        (any::<(u16, u64, u64)>(), prop::option::of(running())).prop_map(
            |((version, started, ready), running)| Message::Hello(Hello {
                version,
                started,
                ready,
                running
            })
        ),
        start().prop_map(Message::Start),
        any::<u32>().prop_map(|pid| Message::Started { pid }),
        failure().prop_map(Message::Failed),
        (stream(), vec(any::<u8>(), 0..3000)).prop_map(|(stream, bytes)| Message::Data {
            stream,
            // Leaked: a test's few megabytes, for the sake of one lifetime.
            bytes: bytes.leak()
        }),
        (stream(), any::<u32>()).prop_map(|(stream, bytes)| Message::Credit { stream, bytes }),
        stream().prop_map(|stream| Message::Eof { stream }),
        stream().prop_map(|stream| Message::Broken { stream }),
        any::<u8>().prop_map(|number| Message::Signal { number }),
        size().prop_map(Message::Resize),
        any::<u8>().prop_map(|code| Message::Exited(Exit::Code(code))),
        any::<u8>().prop_map(|number| Message::Exited(Exit::Signal(number))),
        (vec(record(), 0..20), any::<bool>())
            .prop_map(|(records, last)| Message::KernelLog { records, last }),
        Just(Message::Shutdown),
        any::<bool>().prop_map(|settle| Message::Freeze { settle }),
        Just(Message::Frozen),
        any::<String>().prop_map(|reason| Message::Unfrozen { reason }),
        Just(Message::Thaw),
        rebirth().prop_map(Message::Reborn),
        (
            prop::sample::select(Step::OF_REBORN.to_vec()),
            prop::option::of(failure())
        )
            .prop_map(|(which, problem)| Message::Step { which, problem }),
    ]
}

/// Feeds `bytes` in pieces of `cut` and collects what comes out, re-encoded: `Message`
/// borrows from the decoder.
fn decode(bytes: &[u8], cut: usize) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for piece in bytes.chunks(cut) {
        let mut piece = piece;
        while !piece.is_empty() {
            let space = decoder.space();
            let n = space.len().min(piece.len());
            assert!(n > 0, "no space for a byte");
            space[..n].copy_from_slice(&piece[..n]);
            decoder.filled(n);
            piece = &piece[n..];
            while let Some(message) = decoder.take()? {
                let mut frame = Vec::new();
                message.encode(&mut frame).expect("it was a frame");
                frames.push(frame);
            }
        }
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn messages_survive_any_cut(messages in vec(message(), 1..8), cut in 1..200usize) {
        let mut wire = Vec::new();
        let mut sent = Vec::new();
        for message in &messages {
            let mut frame = Vec::new();
            message.encode(&mut frame).unwrap();
            wire.extend_from_slice(&frame);
            sent.push(frame);
        }
        prop_assert_eq!(decode(&wire, cut).unwrap(), sent);
    }

    #[test]
    fn a_message_decodes_to_itself(message in message()) {
        let mut wire = Vec::new();
        message.encode(&mut wire).unwrap();
        let mut decoder = Decoder::new();
        decoder.space()[..wire.len()].copy_from_slice(&wire);
        decoder.filled(wire.len());
        prop_assert_eq!(decoder.take().unwrap(), Some(message));
        prop_assert!(decoder.is_empty());
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..4000), cut in 1..500usize) {
        let _ = decode(&bytes, cut);
    }

    /// Random kinds rarely pass the header; damage to real frames reaches every field.
    #[test]
    fn damaged_frames_do_not_panic(
        message in message(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut wire = Vec::new();
        message.encode(&mut wire).unwrap();
        for (at, value) in damage {
            let at = at.index(wire.len());
            wire[at] = value;
        }
        let _ = decode(&wire, 64);
    }
}

#[test]
fn lengths_beyond_a_kind_are_refused_before_their_bytes_come() {
    // Data (kind 5) of 64 KiB and one byte.
    assert_eq!(decode(&[5, 1, 0, 1], 4), Err(Malformed::Length));
    // Start (kind 2) of 1 MiB and one byte.
    assert_eq!(decode(&[2, 1, 0, 16], 4), Err(Malformed::Length));
    assert_eq!(decode(&[0, 0, 0, 0], 4), Err(Malformed::Kind(0)));
    assert_eq!(decode(&[20, 0, 0, 0], 4), Err(Malformed::Kind(20)));
}

#[test]
fn what_does_not_fit_is_not_half_encoded() {
    let mut out = b"before".to_vec();
    let bytes = vec![0; MAX_PAYLOAD];
    let too_long = Message::Data {
        stream: Stream::Stdout,
        bytes: &bytes,
    };
    assert_eq!(too_long.encode(&mut out), Err(TooLong));
    let too_long = Message::Start(Start {
        env: vec![vec![b'x'; MAX_START]],
        ..Start::default()
    });
    assert_eq!(too_long.encode(&mut out), Err(TooLong));
    assert_eq!(out, b"before");
}

#[test]
fn a_large_start_arrives() {
    let start = Message::Start(Start {
        env: vec![vec![b'x'; 900_000]],
        ..Start::default()
    });
    let mut wire = Vec::new();
    start.encode(&mut wire).unwrap();
    assert_eq!(decode(&wire, 65536).unwrap(), vec![wire]);
}

#[test]
fn a_nul_inside_an_argument_and_trailing_bytes_are_refused() {
    let start = Message::Start(Start {
        argv: vec![b"a\0b".to_vec()],
        ..Start::default()
    });
    let mut wire = Vec::new();
    start.encode(&mut wire).unwrap();
    assert_eq!(decode(&wire, 64), Err(Malformed::Value));
    assert_eq!(decode(&[13, 1, 0, 0, 9], 64), Err(Malformed::Field));
}
