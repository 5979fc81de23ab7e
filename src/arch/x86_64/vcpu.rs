// SPDX-License-Identifier: Apache-2.0
//! The state a vCPU starts in: 64-bit mode on the boot page tables for the first one,
//! and for all of them the registers a firmware would have left.

use super::boot::Entry;
use super::layout;
use crate::kvm::{KvmError, Vcpu};
use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};

mod msr {
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const MISC_ENABLE_FAST_STRING: u64 = 1;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    /// MTRRs enabled, everything write-back.
    pub const MTRR_ENABLED_WRITE_BACK: u64 = (1 << 11) | 6;
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 2;

/// Registers every processor needs before it runs.
pub fn prepare(vcpu: &Vcpu) -> Result<(), KvmError> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let list = [
        entry(msr::MISC_ENABLE, msr::MISC_ENABLE_FAST_STRING),
        entry(msr::MTRR_DEF_TYPE, msr::MTRR_ENABLED_WRITE_BACK),
    ];
    if let Ok(msrs) = Msrs::from_entries(&list) {
        vcpu.set_msrs(&msrs)?;
    }
    wire_local_apic(vcpu)
}

/// LINT0 takes the PIC's interrupts and LINT1 NMIs, as firmware leaves them and the MP
/// table says.
fn wire_local_apic(vcpu: &Vcpu) -> Result<(), KvmError> {
    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const DELIVERY_EXTINT: u32 = 7 << 8;
    const DELIVERY_NMI: u32 = 4 << 8;
    let mut lapic = vcpu.lapic()?;
    set_register(&mut lapic, LVT_LINT0, DELIVERY_EXTINT);
    set_register(&mut lapic, LVT_LINT1, DELIVERY_NMI);
    vcpu.set_lapic(&lapic)
}

fn set_register(lapic: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (register, byte) in lapic.regs[offset..].iter_mut().zip(value.to_le_bytes()) {
        *register = i8::from_ne_bytes([byte]);
    }
}

/// The 64-bit boot protocol (Documentation/arch/x86/boot.rst): flat segments, paging on with
/// low memory mapped to itself, interrupts off, RSI at the boot parameters.
pub fn enter(vcpu: &Vcpu, entry: Entry) -> Result<(), KvmError> {
    let mut sregs = vcpu.sregs()?;
    let data = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 0x18,
        type_: 3,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: 0x10,
        type_: 11,
        db: 0,
        l: 1,
        ..data
    };
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.gdt.base = layout::BOOT_GDT;
    sregs.gdt.limit = 31;
    sregs.idt.base = layout::BOOT_IDT;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = layout::PML4;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rip: entry.address,
        rsi: layout::ZERO_PAGE,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    })
}
