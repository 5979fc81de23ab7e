// SPDX-License-Identifier: Apache-2.0
//! All of a stopped machine that KVM holds: its processors, interrupt controllers and clock,
//! taken out and put back (Documentation/virt/kvm/api.rst). A processor's part runs on the
//! thread that owns it, while no vCPU of the machine runs.
//!
//! What is put back may come from a file that lies: KVM checks every value it takes, and the
//! lengths are checked here.

use crate::kvm::xsave::{XsaveBuffer, XsaveError};
use crate::kvm::{KvmError, Vcpu, Vm};
use crate::memory::GuestRam;
use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES, Msrs, kvm_clock_data, kvm_cpuid_entry2,
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes as _, GuestAddress};

/// The time stamp counter (SDM vol. 4).
const MSR_TSC: u32 = 0x10;
/// The local APIC's deadline timer, armed by a write: after the counter it is compared with.
const MSR_TSC_DEADLINE: u32 = 0x6e0;

const CHIPS: [u32; 3] = [
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQCHIP_IOAPIC,
];

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Xsave(#[from] XsaveError),
    #[error("it has {found} {what}, where {expected} belong")]
    Length {
        what: &'static str,
        found: usize,
        expected: usize,
    },
    /// By name.
    #[error("{0} does not finish what the guest asked of it")]
    Busy(&'static str),
    #[error(
        "its processor counts {saved} kHz, and this host's {here} kHz, which it cannot make up for"
    )]
    Frequency { saved: u32, here: u32 },
    #[error("this host's KVM does not take the value of the processor's register {0:#x}")]
    Register(u32),
}

/// One processor.
#[derive(Clone, Serialize, Deserialize)]
pub struct CpuState {
    pub cpuid: Vec<kvm_cpuid_entry2>,
    pub tsc_khz: u32,
    pub mp_state: kvm_mp_state,
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
    pub xcrs: kvm_xcrs,
    /// In the standard format.
    pub xsave: Vec<u8>,
    pub debug: kvm_debugregs,
    pub lapic: kvm_lapic_state,
    pub msrs: Vec<kvm_msr_entry>,
    pub events: kvm_vcpu_events,
}

/// What all processors share.
#[derive(Clone, Serialize, Deserialize)]
pub struct BoardState {
    /// In the order of `CHIPS`.
    pub chips: Vec<kvm_irqchip>,
    pub pit: Option<kvm_pit_state2>,
    pub clock: kvm_clock_data,
}

impl CpuState {
    /// Takes the state of a processor that is not in KVM_RUN and has no exit to be answered.
    /// `registers` are all machine-specific registers this KVM saves.
    pub fn save(
        vcpu: &Vcpu,
        xsave: &mut XsaveBuffer,
        registers: &[u32],
    ) -> Result<Self, StateError> {
        // First: it takes note of what was signalled and not yet acted on.
        let mp_state = vcpu.mp_state()?;
        let events = vcpu.events()?;
        vcpu.load_xsave(xsave)?;
        Ok(Self {
            cpuid: vcpu.cpuid()?.as_slice().to_vec(),
            tsc_khz: vcpu.tsc_khz()?,
            mp_state,
            regs: vcpu.regs()?,
            sregs: vcpu.sregs()?,
            xcrs: vcpu.xcrs()?,
            xsave: xsave.bytes_mut().to_vec(),
            debug: vcpu.debug_regs()?,
            lapic: vcpu.lapic()?,
            msrs: registers_of(vcpu, registers)?,
            events,
        })
    }

    /// Whether nothing is on its way into the processor: what KVM has begun to deliver of a
    /// software interrupt or an exception it does not hand over whole.
    ///
    /// KVM says nothing at all of a software exception it is about to deliver, and counts on the
    /// instruction to be met again; behind one that ran natively, as in ring 3 on a host that
    /// interprets ring 0, it never is. So nobody is at rest right behind such an instruction.
    pub fn is_at_rest(vcpu: &Vcpu, ram: &GuestRam) -> Result<bool, KvmError> {
        const INT3: u8 = 0xcc;
        const INT: u8 = 0xcd;
        let events = vcpu.events()?;
        let exception = events.exception.injected != 0 || events.exception.pending != 0;
        if exception || events.interrupt.injected != 0 || events.nmi.injected != 0 {
            return Ok(false);
        }
        let before = vcpu.regs()?.rip.wrapping_sub(2);
        let Some(at) = vcpu.translate(before)? else {
            return Ok(true);
        };
        let bytes: [u8; 2] = ram.read_obj(GuestAddress(at)).unwrap_or_default();
        Ok(!matches!(bytes, [INT, _] | [_, INT3]))
    }

    /// Puts it into a fresh processor, in an order in which nothing undoes what was before:
    /// what the processor can before what it does, the local APIC before its timer, what is
    /// to be injected last.
    pub fn restore(&self, vcpu: &Vcpu, xsave: &mut XsaveBuffer) -> Result<(), StateError> {
        let cpuid = self.cpuid()?;
        vcpu.set_cpuid(&cpuid)?;
        self.restore_frequency(vcpu)?;
        vcpu.set_mp_state(self.mp_state)?;
        vcpu.set_sregs(&self.sregs)?;
        vcpu.set_regs(&self.regs)?;
        vcpu.set_xcrs(&self.xcrs)?;
        let room = xsave.bytes_mut();
        if room.len() != self.xsave.len() {
            return Err(StateError::Length {
                what: "bytes of extended state",
                found: self.xsave.len(),
                expected: room.len(),
            });
        }
        room.copy_from_slice(&self.xsave);
        vcpu.store_xsave(xsave)?;
        vcpu.set_debug_regs(&self.debug)?;
        vcpu.set_lapic(&self.lapic)?;
        self.restore_registers(vcpu)?;
        vcpu.set_events(&self.events)?;
        Ok(())
    }

    /// The guest measures time by a counter of this frequency. KVM takes one that is nearly
    /// the host's, and others where the processor scales.
    fn restore_frequency(&self, vcpu: &Vcpu) -> Result<(), StateError> {
        let here = vcpu.tsc_khz()?;
        if here == self.tsc_khz {
            return Ok(());
        }
        let set = vcpu.set_tsc_khz(self.tsc_khz);
        set.map_err(|_| StateError::Frequency {
            saved: self.tsc_khz,
            here,
        })
    }

    fn cpuid(&self) -> Result<CpuId, StateError> {
        CpuId::from_entries(&self.cpuid).map_err(|_| StateError::Length {
            what: "entries of CPUID",
            found: self.cpuid.len(),
            expected: KVM_MAX_CPUID_ENTRIES,
        })
    }

    fn restore_registers(&self, vcpu: &Vcpu) -> Result<(), StateError> {
        let last = |entry: &&kvm_msr_entry| entry.index == MSR_TSC_DEADLINE;
        let first: Vec<kvm_msr_entry> = self.msrs.iter().filter(|e| !last(e)).copied().collect();
        let last: Vec<kvm_msr_entry> = self.msrs.iter().filter(last).copied().collect();
        for part in [&first, &last] {
            let list = list(part)?;
            let set = vcpu.try_set_msrs(&list)?;
            if let Some(refused) = part.get(set) {
                return Err(StateError::Register(refused.index));
            }
        }
        Ok(())
    }

    /// The guest's time stamp counter.
    pub fn tsc(&self) -> Option<u64> {
        let entry = self.msrs.iter().find(|entry| entry.index == MSR_TSC);
        entry.map(|entry| entry.data)
    }

    pub fn set_tsc(&mut self, value: u64) {
        for entry in self.msrs.iter_mut().filter(|e| e.index == MSR_TSC) {
            entry.data = value;
        }
    }
}

/// KVM reads a list up to the first register it has not got; that one is left out.
fn registers_of(vcpu: &Vcpu, registers: &[u32]) -> Result<Vec<kvm_msr_entry>, StateError> {
    let mut found = Vec::with_capacity(registers.len());
    let mut rest = registers;
    while !rest.is_empty() {
        let asked: Vec<kvm_msr_entry> = rest
            .iter()
            .map(|&index| kvm_msr_entry {
                index,
                ..Default::default()
            })
            .collect();
        let mut answers = list(&asked)?;
        let count = vcpu.msrs(&mut answers)?;
        found.extend(answers.as_slice().iter().take(count));
        rest = rest.get(count + 1..).unwrap_or_default();
    }
    Ok(found)
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, StateError> {
    Msrs::from_entries(entries).map_err(|_| StateError::Length {
        what: "machine-specific registers",
        found: entries.len(),
        expected: KVM_MAX_MSR_ENTRIES,
    })
}

impl BoardState {
    pub fn save(vm: &Vm, pit: bool) -> Result<Self, StateError> {
        let chips = CHIPS.into_iter().map(|chip| vm.irqchip(chip));
        Ok(Self {
            chips: chips.collect::<Result<_, _>>()?,
            pit: pit.then(|| vm.pit()).transpose()?,
            clock: vm.clock()?,
        })
    }

    /// After the processors. The clock goes on from where it stood: the time in between is
    /// time in which the machine did not run.
    pub fn restore(&self, vm: &Vm) -> Result<(), StateError> {
        if self.chips.len() != CHIPS.len() {
            return Err(StateError::Length {
                what: "interrupt controllers",
                found: self.chips.len(),
                expected: CHIPS.len(),
            });
        }
        for (chip, id) in self.chips.iter().zip(CHIPS) {
            let mut chip = *chip;
            chip.chip_id = id;
            vm.set_irqchip(&chip)?;
        }
        if let Some(pit) = &self.pit {
            vm.set_pit(pit)?;
        }
        let mut clock = self.clock;
        // With KVM_CLOCK_REALTIME, KVM would add what passed since; the others are its answers.
        clock.flags = 0;
        vm.set_clock(&clock)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
