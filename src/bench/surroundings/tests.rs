// SPDX-License-Identifier: Apache-2.0
//! Hosts made of files: each fault is put in one at a time, and its caution, and no other, must
//! follow.

use super::*;
use std::path::PathBuf;
use tempfile::TempDir;

const CPUINFO: &str = "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu tsc \
                       constant_tsc nonstop_tsc\n\nprocessor\t: 1\nmodel name\t: A Processor\n";
const MEMINFO: &str = "MemTotal:       16777216 kB\nMemAvailable:   12582912 kB\n\
                       SwapTotal:             0 kB\nSwapFree:              0 kB\n";
const SOURCE: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";

/// A quiet one without a fault.
fn quiet() -> TempDir {
    let folder = TempDir::new().unwrap();
    for (path, text) in [
        ("proc/cpuinfo", CPUINFO),
        ("proc/meminfo", MEMINFO),
        ("proc/loadavg", "0.10 0.10 0.10 1/100 4711\n"),
        ("proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1\n"),
        ("proc/vmstat", "pgfault 7\npswpin 0\npswpout 0\n"),
        ("proc/self/cgroup", "0::/user.slice\n"),
        (
            "proc/self/mounts",
            "/dev/sda / ext4 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,favordynmods 0 0\n\
             tmpfs /tmp tmpfs rw 0 0\n",
        ),
        ("proc/sys/kernel/osrelease", "6.12.1\n"),
        ("sys/fs/cgroup/user.slice/cpu.max", "max 100000\n"),
        ("sys/fs/cgroup/user.slice/memory.max", "max\n"),
        (
            "sys/fs/cgroup/user.slice/cpu.stat",
            "usage_usec 1\nnr_throttled 0\n",
        ),
        (SOURCE, "tsc\n"),
        (
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            "performance\n",
        ),
        (
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
            "3000000\n",
        ),
        (
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq",
            "3000000\n",
        ),
        ("sys/devices/system/cpu/cpufreq/boost", "0\n"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always [madvise] never\n",
        ),
    ] {
        put(&folder, path, text);
    }
    folder
}

fn put(folder: &TempDir, path: &str, text: &str) {
    let path: PathBuf = folder.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn calm() -> Tried {
    Tried {
        busy: 0.01,
        stolen: 0.0,
        clock: Clock {
            reading: 20,
            longest: 30_000,
            lost: 0,
        },
        creation: Some(Ok(Duration::from_micros(300))),
    }
}

fn before(folder: &TempDir, kind: HostKind, tried: &Tried) -> Vec<String> {
    let host = Host::at(folder.path());
    let cautions = judge::before(&host, kind, &host.reading(), tried);
    for caution in &cautions {
        assert!(
            !caution.hint.is_empty() && !caution.what.contains('\n'),
            "{caution:?}"
        );
    }
    cautions.into_iter().map(|caution| caution.what).collect()
}

#[test]
fn a_quiet_host_is_believed() {
    let folder = quiet();
    assert_eq!(before(&folder, HostKind::Vmx, &calm()), [""; 0]);
    let host = Host::at(folder.path());
    let reading = host.reading();
    assert_eq!(judge::after(&host, &reading, &reading), []);
}

#[test]
fn a_host_is_described() {
    let folder = quiet();
    let host = Host::at(folder.path());
    let place = Path::new("/tmp/work");
    let machine = describe(&host, HostKind::Svm, &host.reading(), &calm(), place);
    assert_eq!(machine.processor, "A Processor");
    assert_eq!((machine.cpus, machine.memory), (2, 16 << 30));
    assert_eq!((&*machine.kernel, &*machine.kvm), ("6.12.1", "hardware"));
    let fact = |key: &str| {
        let found = machine.facts.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| &**value)
    };
    assert_eq!(fact("files are on"), Some("tmpfs"));
    assert_eq!(fact("huge pages"), Some("madvise"));
    assert_eq!(fact("KVM_CREATE_VM"), Some("0.300 ms"));
    assert_eq!(fact("cgroup"), Some("version 2, /user.slice"));
    assert_eq!(fact("boost"), Some("no"));
    assert_eq!(fact("memory available"), Some("12 GiB"));
    // Of what is not told there is no fact.
    assert_eq!(fact("frequency driver"), None);
    let none = Tried {
        creation: Some(Err("/dev/kvm: no such file".to_owned())),
        ..calm()
    };
    let machine = describe(&host, HostKind::Svm, &host.reading(), &none, place);
    assert_eq!(machine.kvm, "none: /dev/kvm: no such file");
}

#[test]
fn each_fault_in_a_file_has_its_caution() {
    let flags = CPUINFO.replace("nonstop_tsc", "hypervisor");
    let swapping = MEMINFO.replace("SwapTotal:             0", "SwapTotal:          8192");
    let low = MEMINFO.replace("12582912", "900000");
    for (path, text, words) in [
        (SOURCE, "hpet\n", "clock source is hpet"),
        ("proc/cpuinfo", &*flags, "may change its pace"),
        ("proc/meminfo", &*swapping, "8 MiB are swapped out"),
        ("proc/meminfo", &*low, "878.9 MiB of 16 GiB are available"),
        (
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            "powersave",
            "governor is powersave",
        ),
        (
            "sys/devices/system/cpu/cpufreq/boost",
            "1",
            "nominal frequency",
        ),
        (
            "sys/fs/cgroup/user.slice/cpu.max",
            "150000 100000",
            "1.50 processors",
        ),
        (
            "sys/fs/cgroup/user.slice/memory.max",
            "1073741824",
            "1 GiB of memory",
        ),
        ("sys/class/power_supply/AC/online", "0", "battery"),
    ] {
        let folder = quiet();
        put(&folder, path, text);
        let told = before(&folder, HostKind::Vmx, &calm());
        assert!(
            told.iter().any(|what| what.contains(words)),
            "{words}: {told:?}"
        );
        // The flag of a hypervisor is worth a sentence of its own.
        let expected = if path == "proc/cpuinfo" { 2 } else { 1 };
        assert_eq!(told.len(), expected, "{told:?}");
    }
}

#[test]
fn each_fault_that_was_tried_has_its_caution() {
    let noisy = Clock {
        reading: 20,
        longest: 4_000_000,
        lost: 80,
    };
    let slow = Clock {
        reading: 900,
        ..calm().clock
    };
    let creation = |time| Some(Ok(Duration::from_millis(time)));
    for (tried, words) in [
        (
            Tried {
                busy: 0.55,
                ..calm()
            },
            "55.0 % busy before the first round",
        ),
        (
            Tried {
                stolen: 0.03,
                ..calm()
            },
            "took 3.0 %",
        ),
        (
            Tried {
                clock: noisy,
                ..calm()
            },
            "8.0 % of the time, 4.000 ms",
        ),
        (
            Tried {
                clock: slow,
                ..calm()
            },
            "takes 900 ns",
        ),
        (
            Tried {
                creation: creation(17),
                ..calm()
            },
            "KVM_CREATE_VM takes 17.000 ms",
        ),
        (
            Tried {
                creation: Some(Err("/dev/kvm: gone".to_owned())),
                ..calm()
            },
            "no machine can be started here: /dev/kvm: gone",
        ),
    ] {
        let told = before(&quiet(), HostKind::Vmx, &tried);
        assert!(
            told.len() == 1 && told[0].contains(words),
            "{words}: {told:?}"
        );
    }
    let told = before(&quiet(), HostKind::Pvm, &calm());
    assert!(told.len() == 1 && told[0].contains("(PVM)"), "{told:?}");
}

#[test]
fn what_changed_during_the_run_is_said() {
    let folder = quiet();
    let host = Host::at(folder.path());
    let from = host.reading();
    for (path, text, words) in [
        (
            "proc/stat",
            "cpu  200 0 200 1500 0 0 0 100 0 0\n",
            "took 10.0 %",
        ),
        (
            "proc/loadavg",
            "9.00 1.00 1.00 1/100 1\n",
            "from 0.10 to 9.00",
        ),
        (
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq",
            "1200000",
            "processor 1 went from 3000 to 1200 MHz",
        ),
        (
            "proc/vmstat",
            "pswpin 3\npswpout 4\n",
            "pages were swapped 7 times",
        ),
        (
            "sys/fs/cgroup/user.slice/cpu.stat",
            "nr_throttled 5\n",
            "quota 5 times",
        ),
    ] {
        let folder = quiet();
        put(&folder, path, text);
        let host = Host::at(folder.path());
        let told = judge::after(&host, &from, &host.reading());
        assert!(
            told.len() == 1 && told[0].what.contains(words),
            "{words}: {told:?}"
        );
    }
}

#[test]
fn cgroups_of_either_version_are_read() {
    let folder = quiet();
    let host = Host::at(folder.path());
    assert_eq!(host.cgroup().quick_moves, Some(true));
    put(
        &folder,
        "proc/self/cgroup",
        "4:memory:/a/b\n1:cpu,cpuacct:/c\n0::/\n",
    );
    put(&folder, "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "50000\n");
    put(&folder, "sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000\n");
    put(
        &folder,
        "sys/fs/cgroup/cpu/c/cpu.stat",
        "nr_periods 9\nnr_throttled 8\n",
    );
    put(
        &folder,
        "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
        "9223372036854771712\n",
    );
    let cgroup = host.cgroup();
    assert_eq!((cgroup.version, &*cgroup.path), (1, "/a/b"));
    assert_eq!((cgroup.processors, cgroup.memory), (Some(0.5), None));
    assert_eq!(host.reading().throttled, 8);
}

#[test]
fn a_host_that_shows_nothing_is_no_panic() {
    let folder = TempDir::new().unwrap();
    let host = Host::at(folder.path());
    let reading = host.reading();
    let place = Path::new("/");
    let machine = describe(&host, HostKind::Vmx, &reading, &calm(), place);
    assert_eq!((machine.cpus, &*machine.processor), (0, "unknown"));
    judge::before(&host, HostKind::Vmx, &reading, &calm());
    judge::after(&host, &reading, &reading);
    put(
        &folder,
        "proc/stat",
        "cpu 18446744073709551615 1 nonsense\n",
    );
    put(&folder, "proc/self/cgroup", "::::\n\n0::\n");
    put(
        &folder,
        "proc/meminfo",
        "MemTotal: 18446744073709551615 kB\n",
    );
    host.reading();
    assert_eq!(host.memory("MemTotal"), None);
}

/// The real one, whichever it is.
#[test]
fn this_host_is_described_and_watched() {
    let (mut machine, mut cautions, watch) = begin(Path::new("/tmp"));
    watch.end(&mut machine, &mut cautions);
    assert!(machine.cpus > 0 && machine.memory > 0, "{machine:?}");
    assert!(machine.facts.iter().any(|(key, _)| key == "load after"));
    for caution in cautions {
        eprintln!("{}\n  {}", caution.what, caution.hint);
    }
    eprintln!("{machine:#?}");
}
