// SPDX-License-Identifier: Apache-2.0
//! KVM as the machine uses it: a virtual machine, its vCPUs, and nothing that can be
//! called in the wrong order.

pub mod failure;
pub mod random;
pub mod signal;
mod vcpu;
mod vm;
pub mod xsave;

pub use vcpu::{Exit, Vcpu};
pub use vm::{CreateVm, Vm};

/// A call KVM refused.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed")]
pub struct KvmError {
    pub call: &'static str,
    pub source: kvm_ioctls::Error,
}

/// Names the call in the error of an ioctl.
pub(crate) trait Naming<T> {
    fn named(self, call: &'static str) -> Result<T, KvmError>;
}

impl<T> Naming<T> for Result<T, kvm_ioctls::Error> {
    fn named(self, call: &'static str) -> Result<T, KvmError> {
        self.map_err(|source| KvmError { call, source })
    }
}
