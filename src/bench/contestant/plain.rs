// SPDX-License-Identifier: Apache-2.0
//! A process of the host, and one in bubblewrap's namespaces: what all others are held against.
//! See [`Contestant`] for who calls this.

use super::{
    Absent, Contestant, DISK, Feature, Ground, Invocation, Launch, Medium, Task, ask, in_path,
};
use crate::bench::load;
use anyhow::Context as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

const NO_DETACH: &str = "it has no start that returns: its process is the command's parent";

/// No isolation; a directory for a root where the command needs one.
#[derive(Debug, Default)]
pub struct Process {
    chroot: Option<PathBuf>,
}

impl Contestant for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn kind(&self) -> &'static str {
        "process"
    }

    fn find(&mut self, ground: &Ground) -> Result<String, Absent> {
        if ground
            .tree
            .join(load::PATH.trim_start_matches('/'))
            .exists()
        {
            return Ok("posix_spawn(3), no isolation".into());
        }
        // A program of an image looks for its libraries there.
        if !rustix::process::geteuid().is_root() {
            return Err(Absent("chroot(1) is for root alone".into()));
        }
        self.chroot = in_path("chroot");
        match self.chroot {
            Some(_) => Ok("chroot(1), no isolation".into()),
            None => Err(Absent("chroot is not installed".into())),
        }
    }

    fn prepare(&mut self, _ground: &Ground) -> anyhow::Result<()> {
        Ok(())
    }

    fn offers(&self, feature: Feature) -> Result<(), String> {
        no_detach(feature)
    }

    fn disk(&self, ground: &Ground) -> Result<String, String> {
        match self.chroot {
            Some(_) => Err("it sees nothing of the host's but the tree".into()),
            None => Ok(ground.written.display().to_string()),
        }
    }

    fn own(&self, ground: &Ground) -> (String, Medium) {
        let own = match self.chroot {
            Some(_) => "/".into(),
            None => ground.tree.display().to_string(),
        };
        (own, Medium::Disk)
    }

    fn launch(&self, ground: &Ground, task: &Task) -> anyhow::Result<Launch> {
        let start = match &self.chroot {
            Some(chroot) => {
                let env = in_path("env").unwrap_or_else(|| "/usr/bin/env".into());
                let start = Invocation::new(&env).word("-i").words(&task.env);
                let start = match &*task.cwd {
                    "/" => start.word(chroot).word(&ground.tree),
                    // Without a namespace it is chroot(1) and a working directory.
                    cwd => start
                        .word(in_path("unshare").context("unshare(1) is not installed")?)
                        .word("--root")
                        .word(&ground.tree)
                        .words(["--wd", cwd, "--"]),
                };
                start.words(&task.argv)
            }
            None => {
                let first = task
                    .argv
                    .first()
                    .map_or("", |word| word.trim_start_matches('/'));
                Invocation::new(&ground.tree.join(first)).words(task.argv.iter().skip(1))
            }
        };
        Ok(Launch {
            start,
            service: host_service(task),
            stop: Vec::new(),
            remove: Vec::new(),
            folders: Vec::new(),
        })
    }

    fn files(&self, _ground: &Ground) -> Vec<PathBuf> {
        self.chroot.iter().cloned().collect()
    }

    fn cleanup(&mut self, _ground: &Ground) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Namespaces and a root directory, and no more.
#[derive(Debug, Default)]
pub struct Bubblewrap {
    program: PathBuf,
    /// Without a user namespace: root only. In one there is no user but root, and an image's
    /// program that wants another fails.
    users: bool,
}

impl Contestant for Bubblewrap {
    fn name(&self) -> &'static str {
        "bwrap"
    }

    fn kind(&self) -> &'static str {
        "namespaces"
    }

    fn find(&mut self, ground: &Ground) -> Result<String, Absent> {
        self.program = ground.program(self.name(), "bwrap")?;
        ask(&self.program, &["--version"])
    }

    fn prepare(&mut self, _ground: &Ground) -> anyhow::Result<()> {
        Ok(())
    }

    fn another(&mut self) -> Option<String> {
        let can = !self.users && rustix::process::geteuid().is_root();
        self.users = true;
        can.then(|| "without a user namespace".into())
    }

    fn offers(&self, feature: Feature) -> Result<(), String> {
        no_detach(feature)
    }

    fn launch(&self, ground: &Ground, task: &Task) -> anyhow::Result<Launch> {
        let mut start = Invocation::new(&self.program);
        start = match self.users {
            true => start.words([
                "--unshare-ipc",
                "--unshare-pid",
                "--unshare-uts",
                "--unshare-cgroup-try",
            ]),
            false => start.word("--unshare-all"),
        };
        start = start.words(["--die-with-parent", "--clearenv"]);
        match (task.port.is_some(), self.users) {
            (true, false) => start = start.word("--share-net"),
            (false, true) => start = start.word("--unshare-net"),
            _ => {}
        }
        for pair in &task.env {
            if let Some((name, value)) = pair.split_once('=') {
                start = start.words(["--setenv", name, value]);
            }
        }
        start = start
            .word("--bind")
            .word(&ground.tree)
            .words(["/", "--proc", "/proc", "--dev", "/dev"]);
        if task.disk {
            start = start.word("--bind").word(&ground.written).word(DISK);
        }
        let start = start.words(["--chdir", &task.cwd, "--"]).words(&task.argv);
        Ok(Launch {
            start,
            service: host_service(task),
            stop: Vec::new(),
            remove: Vec::new(),
            folders: Vec::new(),
        })
    }

    fn files(&self, _ground: &Ground) -> Vec<PathBuf> {
        vec![self.program.clone()]
    }

    fn cleanup(&mut self, _ground: &Ground) -> anyhow::Result<()> {
        Ok(())
    }
}

fn no_detach(feature: Feature) -> Result<(), String> {
    match feature {
        Feature::Detached => Err(NO_DETACH.into()),
        Feature::Foreground | Feature::Service => Ok(()),
    }
}

/// Of those who share the host's network with the service.
pub fn host_service(task: &Task) -> Option<SocketAddr> {
    task.port.map(|port| (Ipv4Addr::LOCALHOST, port).into())
}

/// Of those who lead a port of the host to it.
pub fn led_service(task: &Task) -> Option<SocketAddr> {
    task.port
        .map(|_| (Ipv4Addr::LOCALHOST, task.host_port).into())
}
