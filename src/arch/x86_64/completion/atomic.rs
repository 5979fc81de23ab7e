// SPDX-License-Identifier: Apache-2.0
//! Compare-and-exchange in all widths. Memory forms use a real locked access on the host's view
//! of guest RAM, so that they are atomic against the guest's other vCPUs. Runs on the vCPU's
//! thread.

use super::bits::{STATUS, ZF, compare, flag, halves, mask};
use super::fault::{Next, Reason, Step, Stop};
use super::operand::{Place, width};
use super::paging::Access;
use super::stopped::Stopped;
use iced_x86::{Instruction, Mnemonic};

/// Another vCPU can make a compare-and-exchange fail, but not for ever: each failure means it
/// has got on itself. The bound is against a device that writes the place without pause.
const MAX_ATTEMPTS: usize = 1 << 20;

/// Puts `change` of the value in its place, atomically in memory; gives the old value.
pub(super) fn update(
    s: &mut Stopped,
    place: &Place,
    change: impl Fn(u64) -> u64,
) -> Result<u64, Stop> {
    let mut old = s.get(place)?;
    let Place::Memory(span) = place else {
        s.put(place, change(old))?;
        return Ok(old);
    };
    for _ in 0..MAX_ATTEMPTS {
        let (found, _) = halves(span.exchange(s.ram, old.into(), change(old).into())?);
        if found == old {
            return Ok(old);
        }
        old = found;
    }
    Err(Stop::Refused(Reason::SplitLock))
}

/// cmpxchg r/m, r.
pub(super) fn cmpxchg(s: &mut Stopped, known: &Instruction) -> Step {
    let bytes = width(known, 0);
    let place = s.place(known, 0, Access::Write)?;
    let expected = s.regs.rax & mask(bytes);
    let new = s.gpr(known.op1_register());
    let found = match &place {
        Place::Memory(span) => halves(span.exchange(s.ram, expected.into(), new.into())?).0,
        _ => s.get(&place)?,
    };
    if found != expected {
        s.set_gpr(accumulator(bytes), found);
    } else if let Place::Register(register) = place {
        s.set_gpr(register, new);
    }
    s.set_flags(STATUS, compare(expected, found, bytes));
    Ok(Next::Advance)
}

fn accumulator(bytes: usize) -> iced_x86::Register {
    use iced_x86::Register;
    match bytes {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    }
}

/// cmpxchg8b, cmpxchg16b: RDX:RAX against memory, RCX:RBX into it. Only ZF changes.
pub(super) fn cmpxchg_pair(s: &mut Stopped, known: &Instruction) -> Step {
    let half = if known.mnemonic() == Mnemonic::Cmpxchg16b {
        8
    } else {
        4
    };
    if half == 8 {
        s.require_aligned(known, 0, 16)?;
    }
    let span = s.span(known, 0, 2 * half, Access::Write)?;
    let pair = |high: u64, low: u64| {
        u128::from(high & mask(half)) << (8 * half) | u128::from(low & mask(half))
    };
    let expected = pair(s.regs.rdx, s.regs.rax);
    let found = span.exchange(s.ram, expected, pair(s.regs.rcx, s.regs.rbx))?;
    if found != expected {
        let (low, high) = halves(found);
        (s.regs.rax, s.regs.rdx) = if half == 8 {
            (low, high)
        } else {
            (low & mask(4), low >> 32)
        };
    }
    s.set_flags(ZF, flag(found == expected, ZF));
    Ok(Next::Advance)
}
