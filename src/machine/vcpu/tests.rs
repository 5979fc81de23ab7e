// SPDX-License-Identifier: Apache-2.0
//! A processor of the real /dev/kvm that is to stand still amid an instruction: what the
//! instruction asked for is answered, once, before it does.

use super::*;
use crate::arch::{host, layout};
use crate::bus::{BusBuilder, Device};
use crate::kvm::Vm;
use std::fs::File;
use std::sync::Mutex;
use vm_memory::{Bytes as _, GuestAddress};

const CODE: u64 = 0x1000;
const DEVICE: u64 = 0xd000_0000;
/// A port the guest writes to when it is done.
const DONE: u64 = 0x42;
const DOES_DONE: [u8; 2] = [0xe6, 0x42];

/// Answers with a count, and remembers what it is told.
#[derive(Default)]
struct Witness {
    reads: Mutex<u8>,
    writes: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl Device for Witness {
    fn read(&self, _: u64, data: &mut [u8]) {
        let mut count = self.reads.lock().expect("whole");
        for byte in data {
            *byte = *count;
            *count = count.wrapping_add(1);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut writes = self.writes.lock().expect("whole");
        writes.push((offset, data.to_vec()));
    }
}

struct Guest {
    core: Core,
    shared: Shared,
    witness: Arc<Witness>,
    done: Arc<Witness>,
    _vm: Vm,
}

/// In real mode, with data segments that reach everything. None, said aloud, without a KVM.
fn guest(code: &[u8], regs: impl Fn(&mut kvm_bindings::kvm_regs)) -> Option<Guest> {
    let kvm = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(kvm) => kvm,
        Err(error) => {
            let required = std::env::var_os("HUSK_REQUIRE_KVM").is_some_and(|value| value == "1");
            assert!(!required, "HUSK_REQUIRE_KVM=1, but /dev/kvm: {error}");
            eprintln!("SKIPPED: no usable /dev/kvm ({error})");
            return None;
        }
    };
    let ram = Arc::new(crate::memory::anonymous(4 << 20, &layout::HOLE).expect("memory"));
    let code = [code, &DOES_DONE].concat();
    ram.write_slice(&code, GuestAddress(CODE)).expect("room");
    let vm = Vm::new(kvm.into(), Arc::clone(&ram)).expect("a VM");
    let vcpu = vm.create_vcpu(0).expect("a vCPU");
    let mut sregs = vcpu.sregs().expect("registers");
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    for segment in [&mut sregs.ds, &mut sregs.es] {
        (segment.limit, segment.g) = (u32::MAX, 1);
    }
    vcpu.set_sregs(&sregs).expect("registers");
    let mut own = kvm_bindings::kvm_regs {
        rip: CODE,
        rflags: 2,
        ..Default::default()
    };
    regs(&mut own);
    vcpu.set_regs(&own).expect("registers");
    let (witness, done) = (Arc::<Witness>::default(), Arc::<Witness>::default());
    let (mut ports, mut mmio) = (BusBuilder::default(), BusBuilder::default());
    ports
        .add(DONE..DONE + 1, Arc::clone(&done) as _)
        .expect("free");
    ports
        .add(0x3f8..0x400, Arc::clone(&witness) as _)
        .expect("free");
    mmio.add(DEVICE..DEVICE + 0x2000, Arc::clone(&witness) as _)
        .expect("free");
    Some(Guest {
        core: Core {
            vcpu,
            xsave: vm.xsave_buffer().expect("a buffer"),
        },
        shared: Shared {
            ports: ports.freeze(),
            mmio: mmio.freeze(),
            ram,
            outcome: Arc::new(Outcome::new().expect("an outcome")),
            marks: Arc::new(Marks::new(false)),
            assisted: host::kind().interprets_ring0(),
            counters: assist::Counters::default(),
            gate: Gate::new(1),
            registers: Vec::new(),
        },
        witness,
        done,
        _vm: vm,
    })
}

impl Guest {
    fn steps(&mut self) {
        let next = step(&mut self.core, &self.shared);
        next.unwrap_or_else(|end| panic!("{end:?}"));
    }

    fn finishes(&mut self) -> bool {
        let finished = finish(&mut self.core, &self.shared);
        finished.unwrap_or_else(|end| panic!("{end:?}"))
    }

    /// To its last instruction, standing still after each exit.
    fn ends(&mut self) {
        while self.done.writes.lock().expect("whole").is_empty() {
            self.steps();
            assert!(self.finishes());
        }
    }

    fn writes(&self) -> Vec<(u64, Vec<u8>)> {
        self.witness.writes.lock().expect("whole").clone()
    }

    fn rip(&self) -> u64 {
        self.core.vcpu.regs().expect("registers").rip
    }
}

#[test]
fn a_register_that_is_read_and_written_by_one_instruction_is_written() {
    // add dword [0xd0000100], eax
    let code = [0x67, 0x66, 0x01, 0x05, 0x00, 0x01, 0x00, 0xd0];
    let Some(mut guest) = guest(&code, |regs| regs.rax = 0x100) else {
        return;
    };
    guest.steps();
    assert!(guest.writes().is_empty());
    // The exit that finishing brings is answered, and the instruction is behind it.
    assert!(guest.finishes());
    assert_eq!(guest.writes(), [(0x100, vec![0, 2, 2, 3])]);
    assert_eq!(guest.rip(), CODE + 8);
    guest.ends();
    assert_eq!(guest.writes().len(), 1, "once");
}

#[test]
fn an_access_across_two_pages_is_answered_whole() {
    // mov [0xd0000ffe], eax
    let code = [0x67, 0x66, 0xa3, 0xfe, 0x0f, 0x00, 0xd0];
    let Some(mut guest) = guest(&code, |regs| regs.rax = 0x4433_2211) else {
        return;
    };
    guest.steps();
    assert!(guest.finishes());
    let whole = [(0xffe, vec![0x11, 0x22]), (0x1000, vec![0x33, 0x44])];
    assert_eq!(guest.writes(), whole);
    guest.ends();
    assert_eq!(guest.writes(), whole, "once");
}

#[test]
fn repeated_instructions_lose_nothing_wherever_they_stand_still() {
    const COUNT: u16 = 3000;
    let all: Vec<u8> = (0..COUNT).map(|count| count.to_le_bytes()[0]).collect();
    // rep movsb from the device's memory, which KVM does byte by byte; rep insb, by the page.
    let moves: &[u8] = &[0x67, 0xf3, 0xa4];
    let reads: &[u8] = &[0x67, 0xf3, 0x6c];
    for code in [moves, reads] {
        let set = |regs: &mut kvm_bindings::kvm_regs| {
            (regs.rcx, regs.rdx) = (COUNT.into(), 0x3f8);
            (regs.rsi, regs.rdi) = (DEVICE, 0x2000);
        };
        let Some(mut guest) = guest(code, set) else {
            return;
        };
        guest.ends();
        let mut there = vec![0; all.len()];
        let ram = &guest.shared.ram;
        ram.read_slice(&mut there, GuestAddress(0x2000))
            .expect("memory");
        assert!(there == all, "{code:x?}");
    }
}
