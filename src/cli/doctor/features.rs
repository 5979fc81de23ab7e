// SPDX-License-Identifier: Apache-2.0
//! What features beyond a first start need: tap, lazy restore, memory, kernel builds.

use super::check::{Check, State};
use super::setting;
use crate::cli::host::{self, Memory};
use crate::cli::kernel;
use crate::sys::probe;
use crate::units::ByteSize;
use nix::errno::Errno;
use std::fs::OpenOptions;
use std::path::Path;

/// A machine of the default size, and something for the host itself.
const COMFORTABLE: ByteSize = ByteSize::from_bytes(1 << 30);

/// What a kernel build runs, each with the Debian package it is in.
const TOOLS: [(&str, &str); 8] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("xz", "xz-utils"),
    ("perl", "perl"),
];

/// Files a kernel build reads, likewise.
const FILES: [(&str, &str); 2] = [
    ("/usr/include/libelf.h", "libelf-dev"),
    ("/usr/src/linux-source-6.12.tar.xz", "linux-source-6.12"),
];

/// Everything about features.
pub fn checks() -> Vec<Check> {
    vec![
        memory(Memory::read()),
        tun(OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map(drop)),
        userfaultfd(probe::userfaultfd()),
        io_uring(
            probe::io_uring(),
            setting("/proc/sys/kernel/io_uring_disabled").as_deref(),
        ),
        guest_kernel(),
        build_tools(&missing_packages(
            &std::env::var("PATH").unwrap_or_default(),
            Path::new("/"),
        )),
    ]
}

fn memory(memory: std::io::Result<Memory>) -> Check {
    match memory {
        Err(error) => Check::new("memory", State::Fail, format!("/proc/meminfo: {error}"))
            .means("husk cannot tell how large a machine may be")
            .fix("sudo mount -t proc proc /proc"),
        Ok(memory) => {
            let found = format!(
                "{} of RAM, {} available, {} of swap",
                memory.total.rounded(),
                memory.available.rounded(),
                memory.swap.rounded()
            );
            match memory.available >= COMFORTABLE {
                true => Check::ok("memory", found),
                false => Check::new("memory", State::Warn, found)
                    .means("little is left for machines; give them less")
                    .fix("husk run -m 128m …"),
            }
        }
    }
}

fn tun(opened: std::io::Result<()>) -> Check {
    match opened {
        Ok(()) => Check::ok("tun", "/dev/net/tun opens"),
        Err(error) => {
            let fix = match error.kind() {
                std::io::ErrorKind::PermissionDenied => "sudo chmod 666 /dev/net/tun",
                _ => "sudo modprobe tun",
            };
            Check::new(
                "tun",
                State::Absent,
                format!("/dev/net/tun: {}", error.kind()),
            )
            .means("no tap devices for guests")
            .fix(fix)
        }
    }
}

fn userfaultfd(opened: Result<(), Errno>) -> Check {
    match opened {
        Ok(()) => Check::ok("userfaultfd", "for faults of the kernel too"),
        Err(errno) => {
            let check = Check::new("userfaultfd", State::Absent, errno.desc())
                .means("a guest's memory cannot be served lazily");
            match errno {
                Errno::EPERM => check.fix("sudo sysctl -w vm.unprivileged_userfaultfd=1"),
                _ => check.fix("use a kernel with CONFIG_USERFAULTFD"),
            }
        }
    }
}

fn io_uring(created: Result<(), Errno>, disabled: Option<&str>) -> Check {
    match created {
        Ok(()) => Check::ok("io_uring", "created in a try"),
        Err(errno) => {
            let check = Check::new("io_uring", State::Absent, errno.desc())
                .means("disks of guests are served by plain system calls");
            match disabled {
                None | Some("0") => check,
                Some(_) => check.fix("sudo sysctl -w kernel.io_uring_disabled=0"),
            }
        }
    }
}

/// Without one `husk run` works only where it is given another.
fn guest_kernel() -> Check {
    let found = host::cache_dir().and_then(|cache| kernel::own(&cache));
    match found {
        Ok(kernel) => Check::ok("guest kernel", format!("{} is built", kernel.version)),
        Err(problem) => Check::new("guest kernel", State::Fail, problem.what)
            .means("`husk run` has no kernel to boot, unless --kernel names one")
            .fix("husk kernel build"),
    }
}

/// Debian packages a kernel build still lacks under `root`, with `path` as its PATH.
fn missing_packages(path: &str, root: &Path) -> Vec<&'static str> {
    let within = |file: &Path| root.join(file.strip_prefix("/").unwrap_or(file)).is_file();
    let in_path = |tool: &str| {
        path.split(':')
            .any(|dir| within(&Path::new(dir).join(tool)))
    };
    let tools = TOOLS.iter().filter(|(tool, _)| !in_path(tool));
    let files = FILES.iter().filter(|(file, _)| !within(Path::new(file)));
    tools.chain(files).map(|(_, package)| *package).collect()
}

fn build_tools(missing: &[&str]) -> Check {
    match missing {
        [] => Check::ok("kernel build", "every tool and the source are there"),
        missing => Check::new(
            "kernel build",
            State::Absent,
            format!("missing: {}", missing.join(", ")),
        )
        .means("the guest kernel cannot be built here")
        .fix(format!("sudo apt-get install {}", missing.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_build_tools_are_named_by_package() {
        let root = tempfile::tempdir().expect("a directory");
        let all = missing_packages("/usr/bin:/bin", root.path());
        assert_eq!(all.len(), TOOLS.len() + FILES.len());
        let bin = root.path().join("bin");
        std::fs::create_dir(&bin).expect("a directory");
        for (tool, _) in TOOLS.iter().filter(|(tool, _)| *tool != "bc") {
            std::fs::write(bin.join(tool), "").expect("a file");
        }
        let left = missing_packages("/usr/bin:/bin", root.path());
        assert_eq!(left, ["bc", "libelf-dev", "linux-source-6.12"]);
        let check = build_tools(&left);
        assert_eq!(
            check.fix,
            "sudo apt-get install bc libelf-dev linux-source-6.12"
        );
        assert_eq!(build_tools(&[]).state, State::Ok);
    }

    #[test]
    fn what_a_first_start_does_not_need_is_only_absent() {
        let denied = || Err(std::io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(tun(denied()).state, State::Absent);
        assert!(tun(denied()).fix.contains("chmod"));
        let refused = userfaultfd(Err(Errno::EPERM));
        assert_eq!(refused.state, State::Absent);
        assert!(refused.fix.contains("unprivileged_userfaultfd"));
        assert!(
            io_uring(Err(Errno::EPERM), Some("2"))
                .fix
                .contains("io_uring_disabled")
        );
        assert_eq!(io_uring(Err(Errno::EPERM), Some("0")).fix, "");
    }

    #[test]
    fn a_tight_host_is_warned_about() {
        let tight = Memory {
            total: ByteSize::from_bytes(2 << 30),
            available: ByteSize::from_bytes(300 << 20),
            swap: ByteSize::default(),
        };
        assert_eq!(memory(Ok(tight)).state, State::Warn);
        assert_eq!(
            memory(Err(std::io::ErrorKind::NotFound.into())).state,
            State::Fail
        );
    }
}
