// SPDX-License-Identifier: Apache-2.0
//! Is there a KVM, may this user use it, which kind is it, and how fast does it start.

use super::check::{Check, State};
use super::setting;
use kvm_ioctls::{Cap, Kvm};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const DEVICE: &str = "/dev/kvm";
/// The only KVM API there has been since Linux 2.6.22 (Documentation/virt/kvm/api.rst, 4.1).
const API_VERSION: i32 = 12;
/// Creating a VM takes well under a millisecond unless something is slow.
const SLOW_CREATE: Duration = Duration::from_millis(5);
/// VMs created for the measurement; an odd number has a median.
const CREATES: usize = 5;

/// What the CPU, the modules and KVM say, before anything is concluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Evidence {
    vmx_flag: bool,
    svm_flag: bool,
    hypervisor_flag: bool,
    intel_module: bool,
    amd_module: bool,
    pvm_module: bool,
    /// KVM_CAP_X86_SMM: hardware KVMs have it, a software one has no use for it.
    smm: bool,
    tsc_control: bool,
}

/// Which KVM this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Vmx,
    Svm,
    Pvm,
}

impl Evidence {
    fn gather(kvm: &Kvm) -> Self {
        let cpuinfo = setting("/proc/cpuinfo").unwrap_or_default();
        let module = |name: &str| std::path::Path::new("/sys/module").join(name).is_dir();
        Self {
            vmx_flag: has_flag(&cpuinfo, "vmx"),
            svm_flag: has_flag(&cpuinfo, "svm"),
            hypervisor_flag: has_flag(&cpuinfo, "hypervisor"),
            intel_module: module("kvm_intel"),
            amd_module: module("kvm_amd"),
            pvm_module: module("kvm_pvm"),
            smm: kvm.check_extension(Cap::X86Smm),
            tsc_control: kvm.check_extension(Cap::TscControl),
        }
    }

    /// The module that serves /dev/kvm decides; where none is seen (built in, or /sys is
    /// hidden) the CPU's own flags do, and a KVM on a CPU without either is a software one.
    fn kind(self) -> Kind {
        match (self.intel_module, self.amd_module, self.pvm_module) {
            (true, _, false) => Kind::Vmx,
            (_, true, false) => Kind::Svm,
            (false, false, true) => Kind::Pvm,
            _ if self.vmx_flag => Kind::Vmx,
            _ if self.svm_flag => Kind::Svm,
            _ => Kind::Pvm,
        }
    }

    fn text(self) -> String {
        let mut text = String::from("CPU flags:");
        let flags = [
            (self.vmx_flag, "vmx"),
            (self.svm_flag, "svm"),
            (self.hypervisor_flag, "hypervisor"),
        ];
        list(&mut text, &flags);
        text.push_str("; modules:");
        let modules = [
            (self.intel_module, "kvm_intel"),
            (self.amd_module, "kvm_amd"),
            (self.pvm_module, "kvm_pvm"),
        ];
        list(&mut text, &modules);
        text.push_str("; KVM offers:");
        list(
            &mut text,
            &[(self.smm, "SMM"), (self.tsc_control, "TSC scaling")],
        );
        text
    }
}

fn list(text: &mut String, items: &[(bool, &str)]) {
    let mut names = items
        .iter()
        .filter(|item| item.0)
        .map(|item| item.1)
        .peekable();
    if names.peek().is_none() {
        text.push_str(" none");
    }
    for name in names {
        let _ = write!(text, " {name}");
    }
}

/// Is `flag` among the first CPU's flags?
fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags"))
        .and_then(|line| line.split_once(':'))
        .is_some_and(|(_, flags)| flags.split_whitespace().any(|word| word == flag))
}

/// Everything about KVM.
pub fn checks() -> Vec<Check> {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return vec![no_kvm(error.errno())],
    };
    let version = kvm.get_api_version();
    if version != API_VERSION {
        let found = format!("{DEVICE} answers with API version {version}");
        return vec![Check::new("kvm", State::Fail, found).means(format!(
            "husk speaks version {API_VERSION}, the only one Linux has"
        ))];
    }
    let evidence = Evidence::gather(&kvm);
    vec![
        Check::ok("kvm", format!("{DEVICE} opens, API version {version}")),
        kind(evidence),
        create_time(&kvm),
    ]
}

fn no_kvm(errno: i32) -> Check {
    let error = std::io::Error::from_raw_os_error(errno);
    let kind = error.kind();
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let check = Check::new("kvm", State::Fail, format!("{DEVICE}: {text}"))
        .means("no virtual machine can start");
    match (kind, errno) {
        (std::io::ErrorKind::PermissionDenied, _) => check.fix(
            "sudo chown root:kvm /dev/kvm && sudo chmod 660 /dev/kvm && \
             sudo usermod -aG kvm \"$USER\"   (then log in again)",
        ),
        (std::io::ErrorKind::NotFound, _) | (_, libc::ENODEV | libc::ENXIO) => check.fix(
            "sudo modprobe kvm_intel || sudo modprobe kvm_amd   (switch virtualisation on in \
             the firmware; in a cloud VM choose a type with nested virtualisation)",
        ),
        _ => check,
    }
}

fn kind(evidence: Evidence) -> Check {
    let (state, name, means) = match evidence.kind() {
        Kind::Vmx => (State::Ok, "hardware, Intel VMX", ""),
        Kind::Svm => (State::Ok, "hardware, AMD SVM", ""),
        Kind::Pvm => (
            State::Warn,
            "PVM, software without VMX or SVM",
            "user programs run natively, but a kernel in ring 0 is interpreted at about 0.5 us an \
             instruction: a cold boot takes seconds, a system call 0.3 ms, a page fault 2 ms, a \
             fork 0.1 s; a kernel in ring 3 is native, where this KVM carries one (below)",
        ),
    };
    let nested = match evidence.hypervisor_flag && state == State::Ok {
        true => "this host is itself a virtual machine: exits cost several times more",
        false => means,
    };
    Check::new("kvm kind", state, format!("{name} ({})", evidence.text())).means(nested)
}

fn create_time(kvm: &Kvm) -> Check {
    let mut times = Vec::with_capacity(CREATES);
    for _ in 0..CREATES {
        let start = Instant::now();
        match kvm.create_vm() {
            Ok(vm) => {
                times.push(start.elapsed());
                drop(vm);
            }
            Err(error) => {
                return Check::new(
                    "vm creation",
                    State::Fail,
                    format!("KVM_CREATE_VM: {error}"),
                )
                .means("no virtual machine can start");
            }
        }
    }
    times.sort_unstable();
    let nx = setting("/sys/module/kvm/parameters/nx_huge_pages");
    judge_create(times[CREATES / 2], nx.as_deref())
}

fn judge_create(median: Duration, nx_huge_pages: Option<&str>) -> Check {
    let nx = nx_huge_pages.unwrap_or("unknown");
    let micros = median.as_micros();
    let found = format!(
        "KVM_CREATE_VM takes {}.{:03} ms (median of {CREATES}); nx_huge_pages {nx}",
        micros / 1000,
        micros % 1000
    );
    if median <= SLOW_CREATE {
        return Check::ok("vm creation", found);
    }
    let mut fix = "sudo mount -o remount,favordynmods /sys/fs/cgroup   (cgroup v2; or boot the \
                   host with cgroup_favordynmods=1)"
        .to_owned();
    if matches!(nx, "Y" | "auto" | "on" | "force") {
        fix.push_str(
            ", or where /sys/devices/system/cpu/vulnerabilities/itlb_multihit says 'Not \
             affected': echo never | sudo tee /sys/module/kvm/parameters/nx_huge_pages",
        );
    }
    Check::new("vm creation", State::Warn, found)
        .means(
            "each start waits for it: KVM starts a kernel thread per VM and moves it into the \
             caller's cgroup, which waits for an RCU grace period",
        )
        .fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_that_serves_decides_the_kind() {
        let none = Evidence::default();
        let vmx = Evidence {
            vmx_flag: true,
            intel_module: true,
            ..none
        };
        let svm = Evidence {
            svm_flag: true,
            amd_module: true,
            ..none
        };
        let pvm = Evidence {
            pvm_module: true,
            hypervisor_flag: true,
            ..none
        };
        assert_eq!(vmx.kind(), Kind::Vmx);
        assert_eq!(svm.kind(), Kind::Svm);
        assert_eq!(pvm.kind(), Kind::Pvm);
        // PVM loaded on a CPU that has VMX: the module, not the flag.
        let chosen = Evidence {
            vmx_flag: true,
            ..pvm
        };
        assert_eq!(chosen.kind(), Kind::Pvm);
        // Built into the kernel without parameters: only the flag is seen.
        let built_in = Evidence {
            svm_flag: true,
            ..none
        };
        assert_eq!(built_in.kind(), Kind::Svm);
        // Two loaded: the CPU's flag breaks the tie.
        let both = Evidence {
            pvm_module: true,
            ..vmx
        };
        assert_eq!(both.kind(), Kind::Vmx);
        assert_eq!(none.kind(), Kind::Pvm);
        assert!(pvm.text().contains("modules: kvm_pvm; KVM offers: none"));
    }

    #[test]
    fn flags_are_whole_words_of_the_flags_line() {
        let cpuinfo = "processor\t: 0\nvmx flags\t: ept\nflags\t\t: fpu vmx_x svm\n";
        assert!(has_flag(cpuinfo, "svm"));
        assert!(!has_flag(cpuinfo, "vmx"));
        assert!(!has_flag(cpuinfo, "ept"));
    }

    #[test]
    fn slow_creation_is_flagged_with_its_remedy() {
        let quick = judge_create(Duration::from_micros(5000), Some("Y"));
        assert_eq!(quick.state, State::Ok);
        assert!(quick.found.contains("5.000 ms"), "{}", quick.found);
        let slow = judge_create(Duration::from_micros(17_042), Some("Y"));
        assert_eq!(slow.state, State::Warn);
        assert!(slow.found.contains("17.042 ms"), "{}", slow.found);
        assert!(slow.fix.contains("favordynmods") && slow.fix.contains("nx_huge_pages"));
        let other = judge_create(Duration::from_millis(17), Some("N"));
        assert!(!other.fix.contains("nx_huge_pages"));
    }

    #[test]
    fn a_kvm_that_does_not_open_fails_with_the_right_remedy() {
        assert!(no_kvm(libc::EACCES).fix.contains("usermod"));
        assert!(no_kvm(libc::ENOENT).fix.contains("modprobe"));
        assert_eq!(no_kvm(libc::ENOENT).state, State::Fail);
    }
}
