// SPDX-License-Identifier: Apache-2.0
//! XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS, FXSAVE and FXRSTOR (SDM vol. 1, chapter 13
//! and 10.5). A guest kernel runs one of the pairs at every context switch, and user code keeps
//! live vectors across it: this must be exact. Runs on the vCPU's thread.
//!
//! Supervisor components (IA32_XSS: CET and the like) are in no image that KVM gives. They are
//! treated as being in their initial configuration: saved as such, and not restored.

use super::bits::{CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXSAVE};
use super::fault::{Exception, Next, Reason, Step, Stop};
use super::operand::Span;
use super::paging::Access;
use super::stopped::Stopped;
use super::xstate::{
    AVX, COMPACTED, FDP, FIP, HEADER_END, INIT_MXCSR, LEGACY_END, MXCSR, MXCSR_MASK, SSE, ST, X87,
    XCOMP_BV, XMM, XSTATE_BV, compacted, components, extended, get_u32, get_u64, in_use, init,
    mxcsr, mxcsr_mask, put, set_mxcsr, supported, touch,
};
use iced_x86::{Instruction, Mnemonic};

const MSR_XSS: u32 = 0xda0;

/// The largest area that is moved (`Span` has its own bound): standard AMX state ends at 11 KiB.
const MAX_AREA: usize = 16 * 1024;

const PROTECTION: Stop = Stop::Fault(Exception::PROTECTION);
const UNDEFINED: Stop = Stop::Fault(Exception::UNDEFINED);
const NO_DEVICE: Stop = Stop::Fault(Exception::NO_DEVICE);

/// How an XSAVE-like instruction lays out and thins out what it writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Standard,
    StandardOptimized,
    Compacted,
}

/// Checks shared by all, in the order of the SDM's exception lists; gives the requested
/// components (RFBM).
fn requested(s: &mut Stopped, known: &Instruction, supervisor: bool) -> Result<u64, Stop> {
    if s.sregs.cr4 & CR4_OSXSAVE == 0 {
        return Err(UNDEFINED);
    }
    if s.sregs.cr0 & CR0_TS != 0 {
        return Err(NO_DEVICE);
    }
    let mut allowed = s.cpu.xcr0()?;
    if supervisor {
        s.require_ring0()?;
        allowed |= s.cpu.msr(MSR_XSS)?.unwrap_or(0);
    }
    s.require_aligned(known, 0, 64)?;
    Ok(allowed)
}

pub(super) fn save(s: &mut Stopped, known: &Instruction) -> Step {
    use Mnemonic::{Xsave, Xsave64, Xsavec, Xsavec64, Xsaveopt, Xsaveopt64, Xsaves, Xsaves64};
    let mnemonic = known.mnemonic();
    let supervisor = matches!(mnemonic, Xsaves | Xsaves64);
    let wide = matches!(mnemonic, Xsave64 | Xsavec64 | Xsaveopt64 | Xsaves64);
    let format = match mnemonic {
        Xsave | Xsave64 => Format::Standard,
        Xsaveopt | Xsaveopt64 => Format::StandardOptimized,
        Xsavec | Xsavec64 | Xsaves | Xsaves64 => Format::Compacted,
        _ => return Err(Stop::Refused(Reason::Form)),
    };
    let wanted = requested(s, known, supervisor)? & s.edx_eax();
    s.cpu.load_xsave()?;
    let image = s.cpu.image();
    let mut used = in_use(image) & wanted;
    // XINUSE does not track MXCSR, but for these it counts as SSE state (SDM vol. 1, 13.10);
    // the others write it whatever the header says.
    if format == Format::Compacted && wanted & SSE != 0 && mxcsr(image) != INIT_MXCSR {
        used |= SSE;
    }
    let written = if format == Format::Standard {
        wanted
    } else {
        used
    };
    let (places, end) = match format {
        Format::Compacted => compacted(wanted),
        _ => standard(wanted),
    };
    let span = s.span(known, 0, end.min(MAX_AREA), Access::Write)?;
    save_legacy(s, &span, written, wanted, format, wide)?;
    for i in extended(written) {
        let from = components()[i].range();
        if let Some(bytes) = s.cpu.image().get(from) {
            span.write(s.ram, places[i], bytes)?;
        }
    }
    let mut header = used;
    if format == Format::Compacted {
        span.write(s.ram, XCOMP_BV, &(wanted | COMPACTED).to_le_bytes())?;
    } else {
        header |= span.read_int(s.ram, XSTATE_BV, 8)? & !wanted;
    }
    span.write(s.ram, XSTATE_BV, &header.to_le_bytes())?;
    Ok(Next::Advance)
}

fn standard(present: u64) -> ([usize; 63], usize) {
    let mut places = [0; 63];
    let mut end = HEADER_END;
    for i in extended(present) {
        let range = components()[i].range();
        places[i] = range.start;
        end = end.max(range.end);
    }
    (places, end)
}

fn save_legacy(
    s: &mut Stopped,
    span: &Span,
    written: u64,
    wanted: u64,
    format: Format,
    wide: bool,
) -> Result<(), Stop> {
    let image = s.cpu.image();
    let Some(legacy) = image.get(..LEGACY_END) else {
        return Err(Stop::Refused(Reason::Form));
    };
    if written & X87 != 0 {
        span.write(s.ram, 0, &pointers(&legacy[..MXCSR], wide))?;
        span.write(s.ram, ST.start, &legacy[ST])?;
    }
    if written & SSE != 0 {
        span.write(s.ram, XMM.start, &legacy[XMM])?;
    }
    // In the standard format MXCSR belongs to AVX as well, and XRSTOR will load it for either.
    let control = match format {
        Format::Compacted => written & SSE != 0,
        _ => wanted & (SSE | AVX) != 0,
    };
    if control {
        span.write(s.ram, MXCSR, &legacy[MXCSR..ST.start])?;
    }
    Ok(())
}

/// The first 24 bytes: without REX.W the pointers have 32 bits and a selector, which
/// processors that deprecate selectors leave zero (SDM vol. 1, 8.1.8).
fn pointers(legacy: &[u8], wide: bool) -> [u8; MXCSR] {
    let mut bytes = [0; MXCSR];
    bytes.copy_from_slice(legacy);
    if !wide {
        bytes[FIP + 4..FIP + 8].fill(0);
        bytes[FDP + 4..FDP + 8].fill(0);
    }
    bytes
}

pub(super) fn restore(s: &mut Stopped, known: &Instruction) -> Step {
    use Mnemonic::{Xrstor64, Xrstors, Xrstors64};
    let mnemonic = known.mnemonic();
    let supervisor = matches!(mnemonic, Xrstors | Xrstors64);
    let wide = matches!(mnemonic, Xrstor64 | Xrstors64);
    let allowed = requested(s, known, supervisor)?;
    let wanted = allowed & s.edx_eax();

    let mut area = [0; MAX_AREA];
    let span = s.span(known, 0, HEADER_END, Access::Read)?;
    span.read(s.ram, 0, &mut area[..HEADER_END])?;
    let (present, layout) = (get_u64(&area, XSTATE_BV), get_u64(&area, XCOMP_BV));
    let is_compacted = layout & COMPACTED != 0;
    check_header(&area, allowed, supervisor)?;

    let loaded = wanted & present;
    let (places, _) = if is_compacted {
        compacted(layout & !COMPACTED)
    } else {
        standard(loaded)
    };
    let end = extended(loaded)
        .map(|i| places[i] + components()[i].size)
        .max();
    if let Some(end) = end.filter(|&end| end <= MAX_AREA) {
        let span = s.span(known, 0, end, Access::Read)?;
        span.read(s.ram, HEADER_END, &mut area[HEADER_END..end])?;
    }
    // Where everything is replaced, what was there need not be asked for; only the MXCSR mask,
    // which the buffer keeps from its first use.
    let replaced = wanted & supported() == supported();
    if !replaced || get_u32(s.cpu.image(), MXCSR_MASK) == 0 {
        s.cpu.load_xsave()?;
    }
    let image = s.cpu.image();
    let control = match (is_compacted, wanted & SSE != 0) {
        (false, sse) if sse || wanted & AVX != 0 => Some(get_u32(&area, MXCSR)),
        (true, true) if present & SSE != 0 => Some(get_u32(&area, MXCSR)),
        (true, true) => Some(INIT_MXCSR),
        _ => None,
    };
    if control.is_some_and(|value| value & !mxcsr_mask(image) != 0) {
        return Err(PROTECTION);
    }
    let known_to_kvm = |i: &usize| *i < 2 || components()[*i].offset != 0;
    for i in (0..63)
        .filter(|i| wanted >> i & 1 != 0)
        .filter(known_to_kvm)
    {
        if loaded >> i & 1 != 0 {
            load(image, i, &area, places[i], wide);
        } else {
            init(image, i);
        }
    }
    set_mxcsr(image, control.unwrap_or_else(|| mxcsr(image)));
    s.cpu.store_xsave()?;
    Ok(Next::Advance)
}

/// SDM vol. 1, 13.8 and 13.12: everything that is #GP about a header.
fn check_header(area: &[u8], allowed: u64, supervisor: bool) -> Result<(), Stop> {
    let (present, layout) = (get_u64(area, XSTATE_BV), get_u64(area, XCOMP_BV));
    let bad = if layout & COMPACTED != 0 {
        let zeros = &area[XCOMP_BV + 8..HEADER_END];
        layout & !COMPACTED & !allowed != 0
            || present & !(layout & !COMPACTED) != 0
            || zeros.iter().any(|&byte| byte != 0)
    } else {
        supervisor || present & !allowed != 0 || layout != 0 || get_u64(area, XCOMP_BV + 8) != 0
    };
    if bad { Err(PROTECTION) } else { Ok(()) }
}

/// Component `i` out of the guest's area, at `place` for the extended ones.
fn load(image: &mut [u8], i: usize, area: &[u8], place: usize, wide: bool) {
    touch(image, i);
    match i {
        0 => {
            put(image, 0, &pointers(&area[..MXCSR], wide));
            put(image, ST.start, &area[ST]);
        }
        1 => put(image, XMM.start, &area[XMM]),
        _ => {
            let to = components()[i];
            if let Some(bytes) = area.get(place..place + to.size) {
                put(image, to.offset, bytes);
            }
        }
    }
}

/// fxsave, fxsave64, fxrstor, fxrstor64.
pub(super) fn legacy(s: &mut Stopped, known: &Instruction) -> Step {
    use Mnemonic::{Fxrstor, Fxrstor64, Fxsave, Fxsave64};
    if s.sregs.cr0 & (CR0_TS | CR0_EM) != 0 {
        return Err(NO_DEVICE);
    }
    s.require_aligned(known, 0, 16)?;
    let wide = matches!(known.mnemonic(), Fxsave64 | Fxrstor64);
    let store = matches!(known.mnemonic(), Fxsave | Fxsave64);
    let access = if store { Access::Write } else { Access::Read };
    let span = s.span(known, 0, LEGACY_END, access)?;
    let vectors = s.sregs.cr4 & CR4_OSFXSR != 0;
    s.cpu.load_xsave()?;
    if store {
        let written = if vectors { X87 | SSE } else { X87 };
        save_legacy(s, &span, written, X87 | SSE, Format::Standard, wide)?;
        return Ok(Next::Advance);
    }
    let mut area = [0; LEGACY_END];
    // Bytes 464 to 511 are the guest's own and not looked at.
    span.read(s.ram, 0, &mut area[..XMM.end])?;
    let control = get_u32(&area, MXCSR);
    let image = s.cpu.image();
    if vectors && control & !mxcsr_mask(image) != 0 {
        return Err(PROTECTION);
    }
    if let Fxrstor | Fxrstor64 = known.mnemonic() {
        load(image, 0, &area, 0, wide);
        if vectors {
            load(image, 1, &area, 0, wide);
            set_mxcsr(image, control);
        }
        s.cpu.store_xsave()?;
    }
    Ok(Next::Advance)
}
