// SPDX-License-Identifier: Apache-2.0
//! What a machine's processors need of a host, and whether this one has it. Any thread of the
//! tool; opens /dev/kvm to ask, and makes no machine.

use super::format::{Bound, Leaf, Needs};
use crate::arch::host;
use crate::machine::MachineState;
use crate::units::Variant;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_xsave};
use kvm_ioctls::{Cap, Kvm};
use std::collections::BTreeSet;
use std::fmt;
use std::io;

pub(super) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Things that lack and are named; the rest is counted.
const NAMED: usize = 4;

/// What this host offers.
#[derive(Clone, Debug)]
pub struct HostCpu {
    /// What KVM can show to a guest.
    pub cpuid: Vec<Leaf>,
    pub xsave: u32,
    pub registers: BTreeSet<u32>,
    pub bound: Bound,
}

/// Why a machine cannot go on on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    Vendor { needed: String, found: String },
    Processor { model: String },
    Boot,
    Features(Vec<String>),
    Extended { needed: u32, found: u32 },
    Registers(Vec<u32>),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vendor { needed, found } => {
                write!(
                    f,
                    "it needs a processor of {needed}, this is one of {found}"
                )
            }
            Self::Processor { model } => write!(
                f,
                "its kernel runs in ring 3, on the very processor it began on, and this is no {model}"
            ),
            Self::Boot => {
                f.write_str("its kernel runs in ring 3, and the host was booted since it began")
            }
            Self::Features(names) => write!(f, "its processor lacks {}", some(names)),
            Self::Extended { needed, found } => write!(
                f,
                "its processors have {needed} bytes of extended state, this host's {found}"
            ),
            Self::Registers(numbers) => {
                let names: Vec<String> = numbers.iter().map(|n| format!("{n:#x}")).collect();
                write!(
                    f,
                    "KVM lacks the machine-specific registers {}",
                    some(&names)
                )
            }
        }
    }
}

/// The first few.
fn some(names: &[String]) -> String {
    match names.split_at_checked(NAMED) {
        Some((first, rest)) if !rest.is_empty() => {
            format!("{} and {} more", first.join(", "), rest.len())
        }
        _ => names.join(", "),
    }
}

impl HostCpu {
    pub fn read() -> io::Result<Self> {
        let kvm = Kvm::new()?;
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        let registers = kvm.get_msr_index_list()?;
        let xsave = kvm.check_extension_int(Cap::Xsave2);
        let xsave = u32::try_from(xsave).unwrap_or(0);
        let legacy = u32::try_from(size_of::<kvm_xsave>()).unwrap_or(u32::MAX);
        let mut cpuid: Vec<Leaf> = supported.as_slice().iter().map(Leaf::of).collect();
        if host::kind().interprets_ring0() {
            // What a guest runs natively, it has, whatever KVM says it can show.
            cpuid.iter_mut().for_each(Leaf::add_native);
        }
        Ok(Self {
            cpuid,
            xsave: xsave.max(legacy),
            registers: registers.as_slice().iter().copied().collect(),
            bound: here()?,
        })
    }

    /// The first kind of thing that this host lacks, all of its kind.
    pub fn check(&self, needs: &Needs) -> Result<(), Unfit> {
        let found = vendor(&self.cpuid);
        if needs.vendor != found {
            let needed = needs.vendor.clone();
            return Err(Unfit::Vendor { needed, found });
        }
        if let Some(bound) = &needs.bound {
            if bound.processor != self.bound.processor {
                let model = needs.model.clone();
                return Err(Unfit::Processor { model });
            }
            if bound.boot != self.bound.boot {
                return Err(Unfit::Boot);
            }
        }
        // The same processor has the same features.
        let lacking = self.lacking(needs);
        if needs.bound.is_none() && !lacking.is_empty() {
            return Err(Unfit::Features(lacking));
        }
        if needs.xsave != self.xsave {
            return Err(Unfit::Extended {
                needed: needs.xsave,
                found: self.xsave,
            });
        }
        let missing = needs.registers.iter().copied();
        let missing: Vec<u32> = missing.filter(|n| !self.registers.contains(n)).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Unfit::Registers(missing)),
        }
    }

    fn lacking(&self, needs: &Needs) -> Vec<String> {
        let mut names = Vec::new();
        for group in &FEATURES {
            let at = |leaf: &&Leaf| (leaf.function, leaf.index) == (group.function, group.index);
            let bits = |leaves: &[Leaf]| {
                let leaf = leaves.iter().find(at);
                leaf.map_or(0, |leaf| group.register.of(leaf))
            };
            let lack = bits(&needs.cpuid) & !bits(&self.cpuid) & !group.ours;
            let lack = (0..u32::BITS).filter(|bit| lack & 1 << bit != 0);
            names.extend(lack.map(|bit| group.name(bit)));
        }
        names
    }
}

/// What a state needs of a host, which is this one if it is bound to one.
pub(super) fn needs(state: &MachineState) -> io::Result<Needs> {
    let mut needs = unbound(state);
    needs.bound = match state.variant {
        Variant::Ring0 => None,
        Variant::Ring3 => Some(here()?),
    };
    Ok(needs)
}

/// Whether a manifest says of a state what there is to say.
pub(super) fn matches(state: &MachineState, needs: &Needs) -> bool {
    let bound = needs.bound.is_some() == (state.variant == Variant::Ring3);
    let own = Needs {
        bound: needs.bound.clone(),
        ..unbound(state)
    };
    bound && own == *needs
}

fn unbound(state: &MachineState) -> Needs {
    let first = state.cpus.first();
    let cpuid: Vec<Leaf> =
        first.map_or_else(Vec::new, |cpu| cpu.cpuid.iter().map(Leaf::of).collect());
    let largest = state.cpus.iter().map(|cpu| cpu.xsave.len()).max();
    let registers: BTreeSet<u32> = state
        .cpus
        .iter()
        .flat_map(|cpu| cpu.msrs.iter().map(|entry| entry.index))
        .collect();
    Needs {
        vendor: vendor(&cpuid),
        model: model(&cpuid),
        xsave: u32::try_from(largest.unwrap_or(0)).unwrap_or(u32::MAX),
        registers: registers.into_iter().collect(),
        bound: None,
        cpuid,
    }
}

fn here() -> io::Result<Bound> {
    Ok(Bound {
        processor: host::processor(),
        boot: std::fs::read_to_string(BOOT_ID)?.trim().to_owned(),
    })
}

impl Leaf {
    fn of(entry: &kvm_cpuid_entry2) -> Self {
        Self {
            function: entry.function,
            index: entry.index,
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
        }
    }
}

impl Leaf {
    /// Adds the features the processor itself has, where the leaf has any.
    fn add_native(&mut self) {
        // Those between are a hypervisor's: here, of one below this host.
        if (0x4000_0000..0x8000_0000).contains(&self.function) {
            return;
        }
        let [eax, ebx, ecx, edx] = host::cpuid(self.function, self.index);
        let place = (self.function, self.index);
        for group in FEATURES.iter().filter(|g| (g.function, g.index) == place) {
            match group.register {
                Register::Eax => self.eax |= eax,
                Register::Ebx => self.ebx |= ebx,
                Register::Ecx => self.ecx |= ecx,
                Register::Edx => self.edx |= edx,
            }
        }
    }
}

fn text(words: impl IntoIterator<Item = u32>) -> String {
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    let printable = bytes.into_iter().filter(|b| (b' '..=b'~').contains(b));
    let text: String = printable.map(char::from).collect();
    text.trim().to_owned()
}

/// CPUID 0.
pub(super) fn vendor(leaves: &[Leaf]) -> String {
    let first = leaves.iter().find(|leaf| leaf.function == 0);
    first.map_or_else(String::new, |leaf| text([leaf.ebx, leaf.edx, leaf.ecx]))
}

/// CPUID 8000_0002h to 8000_0004h, the processor's name.
fn model(leaves: &[Leaf]) -> String {
    let parts = leaves
        .iter()
        .filter(|leaf| (0x8000_0002..=0x8000_0004).contains(&leaf.function));
    text(parts.flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]))
}

#[derive(Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    const fn of(self, leaf: &Leaf) -> u32 {
        match self {
            Self::Eax => leaf.eax,
            Self::Ebx => leaf.ebx,
            Self::Ecx => leaf.ecx,
            Self::Edx => leaf.edx,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Eax => "EAX",
            Self::Ebx => "EBX",
            Self::Ecx => "ECX",
            Self::Edx => "EDX",
        }
    }
}

/// A register of CPUID each of whose bits is something a processor has.
struct Group {
    function: u32,
    index: u32,
    register: Register,
    /// What husk itself announces, or KVM sets and clears as the guest runs.
    ours: u32,
    /// Names of the bits from 0 on, as /proc/cpuinfo has them; `-` where it has none.
    names: &'static str,
}

impl Group {
    fn name(&self, bit: u32) -> String {
        let names = self.names.split_ascii_whitespace();
        let name = names.zip(0..).find(|(_, number)| *number == bit);
        match name {
            Some((name, _)) if name != "-" => name.to_owned(),
            _ => format!(
                "CPUID.{:X}h.{}:{}[{bit}]",
                self.function,
                self.index,
                self.register.name()
            ),
        }
    }
}

const fn group(function: u32, index: u32, register: Register, names: &'static str) -> Group {
    Group {
        function,
        index,
        register,
        ours: 0,
        names,
    }
}

const fn but(ours: u32, group: Group) -> Group {
    Group { ours, ..group }
}

/// Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; KVM's cpuid.rst.
const FEATURES: [Group; 19] = [
    // MONITOR, TSC deadline, OSXSAVE, hypervisor.
    but(
        1 << 3 | 1 << 24 | 1 << 27 | 1 << 31,
        group(
            1,
            0,
            Register::Ecx,
            "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr \
             pdcm - pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave \
             osxsave avx f16c rdrand hypervisor",
        ),
    ),
    // The local APIC, which a guest may turn off, and HTT.
    but(
        1 << 9 | 1 << 28,
        group(
            1,
            0,
            Register::Edx,
            "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush \
             - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
        ),
    ),
    group(6, 0, Register::Eax, "dtherm ida arat"),
    group(
        7,
        0,
        Register::Ebx,
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a \
         avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf \
         avx512er avx512cd sha_ni avx512bw avx512vl",
    ),
    // OSPKE.
    but(
        1 << 4,
        group(
            7,
            0,
            Register::Ecx,
            "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes \
             vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - \
             bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc pks",
        ),
    ),
    group(
        7,
        0,
        Register::Edx,
        "- - avx512_4vnniw avx512_4fmaps fsrm - - - avx512_vp2intersect - md_clear - - - \
         serialize - tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 \
         spec_ctrl intel_stibp flush_l1d arch_capabilities core_capabilities spec_ctrl_ssbd",
    ),
    group(
        7,
        1,
        Register::Eax,
        "sha512 sm3 sm4 - avx_vnni avx512_bf16 lass cmpccxadd - - fzrm fsrs fsrc - - - - fred \
         lkgs wrmsrns - amx_fp16 hreset avx_ifma - - lam",
    ),
    group(
        7,
        1,
        Register::Edx,
        "- - - - avx_vnni_int8 avx_ne_convert - - amx_complex - avx_vnni_int16 - - - prefetchi",
    ),
    group(
        7,
        2,
        Register::Edx,
        "psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no",
    ),
    // Components of XSAVE.
    group(0xd, 0, Register::Eax, ""),
    group(0xd, 0, Register::Edx, ""),
    group(0xd, 1, Register::Eax, "xsaveopt xsavec xgetbv1 xsaves xfd"),
    group(0xd, 1, Register::Ecx, ""),
    group(
        0x4000_0001,
        0,
        Register::Eax,
        "kvmclock kvm_nopiodelay kvm_mmu_op kvmclock2 kvm_async_pf kvm_steal_time kvm_pv_eoi \
         kvm_pv_unhalt - kvm_pv_tlb_flush kvm_async_pf_vmexit kvm_pv_ipi kvm_poll_control \
         kvm_pv_sched_yield kvm_async_pf_int kvm_msi_ext_dest_id kvm_hc_map_gpa_range \
         kvm_migration_control - - - - - - kvmclock_stable",
    ),
    group(
        0x8000_0001,
        0,
        Register::Ecx,
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs \
         xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - \
         bpext ptsc perfctr_llc mwaitx",
    ),
    // The local APIC, as in leaf 1.
    but(
        1 << 9,
        group(
            0x8000_0001,
            0,
            Register::Edx,
            "fpu vme de pse tsc msr pae mce cx8 apic - syscall mtrr pge mca cmov pat pse36 - mp nx \
             - mmxext mmx fxsr fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
        ),
    ),
    group(
        0x8000_0007,
        0,
        Register::Edx,
        "ts fid vid ttp tm stc - - constant_tsc cpb aperfmperf proc_feedback acc_power",
    ),
    group(
        0x8000_0008,
        0,
        Register::Ebx,
        "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - ibpb - ibrs stibp - - - - - - - \
         amd_ppin amd_ssbd virt_ssbd amd_ssb_no cppc amd_psfd btc_no",
    ),
    group(
        0x8000_0021,
        0,
        Register::Eax,
        "no_nested_data_bp - lfence_rdtsc - - - null_sel_clr_base - autoibrs no_smm_ctl_msr",
    ),
];
