// SPDX-License-Identifier: Apache-2.0
//! Runtimes that take a bundle: runc, crun, crun with libkrun, and gVisor's runsc. Each start
//! has a bundle of its own, whose configuration is what `runc spec` proposes, with a root that
//! takes writes and the capabilities that engines give. See [`Contestant`] for who calls this.

use super::plain::host_service;
use super::{Absent, Contestant, DISK, Feature, Ground, Invocation, Launch, Task, ask};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Runc,
    Crun,
    Krun,
    Gvisor,
}

#[derive(Debug)]
pub struct Runtime {
    which: Which,
    program: PathBuf,
    /// Options of the runtime, in the order in which they are tried: a list each.
    ways: &'static [(&'static [&'static str], &'static str)],
}

impl Runtime {
    pub fn runc() -> Self {
        Self::of(Which::Runc, &[(&[], "")])
    }

    pub fn crun() -> Self {
        const WITHOUT: &[&str] = &["--cgroup-manager=disabled"];
        Self::of(Which::Crun, &[(&[], ""), (WITHOUT, "without cgroups")])
    }

    pub fn krun() -> Self {
        Self::of(Which::Krun, &[(&[], "")])
    }

    pub fn gvisor() -> Self {
        Self::of(
            Which::Gvisor,
            &[
                (&[], ""),
                (&["--ignore-cgroups"], "without cgroups"),
                (
                    &["--ignore-cgroups", "--platform=ptrace"],
                    "without cgroups, platform ptrace",
                ),
            ],
        )
    }

    fn of(which: Which, ways: &'static [(&'static [&'static str], &'static str)]) -> Self {
        Self {
            which,
            program: PathBuf::new(),
            ways,
        }
    }

    fn command(&self, ground: &Ground, service: bool) -> Invocation {
        let mut command = Invocation::new(&self.program)
            .word("--root")
            .word(ground.folder(self.name()).join("state"));
        if let Some((options, _)) = self.ways.first() {
            command = command.words(options.iter().copied());
        }
        if self.which == Which::Gvisor {
            command = command.word(match service {
                true => "--network=host",
                false => "--network=none",
            });
        }
        command
    }

    fn bundle(&self, ground: &Ground, id: &str) -> PathBuf {
        ground.folder(self.name()).join("bundles").join(id)
    }
}

impl Contestant for Runtime {
    fn name(&self) -> &'static str {
        match self.which {
            Which::Runc => "runc",
            Which::Crun => "crun",
            Which::Krun => "krun",
            Which::Gvisor => "gvisor",
        }
    }

    fn kind(&self) -> &'static str {
        match self.which {
            Which::Runc | Which::Crun => "container",
            Which::Krun => "machine",
            Which::Gvisor => "kernel in a process",
        }
    }

    fn find(&mut self, ground: &Ground) -> Result<String, Absent> {
        let program = match self.which {
            Which::Gvisor => "runsc",
            _ => self.name(),
        };
        self.program = match ground.program(self.name(), program) {
            // crun itself, if it was built with libkrun.
            Err(absent) if self.which == Which::Krun => {
                let crun = ground.program("crun", "crun").map_err(|_| absent)?;
                match ask(&crun, &["--version"])? {
                    version if version.contains("LIBKRUN") => crun,
                    _ => return Err(Absent("this crun was built without libkrun".into())),
                }
            }
            found => found?,
        };
        if !rustix::process::geteuid().is_root() {
            let name = self.name();
            return Err(Absent(format!(
                "{name} is measured as root only: sudo husk bench"
            )));
        }
        ask(&self.program, &["--version"])
    }

    fn prepare(&mut self, ground: &Ground) -> Result<()> {
        let folder = ground.folder(self.name());
        std::fs::create_dir_all(folder.join("bundles")).context("a folder for bundles")
    }

    fn another(&mut self) -> Option<String> {
        self.ways = self.ways.get(1..).filter(|rest| !rest.is_empty())?;
        self.ways.first().map(|(_, name)| (*name).to_owned())
    }

    fn offers(&self, _feature: Feature) -> Result<(), String> {
        Ok(())
    }

    fn launch(&self, ground: &Ground, task: &Task) -> Result<Launch> {
        let bundle = self.bundle(ground, &task.id);
        std::fs::create_dir(&bundle)?;
        let mut configuration = configuration(ground, task);
        if self.which == Which::Krun {
            configuration["annotations"] = json!({ "run.oci.handler": "krun" });
        }
        std::fs::write(bundle.join("config.json"), configuration.to_string())?;
        let command = || self.command(ground, task.port.is_some());
        let mut start = command().word("run").word("--bundle").word(&bundle);
        if task.detached {
            start = start.word("--detach");
        }
        Ok(Launch {
            start: start.word(&task.id),
            service: host_service(task),
            stop: vec![command().words(["kill", &task.id, "KILL"])],
            remove: vec![command().words(["delete", "--force", &task.id])],
            folders: vec![bundle],
        })
    }

    fn files(&self, _ground: &Ground) -> Vec<PathBuf> {
        vec![self.program.clone()]
    }

    fn cleanup(&mut self, ground: &Ground) -> Result<()> {
        let folder = ground.folder(self.name());
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", folder.display()))
            }
            _ => Ok(()),
        }
    }
}

/// What engines leave to root in a container. The three that `runc spec` proposes are too few
/// for most images: nginx takes other users for its workers.
const CAPABILITIES: [&str; 11] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The configuration of a bundle (runtime-spec, config.md).
fn configuration(ground: &Ground, task: &Task) -> Value {
    let capabilities: Vec<String> = CAPABILITIES.iter().map(|it| format!("CAP_{it}")).collect();
    let capabilities = json!(capabilities);
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    // A service is reached by way of the host's network: a runtime brings none along.
    if task.port.is_none() {
        namespaces.push("network");
    }
    let namespaces: Vec<Value> = namespaces
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    let bind = task.disk.then(|| {
        json!({
            "destination": DISK,
            "type": "bind",
            "source": ground.written,
            "options": ["rbind", "rw"],
        })
    });
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let mut configuration = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": task.argv,
            "env": task.env,
            "cwd": task.cwd,
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": ground.tree, "readonly": false },
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces,
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                "/proc/sysrq-trigger"],
        },
    });
    if let Some(mounts) = configuration["mounts"].as_array_mut() {
        mounts.extend(bind);
    }
    configuration
}
