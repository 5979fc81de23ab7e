// SPDX-License-Identifier: Apache-2.0
//! The stopped vCPU in hand: its registers read once, changed here, written back once. Runs on
//! the vCPU's thread; writes nothing back when the instruction turns out to be nobody's.

use super::bits::{self, CR0_PE, EFER_LMA, RF, TF, VM};
use super::fault::{Exception, Next, Reason, Step, Stop, Unhandled};
use super::{Completed, Cpu, CpuError, table};
use crate::kvm::failure::{InstructionBytes, MAX_INSTRUCTION};
use crate::memory::GuestRam;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Register};
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

pub(super) struct Stopped<'a> {
    pub cpu: &'a mut dyn Cpu,
    pub ram: &'a GuestRam,
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
}

impl<'a> Stopped<'a> {
    pub fn new(cpu: &'a mut dyn Cpu, ram: &'a GuestRam) -> Result<Self, CpuError> {
        let (regs, sregs) = (cpu.regs()?, cpu.sregs()?);
        Ok(Self {
            cpu,
            ram,
            regs,
            sregs,
        })
    }

    pub fn complete(&mut self, bytes: &[u8]) -> Result<Completed, Box<Unhandled>> {
        let before = self.regs;
        let (instruction, bytes) = match self.decode(bytes) {
            Ok(decoded) => decoded,
            Err(Stop::Fault(exception)) => {
                let raised = self.raise(before, exception);
                return raised.map_err(|error| Unhandled::early(error, bytes));
            }
            Err(stop) => return Err(self.unhandled(bytes, None, stop)),
        };
        let step = match table::handler(instruction.mnemonic()) {
            Some(handler) => handler(self, &instruction),
            None => Err(Stop::Refused(Reason::NoHandler)),
        };
        self.settle(before, &instruction, step)
            .map_err(|stop| self.unhandled(bytes.as_slice(), Some(&instruction), stop))
    }

    /// Writes back what the step came to.
    fn settle(
        &mut self,
        before: kvm_regs,
        known: &Instruction,
        step: Step,
    ) -> Result<Completed, Stop> {
        let trap = match step {
            Ok(Next::Jump) => None,
            Ok(next) => {
                self.regs.rip = if self.long_mode() {
                    known.next_ip()
                } else {
                    known.next_ip() & bits::mask(4)
                };
                if let Next::Trap(exception) = next {
                    Some(exception)
                } else {
                    None
                }
            }
            Err(Stop::Fault(exception)) => return Ok(self.raise(before, exception)?),
            Err(stop) => return Err(stop),
        };
        self.regs.rflags &= !RF;
        self.cpu.set_regs(&self.regs)?;
        // SDM vol. 3, 18.3.1.4: the single-step trap follows an instruction that began with TF.
        let stepped = (before.rflags & TF != 0).then_some(Exception::DEBUG);
        let Some(exception) = trap.or(stepped) else {
            return Ok(Completed::Done);
        };
        self.cpu.inject(&exception)?;
        Ok(Completed::Raised(exception))
    }

    /// The guest is at the instruction, as it was; faults push RF set (SDM vol. 3, 18.3.1.1).
    fn raise(&mut self, before: kvm_regs, exception: Exception) -> Result<Completed, CpuError> {
        self.regs = before;
        self.regs.rflags |= RF;
        self.cpu.set_regs(&self.regs)?;
        self.cpu.inject(&exception)?;
        Ok(Completed::Raised(exception))
    }

    fn unhandled(&self, bytes: &[u8], known: Option<&Instruction>, stop: Stop) -> Box<Unhandled> {
        let reason = match stop {
            Stop::Refused(reason) => reason,
            Stop::Host(error) => Reason::Host(error),
            Stop::Fault(exception) => Reason::Fetch(exception),
        };
        let rip = known.map_or(self.regs.rip, Instruction::ip);
        Box::new(Unhandled::new(rip, bytes, known, reason))
    }

    fn decode(&mut self, given: &[u8]) -> Result<(Instruction, InstructionBytes), Stop> {
        let bytes = InstructionBytes::new(given);
        if let Ok(instruction) = self.decode_exactly(&bytes) {
            return Ok((instruction, bytes));
        }
        // KVM may have stopped fetching in mid-instruction: look again, with all there is.
        if given.len() >= MAX_INSTRUCTION {
            return Err(Stop::Refused(Reason::Undecodable));
        }
        let (bytes, end) = self.fetch()?;
        match (self.decode_exactly(&bytes), end) {
            (Ok(instruction), _) => Ok((instruction, bytes)),
            // The rest of it lies where the guest cannot fetch: that is what it is told.
            (Err(_), Some(stop)) => Err(stop),
            (Err(reason), None) => Err(Stop::Refused(reason)),
        }
    }

    fn decode_exactly(&self, bytes: &InstructionBytes) -> Result<Instruction, Reason> {
        let (bits, ip) = match (self.long_mode(), self.sregs.cs.db) {
            (true, _) => (64, self.regs.rip),
            (false, 0) => (16, self.regs.rip & bits::mask(4)),
            (false, _) => (32, self.regs.rip & bits::mask(4)),
        };
        let mut decoder = Decoder::with_ip(bits, bytes.as_slice(), ip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        match decoder.last_error() {
            DecoderError::None if !instruction.is_invalid() => Ok(instruction),
            _ => Err(Reason::Undecodable),
        }
    }

    /// True in 64-bit mode proper, false in compatibility and every older mode.
    pub fn long_mode(&self) -> bool {
        self.sregs.efer & EFER_LMA != 0 && self.sregs.cs.l != 0
    }

    /// The privilege level. In real mode it is 0, in virtual-8086 mode 3.
    pub fn cpl(&self) -> u8 {
        if self.sregs.cr0 & CR0_PE == 0 {
            0
        } else if self.regs.rflags & VM != 0 {
            3
        } else {
            self.sregs.ss.dpl & 3
        }
    }

    pub fn require_ring0(&self) -> Result<(), Stop> {
        if self.cpl() == 0 {
            Ok(())
        } else {
            Err(Stop::Fault(Exception::PROTECTION))
        }
    }

    pub fn segment(&self, register: Register) -> &kvm_segment {
        match register {
            Register::ES => &self.sregs.es,
            Register::CS => &self.sregs.cs,
            Register::SS => &self.sregs.ss,
            Register::FS => &self.sregs.fs,
            Register::GS => &self.sregs.gs,
            _ => &self.sregs.ds,
        }
    }

    /// The general register, zero-extended; zero for anything that is none.
    pub fn gpr(&self, register: Register) -> u64 {
        let mut regs = self.regs;
        let Some(full) = slot(&mut regs, register) else {
            return 0;
        };
        if is_high_byte(register) {
            return (*full >> 8) & 0xff;
        }
        *full & bits::mask(register.size())
    }

    /// 32-bit writes clear the upper half, narrower ones keep what is around them.
    pub fn set_gpr(&mut self, register: Register, value: u64) {
        let Some(full) = slot(&mut self.regs, register) else {
            return;
        };
        *full = if is_high_byte(register) {
            (*full & !0xff00) | ((value & 0xff) << 8)
        } else {
            match register.size() {
                8 => value,
                4 => value & bits::mask(4),
                size => (*full & !bits::mask(size)) | (value & bits::mask(size)),
            }
        };
    }

    /// Replaces the flags in `which`, keeps the others.
    pub fn set_flags(&mut self, which: u64, flags: u64) {
        self.regs.rflags = (self.regs.rflags & !which) | (flags & which);
    }

    /// EDX:EAX.
    pub fn edx_eax(&self) -> u64 {
        (self.regs.rdx & bits::mask(4)) << 32 | (self.regs.rax & bits::mask(4))
    }

    pub fn set_edx_eax(&mut self, value: u64) {
        self.regs.rax = value & bits::mask(4);
        self.regs.rdx = value >> 32;
    }
}

fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::BH | Register::CH | Register::DH
    )
}

fn slot(regs: &mut kvm_regs, register: Register) -> Option<&mut u64> {
    Some(match register.full_register() {
        Register::RAX => &mut regs.rax,
        Register::RBX => &mut regs.rbx,
        Register::RCX => &mut regs.rcx,
        Register::RDX => &mut regs.rdx,
        Register::RSI => &mut regs.rsi,
        Register::RDI => &mut regs.rdi,
        Register::RSP => &mut regs.rsp,
        Register::RBP => &mut regs.rbp,
        Register::R8 => &mut regs.r8,
        Register::R9 => &mut regs.r9,
        Register::R10 => &mut regs.r10,
        Register::R11 => &mut regs.r11,
        Register::R12 => &mut regs.r12,
        Register::R13 => &mut regs.r13,
        Register::R14 => &mut regs.r14,
        Register::R15 => &mut regs.r15,
        _ => return None,
    })
}
