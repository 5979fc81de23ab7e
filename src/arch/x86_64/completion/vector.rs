// SPDX-License-Identifier: Apache-2.0
//! SSE, AVX and unmasked AVX-512 registers in the XSAVE image: reading, writing, and the moves
//! between them, memory and general registers. Runs on the vCPU's thread. MMX registers,
//! masks and broadcasts are nobody's here.

use super::bits::{CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXSAVE, low32};
use super::fault::{Exception, Next, Reason, Step, Stop};
use super::operand::{Span, width};
use super::paging::Access;
use super::stopped::Stopped;
use super::xstate::{AVX, HI16_ZMM, SSE, XMM, ZMM_HI256, components, get_u64, in_use, put, touch};
use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, Register};

/// The bytes of one register, low first.
pub(super) type Vector = [u8; 64];

const FORM: Stop = Stop::Refused(Reason::Form);

/// The checks every vector instruction begins with; the image is loaded when they pass.
pub(super) fn begin(s: &mut Stopped, known: &Instruction) -> Result<(), Stop> {
    let legacy = known.code().encoding() == EncodingKind::Legacy;
    let (cr0, cr4) = (s.sregs.cr0, s.sregs.cr4);
    let off = if legacy {
        cr0 & CR0_EM != 0 || cr4 & CR4_OSFXSR == 0
    } else {
        cr4 & CR4_OSXSAVE == 0 || {
            let needed = match known.code().encoding() {
                EncodingKind::VEX => SSE | AVX,
                // Bit 5 is the mask registers: the three AVX-512 components go together.
                _ => SSE | AVX | 1 << 5 | ZMM_HI256 | HI16_ZMM,
            };
            s.cpu.xcr0()? & needed != needed
        }
    };
    if off {
        return Err(Stop::Fault(Exception::UNDEFINED));
    }
    if cr0 & CR0_TS != 0 {
        return Err(Stop::Fault(Exception::NO_DEVICE));
    }
    let masked = known.op_mask() != Register::None || known.is_broadcast();
    let mmx = (0..known.op_count())
        .any(|op| known.op_kind(op) == OpKind::Register && known.op_register(op).is_mm());
    // movsd and cmpsd are also the names of string instructions.
    if masked || mmx || known.is_string_instruction() {
        return Err(FORM);
    }
    s.cpu.load_xsave()?;
    Ok(())
}

/// The parts of vector register `number` in the image: component, offset, length, first byte.
fn parts(number: usize) -> [(usize, usize, usize, usize); 3] {
    if number < 16 {
        [
            (1, XMM.start + 16 * number, 16, 0),
            (2, components()[2].offset + 16 * number, 16, 16),
            (6, components()[6].offset + 32 * number, 32, 32),
        ]
    } else {
        let part = (7, components()[7].offset + 64 * (number - 16), 64, 0);
        [part, (7, 0, 0, 64), (7, 0, 0, 64)]
    }
}

pub(super) fn get_register(image: &[u8], register: Register) -> Vector {
    let mut value = [0; 64];
    for (component, at, len, first) in parts(register.number()) {
        let present = in_use(image) >> component & 1 != 0;
        if let (true, Some(bytes)) = (present, image.get(at..at + len)) {
            value[first..first + len].copy_from_slice(bytes);
        }
    }
    value
}

/// Writes the first `len` bytes. What is above is kept by legacy SSE and cleared by the rest.
pub(super) fn set_register(
    image: &mut [u8],
    register: Register,
    value: &Vector,
    len: usize,
    clear: bool,
) {
    let mut whole = if clear {
        [0; 64]
    } else {
        get_register(image, register)
    };
    whole[..len].copy_from_slice(&value[..len]);
    for (component, at, size, first) in parts(register.number()) {
        let bytes = &whole[first..first + size];
        let zero = bytes.iter().all(|&byte| byte == 0);
        // A component in its initial state holds zeros already.
        if size != 0 && !(zero && in_use(image) >> component & 1 == 0) {
            touch(image, component);
            put(image, at, bytes);
        }
    }
}

/// Operand `op`: a register, or `len` bytes of memory aligned to `align`.
pub(super) fn get(
    s: &mut Stopped,
    known: &Instruction,
    op: u32,
    len: usize,
    align: u64,
) -> Result<Vector, Stop> {
    if known.op_kind(op) == OpKind::Register {
        let register = known.op_register(op);
        if !register.is_vector_register() {
            return Err(FORM);
        }
        return Ok(get_register(s.cpu.image(), register));
    }
    if align > 1 {
        s.require_aligned(known, op, align)?;
    }
    let span = s.span(known, op, len, Access::Read)?;
    let mut value = [0; 64];
    span.read(s.ram, 0, &mut value[..len.min(64)])?;
    Ok(value)
}

/// Writes a result to operand 0 and, if that is a register, the image to the vCPU.
pub(super) fn finish(s: &mut Stopped, known: &Instruction, value: &Vector, len: usize) -> Step {
    let clear = known.code().encoding() != EncodingKind::Legacy;
    set_register(s.cpu.image(), known.op0_register(), value, len, clear);
    s.cpu.store_xsave()?;
    Ok(Next::Advance)
}

fn store(s: &mut Stopped, known: &Instruction, value: &[u8], align: u64) -> Step {
    if align > 1 {
        s.require_aligned(known, 0, align)?;
    }
    let span: Span = s.span(known, 0, value.len(), Access::Write)?;
    span.write(s.ram, 0, value)?;
    Ok(Next::Advance)
}

fn needs_alignment(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{
        Movapd, Movaps, Movdqa, Movntdq, Movntdqa, Movntpd, Movntps, Vmovapd, Vmovaps, Vmovdqa,
        Vmovdqa32, Vmovdqa64, Vmovntdq, Vmovntdqa, Vmovntpd, Vmovntps,
    };
    matches!(
        mnemonic,
        Movapd
            | Movaps
            | Movdqa
            | Movntdq
            | Movntdqa
            | Movntpd
            | Movntps
            | Vmovapd
            | Vmovaps
            | Vmovdqa
            | Vmovdqa32
            | Vmovdqa64
            | Vmovntdq
            | Vmovntdqa
            | Vmovntpd
            | Vmovntps
    )
}

/// Whole-register moves: movaps, movdqu, vmovdqa64, movntdq and their kin.
pub(super) fn whole(s: &mut Stopped, known: &Instruction) -> Step {
    begin(s, known)?;
    let len = width(known, 0).min(64);
    let align = if needs_alignment(known.mnemonic()) {
        len as u64
    } else {
        1
    };
    let value = get(s, known, 1, len, align)?;
    if known.op0_kind() == OpKind::Memory {
        return store(s, known, &value[..len], align);
    }
    finish(s, known, &value, len)
}

/// movd, movq: 4 or 8 bytes between a general register or memory and a vector's low end.
pub(super) fn scalar(s: &mut Stopped, known: &Instruction) -> Step {
    begin(s, known)?;
    let narrow = (0..2).map(|op| width(known, op)).min().unwrap_or(0);
    // Between two vector registers it is movq.
    let len = if narrow > 8 { 8 } else { narrow };
    let mut value = [0; 64];
    if known.op1_kind() == OpKind::Register && known.op1_register().is_vector_register() {
        value[..8].copy_from_slice(&get_register(s.cpu.image(), known.op1_register())[..8]);
    } else {
        value[..8].copy_from_slice(&s.read(known, 1)?.to_le_bytes());
    }
    value[len..].fill(0);
    match known.op0_kind() {
        OpKind::Memory => store(s, known, &value[..len], 1),
        _ if known.op0_register().is_gpr() => {
            s.set_gpr(known.op0_register(), get_u64(&value, 0));
            Ok(Next::Advance)
        }
        _ => finish(s, known, &value, 16),
    }
}

/// movss, movsd: loads clear the rest of the lane, register forms keep it, stores store.
pub(super) fn scalar_float(s: &mut Stopped, known: &Instruction) -> Step {
    begin(s, known)?;
    let single = matches!(known.mnemonic(), Mnemonic::Movss | Mnemonic::Vmovss);
    let len = if single { 4 } else { 8 };
    let last = known.op_count() - 1;
    let low = get(s, known, last, len, 1)?;
    if known.op0_kind() == OpKind::Memory {
        return store(s, known, &low[..len], 1);
    }
    let mut value = [0; 64];
    if known.op_kind(last) == OpKind::Register {
        // The rest comes from the first source: op1 of three, else the destination.
        value = get_register(s.cpu.image(), known.op_register(last - 1));
    }
    value[..len].copy_from_slice(&low[..len]);
    finish(s, known, &value, 16)
}

/// movlps, movhps, movlpd, movhpd, and the register forms movhlps and movlhps.
pub(super) fn half(s: &mut Stopped, known: &Instruction) -> Step {
    use Mnemonic::{Movhlps, Movhpd, Movhps, Movlhps, Vmovhlps, Vmovhpd, Vmovhps, Vmovlhps};
    begin(s, known)?;
    let mnemonic = known.mnemonic();
    let high = matches!(
        mnemonic,
        Movhpd | Movhps | Vmovhpd | Vmovhps | Movlhps | Vmovlhps
    );
    let from_high = matches!(mnemonic, Movhlps | Vmovhlps);
    let at = if high { 8 } else { 0 };
    let last = known.op_count() - 1;
    let source = get(s, known, last, 8, 1)?;
    if known.op0_kind() == OpKind::Memory {
        return store(s, known, &source[at..at + 8], 1);
    }
    let taken = if from_high { 8 } else { 0 };
    let mut value = get_register(s.cpu.image(), known.op_register(last - 1));
    value[at..at + 8].copy_from_slice(&source[taken..taken + 8]);
    finish(s, known, &value, 16)
}

/// pmovmskb, movmskps, movmskpd: the elements' sign bits.
pub(super) fn signs(s: &mut Stopped, known: &Instruction) -> Step {
    begin(s, known)?;
    let element = match known.mnemonic() {
        Mnemonic::Pmovmskb | Mnemonic::Vpmovmskb => 1,
        Mnemonic::Movmskps | Mnemonic::Vmovmskps => 4,
        _ => 8,
    };
    let len = width(known, 1).min(64);
    let value = get(s, known, 1, len, 1)?;
    let tops = value[..len]
        .chunks_exact(element)
        .map(|chunk| chunk[element - 1] >> 7);
    let bits = tops.rev().fold(0, |bits, top| bits << 1 | u64::from(top));
    s.set_gpr(known.op0_register(), bits);
    Ok(Next::Advance)
}

/// pextrb, pextrw, pextrd, pextrq.
pub(super) fn extract(s: &mut Stopped, known: &Instruction) -> Step {
    begin(s, known)?;
    let len = element(known.mnemonic());
    let index = usize::from(known.immediate8()) % (16 / len);
    let source = get_register(s.cpu.image(), known.op1_register());
    let taken = get_u64(&source, index * len) & super::bits::mask(len);
    match known.op0_kind() {
        OpKind::Memory => store(s, known, &taken.to_le_bytes()[..len], 1),
        _ => {
            s.set_gpr(known.op0_register(), taken);
            Ok(Next::Advance)
        }
    }
}

/// pinsrb, pinsrw, pinsrd, pinsrq.
pub(super) fn insert(s: &mut Stopped, known: &Instruction) -> Step {
    begin(s, known)?;
    let len = element(known.mnemonic());
    let index = usize::from(known.immediate8()) % (16 / len);
    let source = s.read(known, known.op_count() - 2)?;
    let first = known.op_register(known.op_count() - 3);
    let mut value = get_register(s.cpu.image(), first);
    value[index * len..(index + 1) * len].copy_from_slice(&source.to_le_bytes()[..len]);
    finish(s, known, &value, 16)
}

fn element(mnemonic: Mnemonic) -> usize {
    use Mnemonic::{Pextrb, Pextrw, Pinsrb, Pinsrw, Vpextrb, Vpextrw, Vpinsrb, Vpinsrw};
    use Mnemonic::{Pextrd, Pinsrd, Vpextrd, Vpinsrd};
    match mnemonic {
        Pextrb | Pinsrb | Vpextrb | Vpinsrb => 1,
        Pextrw | Pinsrw | Vpextrw | Vpinsrw => 2,
        Pextrd | Pinsrd | Vpextrd | Vpinsrd => 4,
        _ => 8,
    }
}

/// vzeroupper, vzeroall: of the first sixteen registers (eight outside 64-bit mode).
pub(super) fn zero(s: &mut Stopped, known: &Instruction) -> Step {
    begin(s, known)?;
    let kept = if known.mnemonic() == Mnemonic::Vzeroall {
        0
    } else {
        16
    };
    let count = if s.long_mode() { 16 } else { 8 };
    for number in 0..count {
        let register = Register::XMM0 + low32(number);
        let image = s.cpu.image();
        let value = get_register(image, register);
        set_register(image, register, &value, kept, true);
    }
    s.cpu.store_xsave()?;
    Ok(Next::Advance)
}
