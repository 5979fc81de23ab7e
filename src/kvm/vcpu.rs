// SPDX-License-Identifier: Apache-2.0
//! One vCPU and the exits a machine acts on. Owned by its `vcpu-N` thread once it runs.

use super::failure::{self, InstructionBytes};
use super::xsave::{XsaveBuffer, XsaveError};
use super::{KvmError, Naming as _};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

/// Why the guest stopped running, with what is needed to answer.
#[derive(Debug)]
pub enum Exit<'a> {
    /// KVM batches `rep ins` into one exit of several accesses; `out` it never batches.
    PortRead(u16, &'a mut [u8]),
    PortWrite(u16, &'a [u8]),
    MmioRead(u64, &'a mut [u8]),
    MmioWrite(u64, &'a [u8]),
    /// The guest's processor shut down: a triple fault.
    Shutdown,
    /// KVM could not emulate an instruction.
    Emulation,
    /// Nothing to answer: a signal, or a moment KVM asks to be run again.
    Again,
    /// The processor refuses this state, for the hardware's reason.
    Refused(u64),
    Unknown(String),
}

pub struct Vcpu {
    index: u32,
    fd: VcpuFd,
}

impl Vcpu {
    pub(super) fn new(index: u32, fd: VcpuFd) -> Self {
        Self { index, fd }
    }

    pub fn index(&self) -> u32 {
        self.index
    }

    /// For instruction completion, which reads and writes all of a stopped vCPU.
    pub fn fd_mut(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// The instruction KVM gave up at, after `Exit::Emulation`; `None` if that exit was for
    /// another reason.
    pub fn emulation_failure(&mut self) -> Option<InstructionBytes> {
        failure::emulation_failure(self.fd.get_kvm_run())
    }

    /// Runs the guest until it needs something.
    pub fn run(&mut self) -> Result<Exit<'_>, KvmError> {
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {
                return Ok(Exit::Again);
            }
            Err(error) => return Err(error).named("KVM_RUN"),
        };
        Ok(match exit {
            VcpuExit::IoIn(port, data) => Exit::PortRead(port, data),
            VcpuExit::IoOut(port, data) => Exit::PortWrite(port, data),
            VcpuExit::MmioRead(address, data) => Exit::MmioRead(address, data),
            VcpuExit::MmioWrite(address, data) => Exit::MmioWrite(address, data),
            VcpuExit::Shutdown => Exit::Shutdown,
            VcpuExit::InternalError => Exit::Emulation,
            VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt => Exit::Again,
            VcpuExit::FailEntry(reason, _) => Exit::Refused(reason),
            other => Exit::Unknown(format!("{other:?}")),
        })
    }

    pub fn set_cpuid(&self, cpuid: &CpuId) -> Result<(), KvmError> {
        self.fd.set_cpuid2(cpuid).named("KVM_SET_CPUID2")
    }

    /// Sets every register of the list, or says which one KVM does not know.
    pub fn set_msrs(&self, msrs: &Msrs) -> Result<(), KvmError> {
        let wanted = msrs.as_slice().len();
        let set = self.try_set_msrs(msrs)?;
        if set < wanted {
            return Err(kvm_ioctls::Error::new(libc::EINVAL)).named("KVM_SET_MSRS");
        }
        Ok(())
    }

    /// Sets XCR0, the vector state the guest's XSAVE covers (SDM vol. 1, 13.3).
    pub fn set_xcr0(&self, value: u64) -> Result<(), KvmError> {
        let mut all = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        all.xcrs[0].value = value;
        self.fd.set_xcrs(&all).named("KVM_SET_XCRS")
    }

    /// Cycles the guest's time stamp counter has in a millisecond.
    pub fn tsc_khz(&self) -> Result<u32, KvmError> {
        self.fd.get_tsc_khz().named("KVM_GET_TSC_KHZ")
    }

    pub fn set_tsc_khz(&self, frequency: u32) -> Result<(), KvmError> {
        self.fd.set_tsc_khz(frequency).named("KVM_SET_TSC_KHZ")
    }

    pub fn regs(&self) -> Result<kvm_regs, KvmError> {
        self.fd.get_regs().named("KVM_GET_REGS")
    }

    pub fn set_regs(&self, regs: &kvm_regs) -> Result<(), KvmError> {
        self.fd.set_regs(regs).named("KVM_SET_REGS")
    }

    pub fn sregs(&self) -> Result<kvm_sregs, KvmError> {
        self.fd.get_sregs().named("KVM_GET_SREGS")
    }

    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<(), KvmError> {
        self.fd.set_sregs(sregs).named("KVM_SET_SREGS")
    }

    pub fn lapic(&self) -> Result<kvm_lapic_state, KvmError> {
        self.fd.get_lapic().named("KVM_GET_LAPIC")
    }

    pub fn set_lapic(&self, lapic: &kvm_lapic_state) -> Result<(), KvmError> {
        self.fd.set_lapic(lapic).named("KVM_SET_LAPIC")
    }

    /// Brings the extended state into the buffer.
    pub fn load_xsave(&self, buffer: &mut XsaveBuffer) -> Result<(), XsaveError> {
        buffer.get(&self.fd)
    }

    /// Makes the buffer's content the extended state.
    pub fn store_xsave(&self, buffer: &XsaveBuffer) -> Result<(), XsaveError> {
        buffer.set(&self.fd)
    }

    pub fn cpuid(&self) -> Result<CpuId, KvmError> {
        self.fd
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .named("KVM_GET_CPUID2")
    }

    pub fn mp_state(&self) -> Result<kvm_mp_state, KvmError> {
        self.fd.get_mp_state().named("KVM_GET_MP_STATE")
    }

    pub fn set_mp_state(&self, state: kvm_mp_state) -> Result<(), KvmError> {
        self.fd.set_mp_state(state).named("KVM_SET_MP_STATE")
    }

    pub fn events(&self) -> Result<kvm_vcpu_events, KvmError> {
        self.fd.get_vcpu_events().named("KVM_GET_VCPU_EVENTS")
    }

    pub fn set_events(&self, events: &kvm_vcpu_events) -> Result<(), KvmError> {
        self.fd.set_vcpu_events(events).named("KVM_SET_VCPU_EVENTS")
    }

    pub fn debug_regs(&self) -> Result<kvm_debugregs, KvmError> {
        self.fd.get_debug_regs().named("KVM_GET_DEBUGREGS")
    }

    pub fn set_debug_regs(&self, regs: &kvm_debugregs) -> Result<(), KvmError> {
        self.fd.set_debug_regs(regs).named("KVM_SET_DEBUGREGS")
    }

    pub fn xcrs(&self) -> Result<kvm_xcrs, KvmError> {
        self.fd.get_xcrs().named("KVM_GET_XCRS")
    }

    pub fn set_xcrs(&self, xcrs: &kvm_xcrs) -> Result<(), KvmError> {
        self.fd.set_xcrs(xcrs).named("KVM_SET_XCRS")
    }

    /// Reads the listed registers up to the first that there is not; returns how many.
    pub fn msrs(&self, msrs: &mut Msrs) -> Result<usize, KvmError> {
        self.fd.get_msrs(msrs).named("KVM_GET_MSRS")
    }

    /// Sets the listed registers up to the first that is refused; returns how many.
    pub fn try_set_msrs(&self, msrs: &Msrs) -> Result<usize, KvmError> {
        self.fd.set_msrs(msrs).named("KVM_SET_MSRS")
    }

    /// On the thread that is to run it: from now on `signal::call` ends `run`.
    pub fn listen(&self) -> std::io::Result<()> {
        super::signal::listen(&self.fd)
    }

    /// Tells the guest that it stood still, where it listens for that: what it takes for a
    /// stall otherwise is none (KVM_KVMCLOCK_CTRL).
    pub fn stood_still(&self) {
        // Refused where the guest has no such clock.
        let _ = self.fd.kvmclock_ctrl();
    }

    /// Where the guest's page tables put an address; none if nowhere.
    pub fn translate(&self, address: u64) -> Result<Option<u64>, KvmError> {
        let found = self.fd.translate_gva(address).named("KVM_TRANSLATE")?;
        Ok((found.valid != 0).then_some(found.physical_address))
    }

    /// Whether `run` lets KVM finish what the last exit was about and goes no further. What it
    /// was about may need another exit (`rep ins`, an access across two pages); where it needs
    /// none, `run` is `Exit::Again`.
    pub fn stay(&mut self, out: bool) {
        self.fd.set_kvm_immediate_exit(out.into());
    }
}
