// SPDX-License-Identifier: Apache-2.0
//! What the jail needs: namespaces, Landlock, seccomp, and cgroups for limits.

use super::check::{Check, State};
use super::setting;
use crate::sys::probe;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::path::Path;

/// Everything about confinement.
pub fn checks() -> Vec<Check> {
    vec![
        namespaces(
            probe::user_namespace(),
            probe::jail_namespaces(),
            &Sysctls::read(),
        ),
        landlock(probe::landlock_abi()),
        seccomp(probe::seccomp_filters()),
        cgroup(
            &setting("/proc/self/mounts").unwrap_or_default(),
            &setting("/proc/self/cgroup").unwrap_or_default(),
        ),
    ]
}

/// The settings by which distributions switch user namespaces off.
#[derive(Debug, Default)]
struct Sysctls {
    /// kernel.unprivileged_userns_clone, of Debian's kernels.
    clone: Option<String>,
    /// kernel.apparmor_restrict_unprivileged_userns, of Ubuntu's.
    apparmor: Option<String>,
    /// user.max_user_namespaces (namespaces(7)).
    max: Option<String>,
}

impl Sysctls {
    fn read() -> Self {
        Self {
            clone: setting("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor: setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            max: setting("/proc/sys/user/max_user_namespaces"),
        }
    }

    fn text(&self) -> String {
        let all = [
            ("unprivileged_userns_clone", &self.clone),
            ("apparmor_restrict_unprivileged_userns", &self.apparmor),
            ("max_user_namespaces", &self.max),
        ];
        let seen: Vec<String> = all
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?)))
            .collect();
        seen.join(", ")
    }

    fn fix(&self) -> &'static str {
        if self.max.as_deref() == Some("0") {
            "sudo sysctl -w user.max_user_namespaces=15000"
        } else if self.clone.as_deref() == Some("0") {
            "sudo sysctl -w kernel.unprivileged_userns_clone=1"
        } else if self.apparmor.as_deref() == Some("1") {
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        } else {
            "run husk where namespaces may be created: outside a container, or in one started \
             with --security-opt seccomp=unconfined"
        }
    }
}

fn namespaces(user: Result<(), Errno>, jail: Result<(), Errno>, sysctls: &Sysctls) -> Check {
    let seen = sysctls.text();
    let found = match (user, jail) {
        (Ok(()), Ok(())) => return Check::ok("namespaces", format!("created in a try; {seen}")),
        (Err(errno), _) => format!("no user namespace: {}; {seen}", errno.desc()),
        (Ok(()), Err(errno)) => format!(
            "a user namespace, but no rights in it: {}; {seen}",
            errno.desc()
        ),
    };
    Check::new("namespaces", State::Fail, found)
        .means("the process that runs the guest cannot be jailed: only `husk run --no-jail` works")
        .fix(sysctls.fix())
}

fn landlock(abi: Result<u32, Errno>) -> Check {
    match abi {
        Ok(abi) => Check::ok("landlock", format!("ABI {abi}")),
        Err(errno) => Check::new("landlock", State::Warn, errno.desc())
            .means("the jail has one wall less; its empty root still stands")
            .fix("boot the host with lsm=landlock in front of its list (needs Linux 5.13)"),
    }
}

fn seccomp(filters: Result<(), Errno>) -> Check {
    match filters {
        Ok(()) => Check::ok("seccomp", "filters that kill the process"),
        Err(errno) => Check::new("seccomp", State::Warn, errno.desc())
            .means("the jail's threads may make any system call")
            .fix("use a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

/// The cgroup v2 directory of this process, if the hierarchy is mounted.
fn v2_directory(mounts: &str, own: &str) -> Option<String> {
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then_some(point)
    })?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(format!("{mount}{}", path.trim_end_matches('/')))
}

fn cgroup(mounts: &str, own: &str) -> Check {
    let v1 = mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("cgroup"));
    let version = match (v2_directory(mounts, own), v1) {
        (Some(directory), v1) => {
            let read = setting(&format!("{directory}/cgroup.controllers")).unwrap_or_default();
            let wanted = ["cpu", "memory"];
            let has = |name| read.split_whitespace().any(|word| word == name);
            let procs = Path::new(&directory).join("cgroup.procs");
            let writable = access(&procs, AccessFlags::W_OK).is_ok();
            if wanted.into_iter().all(has) && writable {
                return Check::ok("cgroup", format!("v2, {directory} is ours, with {read}"));
            }
            let beside = if v1 { ", v1 beside it" } else { "" };
            let ours = if writable { "ours" } else { "not ours" };
            match read.as_str() {
                "" => format!("v2{beside}, {directory} is {ours}, without controllers"),
                read => format!("v2{beside}, {directory} is {ours}, with {read}"),
            }
        }
        (None, true) => "v1 only".to_owned(),
        (None, false) => "not mounted".to_owned(),
    };
    let fix = match v1 {
        true => "boot the host with systemd.unified_cgroup_hierarchy=1",
        false => "systemd-run --user --scope -p Delegate=yes husk run …",
    };
    Check::new("cgroup", State::Absent, version)
        .means("a machine is held to its own memory and vCPUs, and to no limit of the host's")
        .fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_namespaces_fail_with_the_setting_that_did_it() {
        let refused = |sysctls: &Sysctls| namespaces(Err(Errno::EPERM), Err(Errno::EPERM), sysctls);
        let debian = Sysctls {
            clone: Some("0".into()),
            ..Sysctls::default()
        };
        assert!(refused(&debian).fix.contains("unprivileged_userns_clone=1"));
        let none_left = Sysctls {
            max: Some("0".into()),
            ..Sysctls::default()
        };
        assert!(refused(&none_left).fix.contains("max_user_namespaces"));
        let ubuntu = Sysctls {
            apparmor: Some("1".into()),
            ..Sysctls::default()
        };
        let half = namespaces(Ok(()), Err(Errno::EPERM), &ubuntu);
        assert_eq!(half.state, State::Fail);
        assert!(half.found.contains("no rights in it"), "{}", half.found);
        assert!(half.fix.contains("apparmor"));
        assert!(refused(&Sysctls::default()).fix.contains("container"));
        assert_eq!(namespaces(Ok(()), Ok(()), &ubuntu).state, State::Ok);
    }

    #[test]
    fn the_own_v2_directory_is_found() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            v2_directory(mounts, "4:memory:/x\n0::/user.slice/a\n").as_deref(),
            Some("/sys/fs/cgroup/unified/user.slice/a")
        );
        assert_eq!(
            v2_directory(mounts, "0::/").as_deref(),
            Some("/sys/fs/cgroup/unified")
        );
        assert_eq!(v2_directory("proc /proc proc rw 0 0\n", "0::/"), None);
    }

    #[test]
    fn a_host_without_usable_cgroups_only_lacks_limits() {
        assert_eq!(cgroup("", "").state, State::Absent);
        assert_eq!(cgroup("", "").found, "not mounted");
        let v1 = cgroup("c /c cgroup rw 0 0\n", "1:cpu:/\n");
        assert_eq!(v1.found, "v1 only");
        assert!(v1.fix.contains("unified_cgroup_hierarchy"));
    }

    #[test]
    fn missing_walls_warn() {
        assert_eq!(landlock(Err(Errno::EOPNOTSUPP)).state, State::Warn);
        assert_eq!(landlock(Ok(7)).state, State::Ok);
        assert_eq!(seccomp(Err(Errno::ENOSYS)).state, State::Warn);
    }
}
