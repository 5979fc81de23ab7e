// SPDX-License-Identifier: Apache-2.0
//! A husk to be started: `run` in the shared root with the kernel under test, or `boot`.
//!
//! However a test ends, it is looked after: no machine may outlive its husk, and no file
//! may stay where temporary ones are put.

use super::kvm::{self, Turn};
use super::leftovers;
use super::process::{Ended, Input, Running};
use super::root::{self, Root};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

/// For a guest to reach its agent: the most a busy host with an interpreted kernel takes.
const TIMEOUT: &str = "200s";

/// What the tests of one module start their husks with.
pub struct Host {
    pub root: Arc<Root>,
    _turn: Turn,
}

impl Host {
    /// `None`, said aloud, where no guest can run.
    pub fn find() -> Option<Self> {
        let turn = kvm::turn()?;
        Some(Self {
            root: root::shared(),
            _turn: turn,
        })
    }

    /// `husk run` of a command in the shared root.
    pub fn run<S: AsRef<OsStr>>(&self, command: &[S]) -> Husk {
        Husk::run(&self.root, self.root.dir(), command)
    }

    /// `husk run` of a shell script there.
    pub fn sh(&self, script: &str) -> Husk {
        self.run(&["sh", "-c", script])
    }
}

/// A husk about to be started.
pub struct Husk {
    verb: &'static str,
    options: Vec<OsString>,
    /// None: husk's own, as it finds it.
    kernel: Option<PathBuf>,
    /// Image, command and arguments.
    rest: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cache: PathBuf,
    input: Input,
    before: Vec<OsString>,
    /// None: a folder that must be empty at the end.
    runtime_dir: Option<PathBuf>,
}

impl Husk {
    pub fn run<S: AsRef<OsStr>>(root: &Root, image: OsString, command: &[S]) -> Self {
        let mut rest = vec![image];
        rest.extend(command.iter().map(|word| word.as_ref().to_owned()));
        Self {
            verb: "run",
            options: vec!["--timeout".into(), TIMEOUT.into()],
            kernel: Some(kernel()),
            rest,
            env: Vec::new(),
            cache: root.cache(),
            input: Input::default(),
            before: Vec::new(),
            runtime_dir: None,
        }
    }

    pub fn boot(root: &Root, kernel: impl Into<PathBuf>) -> Self {
        Self {
            verb: "boot",
            options: Vec::new(),
            kernel: Some(kernel.into()),
            rest: Vec::new(),
            env: Vec::new(),
            cache: root.cache(),
            input: Input::default(),
            before: Vec::new(),
            runtime_dir: None,
        }
    }

    /// Later options prevail, where an option may be given once only it must not be repeated.
    pub fn options<S: AsRef<OsStr>>(mut self, options: &[S]) -> Self {
        let options = options.iter().map(|word| word.as_ref().to_owned());
        self.options.extend(options);
        self
    }

    pub fn timeout(mut self, limit: &str) -> Self {
        self.options[1] = limit.into();
        self
    }

    pub fn kernel(mut self, kernel: impl Into<PathBuf>) -> Self {
        self.kernel = Some(kernel.into());
        self
    }

    pub fn own_kernel(mut self) -> Self {
        self.kernel = None;
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn cache(mut self, cache: PathBuf) -> Self {
        self.cache = cache;
        self
    }

    pub fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// Where what several husks share while they run has its place.
    pub fn runtime_dir(mut self, folder: PathBuf) -> Self {
        self.runtime_dir = Some(folder);
        self
    }

    /// Starts it by another program, which gets husk and its arguments behind its own.
    pub fn by<S: AsRef<OsStr>>(mut self, words: &[S]) -> Self {
        self.before = words.iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// The command, and the folder its temporary files go to.
    pub fn command(&self) -> (Command, tempfile::TempDir) {
        leftovers::adopt_orphans();
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let plain = super::husk();
        let mut command = match self.before.split_first() {
            None => plain,
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(plain.get_program());
                command
            }
        };
        command.arg(self.verb).args(&self.options);
        if let Some(kernel) = &self.kernel {
            command.arg("--kernel").arg(kernel);
        }
        command.args(&self.rest);
        command.env("HUSK_CACHE_DIR", &self.cache);
        command.env("TMPDIR", scratch.path());
        let runtime_dir = self.runtime_dir.as_deref().unwrap_or(scratch.path());
        command.env("XDG_RUNTIME_DIR", runtime_dir);
        command.env("NO_COLOR", "1");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        (command, scratch)
    }

    pub fn start(mut self) -> Started {
        let (mut command, scratch) = self.command();
        let input = std::mem::take(&mut self.input);
        Started {
            running: Running::start(&mut command, input),
            scratch,
        }
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn end(self) -> Ended {
        self.start().end()
    }
}

/// A husk under way.
pub struct Started {
    pub running: Running,
    pub scratch: tempfile::TempDir,
}

impl Started {
    /// Waits for its end, and for it to have left nothing.
    #[track_caller]
    pub fn end(self) -> Ended {
        let ended = self.running.finish();
        leftovers::check_orphans();
        let files = leftovers::files(self.scratch.path());
        assert!(files.is_empty(), "left behind: {files:?}\n{ended:?}");
        ended
    }
}

/// The guest kernel under test: HUSK_TEST_KERNEL, or husk's own.
pub fn kernel() -> PathBuf {
    static KERNEL: OnceLock<PathBuf> = OnceLock::new();
    let found = KERNEL.get_or_init(|| match std::env::var_os("HUSK_TEST_KERNEL") {
        Some(path) => path.into(),
        None => {
            let outcome = super::run(&["kernel", "path"]);
            assert_eq!(
                outcome.code, 0,
                "husk's kernel is not built, `husk kernel build` does it: {outcome:?}"
            );
            outcome.stdout.trim_end_matches('\n').into()
        }
    });
    found.clone()
}
