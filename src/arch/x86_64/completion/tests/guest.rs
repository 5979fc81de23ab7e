// SPDX-License-Identifier: Apache-2.0
//! A guest of a few dozen bytes at CPL 0 in long mode, on the real /dev/kvm. On hardware KVM
//! the processor executes it; on a PVM host KVM refuses some of it and completion does the
//! rest. Either way the guest ends with the same results.
#![expect(unsafe_code, reason = "guest RAM is handed to KVM")]

use super::super::{VcpuState, complete, share_registers};
use crate::kvm::failure::emulation_failure;
use crate::kvm::xsave::XsaveBuffer;
use crate::memory::GuestRam;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

const RAM: usize = 0x20_0000;
const CODE: u64 = 0x1_0000;
const HANDLER: u64 = 0x1_8000;
const DATA: u64 = 0x2_0000;
const AREA: u64 = 0x2_1000;
const OTHER: u64 = 0x2_3000;
const STACK: u64 = 0x3_0000;
const IDT: u64 = 0x4000;
const GDT: u64 = 0x5000;

fn kvm() -> Option<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            let required = std::env::var_os("HUSK_REQUIRE_KVM").is_some_and(|value| value == "1");
            assert!(!required, "HUSK_REQUIRE_KVM=1, but /dev/kvm: {error}");
            eprintln!("SKIPPED: no usable /dev/kvm ({error})");
            None
        }
    }
}

struct Guest {
    vcpu: VcpuFd,
    xsave: XsaveBuffer,
    ram: GuestRam,
    /// Bytes of what was completed by hand.
    completed: Vec<Vec<u8>>,
    _vm: VmFd,
}

/// Long mode, the first 2 MiB mapped to themselves, an IDT whose every gate is `HANDLER`.
fn guest(kvm: &Kvm, code: &[u8], handler: &[u8], shared: bool) -> Guest {
    let vm = kvm.create_vm().unwrap();
    let ram = GuestRam::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
    let region = kvm_userspace_memory_region {
        memory_size: RAM as u64,
        userspace_addr: ram.get_host_address(GuestAddress(0)).unwrap() as u64,
        ..Default::default()
    };
    // SAFETY: the mapping lives in the `Guest` beside the VM, and outlives it.
    unsafe { vm.set_user_memory_region(region) }.unwrap();
    let xsave = XsaveBuffer::new(&vm).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    if shared {
        share_registers(&vm, &mut vcpu);
    }
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    vcpu.set_cpuid2(&cpuid).unwrap();

    let put = |at: u64, value: u64| ram.write_obj(value, GuestAddress(at)).unwrap();
    put(0x1000, 0x2000 | 7);
    put(0x2000, 0x3000 | 7);
    put(0x3000, 0x87);
    for vector in 0..32 {
        // An interrupt gate to selector 8 (SDM vol. 3, 7.14.1).
        put(
            IDT + 16 * vector,
            HANDLER & 0xffff | 8 << 16 | 0x8e00 << 32 | (HANDLER >> 16) << 48,
        );
        put(IDT + 16 * vector + 8, 0);
    }
    put(GDT, 0);
    put(GDT + 8, 0x00af_9b00_0000_ffff);
    put(GDT + 16, 0x00cf_9300_0000_ffff);
    ram.write_slice(code, GuestAddress(CODE)).unwrap();
    ram.write_slice(handler, GuestAddress(HANDLER)).unwrap();

    let mut sregs = vcpu.get_sregs().unwrap();
    let flat = kvm_segment {
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: 16,
        type_: 3,
        db: 1,
        ..flat
    };
    sregs.cs = kvm_segment {
        selector: 8,
        type_: 11,
        l: 1,
        ..flat
    };
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 32 * 16 - 1);
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 23);
    sregs.cr0 = 0x8001_0033;
    sregs.cr3 = 0x1000;
    // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE.
    sregs.cr4 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 18;
    sregs.efer = 0x500;
    vcpu.set_sregs(&sregs).unwrap();
    let mut xcrs = kvm_bindings::kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0].value = super::native::xcr0();
    vcpu.set_xcrs(&xcrs).unwrap();
    vcpu.set_regs(&kvm_regs {
        rip: CODE,
        rsp: STACK,
        rflags: 2,
        ..Default::default()
    })
    .unwrap();
    Guest {
        vcpu,
        xsave,
        ram,
        completed: Vec::new(),
        _vm: vm,
    }
}

impl Guest {
    /// To the guest's HLT, or to the given port's OUT.
    fn run(&mut self) {
        for _ in 0..100_000 {
            let failed = match self.vcpu.run().unwrap() {
                VcpuExit::Hlt | VcpuExit::IoOut(..) => return,
                VcpuExit::InternalError => true,
                other => panic!("unexpected exit {other:?} at {:#x}", 0),
            };
            assert!(failed);
            let bytes = emulation_failure(self.vcpu.get_kvm_run()).expect("suberror 1");
            self.completed.push(bytes.as_slice().to_vec());
            let mut cpu = VcpuState::new(&mut self.vcpu, &mut self.xsave);
            complete(&mut cpu, &self.ram, bytes.as_slice()).unwrap_or_else(|e| panic!("{e}"));
        }
        panic!("the guest does not come to an end");
    }

    fn u64(&self, at: u64) -> u64 {
        self.ram.read_obj(GuestAddress(at)).unwrap()
    }
}

/// The bytes between two labels.
macro_rules! blob {
    ($($text:literal),+ $(,)?) => {{
        let (start, end): (u64, u64);
        // SAFETY: the blob is jumped over; only its addresses are taken.
        unsafe {
            std::arch::asm!(
                "lea {a}, [rip + 2f]", "lea {b}, [rip + 3f]", "jmp 3f", "2:", $($text,)+ "3:",
                a = out(reg) start, b = out(reg) end,
                options(nomem, preserves_flags),
            );
        }
        // SAFETY: both labels are in this function's own code.
        unsafe {
            std::slice::from_raw_parts(start as *const u8, usize::try_from(end - start).unwrap())
        }
        .to_vec()
    }};
}

/// Counts in R15, then goes on behind what raised the exception.
fn counting_handler() -> Vec<u8> {
    blob!("inc r15", "iretq")
}

#[test]
fn a_guest_in_ring_0_gets_its_instructions() {
    let Some(kvm) = kvm() else { return };
    for shared in [false, true] {
        run_them_all(&kvm, shared);
    }
}

fn run_them_all(kvm: &Kvm, shared: bool) {
    let code = blob!(
        "mov rcx, 0xf0f0",
        "popcnt rax, rcx",
        "mov [0x20000], rax",
        // cmpxchg16b, first refused by the comparison, then done.
        "xor eax, eax",
        "xor edx, edx",
        "mov rbx, 0x1111",
        "mov rcx, 0x2222",
        "mov rsi, 0x20010",
        "lock cmpxchg16b [rsi]",
        "setz byte ptr [0x20008]",
        "lock cmpxchg16b [rsi]",
        "setz byte ptr [0x20009]",
        "lock cmpxchg16b [rsi]",
        "setz byte ptr [0x2000a]",
        // Vector state: load pattern A, save, load pattern B, restore A, save again.
        "mov eax, 0xffffffff",
        "mov edx, eax",
        "mov rsi, 0x23000",
        "xrstor64 [rsi]",
        "mov rsi, 0x21000",
        "xsave64 [rsi]",
        "mov rsi, 0x25000",
        "xrstor64 [rsi]",
        "mov rsi, 0x21000",
        "xrstor64 [rsi]",
        "mov rsi, 0x27000",
        "xsavec64 [rsi]",
        // Exceptions: a trap and, behind it, the flags it came with.
        "xor r15d, r15d",
        "int3",
        "mov [0x20030], r15",
        "lfence",
        "fninit",
        "fwait",
        "hlt",
    );
    let mut guest = guest(kvm, &code, &counting_handler(), shared);
    let mut random = super::world::Random(99);
    let mut pattern = super::world::random_state(&mut random);
    super::native::settle(&mut pattern);
    let other = super::world::random_state(&mut random);
    guest
        .ram
        .write_slice(&pattern.0[..4096], GuestAddress(OTHER))
        .unwrap();
    guest
        .ram
        .write_slice(&other.0[..4096], GuestAddress(0x2_5000))
        .unwrap();
    guest
        .ram
        .write_slice(&[0x11, 0x11, 0, 0], GuestAddress(DATA + 0x20))
        .unwrap();
    guest
        .ram
        .write_obj(5u64, GuestAddress(DATA + 0x10))
        .unwrap();
    guest.run();

    assert_eq!(guest.u64(DATA), 8);
    // Not equal; equal now that RAX holds what was there; then 0x1111 is there, not 5.
    assert_eq!(guest.u64(DATA + 8) & 0xff_ffff, 0x00_0100);
    assert_eq!(
        (guest.u64(DATA + 0x10), guest.u64(DATA + 0x18)),
        (0x1111, 0x2222)
    );
    assert_eq!(
        guest.u64(DATA + 0x30),
        1,
        "the breakpoint's handler ran once"
    );
    let mut saved = vec![0; 4096];
    guest
        .ram
        .read_slice(&mut saved, GuestAddress(AREA))
        .unwrap();
    let settled = super::world::settled;
    assert!(
        settled(&saved) == settled(&pattern.0[..4096]),
        "vector state did not survive"
    );
    eprintln!("completed by hand: {} instructions", guest.completed.len());
    for bytes in &guest.completed {
        eprintln!("  {bytes:02x?}");
    }
}

/// Prints what a completion costs; asserts nothing about time.
#[test]
fn what_a_completion_costs() {
    let Some(kvm) = kvm() else { return };
    const ROUNDS: u64 = 2000;
    let loops = [
        (
            "popcnt",
            blob!(
                "mov r14, 2000",
                "2:",
                "popcnt rax, rcx",
                "dec r14",
                "jnz 2b",
                "hlt"
            ),
        ),
        (
            "nop",
            blob!("mov r14, 2000", "2:", "nop", "dec r14", "jnz 2b", "hlt"),
        ),
        (
            "stac",
            blob!("mov r14, 2000", "2:", "stac", "dec r14", "jnz 2b", "hlt"),
        ),
        (
            "lock cmpxchg16b",
            blob!(
                "mov rsi, 0x20000",
                "mov r14, 2000",
                "2:",
                "lock cmpxchg16b [rsi]",
                "dec r14",
                "jnz 2b",
                "hlt"
            ),
        ),
        (
            "xsave64 + xrstor64",
            blob!(
                "mov rsi, 0x21000",
                "mov eax, -1",
                "mov edx, -1",
                "mov r14, 2000",
                "2:",
                "xsave64 [rsi]",
                "xrstor64 [rsi]",
                "dec r14",
                "jnz 2b",
                "hlt"
            ),
        ),
    ];
    for (name, code) in loops {
        let mut guest = guest(&kvm, &code, &counting_handler(), true);
        let start = std::time::Instant::now();
        guest.run();
        let each = start.elapsed().as_nanos() / u128::from(ROUNDS);
        eprintln!(
            "{name}: {each} ns a round, {} completed by hand",
            guest.completed.len()
        );
    }
}
