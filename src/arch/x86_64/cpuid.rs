// SPDX-License-Identifier: Apache-2.0
//! What a guest's processor says of itself: what KVM supports, and the shape of this machine.
//!
//! Every processor is a core of one package, without sibling threads, and its APIC id is
//! its index.

use super::host::HostKind;
use crate::units::Variant;
use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use std::arch::x86_64::{__cpuid, __cpuid_count};

/// KVM's own leaves (Documentation/virt/kvm/x86/cpuid.rst).
const KVM_FEATURES: u32 = 0x4000_0001;
const KVM_FEATURE_PV_UNHALT: u32 = 1 << 7;
const KVM_FEATURE_PV_SEND_IPI: u32 = 1 << 11;
const KVM_FEATURE_PV_SCHED_YIELD: u32 = 1 << 13;
const KVM_FEATURE_ASYNC_PF: u32 = (1 << 4) | (1 << 10) | (1 << 14);

const KVM_FEATURE_HC_MAP_GPA_RANGE: u32 = 1 << 16;
/// Asked for with VMCALL.
const KVM_FEATURES_BY_VMCALL: u32 = KVM_FEATURE_PV_UNHALT
    | KVM_FEATURE_PV_SEND_IPI
    | KVM_FEATURE_PV_SCHED_YIELD
    | KVM_FEATURE_HC_MAP_GPA_RANGE;

/// The table for processor `index` of `cpus`, from what the host's KVM supports.
pub fn for_vcpu(supported: &CpuId, index: u8, cpus: u8, host: HostKind, variant: Variant) -> CpuId {
    let mut table = supported.clone();
    for entry in table.as_mut_slice() {
        adapt(entry, index, cpus, host);
        if variant == Variant::Ring3 {
            hide_from_ring3(entry, native_fsgsbase());
        }
    }
    table
}

/// What a kernel in ring 3 must not try to use: what needs ring 0 at every use, what would
/// forbid it its own pages, which programs may reach, and what the host keeps for itself.
fn hide_from_ring3(entry: &mut kvm_cpuid_entry2, fsgsbase: bool) {
    match (entry.function, entry.index) {
        (1, _) => {
            const MONITOR: u32 = 1 << 3;
            const PCID: u32 = 1 << 17;
            const X2APIC: u32 = 1 << 21;
            const TSC_DEADLINE: u32 = 1 << 24;
            entry.ecx &= !(MONITOR | PCID | X2APIC | TSC_DEADLINE);
        }
        // MONITOR and MWAIT's own leaf.
        (5, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        (7, 0) => {
            const FSGSBASE: u32 = 1;
            const SMEP: u32 = 1 << 7;
            const INVPCID: u32 = 1 << 10;
            const SMAP: u32 = 1 << 20;
            entry.ebx &= !(SMEP | INVPCID | SMAP);
            // It switches stacks by RDGSBASE and WRGSBASE, which run natively where the
            // processor has them.
            entry.ebx = (entry.ebx & !FSGSBASE) | u32::from(fsgsbase);
            const UMIP: u32 = 1 << 2;
            const PKU: u32 = 1 << 3;
            const OSPKE: u32 = 1 << 4;
            const SHADOW_STACK: u32 = 1 << 7;
            const LA57: u32 = 1 << 16;
            const PKS: u32 = 1 << 31;
            entry.ecx &= !(UMIP | PKU | OSPKE | SHADOW_STACK | LA57 | PKS);
            const BRANCH_TRACKING: u32 = 1 << 20;
            entry.edx &= !BRANCH_TRACKING;
        }
        (7, 1) => {
            // Other ways into and out of the kernel, and addresses that mean something else.
            const LASS: u32 = 1 << 6;
            const FRED: u32 = 1 << 17;
            const LKGS: u32 = 1 << 18;
            const LAM: u32 = 1 << 26;
            entry.eax &= !(LASS | FRED | LKGS | LAM);
        }
        // XSAVE runs natively, under the host's XCR0: KVM offers no component that is not in
        // it, and its sizes follow what the guest sets. XSAVES is for ring 0, and with it goes
        // every component that only XSAVES saves.
        (0xd, 0) => {}
        (0xd, 1) => {
            const XSAVES: u32 = 1 << 3;
            entry.eax &= !XSAVES;
            (entry.ecx, entry.edx) = (0, 0);
        }
        (0xd, _) => {
            const SUPERVISOR: u32 = 1;
            if entry.ecx & SUPERVISOR != 0 {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
        }
        (KVM_FEATURES, _) => entry.eax &= !(KVM_FEATURES_BY_VMCALL | KVM_FEATURE_ASYNC_PF),
        _ => {}
    }
}

/// CPUID.7.0:EBX.FSGSBASE of this processor.
fn native_fsgsbase() -> bool {
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 != 0
}

/// Every bit the guest may set in XCR0; none where it has no XSAVE.
pub fn xcr0(table: &CpuId) -> Option<u64> {
    let find = |function| {
        let mut entries = table.as_slice().iter();
        entries.find(|entry| entry.function == function && entry.index == 0)
    };
    let has_xsave = find(1)?.ecx & (1 << 26) != 0;
    let state = find(0xd)?;
    has_xsave.then_some(u64::from(state.edx) << 32 | u64::from(state.eax))
}

fn adapt(entry: &mut kvm_cpuid_entry2, index: u8, cpus: u8, host: HostKind) {
    let id = u32::from(index);
    let count = u32::from(cpus);
    // Bits of an APIC id that tell processors of the package apart.
    let id_bits = count.next_power_of_two().trailing_zeros();
    match entry.function {
        1 => {
            // EBX: initial APIC id and number of ids; ECX 24: the TSC deadline timer, which KVM
            // has in every in-kernel local APIC and leaves to us to announce; ECX 31:
            // hypervisor; EDX 28: more than one id in the package.
            entry.ebx = (entry.ebx & 0xffff) | (id << 24) | (count << 16);
            entry.ecx |= (1 << 24) | (1 << 31);
            entry.edx = (entry.edx & !(1 << 28)) | (u32::from(cpus > 1) << 28);
        }
        // Deterministic cache parameters: no sharing between cores up to level 2, all above.
        4 if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { count - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing << 14) | ((count - 1).min(63) << 26);
        }
        // Extended topology: level 0 threads, level 1 cores.
        0xb | 0x1f => {
            let (shift, number, kind) = match entry.index {
                0 => (0, 1, 1),
                1 => (id_bits, count, 2),
                _ => (0, 0, 0),
            };
            entry.eax = shift;
            entry.ebx = number;
            entry.ecx = (entry.index & 0xff) | (kind << 8);
            entry.edx = id;
        }
        KVM_FEATURES if host.interprets_ring0() => {
            // These are asked for with VMCALL, which KVM's emulator patches and retries for ever,
            // or answer with exceptions the interpreted kernel pays dearly for.
            entry.eax &= !(KVM_FEATURES_BY_VMCALL | KVM_FEATURE_ASYNC_PF);
        }
        // AMD: number of cores and width of the id in it.
        0x8000_0008 => entry.ecx = (id_bits << 12) | (count - 1),
        // AMD: cache properties, as leaf 4.
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { count - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing << 14);
        }
        // AMD: extended APIC id, core id with one thread a core, one node.
        0x8000_001e => {
            entry.eax = id;
            entry.ebx = id;
            entry.ecx = 0;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> CpuId {
        let leaf = |function, index, eax| kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ..Default::default()
        };
        CpuId::from_entries(&[
            leaf(1, 0, 0),
            leaf(4, 2, 2 << 5 | 3),
            leaf(4, 3, 3 << 5 | 3),
            leaf(0xb, 0, 0),
            leaf(0xb, 1, 0),
            leaf(0xd, 0, 0x207),
            leaf(KVM_FEATURES, 0, u32::MAX),
            leaf(0x8000_0008, 0, 0x3030),
        ])
        .expect("eight leaves")
    }

    fn find(table: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *table
            .as_slice()
            .iter()
            .find(|entry| (entry.function, entry.index) == (function, index))
            .expect("the leaf")
    }

    #[test]
    fn each_processor_has_its_own_id_in_one_package() {
        let fifth = for_vcpu(&table(), 5, 6, HostKind::Vmx, Variant::Ring0);
        let one = find(&fifth, 1, 0);
        assert_eq!((one.ebx >> 24, (one.ebx >> 16) & 0xff), (5, 6));
        assert_ne!(one.edx & (1 << 28), 0);
        assert_ne!(one.ecx & (1 << 24), 0, "TSC deadline");
        assert_eq!(find(&fifth, 0xb, 0).edx, 5);
        let cores = find(&fifth, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (3, 6, 0x201));
        assert_eq!(
            find(&fifth, 4, 2).eax >> 14 & 0xfff,
            0,
            "level 2 is private"
        );
        assert_eq!(find(&fifth, 4, 3).eax >> 14 & 0xfff, 5, "level 3 is shared");
        assert_eq!(find(&fifth, 0x8000_0008, 0).ecx, 3 << 12 | 5);

        let single = for_vcpu(&table(), 0, 1, HostKind::Svm, Variant::Ring0);
        assert_eq!(find(&single, 1, 0).edx & (1 << 28), 0);
        assert_eq!(find(&single, 0xb, 1).eax, 0);
    }

    #[test]
    fn xcr0_is_what_leaf_13_offers_to_those_who_have_xsave() {
        let mut table = table();
        assert_eq!(xcr0(&table), None);
        table.as_mut_slice()[0].ecx = 1 << 26;
        assert_eq!(xcr0(&table), Some(0x207));
    }

    #[test]
    fn hypercalls_are_offered_only_where_the_processor_makes_them() {
        let of = |host| for_vcpu(&table(), 0, 1, host, Variant::Ring0);
        let (pvm, svm) = (of(HostKind::Pvm), of(HostKind::Svm));
        assert_eq!(find(&svm, KVM_FEATURES, 0).eax, u32::MAX);
        assert_eq!(find(&pvm, KVM_FEATURES, 0).eax & KVM_FEATURE_PV_SEND_IPI, 0);
        assert_ne!(find(&pvm, KVM_FEATURES, 0).eax & 1, 0, "kvmclock stays");
    }

    /// A leaf that has everything, and the same leaf as a kernel in ring 3 sees it.
    fn shown(function: u32, index: u32, fsgsbase: bool) -> kvm_cpuid_entry2 {
        let mut entry = kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        hide_from_ring3(&mut entry, fsgsbase);
        entry
    }

    /// The bits of a register that are hidden.
    fn hidden(register: u32) -> Vec<u32> {
        (0..32).filter(|bit| register & 1 << bit == 0).collect()
    }

    #[test]
    fn a_kernel_in_ring_3_is_not_shown_what_ring_0_is_for() {
        assert_eq!(hidden(shown(1, 0, true).ecx), [3, 17, 21, 24]);
        assert_eq!(shown(5, 0, true).edx, 0);
        let seven = shown(7, 0, true);
        assert_eq!(hidden(seven.ebx), [7, 10, 20]);
        assert_eq!(hidden(seven.ecx), [2, 3, 4, 7, 16, 31]);
        assert_eq!(hidden(seven.edx), [20]);
        assert_eq!(hidden(shown(7, 0, false).ebx), [0, 7, 10, 20]);
        assert_eq!(hidden(shown(7, 1, true).eax), [6, 17, 18, 26]);
        let features = shown(KVM_FEATURES, 0, true);
        assert_eq!(hidden(features.eax), [4, 7, 10, 11, 13, 14, 16]);
    }

    #[test]
    fn ring_3_saves_what_xcr0_names_and_nothing_else() {
        assert_eq!(hidden(shown(0xd, 0, true).eax), [] as [u32; 0]);
        let compact = shown(0xd, 1, true);
        assert_eq!(hidden(compact.eax), [3], "XSAVEOPT, XSAVEC and XGETBV stay");
        assert_eq!((compact.ecx, compact.edx), (0, 0));
        assert_eq!(shown(0xd, 11, true).eax, 0, "of XSAVES alone");
        let mut user = kvm_cpuid_entry2 {
            function: 0xd,
            index: 2,
            eax: 256,
            ebx: 576,
            ..Default::default()
        };
        hide_from_ring3(&mut user, true);
        assert_eq!((user.eax, user.ebx), (256, 576));
    }

    #[test]
    fn a_table_for_ring_3_hides_and_offers_by_the_hosts_own_processor() {
        let mut all = table();
        all.as_mut_slice()[0].ecx = u32::MAX;
        let three = for_vcpu(&all, 1, 2, HostKind::Pvm, Variant::Ring3);
        let one = find(&three, 1, 0);
        assert_eq!(one.ecx & (1 << 24), 0, "no TSC deadline");
        assert_ne!(one.ecx & (1 << 31), 0, "the hypervisor bit stays");
        assert_eq!(one.ebx >> 24, 1);
        let zero = for_vcpu(&all, 1, 2, HostKind::Pvm, Variant::Ring0);
        assert_ne!(find(&zero, 1, 0).ecx & (1 << 21), 0, "x2APIC");
    }
}
