// SPDX-License-Identifier: Apache-2.0
//! A guest of one page that tries what a kernel in ring 3 lives on: `program.s` is what it
//! runs, this file the machine it starts in, `facts` what it found. Called on the thread
//! that asks, before its vCPU runs. The guest is ours; nothing of it is an operator's.
#![expect(unsafe_code, reason = "the program is data between two symbols")]

mod facts;

pub use facts::{Cycles, Facts, Finding, STEPS, Step};

use super::host::HostKind;
use super::{cpuid, vcpu};
use crate::kvm::{KvmError, Vcpu, Vm};
use crate::memory::GuestRam;
use crate::units::Variant;
use kvm_bindings::{Msrs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment};
use std::arch::global_asm;
use std::slice;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

global_asm!(include_str!("program.s"), options(att_syntax, raw));

// SAFETY: both symbols are defined in program.s, in this order, in one read-only section.
unsafe extern "C" {
    static husk_ring3_start: u8;
    static husk_ring3_end: u8;
}

/// All the memory the guest has, from address 0.
pub const RAM: u64 = 0x4_0000;
/// A write here is the guest's last.
pub const END: u64 = 0xd000_0000;

/// Where the guest sees guest-physical 0: the upper half, where kernels are linked.
const BASE: u64 = 0xffff_ffff_8000_0000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const GDT: u64 = 0x5000;
const IDT: u64 = 0x6000;
const TSS: u64 = 0x7000;
const FACTS: u64 = 0x8000;
const CODE: u64 = 0x9000;
/// The program must end before the first stack begins.
const CODE_END: u64 = 0xf000;
const INTERRUPT_STACK: u64 = 0x1_2000;
const FAULT_STACK: u64 = 0x1_4000;
const EXCEPTION_STACK: u64 = 0x1_6000;
const RING0_STACK: u64 = 0x1_8000;
const START_STACK: u64 = 0x1_a000;
/// Pages the guest maps itself, each with its number in it.
const DEMAND: u64 = 0x3_0000;
const LOCAL_APIC: u64 = super::layout::LOCAL_APIC as u64;

/// Present, writable, and open to ring 3: so is everything.
const OPEN: u64 = 7;
const UNCACHED: u64 = 0x18;

const KERNEL_CS: u16 = 0x10;
const KERNEL_SS: u16 = 0x18;
const USER_SS: u16 = 0x2b;
const USER_CS: u16 = 0x33;
const TASK: u16 = 0x40;

/// The program's table of its own places, in its order.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub enum Entry {
    Program,
    SystemCall,
    Debug,
    Breakpoint,
    Ring0Call,
    InvalidOpcode,
    Protection,
    PageFault,
    Interrupt,
    DirectInterrupt,
    IdleInterrupt,
}

#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error("the probe's guest does not fit its memory")]
    Memory(#[from] GuestMemoryError),
}

/// Writes the guest into `ram`, which begins at 0 and has `RAM` bytes, and makes the one
/// processor of `vm` ready to run it.
pub fn prepare(vm: &Vm, ram: &GuestRam, host: HostKind) -> Result<Vcpu, PrepareError> {
    let program = program();
    debug_assert!(CODE + program.len() as u64 <= CODE_END);
    ram.write_slice(program, GuestAddress(CODE))?;
    write_page_tables(ram)?;
    write_descriptors(ram, program)?;

    let vcpu = vm.create_vcpu(0)?;
    let table = cpuid::for_vcpu(&vm.supported_cpuid()?, 0, 1, host, Variant::Ring3);
    vcpu.set_cpuid(&table)?;
    if let Some(xcr0) = cpuid::xcr0(&table) {
        vcpu.set_xcr0(xcr0)?;
    }
    vcpu::prepare(&vcpu)?;
    set_system_call(&vcpu, program)?;
    enter(&vcpu, program)?;
    Ok(vcpu)
}

/// For tests of what asks: the guest hangs once it comes to `entry`.
#[cfg(test)]
pub fn hang_at(ram: &GuestRam, entry: Entry) -> Result<(), GuestMemoryError> {
    const JUMP_TO_ITSELF: [u8; 2] = [0xeb, 0xfe];
    let at = address(program(), entry) - BASE;
    ram.write_slice(&JUMP_TO_ITSELF, GuestAddress(at))
}

/// For tests of what asks: nothing takes `vector`.
#[cfg(test)]
pub fn close_gate(ram: &GuestRam, vector: u64) -> Result<(), GuestMemoryError> {
    ram.write_obj(0u64, GuestAddress(IDT + vector * 16))
}

fn program() -> &'static [u8] {
    let start = &raw const husk_ring3_start;
    let end = &raw const husk_ring3_end;
    let length = end.addr() - start.addr();
    // SAFETY: program.s defines both symbols around one run of initialised, read-only bytes.
    unsafe { slice::from_raw_parts(start, length) }
}

/// The address of a place of the program, as the guest sees it.
fn address(program: &[u8], entry: Entry) -> u64 {
    let at = entry as usize * size_of::<u32>();
    let offset = program.get(at..).and_then(<[u8]>::first_chunk);
    BASE + CODE + u64::from(u32::from_le_bytes(*offset.unwrap_or(&[0; 4])))
}

fn write_page_tables(ram: &GuestRam) -> Result<(), GuestMemoryError> {
    let index = |shift: u32| (BASE >> shift & 0x1ff) * 8;
    let put = |at: u64, entry: u64| ram.write_obj(entry, GuestAddress(at));
    put(PML4 + index(39), PDPT | OPEN)?;
    put(PDPT + index(30), DIRECTORY | OPEN)?;
    put(DIRECTORY + index(21), TABLE | OPEN)?;
    for page in 0..RAM >> 12 {
        let physical = page << 12;
        let mapped = physical < DEMAND;
        put(TABLE + page * 8, if mapped { physical | OPEN } else { 0 })?;
        if !mapped {
            put(physical, page - (DEMAND >> 12) + 1)?;
        }
    }
    put(TABLE + 0x1fe * 8, LOCAL_APIC | OPEN | UNCACHED)?;
    put(TABLE + 0x1ff * 8, END | OPEN | UNCACHED)
}

/// GDT, TSS and IDT (SDM vol. 3, 3.4.5, 8.7 and 6.14.1).
fn write_descriptors(ram: &GuestRam, program: &[u8]) -> Result<(), GuestMemoryError> {
    let put = |at: u64, value: u64| ram.write_obj(value, GuestAddress(at));
    let task = BASE + TSS;
    let descriptors = [
        (KERNEL_CS, 0x00af_9b00_0000_ffff),
        (KERNEL_SS, 0x00cf_9300_0000_ffff),
        (USER_SS, 0x00cf_f300_0000_ffff),
        (USER_CS, 0x00af_fb00_0000_ffff),
        (
            TASK,
            0x8900_0000_0067 | (task & 0xff_ffff) << 16 | (task >> 24 & 0xff) << 56,
        ),
        (TASK + 8, task >> 32),
    ];
    for (selector, descriptor) in descriptors {
        put(GDT + u64::from(selector & !7), descriptor)?;
    }
    put(TSS + 4, BASE + RING0_STACK)?;
    for (ist, stack) in [(1, INTERRUPT_STACK), (2, FAULT_STACK), (3, EXCEPTION_STACK)] {
        put(TSS + 0x1c + ist * 8, BASE + stack)?;
    }
    for gate in &GATES {
        let [low, high] = gate.descriptor(address(program, gate.entry));
        put(IDT + gate.vector * 16, low)?;
        put(IDT + gate.vector * 16 + 8, high)?;
    }
    Ok(())
}

struct Gate {
    vector: u64,
    entry: Entry,
    selector: u16,
    ist: u64,
    /// A trap gate leaves interrupts as they are; an interrupt gate masks them.
    trap: bool,
    /// May ring 3 call it by INT?
    open: bool,
}

impl Gate {
    const fn to_ring3(vector: u64, entry: Entry, ist: u64) -> Self {
        Self {
            vector,
            entry,
            selector: USER_CS,
            ist,
            trap: true,
            open: true,
        }
    }

    const fn to_ring0(vector: u64, entry: Entry, ist: u64) -> Self {
        Self {
            vector,
            entry,
            selector: KERNEL_CS,
            ist,
            trap: false,
            open: false,
        }
    }

    fn descriptor(&self, address: u64) -> [u64; 2] {
        let kind = 0x8e | u64::from(self.trap) | (u64::from(self.open) * 0x60);
        let low = address & 0xffff
            | u64::from(self.selector) << 16
            | self.ist << 32
            | kind << 40
            | (address >> 16 & 0xffff) << 48;
        [low, address >> 32]
    }
}

const GATES: [Gate; 9] = [
    Gate::to_ring3(1, Entry::Debug, 3),
    Gate::to_ring3(3, Entry::Breakpoint, 3),
    Gate {
        open: true,
        ..Gate::to_ring0(4, Entry::Ring0Call, 0)
    },
    Gate::to_ring3(6, Entry::InvalidOpcode, 0),
    Gate::to_ring3(13, Entry::Protection, 3),
    Gate::to_ring0(14, Entry::PageFault, 2),
    Gate::to_ring0(0x40, Entry::Interrupt, 1),
    Gate {
        trap: false,
        ..Gate::to_ring3(0x41, Entry::DirectInterrupt, 1)
    },
    Gate::to_ring0(0x42, Entry::IdleInterrupt, 1),
];

fn set_system_call(vcpu: &Vcpu, program: &[u8]) -> Result<(), KvmError> {
    const STAR: u32 = 0xc000_0081;
    const LSTAR: u32 = 0xc000_0082;
    const FMASK: u32 = 0xc000_0084;
    /// TF, DF and NT, as Linux has them, and not IF.
    const MASK: u64 = 1 << 8 | 1 << 10 | 1 << 14;
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let list = [
        entry(STAR, 0x23 << 48 | u64::from(KERNEL_CS) << 32),
        entry(LSTAR, address(program, Entry::SystemCall)),
        entry(FMASK, MASK),
    ];
    match Msrs::from_entries(&list) {
        Ok(msrs) => vcpu.set_msrs(&msrs),
        Err(_) => Ok(()),
    }
}

/// Ring 0 of 64-bit mode, paging on, SMEP, SMAP and UMIP off, FSGSBASE and XSAVE on.
fn enter(vcpu: &Vcpu, program: &[u8]) -> Result<(), KvmError> {
    const CR0: u64 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1;
    const CR4: u64 = 1 << 18 | 1 << 16 | 1 << 10 | 1 << 9 | 1 << 5;
    const EFER: u64 = 1 << 11 | 1 << 10 | 1 << 8 | 1;
    let mut sregs = vcpu.sregs()?;
    let data = kvm_segment {
        limit: u32::MAX,
        selector: USER_SS,
        type_: 3,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs) = (data, data, data, data);
    sregs.ss = kvm_segment {
        selector: KERNEL_SS,
        dpl: 0,
        ..data
    };
    sregs.cs = kvm_segment {
        selector: KERNEL_CS,
        type_: 11,
        dpl: 0,
        db: 0,
        l: 1,
        ..data
    };
    sregs.tr = kvm_segment {
        base: BASE + TSS,
        limit: 0x67,
        selector: TASK,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    let table = |base: u64, limit| kvm_dtable {
        base: BASE + base,
        limit,
        ..Default::default()
    };
    sregs.gdt = table(GDT, TASK + 15);
    sregs.idt = table(IDT, 0xfff);
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, PML4, CR4, EFER);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rip: address(program, Entry::Program),
        rsp: BASE + START_STACK,
        rflags: 2,
        ..Default::default()
    })
}
