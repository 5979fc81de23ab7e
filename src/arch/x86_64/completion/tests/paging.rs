// SPDX-License-Identifier: Apache-2.0
//! Page walks: every size and depth, each way to fault, and tables made to mislead.
#![expect(
    unsafe_code,
    reason = "the address of an instruction is taken in assembly"
)]

use super::super::bits::*;
use super::super::{Completed, Exception, Reason, complete};
use super::native::{self, code};
use super::world::{DATA, KERNEL, ROOT, World};

const HIGH: u64 = 0xffff_8880_1234_5000;

/// Reads eight bytes at `linear` the way `movbe` does.
fn read(world: &mut World, linear: u64) -> Completed {
    world.cpu.regs.rsi = linear;
    world.complete(code!("movbe rax, qword ptr [rsi]"))
}

fn write(world: &mut World, linear: u64) -> Completed {
    world.cpu.regs.rsi = linear;
    world.complete(code!("movbe qword ptr [rsi], rax"))
}

fn fault(code: u32, linear: u64) -> Completed {
    Completed::Raised(Exception::page_fault(code, linear))
}

#[test]
fn pages_of_every_size_with_four_and_five_levels() {
    for deep in [false, true] {
        let mut world = World::new();
        if deep {
            world.cpu.sregs.cr4 |= CR4_LA57;
            world.cpu.sregs.cr3 = 0x8000;
        }
        world.poke(0x18, &0x0102_0304_0506_0708u64.to_be_bytes());
        world.map_at(HIGH, DATA, KERNEL, 0);
        world.map_at(0xffff_8900_0000_0000, 0, KERNEL, 1);
        world.map_at(0xffff_8a00_0000_0000, 0, KERNEL, 2);
        let places = [
            HIGH,
            0xffff_8900_0000_0000 + DATA,
            0xffff_8a00_0000_0000 + DATA,
        ];
        for linear in places {
            world.cpu.regs.rax = 0;
            assert_eq!(read(&mut world, linear + 0x18), Completed::Done);
            assert_eq!(world.cpu.regs.rax, 0x0102_0304_0506_0708);
        }
        // Where four levels end and five go on.
        let beyond = 0x0080_0000_0000_0000u64 - 0x1000;
        let expected = if deep {
            fault(0, beyond)
        } else {
            Completed::Raised(Exception::PROTECTION)
        };
        assert_eq!(read(&mut world, beyond), expected);
    }
}

#[test]
fn rights_and_their_error_codes() {
    let mut world = World::new();
    let entry = world.map(HIGH, DATA, KERNEL);
    assert_eq!(read(&mut world, HIGH + 0x1000), fault(0, HIGH + 0x1000));
    assert_eq!(write(&mut world, HIGH + 0x1000), fault(2, HIGH + 0x1000));

    world.set_entry(entry, DATA | 1);
    assert_eq!(read(&mut world, HIGH), Completed::Done);
    assert_eq!(write(&mut world, HIGH), fault(3, HIGH));
    world.cpu.sregs.cr0 &= !CR0_WP;
    assert_eq!(write(&mut world, HIGH), Completed::Done);

    world.cpu.sregs.ss.dpl = 3;
    assert_eq!(read(&mut world, HIGH), fault(5, HIGH));
    assert_eq!(write(&mut world, HIGH), fault(7, HIGH));
    world.set_entry(entry, DATA | 5);
    assert_eq!(read(&mut world, HIGH), Completed::Done);
    assert_eq!(write(&mut world, HIGH), fault(7, HIGH));
}

#[test]
fn smap_opens_with_ac() {
    let mut world = World::new();
    world.map(HIGH, DATA, 7);
    assert_eq!(read(&mut world, HIGH), fault(1, HIGH));
    assert_eq!(write(&mut world, HIGH), fault(3, HIGH));
    world.cpu.regs.rflags = 2 | AC;
    assert_eq!(read(&mut world, HIGH), Completed::Done);
    world.cpu.regs.rflags = 2;
    world.cpu.sregs.cr4 &= !CR4_SMAP;
    assert_eq!(write(&mut world, HIGH), Completed::Done);
}

#[test]
fn fetches_obey_nx_and_smep() {
    let mut world = World::new();
    let entry = world.map(HIGH, DATA, 7);
    world.poke(0, &[0x90; 16]);
    world.cpu.regs.rip = HIGH;
    assert_eq!(world.complete_bytes(&[]), fault(0x11, HIGH));
    world.cpu.sregs.cr4 &= !CR4_SMEP;
    world.cpu.regs.rip = HIGH;
    assert_eq!(world.complete_bytes(&[]), Completed::Done);
    world.set_entry(entry, DATA | KERNEL | 1 << 63);
    world.cpu.regs.rip = HIGH;
    assert_eq!(world.complete_bytes(&[]), fault(0x11, HIGH));
    // NX is a reserved bit where it is not enabled.
    world.cpu.sregs.efer &= !EFER_NXE;
    assert_eq!(read(&mut world, HIGH), fault(9, HIGH));
}

#[test]
fn reserved_bits_are_looked_at() {
    for (level, bits) in [(1u64, 1u64 << 13), (2, 1 << 29)] {
        let mut world = World::new();
        let linear = 0xffff_8a00_0000_0000;
        let entry = world.map_at(linear, 0, KERNEL, level);
        assert_eq!(read(&mut world, linear + DATA), Completed::Done);
        world.set_entry(entry, world.entry(entry) | bits);
        assert_eq!(read(&mut world, linear + DATA), fault(9, linear + DATA));
    }
    let mut world = World::new();
    world.map(HIGH, DATA, KERNEL);
    let top = ROOT + (HIGH >> 39 & 0x1ff) * 8;
    world.set_entry(top, world.entry(top) | 1 << 7);
    assert_eq!(write(&mut world, HIGH), fault(0xb, HIGH));
}

#[test]
fn accessed_and_dirty_bits() {
    let mut world = World::new();
    let entry = world.map(HIGH, DATA, KERNEL);
    let top = ROOT + (HIGH >> 39 & 0x1ff) * 8;
    assert_eq!(write(&mut world, HIGH + 0x1000), fault(2, HIGH + 0x1000));
    assert_eq!(
        world.entry(top) & 0x20,
        0,
        "a walk that fails marks nothing"
    );
    assert_eq!(read(&mut world, HIGH), Completed::Done);
    assert_eq!(
        (world.entry(top) & 0x60, world.entry(entry) & 0x60),
        (0x20, 0x20)
    );
    assert_eq!(write(&mut world, HIGH), Completed::Done);
    assert_eq!(
        (world.entry(top) & 0x60, world.entry(entry) & 0x60),
        (0x20, 0x60)
    );
}

#[test]
fn operands_cross_pages_that_lie_apart() {
    let mut world = World::new();
    world.map(HIGH, DATA + 0x3000, KERNEL);
    world.map(HIGH + 0x1000, DATA, KERNEL);
    world.cpu.regs.rax = 0x0102_0304_0506_0708;
    assert_eq!(write(&mut world, HIGH + 0xffd), Completed::Done);
    assert_eq!(world.peek(0x3ffd, 3), [1, 2, 3]);
    assert_eq!(world.peek(0, 5), [4, 5, 6, 7, 8]);
    world.cpu.regs.rax = 0;
    assert_eq!(read(&mut world, HIGH + 0xffd), Completed::Done);
    assert_eq!(world.cpu.regs.rax, 0x0102_0304_0506_0708);
    world.map(HIGH + 0x1000, 0, 0);
    assert_eq!(write(&mut world, HIGH + 0xffd), fault(2, HIGH + 0x1000));
    assert_eq!(world.peek(0x3ffd, 3), [1, 2, 3]);
}

#[test]
fn addresses_without_a_meaning() {
    let mut world = World::new();
    let gp = Completed::Raised(Exception::PROTECTION);
    assert_eq!(read(&mut world, 0x0000_8000_0000_0000), gp);
    assert_eq!(read(&mut world, 0xffff_7fff_ffff_ffff), gp);
    assert_eq!(read(&mut world, 0x0000_7fff_ffff_fffd), gp);
    world.cpu.regs.rsp = 1 << 63;
    let stack = world.complete(code!("movbe rax, qword ptr [rsp]"));
    assert_eq!(stack, Completed::Raised(Exception::STACK));
    // The last byte and the first: both canonical, neither mapped.
    assert_eq!(read(&mut world, u64::MAX - 3), fault(0, u64::MAX - 3));
    world.cpu.regs.rsi = world.data + 8;
    let odd = world.complete(code!("lock cmpxchg16b [rsi]"));
    assert_eq!(odd, gp);
}

#[test]
fn segment_bases_and_rip() {
    let mut world = World::new();
    world.poke(0x40, &0x1122_3344_5566_7788u64.to_be_bytes());
    world.cpu.sregs.gs.base = world.data;
    world.cpu.sregs.ds.base = 0xdead;
    world.complete(code!("movbe rax, qword ptr gs:[0x40]"));
    assert_eq!(world.cpu.regs.rax, 0x1122_3344_5566_7788);
    world.cpu.regs.rax = 0;
    world.cpu.regs.rip = world.data;
    // movbe rax, [rip + 0x37]: nine bytes long.
    assert_eq!(
        world.complete_bytes(&[0x48, 0x0f, 0x38, 0xf0, 0x05, 0x38, 0, 0, 0]),
        Completed::Done
    );
    assert_ne!(world.cpu.regs.rax, 0);
}

fn refused(world: &mut World, linear: u64) -> Reason {
    world.cpu.regs.rsi = linear;
    let code = code!("movbe rax, qword ptr [rsi]");
    world.cpu.regs.rip = code;
    complete(&mut world.cpu, &world.ram, &native::bytes(code))
        .unwrap_err()
        .reason
}

#[test]
fn tables_that_mislead() {
    // Every level is the root itself: a loop, of bounded length, ending in the root as a page.
    let mut world = World::new();
    world.set_entry(ROOT + 511 * 8, ROOT | KERNEL);
    world.cpu.regs.rax = 0;
    let linear = !0xfff;
    assert_eq!(read(&mut world, linear + 511 * 8), Completed::Done);
    // A table, a page, and the root beyond RAM.
    world.map(HIGH, 1 << 40, KERNEL);
    assert!(matches!(refused(&mut world, HIGH), Reason::NotRam(address) if address == 1 << 40));
    world.set_entry(ROOT + (HIGH >> 39 & 0x1ff) * 8, 1 << 40 | KERNEL);
    assert!(matches!(refused(&mut world, HIGH), Reason::TableNotRam(_)));
    world.cpu.sregs.cr3 = 0x000f_ffff_ffff_f000;
    assert!(matches!(refused(&mut world, HIGH), Reason::TableNotRam(_)));
    // The last page of RAM, and one byte more.
    let mut world = World::new();
    world.map(HIGH, super::world::RAM_SIZE as u64 - 0x1000, KERNEL);
    assert_eq!(read(&mut world, HIGH + 0xff8), Completed::Done);
    assert_eq!(read(&mut world, HIGH + 0xff9), fault(0, HIGH + 0x1000));
}

#[test]
fn protection_keys() {
    use super::super::xstate::components;
    let place = components()[9];
    if place.size == 0 {
        eprintln!("SKIPPED: this processor has no protection keys");
        return;
    }
    let mut world = World::new();
    world.cpu.sregs.cr4 |= CR4_PKE;
    world.cpu.sregs.cr4 &= !CR4_SMAP;
    world.map(HIGH, DATA, 7 | 3 << 59);
    world.cpu.image[513] = 2;
    world.cpu.image[place.offset] = 0b10 << 6;
    assert_eq!(read(&mut world, HIGH), Completed::Done);
    assert_eq!(write(&mut world, HIGH), fault(0x23, HIGH));
    world.cpu.image[place.offset] = 0b01 << 6;
    assert_eq!(read(&mut world, HIGH), fault(0x21, HIGH));
}
