// SPDX-License-Identifier: Apache-2.0
//! Which kind of KVM this host has, told by the processor it shows.

use std::arch::x86_64::__cpuid;

/// What stands behind /dev/kvm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostKind {
    /// Intel VT-x.
    Vmx,
    /// AMD-V.
    Svm,
    /// No hardware virtualisation: page tables in software, ring 3 native, ring 0 interpreted.
    Pvm,
}

/// CPUID.1:ECX.VMX (Intel SDM volume 2) and CPUID.8000_0001h:ECX.SVM (AMD APM volume 3): a
/// /dev/kvm that answers on a processor with neither works without the hardware.
pub fn kind() -> HostKind {
    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;
    if __cpuid(1).ecx & VMX != 0 {
        HostKind::Vmx
    } else if __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & SVM != 0 {
        HostKind::Svm
    } else {
        HostKind::Pvm
    }
}

impl HostKind {
    /// Whether the guest's kernel runs in KVM's instruction emulator.
    pub fn interprets_ring0(self) -> bool {
        self == Self::Pvm
    }

    /// Words for the kernel's command line. Where ring 0 is interpreted, features whose
    /// instructions leave KVM at every use, or move bytes one by one, are hidden from the
    /// kernel (KVM shows some of them whatever its CPUID table says), and block operations
    /// are asked of us (`assist`). No speculation happens in interpreted code, so nothing is
    /// mitigated there; and write-protecting the kernel from itself costs half a second.
    pub fn kernel_words(self) -> &'static [&'static str] {
        if self.interprets_ring0() {
            &[
                "husk.assist=1",
                "clearcpuid=smap,smep,umip,popcnt,cx16,erms,fsrm,fsrs,invpcid",
                "mitigations=off",
                "no-steal-acc",
                "rodata=off",
            ]
        } else {
            &[]
        }
    }
}
