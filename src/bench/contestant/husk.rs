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
