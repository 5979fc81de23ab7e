// SPDX-License-Identifier: Apache-2.0
//! Processors, controllers, timer and clock of the real /dev/kvm: out of one machine, into
//! another, and out of that the same; and states that lie. No vCPU runs.

use super::*;
use crate::arch::{cpuid, host, layout};
use crate::units::Variant;
use std::fs::File;
use std::sync::Arc;

struct Board {
    vm: Vm,
    vcpus: Vec<Vcpu>,
}

/// None, said aloud, without a KVM.
fn board(cpus: u32, pit: bool) -> Option<Board> {
    let kvm = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(kvm) => kvm,
        Err(error) => {
            let required = std::env::var_os("HUSK_REQUIRE_KVM").is_some_and(|value| value == "1");
            assert!(!required, "HUSK_REQUIRE_KVM=1, but /dev/kvm: {error}");
            eprintln!("SKIPPED: no usable /dev/kvm ({error})");
            return None;
        }
    };
    let ram = crate::memory::anonymous(4 << 20, &layout::HOLE).expect("memory");
    let vm = Vm::new(kvm.into(), Arc::new(ram)).expect("a VM");
    vm.create_irqchip().expect("controllers");
    if pit {
        vm.create_pit().expect("a timer");
    }
    let vcpus = (0..cpus).map(|index| vm.create_vcpu(index).expect("a vCPU"));
    Some(Board {
        vcpus: vcpus.collect(),
        vm,
    })
}

/// With something to remember in every corner.
fn lived_in(cpus: u32, pit: bool) -> Option<Board> {
    let board = board(cpus, pit)?;
    let supported = board.vm.supported_cpuid().expect("CPUID");
    let all = u8::try_from(cpus).expect("few");
    for (index, vcpu) in (0u8..).zip(&board.vcpus) {
        let table = cpuid::for_vcpu(&supported, index, all, host::kind(), Variant::Ring0);
        vcpu.set_cpuid(&table).expect("CPUID");
        if let Some(xcr0) = cpuid::xcr0(&table) {
            vcpu.set_xcr0(xcr0).expect("XCR0");
        }
        crate::arch::vcpu::prepare(vcpu).expect("registers");
        let mut regs = vcpu.regs().expect("registers");
        (regs.rax, regs.r15, regs.rip) = (0x1111 + u64::from(index), u64::MAX, 0x1234);
        vcpu.set_regs(&regs).expect("registers");
        let mut debug = vcpu.debug_regs().expect("debug registers");
        debug.db = [1, 2, 3, 4];
        vcpu.set_debug_regs(&debug).expect("debug registers");
        let mut xsave = board.vm.xsave_buffer().expect("a buffer");
        vcpu.load_xsave(&mut xsave).expect("extended state");
        // XMM1 and XMM15 in the legacy area, and that there is such state (SDM vol. 1, 13.4).
        let bytes = xsave.bytes_mut();
        bytes[176..192].fill(0xa1);
        bytes[400..416].fill(0xaf);
        bytes[512] |= 3;
        vcpu.store_xsave(&xsave).expect("extended state");
        // SYSENTER_EIP, STAR, LSTAR, KERNEL_GS_BASE.
        let registers = [
            (0x176, 0x5000),
            (0xc000_0081, 0x23 << 48),
            (0xc000_0082, 0x6000),
        ];
        let registers = registers.into_iter().chain([(0xc000_0102, 0x7000)]);
        let entries: Vec<kvm_msr_entry> = registers
            .map(|(index, data)| kvm_msr_entry {
                index,
                data,
                ..Default::default()
            })
            .collect();
        vcpu.set_msrs(&list(&entries).expect("few"))
            .expect("registers");
    }
    Some(board)
}

fn saved(board: &Board, pit: bool) -> (Vec<CpuState>, BoardState) {
    let registers = board.vm.saved_msrs().expect("registers");
    let cpus = board.vcpus.iter().map(|vcpu| {
        let mut xsave = board.vm.xsave_buffer().expect("a buffer");
        CpuState::save(vcpu, &mut xsave, &registers).expect("saved")
    });
    let cpus = cpus.collect();
    (cpus, BoardState::save(&board.vm, pit).expect("saved"))
}

fn restore(into: &Board, cpus: &[CpuState], board: &BoardState) -> Result<(), StateError> {
    for (vcpu, cpu) in into.vcpus.iter().zip(cpus) {
        let mut xsave = into.vm.xsave_buffer()?;
        cpu.restore(vcpu, &mut xsave)?;
    }
    board.restore(&into.vm)
}

/// Counters of time go on by themselves: the TSC, its deadline, KVM's clock.
fn is_time(index: u32) -> bool {
    matches!(index, MSR_TSC | MSR_TSC_DEADLINE | 0x3b)
}

fn same(before: &CpuState, after: &CpuState) {
    let registers = |cpu: &CpuState| -> Vec<(u32, u64)> {
        let all = cpu.msrs.iter().filter(|entry| !is_time(entry.index));
        all.map(|entry| (entry.index, entry.data)).collect()
    };
    assert_eq!(registers(before), registers(after));
    assert_eq!(before.regs, after.regs);
    assert_eq!(before.sregs, after.sregs);
    assert_eq!(before.debug, after.debug);
    assert_eq!(before.events, after.events);
    assert_eq!(before.xcrs, after.xcrs);
    assert!(before.xsave == after.xsave, "extended state");
    assert!(before.lapic.regs == after.lapic.regs, "local APIC");
    assert_eq!(before.mp_state, after.mp_state);
    assert_eq!(before.tsc_khz, after.tsc_khz);
    assert!(before.tsc() < after.tsc(), "time goes on");
}

#[test]
fn processors_and_controllers_are_the_same_in_another_machine() {
    for cpus in [1, 2, 4] {
        let Some(first) = lived_in(cpus, false) else {
            return;
        };
        // A line that nobody answered yet, in the controllers.
        first.vm.fd().set_irq_line(4, true).expect("a line");
        let (cpu_states, state) = saved(&first, false);
        let bytes = postcard::to_stdvec(&(&cpu_states, &state)).expect("data");
        let (cpu_states, state): (Vec<CpuState>, BoardState) =
            postcard::from_bytes(&bytes).expect("data");
        let second = board(cpus, false).expect("as before");
        restore(&second, &cpu_states, &state).expect("restored");
        let (again, state_again) = saved(&second, false);
        assert_eq!(again.len(), cpu_states.len());
        for (before, after) in cpu_states.iter().zip(&again) {
            same(before, after);
        }
        for (before, after) in state.chips.iter().zip(&state_again.chips) {
            let bytes = |chip: &kvm_irqchip| postcard::to_stdvec(chip).expect("data");
            assert!(
                bytes(before) == bytes(after),
                "controller {}",
                before.chip_id
            );
        }
        let (before, after) = (state.clock.clock, state_again.clock.clock);
        assert!(
            after >= before && after - before < 60_000_000_000,
            "{before} {after}"
        );
    }
}

#[test]
fn the_timer_counts_on_in_another_machine() {
    let Some(first) = lived_in(1, true) else {
        return;
    };
    let mut pit = first.vm.pit().expect("a timer");
    for (channel, count) in pit.channels.iter_mut().zip([0x4242u32, 0x1000, 0x0777]) {
        (channel.count, channel.mode, channel.rw_mode, channel.gate) = (count, 2, 3, 1);
    }
    first.vm.set_pit(&pit).expect("a timer");
    let (cpus, state) = saved(&first, true);
    let second = board(1, true).expect("as before");
    restore(&second, &cpus, &state).expect("restored");
    let again = second.vm.pit().expect("a timer");
    for (before, after) in state
        .pit
        .expect("a timer")
        .channels
        .iter()
        .zip(again.channels)
    {
        assert_eq!((before.count, before.mode), (after.count, after.mode));
        assert_eq!((before.rw_mode, before.gate), (after.rw_mode, after.gate));
    }
    // A machine without one is another machine.
    let third = board(1, false).expect("as before");
    assert!(restore(&third, &cpus, &state).is_err());
}

#[test]
fn states_that_lie_are_refused() {
    type Change = fn(&mut CpuState, &mut BoardState);
    let cases: [(&str, Change); 9] = [
        ("too little extended state", |cpu, _| {
            cpu.xsave.truncate(100)
        }),
        ("no extended state", |cpu, _| cpu.xsave.clear()),
        ("too much extended state", |cpu, _| {
            cpu.xsave.resize(1 << 20, 0)
        }),
        ("too many entries of CPUID", |cpu, _| {
            let one = cpu.cpuid[0];
            cpu.cpuid.resize(KVM_MAX_CPUID_ENTRIES + 1, one);
        }),
        ("too many registers", |cpu, _| {
            let one = cpu.msrs[0];
            cpu.msrs.resize(KVM_MAX_MSR_ENTRIES + 1, one);
        }),
        ("a state of no processor", |cpu, _| {
            cpu.mp_state.mp_state = 77
        }),
        ("a bit of CR4 that no processor has", |cpu, _| {
            cpu.sregs.cr4 = u64::MAX
        }),
        ("no controllers", |_, board| board.chips.clear()),
        ("a controller too many", |_, board| {
            let one = board.chips[0];
            board.chips.push(one);
        }),
    ];
    let Some(first) = lived_in(1, false) else {
        return;
    };
    let (cpus, state) = saved(&first, false);
    for (name, change) in cases {
        let (mut cpu, mut state) = (cpus[0].clone(), state.clone());
        change(&mut cpu, &mut state);
        let second = board(1, false).expect("as before");
        let outcome = restore(&second, &[cpu], &state);
        assert!(outcome.is_err(), "{name}");
    }
}

#[test]
fn a_frequency_that_cannot_be_had_is_refused_with_both() {
    let Some(first) = lived_in(1, false) else {
        return;
    };
    let (mut cpus, state) = saved(&first, false);
    let here = cpus[0].tsc_khz;
    // Nobody scales by a thousand.
    cpus[0].tsc_khz = 1;
    let second = board(1, false).expect("as before");
    let error = restore(&second, &cpus, &state).expect_err("refused");
    assert!(
        matches!(error, StateError::Frequency { saved: 1, here: now } if now == here),
        "{error}"
    );
}
