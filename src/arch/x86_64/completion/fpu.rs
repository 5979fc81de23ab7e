// SPDX-License-Identifier: Apache-2.0
//! x87 and SSE control: what a kernel runs when it sets up or checks the FPU. Runs on the
//! vCPU's thread.

use super::bits::{CR0_EM, CR0_MP, CR0_NE, CR0_TS, CR4_OSFXSR, low16, low32};
use super::fault::{Exception, Next, Reason, Step, Stop};
use super::stopped::Stopped;
use super::xstate::{
    FCW, FDP, FIP, FOP, FSW, FTW, INIT_FCW, ST, get_u16, in_use, mxcsr, mxcsr_mask, put, set_mxcsr,
    touch,
};
use iced_x86::{Instruction, Mnemonic};

/// FSW: the exception flags, stack fault, summary and busy that FNCLEX clears.
const FSW_CLEARED: u16 = 0x80ff;
const FSW_TOP: u16 = 7 << 11;
const FSW_SUMMARY: u16 = 1 << 7;

const NO_DEVICE: Stop = Stop::Fault(Exception::NO_DEVICE);

/// fwait: the exception that waits, if any.
pub(super) fn wait(s: &mut Stopped, _: &Instruction) -> Step {
    if s.sregs.cr0 & CR0_MP != 0 && s.sregs.cr0 & CR0_TS != 0 {
        return Err(NO_DEVICE);
    }
    s.cpu.load_xsave()?;
    check_pending(s)?;
    Ok(Next::Advance)
}

fn check_pending(s: &mut Stopped) -> Result<(), Stop> {
    let image = s.cpu.image();
    let pending = in_use(image) & 1 != 0 && get_u16(image, FSW) & FSW_SUMMARY != 0;
    match (pending, s.sregs.cr0 & CR0_NE != 0) {
        (false, _) => Ok(()),
        (true, true) => Err(Stop::Fault(Exception::MATH)),
        // Without CR0.NE the fault would go out on the FERR# pin; no machine of ours has one.
        (true, false) => Err(Stop::Refused(Reason::Form)),
    }
}

/// fninit, fnclex, fnstcw, fnstsw, fldcw, emms.
pub(super) fn control(s: &mut Stopped, known: &Instruction) -> Step {
    if s.sregs.cr0 & (CR0_EM | CR0_TS) != 0 {
        return Err(NO_DEVICE);
    }
    s.cpu.load_xsave()?;
    match known.mnemonic() {
        Mnemonic::Fninit => {
            let image = s.cpu.image();
            touch(image, 0);
            unwind_stack(image);
            put(image, FCW, &INIT_FCW.to_le_bytes());
            for (at, len) in [(FSW, 2), (FTW, 1), (FOP, 2), (FIP, 8), (FDP, 8)] {
                put(image, at, &[0; 8][..len]);
            }
        }
        Mnemonic::Fnclex => {
            let image = s.cpu.image();
            let status = get_u16(image, FSW) & !FSW_CLEARED;
            touch(image, 0);
            put(image, FSW, &status.to_le_bytes());
        }
        Mnemonic::Emms => {
            check_pending(s)?;
            let image = s.cpu.image();
            touch(image, 0);
            unwind_stack(image);
            let status = get_u16(image, FSW) & !FSW_TOP;
            put(image, FSW, &status.to_le_bytes());
            put(image, FTW, &[0]);
        }
        Mnemonic::Fldcw => {
            check_pending(s)?;
            let word = low16(s.read(known, 0)?);
            load_control(s.cpu.image(), word);
        }
        Mnemonic::Fnstcw => {
            let image = s.cpu.image();
            let word = if in_use(image) & 1 == 0 {
                INIT_FCW
            } else {
                get_u16(image, FCW)
            };
            s.write(known, 0, word.into())?;
            return Ok(Next::Advance);
        }
        _ => {
            let image = s.cpu.image();
            let word = if in_use(image) & 1 == 0 {
                0
            } else {
                get_u16(image, FSW)
            };
            s.write(known, 0, word.into())?;
            return Ok(Next::Advance);
        }
    }
    s.cpu.store_xsave()?;
    Ok(Next::Advance)
}

/// The registers keep their contents when TOP becomes zero; but an image holds them in stack
/// order, from TOP on, so there they move (SDM vol. 1, 10.5.1.1).
fn unwind_stack(image: &mut [u8]) {
    let top = usize::from(get_u16(image, FSW) >> 11 & 7);
    if let Some(stack) = image.get_mut(ST) {
        stack.rotate_right(top * ST.len() / 8);
    }
}

/// A new control word may unmask a pending exception, or mask it: the summary follows.
fn load_control(image: &mut [u8], word: u16) {
    touch(image, 0);
    // Bit 6 always reads as one, bits 7 and 13 to 15 as zero.
    let word = word & 0x1f3f | 0x40;
    put(image, FCW, &word.to_le_bytes());
    let status = get_u16(image, FSW);
    let waiting = status & !word & 0x3f != 0;
    let status = status & !FSW_CLEARED | status & 0x7f;
    let summary = if waiting { 0x8080 } else { 0 };
    put(image, FSW, &(status | summary).to_le_bytes());
}

/// ldmxcsr, stmxcsr and their VEX forms.
pub(super) fn mxcsr_move(s: &mut Stopped, known: &Instruction) -> Step {
    if s.sregs.cr0 & CR0_EM != 0 || s.sregs.cr4 & CR4_OSFXSR == 0 {
        return Err(Stop::Fault(Exception::UNDEFINED));
    }
    if s.sregs.cr0 & CR0_TS != 0 {
        return Err(NO_DEVICE);
    }
    s.cpu.load_xsave()?;
    if matches!(known.mnemonic(), Mnemonic::Stmxcsr | Mnemonic::Vstmxcsr) {
        let value = mxcsr(s.cpu.image());
        s.write(known, 0, value.into())?;
        return Ok(Next::Advance);
    }
    let value = low32(s.read(known, 0)?);
    let image = s.cpu.image();
    if value & !mxcsr_mask(image) != 0 {
        return Err(Stop::Fault(Exception::PROTECTION));
    }
    set_mxcsr(image, value);
    s.cpu.store_xsave()?;
    Ok(Next::Advance)
}
