// SPDX-License-Identifier: Apache-2.0
//! Images as the tools of others make and serve them: umoci, skopeo, docker-registry. Each
//! test has a cache of its own, so that what one removes is no other's.

mod declared;
mod layers;
mod registry;
pub mod server;
mod sources;
mod store;

use crate::support::root::{self, Root};
use crate::support::{Outcome, finish, husk, skipped};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;

/// A tool of others; none, said aloud, where it is not installed.
pub fn tool(name: &str) -> Option<Command> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&folders)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if there.is_none() {
        skipped(&format!("{name} is not installed"));
    }
    let mut command = Command::new(there?);
    command.stdin(Stdio::null());
    Some(command)
}

#[track_caller]
fn done(command: &mut Command) -> String {
    let output = command.output().expect("the tool starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// An image umoci made of the shared root: `base` holds all of it; `app` changes some and
/// says what to run.
pub struct Sample {
    folder: TempDir,
    _root: Arc<Root>,
}

impl Sample {
    pub fn shared() -> Option<&'static Self> {
        static SAMPLE: OnceLock<Option<Sample>> = OnceLock::new();
        SAMPLE.get_or_init(Self::make).as_ref()
    }

    fn layout(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    fn reference(&self) -> String {
        format!("oci:{}:app", self.layout().display())
    }

    /// The image as skopeo writes it elsewhere; the transport and the path.
    pub fn copied(&self, transport: &str, options: &[&str]) -> Option<String> {
        let path = self.folder.path().join(transport);
        let to = format!("{transport}:{}:app:1", path.display());
        if !path.exists() {
            let mut skopeo = tool("skopeo")?;
            done(
                skopeo
                    .args(["copy", "-q"])
                    .args(options)
                    .args([&self.reference(), &to]),
            );
        }
        Some(format!("{transport}:{}", path.display()))
    }

    fn make() -> Option<Self> {
        let (folder, root) = (TempDir::new().expect("a folder"), root::shared());
        let sample = Self {
            folder,
            _root: Arc::clone(&root),
        };
        let path = |name: &str| sample.folder.path().join(name);
        let umoci = |words: &[&str]| Some(done(tool("umoci")?.args(words)));
        let layout = path("layout").display().to_string();
        let (base, app) = (format!("{layout}:base"), format!("{layout}:app"));
        umoci(&["init", "--layout", &layout])?;
        umoci(&["new", "--image", &base])?;
        let first = path("first").display().to_string();
        umoci(&["unpack", "--rootless", "--image", &base, &first])?;
        let files = path("first").join("rootfs");
        done(Command::new("cp").arg("-aT").arg(root.path()).arg(&files));
        std::fs::create_dir_all(files.join("srv/old")).expect("a folder");
        std::fs::write(files.join("srv/old/one"), "one\n").expect("a file");
        std::fs::write(files.join("srv/gone"), "gone\n").expect("a file");
        std::fs::hard_link(files.join("srv/old/one"), files.join("srv/hard")).expect("a link");
        umoci(&["repack", "--image", &base, &first])?;
        let second = path("second").display().to_string();
        umoci(&["unpack", "--rootless", "--image", &base, &second])?;
        let files = path("second").join("rootfs");
        std::fs::remove_file(files.join("srv/gone")).expect("a file");
        std::fs::remove_dir_all(files.join("srv/old")).expect("a folder");
        std::fs::create_dir(files.join("srv/old")).expect("a folder");
        std::fs::write(files.join("srv/old/two"), "two\n").expect("a file");
        umoci(&["repack", "--image", &app, &second])?;
        umoci(&[
            "config",
            "--image",
            &app,
            "--config.entrypoint",
            "sh",
            "--config.entrypoint",
            "-c",
            "--config.cmd",
            SAYS,
            "--config.user",
            "guest",
            "--config.workingdir",
            "/srv",
            "--config.env",
            "A=image",
            "--config.env",
            "B=image",
            "--config.exposedports",
            "80/tcp",
            "--config.stopsignal",
            "SIGQUIT",
            "--config.volume",
            "/srv/old",
            "--config.label",
            "org.example=yes",
        ])?;
        Some(sample)
    }
}

/// What the sample's command is, and what it says.
const SAYS: &str = "id -u; id -g; pwd; echo $A $B; ls; ls old; cat hard";
const SAID: &str = "1000\n1000\n/srv\nimage image\nhard\nold\ntwo\none\n";

/// A cache, and husks that use it.
struct Cache(TempDir);

impl Cache {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut husk = husk();
        husk.args(words).env("HUSK_CACHE_DIR", self.path());
        // No login of whoever runs the tests.
        husk.env("REGISTRY_AUTH_FILE", self.path().join("none.json"));
        husk
    }

    fn husk(&self, words: &[&str]) -> Outcome {
        finish(&mut self.command(words))
    }

    #[track_caller]
    fn good(&self, words: &[&str]) -> String {
        let outcome = self.husk(words);
        assert_eq!(outcome.code, 0, "{words:?}: {outcome:?}");
        outcome.stdout
    }

    /// Standard error of a verb that fails with this code and says this.
    #[track_caller]
    fn bad(&self, words: &[&str], code: i32, says: &str) {
        let outcome = self.husk(words);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (code, ""),
            "{outcome:?}"
        );
        assert!(
            outcome.stderr.contains(says),
            "{says:?} is not in {outcome:?}"
        );
    }

    fn json(&self, words: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.good(words)).expect("JSON")
    }

    fn blobs(&self) -> Vec<PathBuf> {
        let folder = std::fs::read_dir(self.path().join("store/blobs/sha256"));
        let files = folder
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path());
        files.collect()
    }
}
