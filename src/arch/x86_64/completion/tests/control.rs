// SPDX-License-Identifier: Apache-2.0
//! FPU control against the processor; privileged instructions against the manual.
#![expect(
    unsafe_code,
    reason = "the address of an instruction is taken in assembly"
)]

use super::super::bits::*;
use super::super::{Completed, Exception};
use super::native::code;
use super::world::{KERNEL, Random, Trial, World, random_state, rounds};

macro_rules! agree {
    ($($text:literal),+ $(,)?) => {{
        let mut world = World::new();
        $( rounds(&mut world, code!($text), STATUS, 300, true); )+
    }};
}

#[test]
fn x87_control() {
    agree!(
        "fninit",
        "fnclex",
        "fnstcw word ptr [rsi]",
        "fnstsw word ptr [rsi]",
        "fnstsw ax",
        "fwait",
        "emms",
        "stmxcsr dword ptr [rsi]",
        "nop",
        "endbr64",
        "lfence",
        "sfence",
        "mfence",
        "pause",
        "prefetcht0 byte ptr [rsi]",
        "nop dword ptr [rsi + rax]",
        "clflush byte ptr [rsi]"
    );
}

#[test]
fn xgetbv_tells_xcr0_and_what_is_in_use() {
    let mut world = World::new();
    let mut random = Random(6);
    for round in 0..300 {
        let state = random_state(&mut random);
        let mut gpr = [u64::MAX; 16];
        (gpr[1], gpr[4]) = (round & 1, 0);
        let (world, code) = (&mut world, code!("xgetbv"));
        Trial {
            world,
            code,
            gpr,
            rflags: 2,
            state: &state,
            defined: STATUS,
            memory: 0,
        }
        .agree();
    }
    world.cpu.regs.rcx = 2;
    let refused = world.complete(code!("xgetbv"));
    assert_eq!(refused, Completed::Raised(Exception::PROTECTION));
}

#[test]
fn control_words_are_loaded() {
    let mut world = World::new();
    let mut random = Random(5);
    for _ in 0..500 {
        let state = random_state(&mut random);
        let mut gpr = [0; 16];
        gpr[6] = world.data;
        // All exceptions masked: the test itself must not trap.
        let control = random.next() & 0xffff | 0x3f;
        let status = random.next() & 0xffff | 0x1f80;
        for (code, value) in [
            (code!("fldcw word ptr [rsi]"), control),
            (code!("ldmxcsr dword ptr [rsi]"), status),
        ] {
            world.poke(0, &value.to_le_bytes());
            let world = &mut world;
            Trial {
                world,
                code,
                gpr,
                rflags: 2,
                state: &state,
                defined: STATUS,
                memory: 64,
            }
            .agree();
        }
    }
}

#[test]
fn a_reserved_mxcsr_bit_is_a_protection_fault() {
    let mut world = World::new();
    world.poke(0, &0x1_1f80u32.to_le_bytes());
    world.cpu.regs.rsi = world.data;
    let code = code!("ldmxcsr dword ptr [rsi]");
    assert_eq!(
        world.complete(code),
        Completed::Raised(Exception::PROTECTION)
    );
    assert_eq!(world.cpu.regs.rip, code);
}

#[test]
fn unmasked_exceptions_wait_for_fwait() {
    let mut world = World::new();
    world.cpu.image[..2].copy_from_slice(&0x37eu16.to_le_bytes());
    world.cpu.image[2..4].copy_from_slice(&0x8081u16.to_le_bytes());
    world.cpu.image[512] = 1;
    let code = code!("fwait");
    assert_eq!(world.complete(code), Completed::Raised(Exception::MATH));
    world.cpu.sregs.cr0 |= CR0_TS;
    assert_eq!(
        world.complete(code),
        Completed::Raised(Exception::NO_DEVICE)
    );
}

#[test]
fn int3_is_a_trap_and_ud2_a_fault() {
    let mut world = World::new();
    let code = code!("int3");
    world.cpu.regs.rflags |= RF;
    assert_eq!(
        world.complete(code),
        Completed::Raised(Exception::BREAKPOINT)
    );
    assert_eq!(world.cpu.regs.rip, code + 1);
    assert_eq!(world.cpu.regs.rflags & RF, 0);
    let code = code!("ud2");
    assert_eq!(
        world.complete(code),
        Completed::Raised(Exception::UNDEFINED)
    );
    assert_eq!(world.cpu.regs.rip, code);
    assert_eq!(world.cpu.regs.rflags & RF, RF);
}

#[test]
fn a_single_step_traps_behind_the_instruction() {
    let mut world = World::new();
    let code = code!("popcnt rax, rcx");
    world.cpu.regs.rflags |= TF;
    assert_eq!(world.complete(code), Completed::Raised(Exception::DEBUG));
    assert_eq!(world.cpu.regs.rip, code + 5);
}

#[test]
fn clac_and_stac_move_ac_at_ring_0_only() {
    let mut world = World::new();
    world.complete(code!("stac"));
    assert_eq!(world.cpu.regs.rflags, 2 | AC);
    world.complete(code!("clac"));
    assert_eq!(world.cpu.regs.rflags, 2);
    world.cpu.sregs.ss.dpl = 3;
    assert_eq!(
        world.complete(code!("stac")),
        Completed::Raised(Exception::UNDEFINED)
    );
}

#[test]
fn swapgs_and_bases() {
    let mut world = World::new();
    world.cpu.sregs.gs.base = 0x1234;
    world.cpu.msrs.insert(0xc000_0102, 0xffff_8880_0000_0000);
    world.complete(code!("swapgs"));
    assert_eq!(world.cpu.msrs[&0xc000_0101], 0xffff_8880_0000_0000);
    assert_eq!(world.cpu.msrs[&0xc000_0102], 0x1234);
    world.complete(code!("rdgsbase rax"));
    assert_eq!(world.cpu.regs.rax, 0x1234);
    world.cpu.regs.rcx = 0x7fff_0000_1000;
    world.complete(code!("wrfsbase rcx"));
    assert_eq!(world.cpu.msrs[&0xc000_0100], 0x7fff_0000_1000);
    world.cpu.regs.rcx = 1 << 63;
    let refused = world.complete(code!("wrgsbase rcx"));
    assert_eq!(refused, Completed::Raised(Exception::PROTECTION));
    world.cpu.sregs.cr4 &= !CR4_FSGSBASE;
    assert_eq!(
        world.complete(code!("rdfsbase rax")),
        Completed::Raised(Exception::UNDEFINED)
    );
}

#[test]
fn hypercalls_are_unknown() {
    let mut world = World::new();
    for code in [code!("vmcall"), code!("vmmcall")] {
        world.cpu.regs.rax = 9;
        world.complete(code);
        assert_eq!(world.cpu.regs.rax.cast_signed(), -1000);
    }
}

#[test]
fn identity_comes_of_the_msrs() {
    let mut world = World::new();
    world.cpu.msrs.insert(0xc000_0103, 0x7003);
    world.cpu.msrs.insert(0x10, 0x1122_3344_5566_7788);
    world.complete(code!("rdtscp"));
    let regs = world.cpu.regs;
    assert_eq!(
        (regs.rdx, regs.rax, regs.rcx),
        (0x1122_3344, 0x5566_7788, 0x7003)
    );
    world.complete(code!("rdpid r11"));
    assert_eq!(world.cpu.regs.r11, 0x7003);
}

#[test]
fn random_numbers_differ_and_set_carry() {
    if !std::arch::is_x86_feature_detected!("rdrand") {
        eprintln!("SKIPPED: this processor has no RDRAND");
        return;
    }
    let mut world = World::new();
    let code = code!("rdrand rax");
    world.cpu.regs.rflags |= ZF | OF;
    world.complete(code);
    let first = world.cpu.regs.rax;
    assert_eq!(world.cpu.regs.rflags, 2 | CF);
    world.complete(code);
    assert_ne!(first, world.cpu.regs.rax);
}

#[test]
fn xsetbv_is_ring_0s_and_checked() {
    let mut world = World::new();
    let code = code!("xsetbv");
    world.cpu.regs.rax = 3;
    world.complete(code);
    assert_eq!(world.cpu.xcr0, 3);
    world.cpu.regs.rax = 2;
    assert_eq!(
        world.complete(code),
        Completed::Raised(Exception::PROTECTION)
    );
    world.cpu.regs.rax = 3;
    world.cpu.sregs.ss.dpl = 3;
    assert_eq!(
        world.complete(code),
        Completed::Raised(Exception::PROTECTION)
    );
    world.cpu.sregs.cr4 &= !CR4_OSXSAVE;
    assert_eq!(
        world.complete(code),
        Completed::Raised(Exception::UNDEFINED)
    );
}

#[test]
fn sysret_goes_to_ring_3() {
    let mut world = World::new();
    world.cpu.msrs.insert(0xc000_0081, 0x0023_0010_0000_0000);
    world.cpu.regs.rcx = 0x40_1000;
    world.cpu.regs.r11 = 0xffff_ffff | RF;
    world.complete(code!("sysretq"));
    let (regs, sregs) = (world.cpu.regs, world.cpu.sregs);
    assert_eq!((regs.rip, regs.rflags & (RF | VM)), (0x40_1000, 0));
    assert_eq!((sregs.cs.selector, sregs.cs.dpl, sregs.cs.l), (0x33, 3, 1));
    assert_eq!((sregs.ss.selector, sregs.ss.dpl), (0x2b, 3));
    let mut world = World::new();
    world.cpu.msrs.insert(0xc000_0081, 0);
    world.cpu.regs.rcx = 1 << 47;
    let refused = world.complete(code!("sysretq"));
    assert_eq!(refused, Completed::Raised(Exception::PROTECTION));
}

#[test]
fn invpcid_checks_its_descriptor() {
    let mut world = World::new();
    world.cpu.regs.rsi = world.data;
    let code = code!("invpcid rax, [rsi]");
    for (kind, pcid, good) in [
        (0, 0, true),
        (2, 0x5000, true),
        (3, 1, true),
        (4, 0, false),
        (1, 1, false),
    ] {
        world.poke(0, &u64::to_le_bytes(pcid));
        world.cpu.regs.rax = kind;
        let completed = world.complete(code);
        assert_eq!(
            completed == Completed::Done,
            good,
            "kind {kind} pcid {pcid}"
        );
    }
}

/// Each call is a system call on a real vCPU, except that registers and events are shared with
/// KVM (see `share_registers`): three calls then cost nothing, and inject's.
#[test]
fn hot_instructions_ask_kvm_for_little() {
    let mut world = World::new();
    world.cpu.regs.rsi = world.data;
    world.cpu.image[28] = 0xff;
    let table = [
        (code!("popcnt rax, rcx"), 3),
        (code!("stac"), 3),
        (code!("lock cmpxchg16b [rsi]"), 3),
        (code!("int3"), 4),
        (code!("fwait"), 4),
        (code!("xsave64 [rsi]"), 5),
        (code!("xrstor64 [rsi]"), 5),
        (code!("xsaves64 [rsi]"), 6),
        (code!("xrstors64 [rsi]"), 6),
    ];
    for (code, calls) in table {
        // A header the compacted forms accept.
        world.poke(512, &[0; 64]);
        world.poke(520, &(1u64 << 63).to_le_bytes());
        (world.cpu.regs.rax, world.cpu.regs.rdx) = (u64::MAX, u64::MAX);
        world.cpu.calls = 0;
        world.complete(code);
        assert_eq!(world.cpu.calls, calls, "{}", super::world::describe(code));
    }
}

#[test]
fn an_unknown_instruction_is_named() {
    let mut world = World::new();
    let code = code!("vaddps ymm1, ymm2, ymm3");
    world.cpu.regs.rip = 0xffff_ffff_8100_0000;
    let bytes = super::native::bytes(code);
    let error = super::super::complete(&mut world.cpu, &world.ram, &bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "guest instruction `vaddps ymm1,ymm2,ymm3` [c5 ec 58 cb] at RIP 0xffffffff81000000 \
         cannot be completed: no handler completes it"
    );
}

#[test]
fn missing_bytes_are_fetched_through_the_tables() {
    let mut world = World::new();
    let rip = 0xffff_ffff_8100_0ffd;
    world.map(rip, super::world::CODE, KERNEL);
    world.map(rip + 3, super::world::CODE + 0x3000, KERNEL);
    let popcnt = [0xf3, 0x48, 0x0f, 0xb8, 0xc1];
    let put = |at: u64, bytes: &[u8]| {
        vm_memory::Bytes::write_slice(&world.ram, bytes, vm_memory::GuestAddress(at)).unwrap();
    };
    put(super::world::CODE + 0xffd, &popcnt[..3]);
    put(super::world::CODE + 0x3000, &popcnt[3..]);
    world.cpu.regs.rip = rip;
    world.cpu.regs.rcx = 0xff;
    let fetched = super::super::fetch(&mut world.cpu, &world.ram).unwrap();
    assert_eq!(&fetched.as_slice()[..5], &popcnt);
    assert_eq!(world.complete_bytes(&[]), Completed::Done);
    assert_eq!((world.cpu.regs.rax, world.cpu.regs.rip), (8, rip + 5));
    // The second page is gone: its address is what faults.
    world.map(rip + 3, 0, 0);
    world.cpu.regs.rip = rip;
    let Completed::Raised(fault) = world.complete_bytes(&popcnt[..3]) else {
        panic!()
    };
    assert_eq!(fault, Exception::page_fault(0x10, rip + 3));
}
