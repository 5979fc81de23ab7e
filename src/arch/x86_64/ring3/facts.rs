// SPDX-License-Identifier: Apache-2.0
//! What the guest found, and whether a kernel can live on it. Pure: reads words, judges.

use super::{BASE, DEMAND, FACTS, KERNEL_CS, RAM, USER_CS};
use crate::memory::GuestRam;
use std::fmt;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

/// What the guest does, one after the other; each builds on those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Drop = 1,
    SystemCall,
    Breakpoint,
    InvalidOpcode,
    Protection,
    Ring0Call,
    PageFault,
    GsBase,
    Vectors,
    Masking,
    SystemCallMasking,
    DirectInterrupt,
    Idle,
    SingleStep,
}

/// Every step, in the guest's order; the number it writes is the place here, from 1.
pub const STEPS: [Step; 14] = [
    Step::Drop,
    Step::SystemCall,
    Step::Breakpoint,
    Step::InvalidOpcode,
    Step::Protection,
    Step::Ring0Call,
    Step::PageFault,
    Step::GsBase,
    Step::Vectors,
    Step::Masking,
    Step::SystemCallMasking,
    Step::DirectInterrupt,
    Step::Idle,
    Step::SingleStep,
];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "IRETQ from ring 0 to ring 3 at kernel addresses",
            Self::SystemCall => "SYSCALL that stays in ring 3",
            Self::Breakpoint => "INT3 through a gate to ring 3",
            Self::InvalidOpcode => "#UD through a gate to ring 3, on the interrupted stack",
            Self::Protection => "#GP through a gate to ring 3",
            Self::Ring0Call => "INT 4 to a routine in ring 0",
            Self::PageFault => "page faults by a ring-0 stub to a ring-3 handler",
            Self::GsBase => "WRGSBASE in ring 3",
            Self::Vectors => "XSAVE and XRSTOR in ring 3",
            Self::Masking => "interrupts by a ring-0 stub, masked in ring 3",
            Self::SystemCallMasking => "SYSCALL with an interrupt pending",
            Self::DirectInterrupt => "interrupts through a gate to ring 3",
            Self::Idle => "STI and HLT in ring 0, woken by the timer",
            Self::SingleStep => "single steps in ring 3",
        })
    }
}

/// Places in the guest's list of facts; program.s has the same as SLOT_….
#[derive(Clone, Copy)]
#[repr(usize)]
enum Slot {
    Step,
    DropCs,
    SyscallCs,
    SyscallCycles,
    BreakpointCs,
    OpcodeCs,
    OpcodeStack,
    ProtectionCs,
    CallCs,
    CallMsr,
    CallCycles,
    Faults,
    FaultSum,
    FaultAddress,
    FaultCycles,
    FaultsAfterFlush,
    GsBase,
    VectorLow,
    VectorHigh,
    TimerCs,
    MaskedPending,
    MaskedInHandler,
    MaskedAfterReturn,
    Unmasked,
    FrameFlags,
    SyscallUnmasked,
    DirectCs,
    DirectMasked,
    DirectUnmasked,
    IdleCs,
    IdleWoken,
    StepsTrapped,
}

const SLOTS: usize = Slot::StepsTrapped as usize + 1;

/// Round trips timed, as in program.s.
const SYSCALLS_TIMED: u64 = 64;
const CALLS_TIMED: u64 = 16;
const DEMAND_PAGES: u64 = (RAM - DEMAND) >> 12;
const MAGIC: u64 = 0x5a5a_1234;
const RFLAGS_IF: u64 = 1 << 9;
/// SS, RSP, RFLAGS, CS and RIP.
const FRAME: u64 = 40;

/// What each round trip took, in cycles of the time stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycles {
    pub system_call: u64,
    pub ring0_call: u64,
    pub page_fault: u64,
}

/// A step did not do what the ring-3 kernel needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {saw}")]
pub struct Finding {
    pub step: Step,
    pub saw: String,
}

#[derive(Clone, Debug)]
pub struct Facts([u64; SLOTS]);

impl Facts {
    pub fn read(ram: &GuestRam) -> Result<Self, GuestMemoryError> {
        let mut facts = [0; SLOTS];
        for (at, fact) in (FACTS..).step_by(size_of::<u64>()).zip(&mut facts) {
            *fact = ram.read_obj(GuestAddress(at))?;
        }
        Ok(Self(facts))
    }

    fn get(&self, slot: Slot) -> u64 {
        self.0[slot as usize]
    }

    /// The step the guest was at; `None` when it is through, or had not begun.
    pub fn under_way(&self) -> Option<Step> {
        let number = usize::try_from(self.get(Slot::Step)).ok()?;
        STEPS.get(number.checked_sub(1)?).copied()
    }

    pub fn cycles(&self) -> Cycles {
        Cycles {
            system_call: self.get(Slot::SyscallCycles) / SYSCALLS_TIMED,
            ring0_call: self.get(Slot::CallCycles) / CALLS_TIMED,
            page_fault: self.get(Slot::FaultCycles) / DEMAND_PAGES,
        }
    }

    /// Does SYSCALL turn interrupts on where FMASK does not turn them off? PVM hosts do so,
    /// processors do not; a kernel must be right either way.
    pub fn system_call_unmasks(&self) -> bool {
        self.get(Slot::SyscallUnmasked) != 0
    }

    /// Everything the ring-3 kernel cannot do without and did not find; none if the guest
    /// ran to its end and this host carries that kernel.
    pub fn judge(&self) -> Vec<Finding> {
        let checks = self.privilege().into_iter().chain(self.values());
        checks.filter_map(|check| self.differs(&check)).collect()
    }

    fn differs(&self, check: &Check) -> Option<Finding> {
        let found = self.get(check.slot) & check.mask;
        (found != check.expected).then(|| Finding {
            step: check.step,
            saw: format!("{} is {found:#x}, not {:#x}", check.what, check.expected),
        })
    }

    /// Which ring each handler found itself in, by its code segment.
    fn privilege(&self) -> [Check; 8] {
        let ring = |step, slot, selector: u16| Check::new(step, slot, "CS", selector.into());
        [
            ring(Step::Drop, Slot::DropCs, USER_CS),
            ring(Step::SystemCall, Slot::SyscallCs, USER_CS),
            ring(Step::Breakpoint, Slot::BreakpointCs, USER_CS),
            ring(Step::InvalidOpcode, Slot::OpcodeCs, USER_CS),
            ring(Step::Protection, Slot::ProtectionCs, USER_CS),
            ring(Step::Ring0Call, Slot::CallCs, KERNEL_CS),
            ring(Step::Masking, Slot::TimerCs, USER_CS),
            ring(Step::DirectInterrupt, Slot::DirectCs, USER_CS),
        ]
    }

    fn values(&self) -> Vec<Check> {
        let last_page = BASE + DEMAND;
        let sum = DEMAND_PAGES * (DEMAND_PAGES + 1) / 2;
        // Any patience left will do.
        let pending = self.get(Slot::MaskedPending).max(1);
        let mut checks = vec![
            Check::new(
                Step::InvalidOpcode,
                Slot::OpcodeStack,
                "the frame's size",
                FRAME,
            ),
            Check::new(Step::Ring0Call, Slot::CallMsr, "the MSR written", MAGIC),
            Check::new(Step::PageFault, Slot::Faults, "the count", DEMAND_PAGES),
            Check::new(Step::PageFault, Slot::FaultSum, "what was read", sum),
            Check::new(Step::PageFault, Slot::FaultAddress, "CR2", last_page),
            Check::new(
                Step::PageFault,
                Slot::FaultsAfterFlush,
                "the count after INVLPG",
                1,
            ),
            Check::new(Step::GsBase, Slot::GsBase, "GS base", BASE),
            Check::new(Step::Vectors, Slot::VectorLow, "XMM3", MAGIC),
            Check::new(Step::Vectors, Slot::VectorHigh, "the upper YMM3", MAGIC),
            Check::new(
                Step::Masking,
                Slot::MaskedPending,
                "the patience left",
                pending,
            ),
            Check::new(
                Step::Masking,
                Slot::MaskedInHandler,
                "interrupts in the handler",
                1,
            ),
            Check::new(
                Step::Masking,
                Slot::MaskedAfterReturn,
                "interrupts after its IRETQ",
                1,
            ),
            Check::new(Step::Masking, Slot::Unmasked, "interrupts once unmasked", 2),
            Check::new(
                Step::DirectInterrupt,
                Slot::DirectMasked,
                "interrupts in the handler",
                1,
            ),
            Check::new(
                Step::DirectInterrupt,
                Slot::DirectUnmasked,
                "interrupts once unmasked",
                2,
            ),
            Check::new(
                Step::Idle,
                Slot::IdleCs,
                "CS at the wake-up",
                KERNEL_CS.into(),
            ),
            Check::new(Step::Idle, Slot::IdleWoken, "wake-ups", 1),
            Check::new(Step::SingleStep, Slot::StepsTrapped, "steps", 6),
        ];
        let flags = Check::new(
            Step::Masking,
            Slot::FrameFlags,
            "IF in an exception's frame",
            0,
        );
        checks.push(Check {
            mask: RFLAGS_IF,
            ..flags
        });
        checks
    }
}

/// One fact the kernel depends on.
struct Check {
    step: Step,
    slot: Slot,
    what: &'static str,
    mask: u64,
    expected: u64,
}

impl Check {
    fn new(step: Step, slot: Slot, what: &'static str, expected: u64) -> Self {
        Self {
            step,
            slot,
            what,
            mask: u64::MAX,
            expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a host that carries the kernel makes the guest write.
    fn good() -> Facts {
        let mut facts = Facts([0; SLOTS]);
        let checks = facts.privilege().into_iter().chain(facts.values());
        for check in Vec::from_iter(checks) {
            facts.0[check.slot as usize] = check.expected;
        }
        facts.0[Slot::Step as usize] = STEPS.len() as u64 + 1;
        facts
    }

    #[test]
    fn every_fact_that_matters_is_missed() {
        assert_eq!(good().judge(), []);
        let all = good();
        let checks = all.privilege().into_iter().chain(all.values());
        for check in checks {
            let mut bad = good();
            // Zero is what a guest leaves that never came there; all ones differ from zero.
            let found = if check.expected == 0 { u64::MAX } else { 0 };
            bad.0[check.slot as usize] = found;
            let findings = bad.judge();
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].step, check.step);
            assert!(findings[0].saw.starts_with(check.what));
        }
    }

    #[test]
    fn the_step_under_way_is_known_by_its_number() {
        let mut facts = good();
        assert_eq!(facts.under_way(), None);
        for (number, step) in (1..).zip(STEPS) {
            facts.0[0] = number;
            assert_eq!(facts.under_way(), Some(step));
            assert_eq!(step as u64, number);
        }
        facts.0[0] = 0;
        assert_eq!(facts.under_way(), None);
    }

    #[test]
    fn figures_are_of_one_round_trip() {
        let mut facts = good();
        facts.0[Slot::SyscallCycles as usize] = 64 * 2300;
        facts.0[Slot::CallCycles as usize] = 16 * 15_000;
        facts.0[Slot::FaultCycles as usize] = 16 * 31_000;
        let cycles = facts.cycles();
        assert_eq!(cycles.system_call, 2300);
        assert_eq!(cycles.ring0_call, 15_000);
        assert_eq!(cycles.page_fault, 31_000);
    }
}
