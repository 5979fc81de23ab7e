// SPDX-License-Identifier: Apache-2.0
//! The vCPU's extended state as KVM hands it over: the standard, non-compacted XSAVE format
//! (SDM vol. 1, 13.4), as many bytes as this host's KVM uses. Runs on the vCPU's thread;
//! never interprets the bytes.
#![expect(
    unsafe_code,
    reason = "the KVM structure ends in an array sized at run time"
)]

use kvm_bindings::{Xsave, kvm_xsave};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use std::slice;

/// What KVM_GET_XSAVE moves where KVM_CAP_XSAVE2 is absent.
const LEGACY_BYTES: usize = size_of::<kvm_xsave>();

/// More than this no XSAVE area is (AMX included: 11 KiB); a KVM that claims more is not
/// believed, so that its answer cannot size an allocation.
const MAX_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum XsaveError {
    #[error("KVM wants an XSAVE area of {0} bytes")]
    Size(i32),
    #[error("the XSAVE area cannot be allocated")]
    Allocate,
    #[error("KVM_GET_XSAVE2 failed")]
    Get(#[source] kvm_ioctls::Error),
    #[error("KVM_SET_XSAVE failed")]
    Set(#[source] kvm_ioctls::Error),
}

/// One buffer, allocated once per vCPU and filled for every completion that needs it.
pub struct XsaveBuffer {
    state: Xsave,
    len: usize,
    xsave2: bool,
}

impl XsaveBuffer {
    /// A buffer for the vCPUs of `vm`. Features the process turned on with
    /// ARCH_REQ_XCOMP_GUEST_PERM must be on before.
    pub fn new(vm: &VmFd) -> Result<Self, XsaveError> {
        let told = vm.check_extension_int(Cap::Xsave2);
        let len = usize::try_from(told).map_err(|_| XsaveError::Size(told))?;
        if len > MAX_BYTES {
            return Err(XsaveError::Size(told));
        }
        let xsave2 = len != 0;
        let len = len.max(LEGACY_BYTES);
        let extra = (len - LEGACY_BYTES).div_ceil(size_of::<u32>());
        let state = Xsave::new(extra).map_err(|_| XsaveError::Allocate)?;
        Ok(Self {
            state,
            len: LEGACY_BYTES + extra * size_of::<u32>(),
            xsave2,
        })
    }

    /// Fills the buffer from the vCPU.
    pub fn get(&mut self, vcpu: &VcpuFd) -> Result<(), XsaveError> {
        if self.xsave2 {
            // SAFETY: KVM writes as many bytes as KVM_CAP_XSAVE2 told `new`, and the wrapper was
            // allocated with at least that many: 4096 in the header, the rest as its entries.
            return unsafe { vcpu.get_xsave2(&mut self.state) }.map_err(XsaveError::Get);
        }
        let state = vcpu.get_xsave().map_err(XsaveError::Get)?;
        let places = self.bytes_mut().chunks_exact_mut(size_of::<u32>());
        for (word, place) in state.region.iter().zip(places) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(())
    }

    /// Gives the buffer back to the vCPU. KVM refuses state the host CPU would not load.
    pub fn set(&self, vcpu: &VcpuFd) -> Result<(), XsaveError> {
        // SAFETY: KVM reads as many bytes as KVM_CAP_XSAVE2 told `new` (4096 without that
        // capability), and the wrapper was allocated with at least that many.
        unsafe { vcpu.set_xsave2(&self.state) }.map_err(XsaveError::Set)
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let header = self.state.as_mut_fam_struct_ptr();
        // SAFETY: `new` allocated the header, whose last member is the XSAVE area of 4096 bytes,
        // and `extra` words right behind it; together `len` bytes of plain integers. The borrow
        // of self keeps everyone else away from them.
        unsafe { slice::from_raw_parts_mut((&raw mut (*header).xsave).cast::<u8>(), self.len) }
    }
}
