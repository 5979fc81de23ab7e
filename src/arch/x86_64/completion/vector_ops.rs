// SPDX-License-Identifier: Apache-2.0
//! Vector logic and integer arithmetic: lane by lane, no rounding, no masks. Runs on the
//! vCPU's thread.

use super::bits::mask;
use super::fault::{Reason, Step, Stop};
use super::operand::width;
use super::stopped::Stopped;
use super::vector::{Vector, begin, finish, get};
use super::xstate::get_u64;
use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind};

/// What a lane of `a` and a lane of `b` become.
type Lane = fn(u64, u64) -> u64;

/// The instructions `binary` completes.
pub(super) fn known(mnemonic: Mnemonic) -> bool {
    let shuffle = matches!(mnemonic, Mnemonic::Pshufb | Mnemonic::Vpshufb);
    shuffle || lanes(mnemonic).is_some() || interleave(mnemonic).is_some()
}

/// Two sources, one destination.
pub(super) fn binary(s: &mut Stopped, known: &Instruction) -> Step {
    begin(s, known)?;
    let len = width(known, 0).min(64);
    let second = known.op_count() - 1;
    // Legacy SSE wants its memory operand aligned, VEX and EVEX do not.
    let legacy = known.code().encoding() == EncodingKind::Legacy;
    let align = if legacy { 16 } else { 1 };
    let a = get(s, known, second - 1, len, 1)?;
    let b = get(s, known, second, len, align)?;
    let value = if let Some((size, lane)) = lanes(known.mnemonic()) {
        map(&a, &b, size, lane)
    } else if let Some((size, high)) = interleave(known.mnemonic()) {
        unpack(&a, &b, size, high)
    } else {
        shuffle_bytes(&a, &b)
    };
    finish(s, known, &value, len)
}

fn map(a: &Vector, b: &Vector, size: usize, lane: Lane) -> Vector {
    let mut value = [0; 64];
    for at in (0..64).step_by(size) {
        let of = |v: &Vector| get_u64(&extended(v), at) & mask(size);
        value[at..at + size].copy_from_slice(&lane(of(a), of(b)).to_le_bytes()[..size]);
    }
    value
}

/// The vector with eight bytes behind it, so that any lane can be read as 64 bits.
fn extended(v: &Vector) -> [u8; 72] {
    let mut longer = [0; 72];
    longer[..64].copy_from_slice(v);
    longer
}

fn all_if(condition: bool) -> u64 {
    if condition { u64::MAX } else { 0 }
}

/// A lane of `size` bytes as a signed number that orders as the lane does.
fn signed(value: u64, size: usize) -> i64 {
    (value << (64 - 8 * size)).cast_signed()
}

fn lanes(mnemonic: Mnemonic) -> Option<(usize, Lane)> {
    use Mnemonic as M;
    let and: Lane = |a, b| a & b;
    let or: Lane = |a, b| a | b;
    let xor: Lane = |a, b| a ^ b;
    let and_not: Lane = |a, b| !a & b;
    let add: Lane = u64::wrapping_add;
    let sub: Lane = u64::wrapping_sub;
    let equal: Lane = |a, b| all_if(a == b);
    Some(match mnemonic {
        M::Pand
        | M::Vpand
        | M::Andps
        | M::Andpd
        | M::Vandps
        | M::Vandpd
        | M::Vpandd
        | M::Vpandq => (8, and),
        M::Por | M::Vpor | M::Orps | M::Orpd | M::Vorps | M::Vorpd | M::Vpord | M::Vporq => (8, or),
        M::Pxor
        | M::Vpxor
        | M::Xorps
        | M::Xorpd
        | M::Vxorps
        | M::Vxorpd
        | M::Vpxord
        | M::Vpxorq => (8, xor),
        M::Pandn
        | M::Vpandn
        | M::Andnps
        | M::Andnpd
        | M::Vandnps
        | M::Vandnpd
        | M::Vpandnd
        | M::Vpandnq => (8, and_not),
        M::Paddb | M::Vpaddb => (1, add),
        M::Paddw | M::Vpaddw => (2, add),
        M::Paddd | M::Vpaddd => (4, add),
        M::Paddq | M::Vpaddq => (8, add),
        M::Psubb | M::Vpsubb => (1, sub),
        M::Psubw | M::Vpsubw => (2, sub),
        M::Psubd | M::Vpsubd => (4, sub),
        M::Psubq | M::Vpsubq => (8, sub),
        M::Pcmpeqb | M::Vpcmpeqb => (1, equal),
        M::Pcmpeqw | M::Vpcmpeqw => (2, equal),
        M::Pcmpeqd | M::Vpcmpeqd => (4, equal),
        M::Pcmpeqq | M::Vpcmpeqq => (8, equal),
        M::Pcmpgtb | M::Vpcmpgtb => (1, |a, b| all_if(signed(a, 1) > signed(b, 1))),
        M::Pcmpgtw | M::Vpcmpgtw => (2, |a, b| all_if(signed(a, 2) > signed(b, 2))),
        M::Pcmpgtd | M::Vpcmpgtd => (4, |a, b| all_if(signed(a, 4) > signed(b, 4))),
        M::Pcmpgtq | M::Vpcmpgtq => (8, |a, b| all_if(signed(a, 8) > signed(b, 8))),
        M::Pminub | M::Vpminub => (1, u64::min),
        M::Pmaxub | M::Vpmaxub => (1, u64::max),
        _ => return None,
    })
}

/// punpckl and punpckh: element size, and whether it takes the high halves.
fn interleave(mnemonic: Mnemonic) -> Option<(usize, bool)> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Punpcklbw | M::Vpunpcklbw => (1, false),
        M::Punpcklwd | M::Vpunpcklwd => (2, false),
        M::Punpckldq | M::Vpunpckldq | M::Unpcklps | M::Vunpcklps => (4, false),
        M::Punpcklqdq | M::Vpunpcklqdq | M::Unpcklpd | M::Vunpcklpd => (8, false),
        M::Punpckhbw | M::Vpunpckhbw => (1, true),
        M::Punpckhwd | M::Vpunpckhwd => (2, true),
        M::Punpckhdq | M::Vpunpckhdq | M::Unpckhps | M::Vunpckhps => (4, true),
        M::Punpckhqdq | M::Vpunpckhqdq | M::Unpckhpd | M::Vunpckhpd => (8, true),
        _ => return None,
    })
}

fn unpack(a: &Vector, b: &Vector, size: usize, high: bool) -> Vector {
    let mut value = [0; 64];
    for lane in (0..64).step_by(16) {
        let from = lane + if high { 8 } else { 0 };
        for k in 0..8 / size {
            let (to, at) = (lane + 2 * k * size, from + k * size);
            value[to..to + size].copy_from_slice(&a[at..at + size]);
            value[to + size..to + 2 * size].copy_from_slice(&b[at..at + size]);
        }
    }
    value
}

fn shuffle_bytes(a: &Vector, control: &Vector) -> Vector {
    let mut value = [0; 64];
    for (i, (byte, &chosen)) in value.iter_mut().zip(control).enumerate() {
        if chosen & 0x80 == 0 {
            *byte = a[(i & !15) + usize::from(chosen & 15)];
        }
    }
    value
}

/// pshufd: doublewords of each 16-byte lane, chosen by an immediate.
pub(super) fn shuffle(s: &mut Stopped, known: &Instruction) -> Step {
    begin(s, known)?;
    let len = width(known, 0).min(64);
    let legacy = known.code().encoding() == EncodingKind::Legacy;
    let source = get(s, known, 1, len, if legacy { 16 } else { 1 })?;
    let order = usize::from(known.immediate8());
    let mut value = [0; 64];
    for (i, word) in value.chunks_exact_mut(4).enumerate() {
        let at = (i & !3) * 4 + 4 * (order >> (2 * (i & 3)) & 3);
        word.copy_from_slice(&source[at..at + 4]);
    }
    finish(s, known, &value, len)
}

/// Shifts by an immediate: psllw to psraq's kin, and the byte shifts of whole lanes.
pub(super) fn shift(s: &mut Stopped, known: &Instruction) -> Step {
    use Mnemonic as M;
    begin(s, known)?;
    let last = known.op_count() - 1;
    if known.op_kind(last) != OpKind::Immediate8 {
        return Err(Stop::Refused(Reason::Form));
    }
    let by = known.immediate8();
    let len = width(known, 0).min(64);
    let source = get(s, known, last - 1, len, 1)?;
    let left = |size: u32| (size, true, false);
    let right = |size: u32| (size, false, false);
    let arithmetic = |size: u32| (size, false, true);
    let (bits, left, sign) = match known.mnemonic() {
        M::Pslldq | M::Vpslldq => return finish(s, known, &slide(&source, by, true), len),
        M::Psrldq | M::Vpsrldq => return finish(s, known, &slide(&source, by, false), len),
        M::Psllw | M::Vpsllw => left(16),
        M::Pslld | M::Vpslld => left(32),
        M::Psllq | M::Vpsllq => left(64),
        M::Psrlw | M::Vpsrlw => right(16),
        M::Psrld | M::Vpsrld => right(32),
        M::Psrlq | M::Vpsrlq => right(64),
        M::Psraw | M::Vpsraw => arithmetic(16),
        _ => arithmetic(32),
    };
    let size = usize::try_from(bits / 8).unwrap_or(8);
    let mut value = [0; 64];
    for at in (0..64).step_by(size) {
        let lane = get_u64(&extended(&source), at) & mask(size);
        let shifted = if sign {
            let by = u32::from(by).min(bits - 1);
            (signed(lane, size) >> (64 - bits) >> by).cast_unsigned()
        } else if u32::from(by) >= bits {
            0
        } else if left {
            lane << by
        } else {
            lane >> by
        };
        value[at..at + size].copy_from_slice(&shifted.to_le_bytes()[..size]);
    }
    finish(s, known, &value, len)
}

fn slide(source: &Vector, by: u8, left: bool) -> Vector {
    let by = usize::from(by).min(16);
    let mut value = [0; 64];
    for lane in (0..64).step_by(16) {
        let (from, to) = if left {
            (lane, lane + by)
        } else {
            (lane + by, lane)
        };
        value[to..to + 16 - by].copy_from_slice(&source[from..from + 16 - by]);
    }
    value
}
