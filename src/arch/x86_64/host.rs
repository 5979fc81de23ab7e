// SPDX-License-Identifier: Apache-2.0
//! Which kind of KVM this host has, told by the processor it shows.

use crate::units::Variant;
use std::arch::x86_64::{__cpuid, __cpuid_count};

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

/// What the processor itself says of a leaf of CPUID: EAX, EBX, ECX, EDX. Nothing of leaves it
/// does not have.
pub fn cpuid(function: u32, index: u32) -> [u32; 4] {
    let last = __cpuid(function & 0xffff_0000).eax;
    if function > last {
        return [0; 4];
    }
    let leaf = __cpuid_count(function, index);
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
}

/// Which processor this is: vendor, and its signature (CPUID 0 and 1).
pub fn processor() -> String {
    let (vendor, signature) = (__cpuid(0), __cpuid(1).eax);
    let [a, b, c] = [vendor.ebx, vendor.edx, vendor.ecx];
    format!("{a:08x}{b:08x}{c:08x}-{signature:08x}")
}

/// For a kernel that is interpreted: features whose instructions leave KVM at every use, or
/// move bytes one by one, are hidden from it (KVM shows some of them whatever its CPUID table
/// says), and block operations are asked of us (`assist`). No speculation happens in
/// interpreted code, so nothing is mitigated there; and write-protecting the kernel from
/// itself costs half a second.
const INTERPRETED_WORDS: &[&str] = &[
    "husk.assist=1",
    "clearcpuid=smap,smep,umip,popcnt,cx16,erms,fsrm,fsrs,invpcid",
    "mitigations=off",
    "no-steal-acc",
    "rodata=off",
];

/// For a kernel in ring 3, native but for what only ring 0 may do: its local APIC is reached
/// by memory, since an x2APIC's registers are MSRs; programs can read its memory whatever it
/// mitigates; and stolen time is a store of the host's at each switch that says nothing here.
const RING3_WORDS: &[&str] = &["nox2apic", "mitigations=off", "no-steal-acc"];

impl HostKind {
    /// Whether the guest's kernel runs in KVM's instruction emulator.
    pub fn interprets_ring0(self) -> bool {
        self == Self::Pvm
    }

    /// Words for the command line of a kernel of this variant.
    pub fn kernel_words(self, variant: Variant) -> &'static [&'static str] {
        match (variant, self.interprets_ring0()) {
            (Variant::Ring0, false) => &[],
            (Variant::Ring0, true) => INTERPRETED_WORDS,
            (Variant::Ring3, _) => RING3_WORDS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_interpreted_kernel_asks_for_help() {
        let words = |host: HostKind, variant| host.kernel_words(variant).join(" ");
        assert_eq!(words(HostKind::Vmx, Variant::Ring0), "");
        assert_eq!(words(HostKind::Svm, Variant::Ring0), "");
        let interpreted = words(HostKind::Pvm, Variant::Ring0);
        assert!(interpreted.contains("husk.assist=1") && interpreted.contains("clearcpuid="));
        let native = words(HostKind::Pvm, Variant::Ring3);
        assert!(native.contains("nox2apic"), "{native}");
        for word in ["husk.assist", "rodata", "clearcpuid"] {
            assert!(!native.contains(word), "{native}");
        }
    }
}
