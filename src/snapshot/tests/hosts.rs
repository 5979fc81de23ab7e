// SPDX-License-Identifier: Apache-2.0
//! What a machine needs of a host, and hosts that lack it.

use super::made::{self, Kept};
use super::*;
use crate::snapshot::cpu;
use crate::units::Variant;

/// A host that has just what a machine needs.
fn host(needs: &Needs) -> HostCpu {
    HostCpu {
        cpuid: needs.cpuid.clone(),
        xsave: needs.xsave,
        registers: needs.registers.iter().copied().collect(),
        bound: Bound {
            processor: "this".into(),
            boot: "now".into(),
        },
    }
}

fn needs(variant: Variant) -> Needs {
    cpu::needs(&made::state(variant)).unwrap()
}

fn told(host: &HostCpu, needs: &Needs) -> String {
    host.check(needs).unwrap_err().to_string()
}

#[test]
fn a_host_that_lacks_a_feature_is_refused_by_the_features_name() {
    let needs = needs(Variant::Ring0);
    let mut other = host(&needs);
    other.check(&needs).unwrap();
    let at = |host: &HostCpu, function, index| {
        let is = |leaf: &format::Leaf| (leaf.function, leaf.index) == (function, index);
        host.cpuid.iter().position(is).unwrap()
    };
    let seven = at(&other, 7, 0);
    other.cpuid[seven].ebx &= !(1 << 5 | 1 << 16);
    assert_eq!(told(&other, &needs), "its processor lacks avx2, avx512f");
    other.cpuid[seven].edx = 0;
    let said = told(&other, &needs);
    assert!(said.starts_with("its processor lacks avx2, avx512f, fsrm, md_clear and "));
    assert!(said.ends_with(" more"), "{said}");
    // A leaf that is not there has no bits.
    let mut other = host(&needs);
    other.cpuid.remove(seven);
    assert!(told(&other, &needs).contains("tsc_adjust"), "of leaf 7");
    // Each single bit counts, by whatever name, but for those that are not the host's.
    for (function, index, bit, named) in [
        (1, 0, 12, "fma"),
        (0xd, 0, 9, "CPUID.Dh.0:EAX[9]"),
        (7, 1, 10, "fzrm"),
        (0x4000_0001, 0, 0, "kvmclock"),
        (0x8000_0001, 0, 5, "abm"),
    ] {
        let mut other = host(&needs);
        let at = at(&other, function, index);
        let leaf = &mut other.cpuid[at];
        match function {
            1 | 0x8000_0001 => leaf.ecx &= !(1 << bit),
            _ => leaf.eax &= !(1 << bit),
        }
        assert_eq!(told(&other, &needs), format!("its processor lacks {named}"));
    }
    let mut other = host(&needs);
    let one = at(&other, 1, 0);
    // TSC deadline, OSXSAVE, hypervisor: husk's and the guest's own doing.
    other.cpuid[one].ecx &= !(1 << 24 | 1 << 27 | 1 << 31);
    other.cpuid[one].edx &= !(1 << 28);
    // More than it needs is no harm.
    other.cpuid[seven].ecx |= 1 << 16;
    other.check(&needs).unwrap();
}

#[test]
fn another_vendor_extended_state_or_register_is_refused() {
    let needs = needs(Variant::Ring0);
    let mut other = host(&needs);
    other.cpuid[0].ebx = u32::from_le_bytes(*b"Auth");
    assert_eq!(
        told(&other, &needs),
        "it needs a processor of GenuineIntel, this is one of AuthineIntel"
    );
    let mut other = host(&needs);
    other.xsave = 11_008;
    assert_eq!(
        told(&other, &needs),
        "its processors have 4096 bytes of extended state, this host's 11008"
    );
    let mut other = host(&needs);
    other.registers.remove(&0x6e0);
    assert_eq!(
        told(&other, &needs),
        "KVM lacks the machine-specific registers 0x6e0"
    );
}

#[test]
fn a_kernel_in_ring_3_stays_on_its_host() {
    let mut needs = needs(Variant::Ring3);
    let mut here = host(&needs);
    here.bound = needs.bound.clone().unwrap();
    here.check(&needs).unwrap();
    // The same processor has what it has, whatever KVM offers.
    here.cpuid[2].ebx &= !1;
    here.check(&needs).unwrap();
    needs.model = "Xeon".into();
    let mut other = here.clone();
    other.bound.boot = "later".into();
    assert!(told(&other, &needs).contains("the host was booted since"));
    other.bound.processor = "another".into();
    assert!(told(&other, &needs).ends_with("this is no Xeon"));
}

#[test]
fn this_host_can_be_asked() {
    // Where there is no KVM, that is the answer.
    let Ok(host) = HostCpu::read() else {
        assert!(
            File::open("/dev/kvm").is_err(),
            "KVM opens, and cannot be asked"
        );
        return;
    };
    let mine = Needs {
        vendor: cpu::vendor(&host.cpuid),
        model: String::new(),
        cpuid: host.cpuid.clone(),
        xsave: host.xsave,
        registers: host.registers.iter().copied().collect(),
        bound: Some(host.bound.clone()),
    };
    host.check(&mine).unwrap();
    // A processor of nobody's.
    let kept = Kept::new();
    let made = kept.whole("a", 1);
    host.check(&made.manifest.needs).unwrap_err();
}
