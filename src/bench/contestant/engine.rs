// SPDX-License-Identifier: Apache-2.0
//! Container engines: podman and nerdctl with storage of the benchmark's own, and docker, whose
//! daemon has the only storage there is; there the image bears a name of the benchmark's own
//! and is removed with it. See [`Contestant`] for who calls this.

use super::plain::{host_service, led_service};
use super::{Absent, Contestant, DISK, Feature, Ground, Invocation, Launch, Task, ask};
use crate::bench::session::Session;
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Podman,
    Docker,
    Nerdctl,
}

/// One way to start a container, of those tried.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    /// Of this host, in place of those that the engine would set.
    limits: bool,
    runtime: Option<&'static str>,
    host_network: bool,
}

const PLAIN: Way = Way {
    name: "",
    limits: false,
    runtime: None,
    host_network: false,
};
const HOST: Way = Way {
    name: "on the host's network",
    host_network: true,
    ..PLAIN
};
const LIMITS: Way = Way {
    name: "with this host's limits",
    limits: true,
    ..PLAIN
};
const RUNC: Way = Way {
    name: "with this host's limits, by runc",
    runtime: Some("runc"),
    ..LIMITS
};
const RUNC_HOST: Way = Way {
    name: "with this host's limits, by runc, on the host's network",
    host_network: true,
    ..RUNC
};
const PODMAN: [Way; 5] = [PLAIN, LIMITS, HOST, RUNC, RUNC_HOST];
const OTHERS: [Way; 2] = [PLAIN, HOST];

#[derive(Debug)]
pub struct Engine {
    which: Which,
    program: PathBuf,
    ways: &'static [Way],
    image: String,
}

impl Engine {
    pub fn podman() -> Self {
        Self::of(Which::Podman, &PODMAN)
    }

    pub fn docker() -> Self {
        Self::of(Which::Docker, &OTHERS)
    }

    pub fn nerdctl() -> Self {
        Self::of(Which::Nerdctl, &OTHERS)
    }

    fn of(which: Which, ways: &'static [Way]) -> Self {
        Self {
            which,
            program: PathBuf::new(),
            ways,
            image: format!("localhost/{}image:latest", Session::prefix()),
        }
    }

    fn way(&self) -> Way {
        self.ways.first().copied().unwrap_or(PLAIN)
    }

    fn command(&self, ground: &Ground) -> Invocation {
        let folder = ground.folder(self.name());
        let command = Invocation::new(&self.program);
        match self.which {
            Which::Podman => command
                .word("--root")
                .word(folder.join("storage"))
                .word("--runroot")
                .word(folder.join("run"))
                .word("--tmpdir")
                .word(folder.join("tmp"))
                .words(self.way().runtime.iter().flat_map(|it| ["--runtime", it])),
            Which::Docker => command,
            Which::Nerdctl => command.word("--namespace").word(namespace()),
        }
    }

    /// Runs one that is not timed, before or after the rounds.
    fn run(&self, invocation: &Invocation, input: Option<File>) -> Result<String> {
        let (program, words) = invocation.argv.split_first().context("no program")?;
        let input = input.map_or_else(Stdio::null, Stdio::from);
        let output = Command::new(program).args(words).stdin(input).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rfind(|line| !line.trim().is_empty());
            bail!("{}", last.unwrap_or("it failed and does not say why"));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Of containerd, where nerdctl keeps what is the benchmark's own.
fn namespace() -> String {
    format!("{}bench", Session::prefix())
}

impl Contestant for Engine {
    fn name(&self) -> &'static str {
        match self.which {
            Which::Podman => "podman",
            Which::Docker => "docker",
            Which::Nerdctl => "nerdctl",
        }
    }

    fn kind(&self) -> &'static str {
        "container"
    }

    fn find(&mut self, ground: &Ground) -> Result<String, Absent> {
        self.program = ground.program(self.name(), self.name())?;
        let version = ask(&self.program, &["--version"])?;
        match self.which {
            Which::Podman => Ok(version),
            Which::Docker => {
                let format = ["version", "--format", "server {{.Server.Version}}"];
                let server = ask(&self.program, &format)
                    .map_err(|_| Absent("its daemon does not answer: is it running?".into()))?;
                Ok(format!("{version}, {server}"))
            }
            Which::Nerdctl => match ask(&self.program, &["info", "--format", "{{.ServerVersion}}"])
            {
                Ok(server) => Ok(format!("{version}, containerd {server}")),
                Err(_) => Err(Absent("containerd does not answer: is it running?".into())),
            },
        }
    }

    fn prepare(&mut self, ground: &Ground) -> Result<()> {
        let folder = ground.folder(self.name());
        std::fs::create_dir_all(&folder)?;
        if self.which == Which::Nerdctl {
            // It runs the tree itself: it imports no plain archive.
            return Ok(());
        }
        let archive = folder.join("image.tar");
        pack(&ground.tree, &archive).context("packing the tree")?;
        let import = self.command(ground).words(["import", "-", &self.image]);
        self.run(&import, Some(File::open(&archive)?))
            .with_context(|| format!("{} import", self.name()))?;
        std::fs::remove_file(archive)?;
        Ok(())
    }

    fn another(&mut self) -> Option<String> {
        self.ways = self.ways.get(1..).filter(|rest| !rest.is_empty())?;
        Some(self.way().name.to_owned())
    }

    fn offers(&self, _feature: Feature) -> Result<(), String> {
        Ok(())
    }

    fn launch(&self, ground: &Ground, task: &Task) -> Result<Launch> {
        let way = self.way();
        let mut start = self.command(ground).words(["run", "--name", &task.id]);
        start = start.word(match task.detached {
            true => "--detach",
            false => "--rm",
        });
        if way.limits {
            for (name, limit) in limits()? {
                start = start
                    .word("--ulimit")
                    .word(format!("{name}={limit}:{limit}"));
            }
        }
        if way.host_network {
            start = start.words(["--network", "host"]);
        } else if let Some(port) = task.port {
            let led = format!("127.0.0.1:{}:{port}", task.host_port);
            start = start.word("--publish").word(led);
        }
        if task.disk {
            let bind = format!("{}:{DISK}", ground.written.display());
            start = start.word("--volume").word(bind);
        }
        for pair in &task.env {
            start = start.word("--env").word(pair);
        }
        start = start.words(["--workdir", &task.cwd]);
        start = match self.which {
            Which::Nerdctl => start.word("--rootfs").word(&ground.tree),
            _ => start.word(&self.image),
        };
        Ok(Launch {
            start: start.words(&task.argv),
            service: match way.host_network {
                true => host_service(task),
                false => led_service(task),
            },
            stop: Vec::new(),
            remove: vec![self.command(ground).words(["rm", "--force", &task.id])],
            folders: Vec::new(),
        })
    }

    fn elsewhere(&self, ground: &Ground, id: &str) -> Vec<i32> {
        if self.which == Which::Podman {
            return Vec::new();
        }
        let asked = self
            .command(ground)
            .words(["inspect", "--format", "{{.State.Pid}}", id]);
        let pid = self
            .run(&asked, None)
            .ok()
            .and_then(|said| said.trim().parse().ok());
        let Some(pid) = pid else {
            return Vec::new();
        };
        // Between the daemon and the command is one that watches it.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
        std::iter::once(pid)
            .chain(parent.filter(|&parent| parent > 1))
            .collect()
    }

    fn files(&self, ground: &Ground) -> Vec<PathBuf> {
        let storage = ground.folder(self.name()).join("storage");
        let helpers = ["conmon", "crun", "runc", "containerd-shim-runc-v2"];
        let helpers = helpers.into_iter().filter_map(super::in_path);
        let own = [self.program.clone(), storage];
        own.into_iter()
            .chain(helpers)
            .filter(|path| path.exists())
            .collect()
    }

    fn cleanup(&mut self, ground: &Ground) -> Result<()> {
        let folder = ground.folder(self.name());
        if !folder.exists() {
            return Ok(());
        }
        let all = self
            .command(ground)
            .words(["ps", "--all", "--quiet", "--filter"]);
        let ours = all.word(format!("name={}", Session::prefix()));
        for id in self.run(&ours, None).unwrap_or_default().lines() {
            let _ = self.run(&self.command(ground).words(["rm", "--force", id]), None);
        }
        let removed = match self.which {
            Which::Nerdctl => {
                let remove = Invocation::new(&self.program);
                self.run(&remove.words(["namespace", "remove", &namespace()]), None)
            }
            _ => self.run(
                &self.command(ground).words(["rmi", "--force", &self.image]),
                None,
            ),
        };
        crate::bench::ground::unmount(&folder);
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
        removed.map(drop)
    }
}

/// What this process may raise its own limits to.
fn limits() -> Result<[(&'static str, u64); 2]> {
    use nix::sys::resource::{Resource, getrlimit};
    /// What engines set themselves.
    const MOST: u64 = 1 << 20;
    let hard = |which| -> Result<u64> { Ok(getrlimit(which)?.1.min(MOST)) };
    Ok([
        ("nofile", hard(Resource::RLIMIT_NOFILE)?),
        // podman lowers its own to this before it starts anything.
        ("nproc", hard(Resource::RLIMIT_NPROC)?.min(most_processes())),
    ])
}

/// Processes that this host can have at all.
fn most_processes() -> u64 {
    /// The kernel's own, where it does not say.
    const USUAL: u64 = 32_768;
    let text = std::fs::read_to_string("/proc/sys/kernel/pid_max");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(USUAL)
}

/// The tree as an archive.
fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let mut builder = tar::Builder::new(std::io::BufWriter::new(File::create(archive)?));
    builder.follow_symlinks(false);
    builder.append_dir_all(".", tree)?;
    builder.into_inner()?.into_inner()?;
    Ok(())
}
