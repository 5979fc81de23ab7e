// SPDX-License-Identifier: Apache-2.0
//! `Cpu` over a real vCPU. Runs on the vCPU's thread, between two KVM_RUNs.

use super::{Cpu, CpuError, Exception, Extra};
use crate::kvm::xsave::{XsaveBuffer, XsaveError};
use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events};
use kvm_ioctls::{Cap, SyncReg, VcpuFd, VmFd};
use std::io;

/// DR6.BS: the trap came of a single step.
const DR6_SINGLE_STEP: u64 = 1 << 14;

/// A vCPU that stopped at an instruction KVM refused.
///
/// Where `share_registers` was called before KVM_RUN, registers are read from and written to the
/// page shared with KVM, and cost no system call; what is written takes effect at the next
/// KVM_RUN. Whoever reads registers by ioctl in between (to save the machine, say) must first
/// let a KVM_RUN with `immediate_exit` go by.
pub struct VcpuState<'a> {
    vcpu: &'a mut VcpuFd,
    xsave: &'a mut XsaveBuffer,
    shared: bool,
}

const SHARED: [SyncReg; 3] = [
    SyncReg::Register,
    SyncReg::SystemRegister,
    SyncReg::VcpuEvents,
];

fn shared_mask() -> u64 {
    SHARED
        .iter()
        .fold(0, |mask, &register| mask | register as u64)
}

/// Asks KVM to leave the registers in the shared page at every exit. Worth it on PVM hosts, where
/// an ioctl on a vCPU costs as much as twenty interpreted instructions; elsewhere nobody looks.
pub fn share_registers(vm: &VmFd, vcpu: &mut VcpuFd) {
    let known = u64::try_from(vm.check_extension_int(Cap::SyncRegs)).unwrap_or(0);
    if known & shared_mask() == shared_mask() {
        for register in SHARED {
            vcpu.set_sync_valid_reg(register);
        }
    }
}

impl<'a> VcpuState<'a> {
    /// `xsave` is scratch space, allocated once per vCPU.
    pub fn new(vcpu: &'a mut VcpuFd, xsave: &'a mut XsaveBuffer) -> Self {
        let shared = vcpu.get_kvm_run().kvm_valid_regs & shared_mask() == shared_mask();
        Self {
            vcpu,
            xsave,
            shared,
        }
    }

    fn events(&self) -> Result<kvm_vcpu_events, CpuError> {
        if self.shared {
            return Ok(self.vcpu.sync_regs().events);
        }
        self.vcpu
            .get_vcpu_events()
            .map_err(failed("KVM_GET_VCPU_EVENTS"))
    }

    fn set_events(&mut self, events: &kvm_vcpu_events) -> Result<(), CpuError> {
        if self.shared {
            self.vcpu.sync_regs_mut().events = *events;
            self.vcpu.set_sync_dirty_reg(SyncReg::VcpuEvents);
            return Ok(());
        }
        self.vcpu
            .set_vcpu_events(events)
            .map_err(failed("KVM_SET_VCPU_EVENTS"))
    }
}

fn failed(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> CpuError {
    move |error| CpuError {
        call,
        source: io::Error::from_raw_os_error(error.errno()),
    }
}

fn xsave_failed(error: XsaveError) -> CpuError {
    match error {
        XsaveError::Set(error) => failed("KVM_SET_XSAVE")(error),
        XsaveError::Get(error) => failed("KVM_GET_XSAVE2")(error),
        other => CpuError {
            call: "KVM_GET_XSAVE2",
            source: io::Error::other(other),
        },
    }
}

fn one_msr(index: u32, data: u64) -> Result<Msrs, CpuError> {
    let entry = kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[entry]).map_err(|_| CpuError {
        call: "KVM_GET_MSRS",
        source: io::Error::from(io::ErrorKind::OutOfMemory),
    })
}

impl Cpu for VcpuState<'_> {
    fn regs(&mut self) -> Result<kvm_regs, CpuError> {
        if self.shared {
            return Ok(self.vcpu.sync_regs().regs);
        }
        self.vcpu.get_regs().map_err(failed("KVM_GET_REGS"))
    }

    fn set_regs(&mut self, regs: &kvm_regs) -> Result<(), CpuError> {
        if self.shared {
            self.vcpu.sync_regs_mut().regs = *regs;
            self.vcpu.set_sync_dirty_reg(SyncReg::Register);
            return Ok(());
        }
        self.vcpu.set_regs(regs).map_err(failed("KVM_SET_REGS"))
    }

    fn sregs(&mut self) -> Result<kvm_sregs, CpuError> {
        if self.shared {
            return Ok(self.vcpu.sync_regs().sregs);
        }
        self.vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))
    }

    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<(), CpuError> {
        self.vcpu.set_sregs(sregs).map_err(failed("KVM_SET_SREGS"))
    }

    fn xcr0(&mut self) -> Result<u64, CpuError> {
        let all = self.vcpu.get_xcrs().map_err(failed("KVM_GET_XCRS"))?;
        let count = usize::try_from(all.nr_xcrs).unwrap_or(0);
        Ok(all
            .xcrs
            .iter()
            .take(count)
            .find(|one| one.xcr == 0)
            .map_or(1, |one| one.value))
    }

    fn set_xcr0(&mut self, value: u64) -> Result<bool, CpuError> {
        let mut all = kvm_bindings::kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        all.xcrs[0].value = value;
        Ok(self.vcpu.set_xcrs(&all).is_ok())
    }

    fn msr(&mut self, index: u32) -> Result<Option<u64>, CpuError> {
        let mut msrs = one_msr(index, 0)?;
        let read = self
            .vcpu
            .get_msrs(&mut msrs)
            .map_err(failed("KVM_GET_MSRS"))?;
        Ok(msrs
            .as_slice()
            .first()
            .filter(|_| read == 1)
            .map(|entry| entry.data))
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<bool, CpuError> {
        let msrs = one_msr(index, value)?;
        Ok(self.vcpu.set_msrs(&msrs).map_err(failed("KVM_SET_MSRS"))? == 1)
    }

    fn load_xsave(&mut self) -> Result<(), CpuError> {
        self.xsave.get(self.vcpu).map_err(xsave_failed)
    }

    fn image(&mut self) -> &mut [u8] {
        self.xsave.bytes_mut()
    }

    fn store_xsave(&mut self) -> Result<(), CpuError> {
        self.xsave.set(self.vcpu).map_err(xsave_failed)
    }

    /// The exception is handed over as injected, not pending, so that KVM delivers it as it is
    /// whether or not KVM_CAP_EXCEPTION_PAYLOAD is on; what goes with it is set by hand.
    fn inject(&mut self, exception: &Exception) -> Result<(), CpuError> {
        match exception.extra {
            Extra::Nothing => {}
            Extra::Address(address) => {
                let mut sregs = self.sregs()?;
                sregs.cr2 = address;
                self.set_sregs(&sregs)?;
            }
            Extra::SingleStep => {
                let debug = self
                    .vcpu
                    .get_debug_regs()
                    .map_err(failed("KVM_GET_DEBUGREGS"))?;
                let mut debug = debug;
                debug.dr6 |= DR6_SINGLE_STEP;
                self.vcpu
                    .set_debug_regs(&debug)
                    .map_err(failed("KVM_SET_DEBUGREGS"))?;
            }
        }
        let mut events = self.events()?;
        events.exception.injected = 1;
        events.exception.pending = 0;
        events.exception.nr = exception.vector;
        events.exception.has_error_code = u8::from(exception.error_code.is_some());
        events.exception.error_code = exception.error_code.unwrap_or(0);
        events.exception_has_payload = 0;
        self.set_events(&events)
    }
}
