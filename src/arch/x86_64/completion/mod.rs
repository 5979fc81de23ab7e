// SPDX-License-Identifier: Apache-2.0
//! Instruction completion: where KVM interprets ring 0 (PVM hosts), its emulator refuses some
//! instructions. They are decoded here, carried out on the stopped vCPU's saved state and on
//! guest memory, and the guest goes on behind them. Runs on the vCPU's thread between two
//! KVM_RUNs; guest registers, page tables and bytes are hostile, so nothing here panics, loops
//! on guest data or reaches outside guest RAM.
//!
//! Reading order: `stopped` (the vCPU in hand), `paging` and `operand` (what an operand means),
//! `table` (which handler), then the handlers.

mod atomic;
mod bits;
mod fault;
mod fpu;
mod integer;
mod operand;
mod paging;
mod stopped;
mod system;
mod table;
mod vcpu;
mod vector;
mod vector_ops;
mod xsave;
mod xstate;

#[cfg(test)]
mod tests;

pub use fault::{Exception, Extra, Reason, Unhandled};
pub use vcpu::{VcpuState, share_registers};

use crate::kvm::failure::InstructionBytes;
use crate::memory::GuestRam;
use fault::Stop;
use kvm_bindings::{kvm_regs, kvm_sregs};
use std::io;
use stopped::Stopped;

/// A host call on the vCPU failed; the vCPU is in no state to go on.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed while an instruction was completed")]
pub struct CpuError {
    pub call: &'static str,
    #[source]
    pub source: io::Error,
}

/// What completion needs of a stopped vCPU. Each call may cost a system call, so handlers ask
/// for nothing they do not use; registers and system registers are asked for once each.
pub trait Cpu {
    fn regs(&mut self) -> Result<kvm_regs, CpuError>;
    fn set_regs(&mut self, regs: &kvm_regs) -> Result<(), CpuError>;
    fn sregs(&mut self) -> Result<kvm_sregs, CpuError>;
    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<(), CpuError>;
    fn xcr0(&mut self) -> Result<u64, CpuError>;
    /// False if this host refuses the value: the guest gets #GP.
    fn set_xcr0(&mut self, value: u64) -> Result<bool, CpuError>;
    /// `None` if the vCPU has no such register.
    fn msr(&mut self, index: u32) -> Result<Option<u64>, CpuError>;
    /// False if the vCPU has no such register or refuses the value.
    fn set_msr(&mut self, index: u32, value: u64) -> Result<bool, CpuError>;
    /// Brings the extended state into the image.
    fn load_xsave(&mut self) -> Result<(), CpuError>;
    /// The image of the last `load_xsave`, standard format (SDM vol. 1, 13.4).
    fn image(&mut self) -> &mut [u8];
    /// Makes the image the vCPU's extended state.
    fn store_xsave(&mut self) -> Result<(), CpuError>;
    /// The exception is delivered at the next entry, with the registers set last.
    fn inject(&mut self, exception: &Exception) -> Result<(), CpuError>;
}

/// How the vCPU goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// Behind the instruction, or where it jumped to.
    Done,
    /// At this exception's handler.
    Raised(Exception),
}

/// Completes the instruction at the guest's RIP. `bytes` is what KVM reported; if it is empty
/// or too short, the bytes are fetched through the guest's page tables. On `Ok` the vCPU can be
/// entered again; on `Err` the guest is where it was and the VM must end.
pub fn complete(
    cpu: &mut impl Cpu,
    ram: &GuestRam,
    bytes: &[u8],
) -> Result<Completed, Box<Unhandled>> {
    let mut stopped = Stopped::new(cpu, ram).map_err(|error| Unhandled::early(error, bytes))?;
    stopped.complete(bytes)
}

/// Up to fifteen bytes at RIP, through the guest's page tables, for an exit without bytes.
pub fn fetch(cpu: &mut impl Cpu, ram: &GuestRam) -> Result<InstructionBytes, Box<Unhandled>> {
    let mut stopped = Stopped::new(cpu, ram).map_err(|error| Unhandled::early(error, &[]))?;
    stopped.fetch().map(|(bytes, _)| bytes).map_err(|stop| {
        let reason = match stop {
            Stop::Fault(exception) => Reason::Fetch(exception),
            Stop::Refused(reason) => reason,
            Stop::Host(error) => Reason::Host(error),
        };
        Box::new(Unhandled::new(stopped.regs.rip, &[], None, reason))
    })
}
