// SPDX-License-Identifier: Apache-2.0
//! XSAVE and XRSTOR in all forms against the processor; XSAVES and XRSTORS, which only ring 0
//! may run, against XSAVEC and the manual.
#![expect(
    unsafe_code,
    reason = "the address of an instruction is taken in assembly"
)]

use super::super::bits::STATUS;
use super::super::{Completed, Exception, xstate};
use super::native::{self, code};
use super::world::{Random, Trial, World, random_state, settled};

const ROUNDS: usize = 600;
const AREA: usize = 4096;

fn requested(random: &mut Random) -> u64 {
    match random.next() & 3 {
        0 => u64::MAX,
        1 => 7,
        _ => random.next(),
    }
}

fn registers(world: &World, mask: u64) -> [u64; 16] {
    let mut gpr = [0; 16];
    (gpr[0], gpr[2], gpr[6]) = (mask & 0xffff_ffff, mask >> 32, world.data);
    gpr
}

#[test]
fn saves_write_what_the_processor_writes() {
    let mut world = World::new();
    let mut random = Random(1);
    let codes = [
        code!("xsave64 [rsi]"),
        code!("xsavec64 [rsi]"),
        code!("xsaveopt64 [rsi]"),
        code!("xsave [rsi]"),
        code!("xsavec [rsi]"),
        code!("xsaveopt [rsi]"),
    ];
    for (code, round) in codes
        .iter()
        .flat_map(|&code| (0..ROUNDS).map(move |r| (code, r)))
    {
        let mut state = random_state(&mut random);
        if super::world::describe(code)
            .split(' ')
            .next()
            .is_some_and(|name| !name.ends_with("64"))
        {
            // The 32-bit form has selectors, which no image of KVM's holds.
            state.0[8..24].fill(0);
        }
        let mut garbage = [0; AREA];
        random.fill(&mut garbage);
        world.poke(0, &garbage);
        let gpr = registers(&world, requested(&mut random));
        let trial = Trial {
            world: &mut world,
            code,
            gpr,
            rflags: 2,
            state: &state,
            defined: STATUS,
            memory: AREA,
        };
        trial.agree();
        let _ = round;
    }
}

/// An area the processor accepts, with random contents.
fn valid_area(random: &mut Random, compacted: bool) -> Vec<u8> {
    let state = random_state(random);
    let mut area = vec![0; AREA];
    area[..576].copy_from_slice(&state.0[..576]);
    random.fill(&mut area[576..]);
    if native::xcr0() >> 9 & 1 != 0 {
        // Protection keys must not bite the test.
        area[xstate::components()[9].range()].fill(0);
    }
    area[416..512].fill(0xa5);
    let mut present = random.next() & native::xcr0() & !(1 << 9);
    let mut layout = 0;
    if compacted {
        layout = 1 << 63 | (present | random.next()) & native::xcr0() & !(1 << 9);
        present &= layout;
    }
    area[512..520].copy_from_slice(&present.to_le_bytes());
    area[520..528].copy_from_slice(&u64::to_le_bytes(layout));
    area[528..576].fill(0);
    area
}

#[test]
fn restores_load_what_the_processor_loads() {
    let mut world = World::new();
    let mut random = Random(2);
    let codes = [code!("xrstor64 [rsi]"), code!("xrstor [rsi]")];
    for (code, round) in codes
        .iter()
        .flat_map(|&code| (0..ROUNDS * 2).map(move |r| (code, r)))
    {
        let mut state = random_state(&mut random);
        let mut area = valid_area(&mut random, round % 2 == 0);
        if code == codes[1] {
            area[8..24].fill(0);
            state.0[8..24].fill(0);
        }
        world.poke(0, &area);
        let gpr = registers(&world, requested(&mut random));
        let trial = Trial {
            world: &mut world,
            code,
            gpr,
            rflags: 2,
            state: &state,
            defined: STATUS,
            memory: AREA,
        };
        trial.agree();
    }
}

#[test]
fn fxsave_and_fxrstor() {
    let mut world = World::new();
    let mut random = Random(3);
    for round in 0..ROUNDS {
        let mut state = random_state(&mut random);
        // Without an exception pending, AMD's FXSAVE does not save the pointers.
        state.0[6..24].fill(0);
        let mut garbage = [0; 1024];
        random.fill(&mut garbage);
        let store = round % 2 == 0;
        if !store {
            garbage[..512].copy_from_slice(&valid_area(&mut random, false)[..512]);
            garbage[6..24].fill(0);
        }
        world.poke(0, &garbage);
        let code = if store {
            code!("fxsave64 [rsi]")
        } else {
            code!("fxrstor64 [rsi]")
        };
        let gpr = registers(&world, 0);
        let trial = Trial {
            world: &mut world,
            code,
            gpr,
            rflags: 2,
            state: &state,
            defined: STATUS,
            memory: 512,
        };
        trial.agree();
    }
}

/// With IA32_XSS zero, XSAVES writes what XSAVEC does, and XRSTORS loads it.
#[test]
fn the_supervisor_pair_agrees_with_xsavec() {
    let mut world = World::new();
    let mut random = Random(4);
    for _ in 0..ROUNDS {
        let mut state = random_state(&mut random);
        native::settle(&mut state);
        let mask = requested(&mut random);
        world.cpu.image = state.0[..4096].to_vec();
        world.poke(0, &[0; AREA]);
        world.set_gprs(&registers(&world, mask));
        assert_eq!(world.complete(code!("xsaves64 [rsi]")), Completed::Done);
        let ours = world.peek(0, AREA);

        world.poke(0, &[0; AREA]);
        let (mut gpr, mut loaded) = (registers(&world, mask), state.clone());
        native::run(code!("xsavec64 [rsi]"), &mut gpr, &mut 2, &mut loaded);
        assert!(
            ours == world.peek(0, AREA),
            "xsaves differs from xsavec, mask {mask:#x}"
        );

        let before = world.cpu.image.clone();
        let mut old = random_state(&mut random);
        native::settle(&mut old);
        world.cpu.image = old.0[..4096].to_vec();
        world.set_gprs(&registers(&world, u64::MAX));
        assert_eq!(world.complete(code!("xrstors64 [rsi]")), Completed::Done);
        let (mut gpr, mut real) = (registers(&world, u64::MAX), old);
        native::run(code!("xrstor64 [rsi]"), &mut gpr, &mut 2, &mut real);
        assert!(settled(&world.cpu.image) == settled(&real.0[..4096]));
        if mask & native::xcr0() == native::xcr0() {
            assert!(
                settled(&world.cpu.image) == settled(&before),
                "a round trip is not whole"
            );
        }
    }
}

/// Supervisor components appear in the layout, as being in their initial configuration, and
/// never reach the image.
#[test]
fn supervisor_components_are_laid_out_and_empty() {
    let mut world = World::new();
    world.cpu.msrs.insert(0xda0, 1 << 11 | 1 << 12);
    let mut state = random_state(&mut Random(6));
    native::settle(&mut state);
    world.cpu.image = state.0[..4096].to_vec();
    let before = settled(&world.cpu.image);
    world.set_gprs(&registers(&world, u64::MAX));
    world.complete(code!("xsaves64 [rsi]"));
    let header = world.peek(512, 16);
    let wanted = native::xcr0() | 1 << 11 | 1 << 12;
    assert_eq!(xstate::get_u64(&header, 0) & (1 << 11 | 1 << 12), 0);
    assert_eq!(xstate::get_u64(&header, 8), wanted | 1 << 63);
    // Even if the guest claims to have some, KVM's image must not hear of them.
    world.poke(512, &(xstate::get_u64(&header, 0) | 1 << 11).to_le_bytes());
    world.set_gprs(&registers(&world, u64::MAX));
    assert_eq!(world.complete(code!("xrstors64 [rsi]")), Completed::Done);
    assert_eq!(xstate::in_use(&world.cpu.image) & !native::xcr0(), 0);
    assert!(settled(&world.cpu.image) == before);
}

/// Every header the SDM calls #GP (vol. 1, 13.8.1, 13.8.2, 13.12), and faults before it.
#[test]
fn bad_areas_are_protection_faults() {
    let (standard, supervisor) = (code!("xrstor64 [rsi]"), code!("xrstors64 [rsi]"));
    let outside = !native::xcr0() & !(1 << 63);
    let top = 1u64 << 63;
    // (instruction, XSTATE_BV, XCOMP_BV, byte of the rest that is set)
    let bad: [(u64, u64, u64, usize); 9] = [
        (standard, outside, 0, 0),
        (standard, 1 << 62, 0, 0),
        (standard, 1, 1, 0),
        (standard, 1, 0, 528),
        (standard, 1, top | outside, 0),
        (standard, 3, top | 1, 0),
        (standard, top, top | 1, 0),
        (standard, 1, top | 3, 575),
        (supervisor, 1, 0, 0),
    ];
    for (code, present, layout, byte) in bad {
        let mut world = World::new();
        let mut area = valid_area(&mut Random(9), false);
        area[512..520].copy_from_slice(&present.to_le_bytes());
        area[520..528].copy_from_slice(&layout.to_le_bytes());
        if byte != 0 {
            area[byte] = 1;
        }
        world.poke(0, &area);
        world.set_gprs(&registers(&world, u64::MAX));
        let completed = world.complete(code);
        let gp = Completed::Raised(Exception::PROTECTION);
        assert_eq!(completed, gp, "{present:#x} {layout:#x} {byte}");
        assert!(
            world.cpu.image.iter().all(|&byte| byte == 0),
            "state was touched"
        );
    }
}

#[test]
fn alignment_mxcsr_and_control_registers() {
    use super::super::bits::{CR0_TS, CR4_OSXSAVE};
    let mut world = World::new();
    let area = valid_area(&mut Random(8), false);
    world.poke(0, &area);
    world.poke(24, &[0xff; 4]);
    world.set_gprs(&registers(&world, u64::MAX));
    let code = code!("xrstor64 [rsi]");
    let gp = Completed::Raised(Exception::PROTECTION);
    assert_eq!(world.complete(code), gp);
    world.cpu.regs.rsi += 32;
    assert_eq!(world.complete(code), gp);
    assert_eq!(world.complete(code!("xsave64 [rsi]")), gp);
    world.cpu.regs.rsi += 8;
    assert_eq!(world.complete(code!("fxsave64 [rsi]")), gp);
    world.cpu.regs.rsi = world.data;
    world.cpu.sregs.ss.dpl = 3;
    let user = world.complete(code!("xsaves64 [rsi]"));
    assert_eq!(user, gp);
    world.cpu.sregs.cr0 |= CR0_TS;
    assert_eq!(
        world.complete(code),
        Completed::Raised(Exception::NO_DEVICE)
    );
    world.cpu.sregs.cr4 &= !CR4_OSXSAVE;
    assert_eq!(
        world.complete(code),
        Completed::Raised(Exception::UNDEFINED)
    );
}

/// An area over a page boundary whose second page is not writable: nothing is written at all.
#[test]
fn a_fault_in_the_second_page_leaves_the_first_alone() {
    let mut world = World::new();
    world.map(world.data + 4096, super::world::DATA + 4096, 1);
    world.poke(0, &[0x77; 8192]);
    world.set_gprs(&registers(&world, u64::MAX));
    world.cpu.regs.rsi = world.data + 4096 - 64;
    let completed = world.complete(code!("xsave64 [rsi]"));
    let fault = Exception::page_fault(3, world.data + 4096);
    assert_eq!(completed, Completed::Raised(fault));
    assert!(world.peek(0, 8192).iter().all(|&byte| byte == 0x77));
}
