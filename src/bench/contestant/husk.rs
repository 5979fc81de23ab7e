// SPDX-License-Identifier: Apache-2.0
//! husk itself, from a template and booted. See [`Contestant`] for who calls this.

use super::plain::led_service;
use super::{
    Absent, Contestant, DISK, Feature, Ground, Invocation, Launch, Medium, Task, VOLUME, ask,
};
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::Command;

#[derive(Debug)]
pub struct Husk {
    cold: bool,
    /// What it boots or goes on from: its own, of all that there are.
    from: Option<PathBuf>,
}

impl Husk {
    pub fn warm() -> Self {
        Self {
            cold: false,
            from: None,
        }
    }

    pub fn cold() -> Self {
        Self {
            cold: true,
            from: None,
        }
    }

    fn shape(ground: &Ground) -> [String; 4] {
        let memory = format!("{}m", ground.memory >> 20);
        [
            "--memory".into(),
            memory,
            "--cpus".into(),
            ground.cpus.to_string(),
        ]
    }
}

/// The last line of what husk says to this: a path or a key.
fn said<const N: usize>(ground: &Ground, words: [&str; N]) -> Result<String> {
    let output = Command::new(&ground.husk).args(words).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

impl Contestant for Husk {
    fn name(&self) -> &'static str {
        match self.cold {
            true => "husk-cold",
            false => "husk",
        }
    }

    fn kind(&self) -> &'static str {
        "machine"
    }

    fn find(&mut self, ground: &Ground) -> Result<String, Absent> {
        let version = ask(&ground.husk, &["--version"])?;
        Ok(match self.cold {
            true => format!("{version}, the kernel booted"),
            false => format!("{version}, from a template"),
        })
    }

    fn prepare(&mut self, ground: &Ground) -> Result<()> {
        if self.cold {
            // Without one there is no machine, and a start says why.
            let path = said(ground, ["kernel", "path"]);
            self.from = path.ok().map(PathBuf::from);
            return Ok(());
        }
        let [a, b, c, d] = &Self::shape(ground);
        let key = said(ground, ["template", "prebuild", a, b, c, d])?;
        let folder = ground.cache.as_ref().map(|it| it.join("templates"));
        self.from = folder.map(|it| it.join(key)).filter(|it| it.is_dir());
        Ok(())
    }

    fn offers(&self, _feature: Feature) -> Result<(), String> {
        Ok(())
    }

    fn disk(&self, ground: &Ground) -> Result<String, String> {
        ground.volume.clone().map(|_| DISK.to_owned())
    }

    fn own(&self, _ground: &Ground) -> (String, Medium) {
        ("/".to_owned(), Medium::Memory)
    }

    fn launch(&self, ground: &Ground, task: &Task) -> Result<Launch> {
        let mut start = Invocation::new(&ground.husk)
            .words(["run", "--quiet", "--name", &task.id])
            .words(Self::shape(ground));
        if self.cold {
            start = start.word("--cold");
        }
        if task.detached {
            start = start.word("--detach");
        }
        if let Some(port) = task.port {
            let led = format!("127.0.0.1:{}:{port}", task.host_port);
            start = start.word("--publish").word(led);
        }
        if task.disk {
            start
                .env
                .push(("HUSK_DATA_DIR".into(), ground.data().into()));
            start = start.word("--volume").word(format!("{VOLUME}:{DISK}"));
        }
        for pair in &task.env {
            start = start.word("--env").word(pair);
        }
        // As all the others have it: the command alone, by root.
        start = start.words(["--user", "0:0", "--entrypoint", "", "--workdir", &task.cwd]);
        let remove = Invocation::new(&ground.husk).words(["rm", "--force", &task.id]);
        Ok(Launch {
            start: start.word(&ground.image).words(&task.argv),
            service: led_service(task),
            stop: Vec::new(),
            remove: match task.detached {
                true => vec![remove],
                false => Vec::new(),
            },
            folders: Vec::new(),
        })
    }

    fn files(&self, ground: &Ground) -> Vec<PathBuf> {
        let own = [ground.husk.clone(), ground.disk.clone()];
        own.into_iter().chain(self.from.clone()).collect()
    }

    fn cleanup(&mut self, _ground: &Ground) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn ground(folder: &Path) -> Ground {
        let path = |name: &str| folder.join(name);
        Ground {
            work: path("work"),
            tree: path("tree"),
            image: "image".into(),
            disk: path("disk"),
            husk: path("husk"),
            with: std::collections::BTreeMap::new(),
            memory: 512 << 20,
            cpus: 1,
            kernel: Err("none".into()),
            cache: Some(path("cache")),
            written: path("written"),
            volume: Err("none".into()),
        }
    }

    #[test]
    fn its_files_are_those_it_starts_from_and_not_all_there_are() {
        let folder = tempfile::TempDir::new().unwrap();
        let ground = ground(folder.path());
        let templates = folder.path().join("cache/templates");
        for name in ["mine", "other"] {
            std::fs::create_dir_all(templates.join(name)).unwrap();
        }
        let script = "#!/bin/sh\ncase $1 in template) echo mine;; kernel) echo /k/vmlinux;; esac\n";
        std::fs::write(&ground.husk, script).unwrap();
        std::fs::set_permissions(&ground.husk, std::fs::Permissions::from_mode(0o755)).unwrap();
        let files = |mut husk: Husk| {
            husk.prepare(&ground).unwrap();
            husk.files(&ground)
        };
        let own = [ground.husk.clone(), ground.disk.clone()];
        let with = |path: PathBuf| [&own[..], &[path]].concat();
        assert_eq!(files(Husk::warm()), with(templates.join("mine")));
        assert_eq!(files(Husk::cold()), with("/k/vmlinux".into()));
    }

    #[test]
    fn a_disk_is_a_volume_of_the_benchmarks_own() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut ground = ground(folder.path());
        let husk = Husk::warm();
        assert_eq!(husk.disk(&ground), Err("none".to_owned()));
        ground.volume = Ok(folder.path().join("work/data/volumes/work.img"));
        assert_eq!(husk.disk(&ground), Ok(DISK.to_owned()));
        let mut task = Task {
            id: "id".into(),
            argv: vec!["/load".into()],
            env: Vec::new(),
            cwd: "/".into(),
            port: None,
            host_port: 0,
            detached: false,
            disk: true,
        };
        let start = husk.launch(&ground, &task).unwrap().start;
        assert!(start.argv.contains(&"work:/mnt".into()), "{start:?}");
        let data = ("HUSK_DATA_DIR".into(), ground.data().into());
        assert_eq!(start.env, [data]);
        task.disk = false;
        let start = husk.launch(&ground, &task).unwrap().start;
        assert!(start.env.is_empty() && !start.argv.contains(&"--volume".into()));
    }
}
