// SPDX-License-Identifier: Apache-2.0
//! Names for the bits of control registers and flags, and integers cut to an operand's width.
//! Pure functions.

/// RFLAGS.
pub(super) const CF: u64 = 1 << 0;
pub(super) const PF: u64 = 1 << 2;
pub(super) const AF: u64 = 1 << 4;
pub(super) const ZF: u64 = 1 << 6;
pub(super) const SF: u64 = 1 << 7;
pub(super) const TF: u64 = 1 << 8;
pub(super) const OF: u64 = 1 << 11;
pub(super) const RF: u64 = 1 << 16;
pub(super) const VM: u64 = 1 << 17;
pub(super) const AC: u64 = 1 << 18;
/// The six that arithmetic writes.
pub(super) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

pub(super) const CR0_PE: u64 = 1 << 0;
pub(super) const CR0_MP: u64 = 1 << 1;
pub(super) const CR0_EM: u64 = 1 << 2;
pub(super) const CR0_TS: u64 = 1 << 3;
pub(super) const CR0_NE: u64 = 1 << 5;
pub(super) const CR0_WP: u64 = 1 << 16;
pub(super) const CR0_PG: u64 = 1 << 31;

pub(super) const CR4_OSFXSR: u64 = 1 << 9;
pub(super) const CR4_LA57: u64 = 1 << 12;
pub(super) const CR4_FSGSBASE: u64 = 1 << 16;
pub(super) const CR4_PCIDE: u64 = 1 << 17;
pub(super) const CR4_OSXSAVE: u64 = 1 << 18;
pub(super) const CR4_SMEP: u64 = 1 << 20;
pub(super) const CR4_SMAP: u64 = 1 << 21;
pub(super) const CR4_PKE: u64 = 1 << 22;

pub(super) const EFER_SCE: u64 = 1 << 0;
pub(super) const EFER_LMA: u64 = 1 << 10;
pub(super) const EFER_NXE: u64 = 1 << 11;

/// All ones in the low `bytes` bytes (1 to 8).
pub(super) fn mask(bytes: usize) -> u64 {
    match bytes {
        0 => 0,
        1..8 => (1 << (8 * bytes)) - 1,
        _ => u64::MAX,
    }
}

/// The top bit of a `bytes`-byte integer.
pub(super) fn sign(bytes: usize) -> u64 {
    1 << (8 * bytes.clamp(1, 8) - 1)
}

pub(super) fn low32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

pub(super) fn low16(value: u64) -> u16 {
    let [a, b, ..] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The low and high halves of a product.
pub(super) fn halves(value: u128) -> (u64, u64) {
    let mut low = [0; 8];
    let mut high = [0; 8];
    let bytes = value.to_le_bytes();
    low.copy_from_slice(&bytes[..8]);
    high.copy_from_slice(&bytes[8..]);
    (u64::from_le_bytes(low), u64::from_le_bytes(high))
}

/// `condition` as the flag bit `flag`.
pub(super) fn flag(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

/// SF, ZF and PF of a result of `bytes` bytes.
pub(super) fn result_flags(value: u64, bytes: usize) -> u64 {
    let even = (value & 0xff).count_ones().is_multiple_of(2);
    flag(value & sign(bytes) != 0, SF) | flag(value & mask(bytes) == 0, ZF) | flag(even, PF)
}

/// The status flags of `a + b` and the sum.
pub(super) fn add(a: u64, b: u64, bytes: usize) -> (u64, u64) {
    let sum = a.wrapping_add(b) & mask(bytes);
    let carry = sum < (a & mask(bytes));
    let overflow = (a ^ sum) & (b ^ sum) & sign(bytes) != 0;
    let flags = flag(carry, CF) | flag(overflow, OF) | ((a ^ b ^ sum) & AF);
    (sum, flags | result_flags(sum, bytes))
}

/// The status flags of `a - b`.
pub(super) fn compare(a: u64, b: u64, bytes: usize) -> u64 {
    let (a, b) = (a & mask(bytes), b & mask(bytes));
    let rest = a.wrapping_sub(b) & mask(bytes);
    let overflow = (a ^ b) & (a ^ rest) & sign(bytes) != 0;
    let flags = flag(a < b, CF) | flag(overflow, OF) | ((a ^ b ^ rest) & AF);
    flags | result_flags(rest, bytes)
}
