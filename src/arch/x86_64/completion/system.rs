// SPDX-License-Identifier: Apache-2.0
//! Instructions of the kernel's own trade: breakpoints, SMAP windows, bases, TLB, identity,
//! hypercalls. Runs on the vCPU's thread; privilege is checked in each, because KVM may not
//! have got that far.

use super::bits::{
    AC, CR4_FSGSBASE, CR4_OSXSAVE, CR4_PCIDE, CR4_SMAP, EFER_LMA, EFER_SCE, low16, mask,
};
use super::fault::{Exception, Next, Reason, Step, Stop};
use super::paging::Access;
use super::stopped::Stopped;
use super::xstate;
use iced_x86::{Instruction, Mnemonic};
use kvm_bindings::kvm_segment;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

const MSR_TSC: u32 = 0x10;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_FS_BASE: u32 = 0xc000_0100;
const MSR_GS_BASE: u32 = 0xc000_0101;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
const MSR_TSC_AUX: u32 = 0xc000_0103;

/// What KVM answers to a hypercall it does not know (include/uapi/linux/kvm_para.h).
const KVM_ENOSYS: i64 = 1000;

const UNDEFINED: Stop = Stop::Fault(Exception::UNDEFINED);
const PROTECTION: Stop = Stop::Fault(Exception::PROTECTION);

pub(super) fn breakpoint(_: &mut Stopped, _: &Instruction) -> Step {
    Ok(Next::Trap(Exception::BREAKPOINT))
}

/// ud0, ud1, ud2.
pub(super) fn undefined(_: &mut Stopped, _: &Instruction) -> Step {
    Err(UNDEFINED)
}

/// clac, stac.
pub(super) fn access_check(s: &mut Stopped, known: &Instruction) -> Step {
    if s.cpl() != 0 || s.sregs.cr4 & CR4_SMAP == 0 && !host_has_smap() {
        return Err(UNDEFINED);
    }
    let on = known.mnemonic() == Mnemonic::Stac;
    s.set_flags(AC, if on { AC } else { 0 });
    Ok(Next::Advance)
}

/// The kernel may run them before it sets CR4.SMAP; what counts is CPUID.
fn host_has_smap() -> bool {
    static SMAP: OnceLock<bool> = OnceLock::new();
    *SMAP.get_or_init(|| __cpuid_count(7, 0).ebx & 1 << 20 != 0)
}

pub(super) fn swapgs(s: &mut Stopped, _: &Instruction) -> Step {
    if !s.long_mode() {
        return Err(UNDEFINED);
    }
    s.require_ring0()?;
    let kernel = s
        .cpu
        .msr(MSR_KERNEL_GS_BASE)?
        .ok_or(Stop::Refused(Reason::Form))?;
    let current = s.sregs.gs.base;
    set_msr(s, MSR_GS_BASE, kernel)?;
    set_msr(s, MSR_KERNEL_GS_BASE, current)?;
    Ok(Next::Advance)
}

fn set_msr(s: &mut Stopped, index: u32, value: u64) -> Result<(), Stop> {
    if s.cpu.set_msr(index, value)? {
        Ok(())
    } else {
        Err(PROTECTION)
    }
}

/// rdfsbase, rdgsbase, wrfsbase, wrgsbase.
pub(super) fn base(s: &mut Stopped, known: &Instruction) -> Step {
    if !s.long_mode() || s.sregs.cr4 & CR4_FSGSBASE == 0 {
        return Err(UNDEFINED);
    }
    let register = known.op0_register();
    let (write, index) = match known.mnemonic() {
        Mnemonic::Rdfsbase => (false, MSR_FS_BASE),
        Mnemonic::Rdgsbase => (false, MSR_GS_BASE),
        Mnemonic::Wrfsbase => (true, MSR_FS_BASE),
        _ => (true, MSR_GS_BASE),
    };
    if write {
        let value = s.gpr(register);
        if !s.is_canonical(value) {
            return Err(PROTECTION);
        }
        set_msr(s, index, value)?;
    } else {
        let base = if index == MSR_FS_BASE {
            s.sregs.fs.base
        } else {
            s.sregs.gs.base
        };
        s.set_gpr(register, base);
    }
    Ok(Next::Advance)
}

/// Which translations KVM has cached we cannot see; setting the system registers anew makes it
/// drop them all, which every form of invpcid allows (SDM vol. 3, 4.10.4.1).
pub(super) fn invpcid(s: &mut Stopped, known: &Instruction) -> Step {
    const KINDS: u64 = 4;
    s.require_ring0()?;
    let kind = s.gpr(known.op0_register());
    let span = s.span(known, 1, 16, Access::Read)?;
    let pcid = span.read_int(s.ram, 0, 8)?;
    let linear = span.read_int(s.ram, 8, 8)?;
    let needs_pcid = kind < 2;
    let bad_pcid = needs_pcid && (pcid >> 12 != 0 || (pcid != 0 && s.sregs.cr4 & CR4_PCIDE == 0));
    if kind >= KINDS || bad_pcid || (kind == 0 && !s.is_canonical(linear)) {
        return Err(PROTECTION);
    }
    // KVM resets its MMU, and with it the cached translations, when CR4 differs: change a bit
    // that only user space sees (CR4.PCE, RDPMC at CPL 3) to and fro.
    const CR4_PCE: u64 = 1 << 8;
    let mut other = s.sregs;
    other.cr4 ^= CR4_PCE;
    s.cpu.set_sregs(&other)?;
    s.cpu.set_sregs(&s.sregs)?;
    Ok(Next::Advance)
}

/// rdtscp, rdpid. CR4.TSD is KVM's to check: it is clear in every kernel that boots here.
pub(super) fn identity(s: &mut Stopped, known: &Instruction) -> Step {
    let processor = s.cpu.msr(MSR_TSC_AUX)?.ok_or(UNDEFINED)?;
    if known.mnemonic() == Mnemonic::Rdpid {
        s.set_gpr(known.op0_register(), processor & mask(4));
        return Ok(Next::Advance);
    }
    let now = s.cpu.msr(MSR_TSC)?.ok_or(UNDEFINED)?;
    s.set_edx_eax(now);
    s.regs.rcx = processor & mask(4);
    Ok(Next::Advance)
}

/// vmcall, vmmcall: whatever is asked, there is no such service.
pub(super) fn hypercall(s: &mut Stopped, _: &Instruction) -> Step {
    s.regs.rax = (-KVM_ENOSYS).cast_unsigned();
    Ok(Next::Advance)
}

pub(super) fn xgetbv(s: &mut Stopped, _: &Instruction) -> Step {
    if s.sregs.cr4 & CR4_OSXSAVE == 0 {
        return Err(UNDEFINED);
    }
    let xcr0 = s.cpu.xcr0()?;
    let value = match s.regs.rcx & mask(4) {
        0 => xcr0,
        1 => {
            // XINUSE (SDM vol. 1, 13.6), where MXCSR counts as SSE state.
            s.cpu.load_xsave()?;
            let image = s.cpu.image();
            let mxcsr = if xstate::mxcsr(image) == xstate::INIT_MXCSR {
                0
            } else {
                xstate::SSE
            };
            xcr0 & (xstate::in_use(image) | mxcsr)
        }
        _ => return Err(PROTECTION),
    };
    s.set_edx_eax(value);
    Ok(Next::Advance)
}

pub(super) fn xsetbv(s: &mut Stopped, _: &Instruction) -> Step {
    if s.sregs.cr4 & CR4_OSXSAVE == 0 {
        return Err(UNDEFINED);
    }
    s.require_ring0()?;
    let value = s.edx_eax();
    // KVM checks the combination as the processor does and refuses what #GPs.
    if s.regs.rcx & mask(4) != 0 || !s.cpu.set_xcr0(value)? {
        return Err(PROTECTION);
    }
    Ok(Next::Advance)
}

/// clflush, clflushopt, clwb, clwb's kin: no cache of ours is stale, but the address must hold
/// a readable byte.
pub(super) fn cache_line(s: &mut Stopped, known: &Instruction) -> Step {
    s.span(known, 0, 1, Access::Read)?;
    Ok(Next::Advance)
}

/// wbinvd, wbnoinvd, invd: coherent already.
pub(super) fn all_caches(s: &mut Stopped, _: &Instruction) -> Step {
    s.require_ring0()?;
    Ok(Next::Advance)
}

/// sysretq and sysretl (SDM vol. 2, SYSRET).
pub(super) fn sysret(s: &mut Stopped, known: &Instruction) -> Step {
    if !s.long_mode() || s.sregs.efer & (EFER_SCE | EFER_LMA) != EFER_SCE | EFER_LMA {
        return Err(UNDEFINED);
    }
    s.require_ring0()?;
    let wide = known.mnemonic() == Mnemonic::Sysretq;
    if wide && !s.is_canonical(s.regs.rcx) {
        return Err(PROTECTION);
    }
    let star = s.cpu.msr(MSR_STAR)?.ok_or(UNDEFINED)?;
    let selector = low16(star >> 48);
    let code = if wide {
        selector.wrapping_add(16)
    } else {
        selector
    };
    let flat = kvm_segment {
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        dpl: 3,
        ..Default::default()
    };
    s.sregs.cs = kvm_segment {
        selector: code | 3,
        type_: 11,
        l: u8::from(wide),
        db: u8::from(!wide),
        ..flat
    };
    s.sregs.ss = kvm_segment {
        selector: selector.wrapping_add(8) | 3,
        type_: 3,
        db: 1,
        ..flat
    };
    // Of R11 everything but RF, VM and the reserved bits; bit 1 is always set (SDM vol. 2).
    const KEPT: u64 = 0x3c_7fd7;
    s.regs.rflags = s.regs.r11 & KEPT | 2;
    s.regs.rip = if wide {
        s.regs.rcx
    } else {
        s.regs.rcx & mask(4)
    };
    let sregs = s.sregs;
    s.cpu.set_sregs(&sregs)?;
    Ok(Next::Jump)
}
