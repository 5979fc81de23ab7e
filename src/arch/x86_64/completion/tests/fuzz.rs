// SPDX-License-Identifier: Apache-2.0
//! Whatever the bytes, the registers and the tables: an answer, never a panic.

use super::super::bits::mask;
use super::super::{complete, fetch};
use super::world::{DATA, ROOT, World};
use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic};
use kvm_bindings::kvm_segment;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

/// Opcode maps and prefixes that lead to what has handlers; plain random bytes rarely do.
const STEMS: &[&[u8]] = &[
    &[],
    &[0x0f],
    &[0x0f, 0xae],
    &[0x0f, 0xc7],
    &[0x0f, 0x38],
    &[0x0f, 0x3a],
    &[0xf3, 0x0f],
    &[0xf2, 0x0f],
    &[0x66, 0x0f],
    &[0x48, 0x0f, 0xae],
    &[0x48, 0x0f, 0xc7],
    &[0xf0, 0x48, 0x0f],
    &[0xf3, 0x48, 0x0f],
    &[0xc4],
    &[0xc5],
    &[0x62],
    &[0xd9],
    &[0xdb, 0xe3],
    &[0x0f, 0x01],
    &[0x66, 0x0f, 0x38],
    &[0xf3, 0x0f, 0xae],
    &[0x65, 0x48, 0x0f],
    &[0x67, 0x0f, 0xae],
];

fn pointer(data: u64, choice: u64, value: u64) -> u64 {
    match choice & 3 {
        0 => data + (value & 0xffff),
        1 => (data + (value & 0xffff)) & !63,
        2 => value & mask(4),
        _ => value,
    }
}

fn run(stem: &[u8], tail: &[u8], values: &[u64; 20]) {
    let mut world = World::new();
    let mut bytes = stem.to_vec();
    bytes.extend(tail);
    let gprs = std::array::from_fn(|i| pointer(world.data, values[16] >> (2 * i), values[i]));
    world.set_gprs(&gprs);
    world.cpu.regs.rflags = values[17] & 0x3f_ffff | 2;
    world.cpu.regs.rip = pointer(world.data, values[17] >> 40, values[18]);
    world.poke(0, &values.map(u64::to_le_bytes).concat());
    let odd = values[19];
    if odd & 7 == 1 {
        world.cpu.sregs.cr0 ^= 1 << (odd >> 8 & 31);
        world.cpu.sregs.cr4 ^= 1 << (odd >> 16 & 31);
        world.cpu.sregs.efer ^= 1 << (odd >> 24 & 15);
    }
    if odd & 7 == 2 {
        let db = u8::from(odd & 0x100 != 0);
        world.cpu.sregs.cs = kvm_segment {
            l: 0,
            db,
            ..world.cpu.sregs.cs
        };
    }
    if odd & 7 == 3 {
        for (i, value) in values.iter().enumerate() {
            let at = ROOT + (value & 0x7ff8);
            let near = value.rotate_left(9) & 0x3_ffff;
            world.set_entry(at, if i % 2 == 0 { *value } else { near | 1 });
        }
    }
    world.cpu.image = bytes.iter().cycle().take(4096).copied().collect();
    let _ = complete(&mut world.cpu, &world.ram, &bytes).map_err(|error| error.to_string());
    let _ = fetch(&mut world.cpu, &world.ram);
    let mut end = [0; 8];
    world.ram.read_slice(&mut end, GuestAddress(DATA)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn anything_gets_an_answer(
        stem in 0..STEMS.len(),
        tail in prop::collection::vec(any::<u8>(), 0..14),
        values in any::<[u64; 20]>(),
    ) {
        run(STEMS[stem], &tail, &values);
    }
}

/// Every opcode of the common maps with every ModR/M byte, in all three modes.
#[test]
fn every_short_encoding_gets_an_answer() {
    let mut world = World::new();
    let fresh = world.cpu.sregs;
    let start = world.data + 0x4000;
    let mut seen = std::collections::HashSet::<Mnemonic>::new();
    for stem in STEMS {
        for pair in 0..=u16::MAX {
            let mut bytes = [0x11; 15];
            bytes[..stem.len()].copy_from_slice(stem);
            let [a, b] = pair.to_le_bytes();
            (bytes[stem.len()], bytes[stem.len() + 1]) = (a, b);
            let known = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
            if known.code() == Code::INVALID
                || super::super::table::handler(known.mnemonic()).is_none()
            {
                continue;
            }
            seen.insert(known.mnemonic());
            for (l, db) in [(1, 0), (0, 1), (0, 0)] {
                world.set_gprs(&[start & !63; 16]);
                world.cpu.regs.rip = 0x1000;
                world.cpu.sregs.cs = kvm_segment {
                    l,
                    db,
                    ..world.cpu.sregs.cs
                };
                let _ = complete(&mut world.cpu, &world.ram, &bytes);
            }
            world.cpu.sregs = fresh;
        }
    }
    assert!(
        seen.len() > 150,
        "only {} mnemonics with handlers were met",
        seen.len()
    );
}
