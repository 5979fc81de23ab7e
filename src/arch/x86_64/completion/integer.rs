// SPDX-License-Identifier: Apache-2.0
//! Integer instructions: bit counts and scans, BMI, ADX, CRC32, MOVBE and their like. Each
//! handler is what the SDM's Operation section says, flags included. Runs on the vCPU's thread.

use super::bits::{self, AF, CF, OF, PF, SF, STATUS, ZF, flag, halves, low32, mask, sign};
use super::fault::{Next, Step};
use super::operand::width;
use super::paging::Access;
use super::stopped::Stopped;
use crate::kvm::random;
use iced_x86::{Instruction, Mnemonic};

pub(super) fn nothing(_: &mut Stopped, _: &Instruction) -> Step {
    Ok(Next::Advance)
}

/// popcnt, lzcnt, tzcnt.
pub(super) fn count(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let source = s.read(known, 1)? & mask(bytes);
    let bits = 8 * bytes as u64;
    let (count, flags) = match known.mnemonic() {
        Mnemonic::Popcnt => (source.count_ones().into(), flag(source == 0, ZF)),
        Mnemonic::Lzcnt => {
            let count = u64::from(source.leading_zeros()) - (64 - bits);
            (count, flag(source == 0, CF) | flag(count == 0, ZF))
        }
        _ => {
            let count = u64::from(source.trailing_zeros()).min(bits);
            (count, flag(source == 0, CF) | flag(count == 0, ZF))
        }
    };
    s.set_gpr(known.op0_register(), count);
    let which = if known.mnemonic() == Mnemonic::Popcnt {
        STATUS
    } else {
        CF | ZF
    };
    s.set_flags(which, flags);
    Ok(Next::Advance)
}

/// bsf, bsr. A zero source leaves the destination alone, as every processor does.
pub(super) fn scan(s: &mut Stopped, known: &Instruction) -> Step {
    let source = s.read(known, 1)? & mask(width(known, 0));
    s.set_flags(ZF, flag(source == 0, ZF));
    if source != 0 {
        let found = match known.mnemonic() {
            Mnemonic::Bsf => source.trailing_zeros(),
            _ => 63 - source.leading_zeros(),
        };
        s.set_gpr(known.op0_register(), found.into());
    }
    Ok(Next::Advance)
}

pub(super) fn andn(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let source = s.read(known, 2)?;
    let result = !s.gpr(known.op1_register()) & source & mask(bytes);
    s.set_gpr(known.op0_register(), result);
    s.set_flags(
        SF | ZF | CF | OF,
        bits::result_flags(result, bytes) & (SF | ZF),
    );
    Ok(Next::Advance)
}

/// blsi, blsmsk, blsr.
pub(super) fn lowest(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let source = s.read(known, 1)? & mask(bytes);
    let less = source.wrapping_sub(1);
    let (result, carry) = match known.mnemonic() {
        Mnemonic::Blsi => (source & source.wrapping_neg(), source != 0),
        Mnemonic::Blsmsk => (source ^ less, source == 0),
        _ => (source & less, source == 0),
    };
    let result = result & mask(bytes);
    s.set_gpr(known.op0_register(), result);
    let flags = bits::result_flags(result, bytes) & (SF | ZF) | flag(carry, CF);
    s.set_flags(SF | ZF | CF | OF, flags);
    Ok(Next::Advance)
}

pub(super) fn bextr(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let source = s.read(known, 1)? & mask(bytes);
    let control = s.gpr(known.op2_register());
    let (start, len) = (low32(control & 0xff), low32(control >> 8 & 0xff));
    let field = source.checked_shr(start).unwrap_or(0);
    let kept = if len < 64 {
        field & ((1 << len) - 1)
    } else {
        field
    };
    s.set_gpr(known.op0_register(), kept);
    s.set_flags(ZF | CF | OF, flag(kept == 0, ZF));
    Ok(Next::Advance)
}

pub(super) fn bzhi(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let source = s.read(known, 1)? & mask(bytes);
    let index = low32(s.gpr(known.op2_register()) & 0xff);
    let beyond = u64::from(index) >= 8 * bytes as u64;
    let result = if beyond {
        source
    } else {
        source & ((1 << index) - 1)
    };
    s.set_gpr(known.op0_register(), result);
    let flags = bits::result_flags(result, bytes) & (SF | ZF) | flag(beyond, CF);
    s.set_flags(SF | ZF | CF | OF, flags);
    Ok(Next::Advance)
}

/// shlx, shrx, sarx, rorx: no flags.
pub(super) fn shift(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let value = s.read(known, 1)? & mask(bytes);
    let by = low32(s.read(known, 2)?) & if bytes == 8 { 63 } else { 31 };
    let result = match known.mnemonic() {
        Mnemonic::Shlx => value << by,
        Mnemonic::Shrx => value >> by,
        Mnemonic::Sarx => {
            let high = if value & sign(bytes) != 0 {
                !mask(bytes)
            } else {
                0
            };
            ((value | high).cast_signed() >> by).cast_unsigned()
        }
        _ if bytes == 8 => value.rotate_right(by),
        _ => low32(value).rotate_right(by).into(),
    };
    s.set_gpr(known.op0_register(), result);
    Ok(Next::Advance)
}

/// pdep, pext.
pub(super) fn scatter(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let mut chosen = s.read(known, 2)? & mask(bytes);
    let source = s.gpr(known.op1_register());
    let (mut result, mut k) = (0, 0);
    while chosen != 0 {
        let lowest = chosen & chosen.wrapping_neg();
        if known.mnemonic() == Mnemonic::Pdep {
            result |= flag(source >> k & 1 != 0, lowest);
        } else {
            result |= flag(source & lowest != 0, 1 << k);
        }
        k += 1;
        chosen ^= lowest;
    }
    s.set_gpr(known.op0_register(), result);
    Ok(Next::Advance)
}

pub(super) fn mulx(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let product = u128::from(s.read(known, 2)?) * u128::from(s.regs.rdx & mask(bytes));
    let (low, high) = halves(product);
    let (low, high) = if bytes == 8 {
        (low, high)
    } else {
        (low & mask(4), low >> 32)
    };
    // If both name one register, it gets the high half.
    s.set_gpr(known.op1_register(), low);
    s.set_gpr(known.op0_register(), high);
    Ok(Next::Advance)
}

/// adcx, adox: one carry chain each.
pub(super) fn add_carry(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let chain = if known.mnemonic() == Mnemonic::Adcx {
        CF
    } else {
        OF
    };
    let source = u128::from(s.read(known, 1)?);
    let carry = u128::from(s.regs.rflags & chain != 0);
    let sum = u128::from(s.gpr(known.op0_register())) + source + carry;
    let (low, _) = halves(sum);
    s.set_gpr(known.op0_register(), low);
    s.set_flags(chain, flag(sum >> (8 * bytes) != 0, chain));
    Ok(Next::Advance)
}

/// CRC-32C, bit-reflected polynomial.
pub(super) fn crc32(s: &mut Stopped, known: &Instruction) -> Step {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let bytes = width(known, 1);
    let source = s.read(known, 1)?;
    let mut crc = low32(s.gpr(known.op0_register()));
    for byte in &source.to_le_bytes()[..bytes.min(8)] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 != 0 { POLYNOMIAL } else { 0 };
        }
    }
    s.set_gpr(known.op0_register(), crc.into());
    Ok(Next::Advance)
}

pub(super) fn movbe(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let swapped = s.read(known, 1)?.swap_bytes() >> (64 - 8 * bytes.clamp(1, 8));
    s.write(known, 0, swapped)?;
    Ok(Next::Advance)
}

pub(super) fn bswap(s: &mut Stopped, known: &Instruction) -> Step {
    let register = known.op0_register();
    let bytes = register.size();
    // Of a 16-bit register the result is undefined; processors clear it.
    let swapped = if bytes == 2 {
        0
    } else {
        s.gpr(register).swap_bytes() >> (64 - 8 * bytes)
    };
    s.set_gpr(register, swapped);
    Ok(Next::Advance)
}

pub(super) fn movnti(s: &mut Stopped, known: &Instruction) -> Step {
    let value = s.read(known, 1)?;
    s.write(known, 0, value)?;
    Ok(Next::Advance)
}

/// xadd, locked or not: the exchange is always atomic, which no one can tell.
pub(super) fn xadd(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let place = s.place(known, 0, Access::Write)?;
    let addend = s.gpr(known.op1_register());
    let old = super::atomic::update(s, &place, |old| bits::add(old, addend, bytes).0)?;
    let (_, flags) = bits::add(old, addend, bytes);
    s.set_gpr(known.op1_register(), old);
    if let super::operand::Place::Register(register) = place {
        // The sum wins if both are the same register.
        s.set_gpr(register, bits::add(old, addend, bytes).0);
    }
    s.set_flags(STATUS, flags);
    Ok(Next::Advance)
}

/// rdrand, rdseed: the host's own, failures included.
pub(super) fn random(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = known.op0_register().size();
    let value = if known.mnemonic() == Mnemonic::Rdseed {
        random::seed()
    } else {
        random::number()
    };
    s.set_gpr(known.op0_register(), value.unwrap_or(0) & mask(bytes));
    s.set_flags(CF | PF | AF | ZF | SF | OF, flag(value.is_some(), CF));
    Ok(Next::Advance)
}
