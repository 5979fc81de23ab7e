// SPDX-License-Identifier: Apache-2.0
//! The build itself, step by step, in a staging folder that nobody else looks at: unpack, patch,
//! configure, verify, compile, strip, record. Runs for minutes on the caller's thread.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::cache::failed;
use super::provenance::Outcome;
use super::recipe::{Recipe, Tools};
use super::source::Package;
use super::{KernelError, Progress, Provenance, config};

/// What the last measured build compiled; only the progress bar believes it.
const EXPECTED_OBJECTS: u32 = 1330;

/// How much of a failed step's log the error quotes.
const TAIL_LINES: usize = 12;

/// Sources of hardware this kernel has no driver for: two thirds of the package, left packed.
/// Their Kconfig and Makefiles are read all the same.
const LEFT_PACKED: &[&str] = &[
    "drivers/gpu",
    "drivers/media",
    "drivers/staging",
    "drivers/infiniband",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/scsi",
    "drivers/usb",
    "sound/soc",
    "sound/pci",
    "Documentation",
    "tools/testing",
    "tools/perf",
];

/// Builds into `staging/done`.
pub(super) fn run(
    recipe: &Recipe,
    package: &Package,
    tools: &Tools,
    digest: &str,
    staging: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), KernelError> {
    let started = Instant::now();
    let mut steps = Steps::new(staging)?;

    progress(Progress::Unpacking);
    steps.unpack(package)?;
    for patch in &recipe.patches {
        progress(Progress::Patching { name: patch.name });
        steps.patch(patch.name, patch.text)?;
    }
    progress(Progress::Configuring);
    steps.configure(recipe)?;
    let (objects, command) = steps.compile(recipe, progress)?;
    progress(Progress::Finishing);
    let (version, vmlinux) = steps.finish()?;

    let outcome = Outcome {
        version,
        built_at: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs()),
        build_seconds: started.elapsed().as_secs(),
        command,
        objects,
        vmlinux,
    };
    let record = Provenance::new(recipe, package, tools, digest, outcome);
    let path = Provenance::path(&staging.join("done"));
    let text = serde_json::to_vec_pretty(&record).map_err(|source| KernelError::Record {
        path: path.clone(),
        source,
    })?;
    fs::write(&path, text).map_err(failed("write", &path))
}

struct Steps {
    staging: PathBuf,
    /// The unpacked tree.
    tree: PathBuf,
    log_path: PathBuf,
    log: File,
}

impl Steps {
    fn new(staging: &Path) -> Result<Self, KernelError> {
        let tree = staging.join("linux");
        fs::create_dir(&tree).map_err(failed("create", &tree))?;
        let log_path = staging.join("build.log");
        let log = File::create(&log_path).map_err(failed("create", &log_path))?;
        Ok(Self {
            staging: staging.to_owned(),
            tree,
            log_path,
            log,
        })
    }

    fn unpack(&mut self, package: &Package) -> Result<(), KernelError> {
        let mut tar = Command::new("tar");
        tar.arg("--extract")
            .arg("--strip-components=1")
            .arg("--file")
            .arg(&package.path);
        for folder in LEFT_PACKED {
            for kind in ["c", "h", "rst", "S"] {
                tar.arg(format!("--exclude=*/{folder}/*.{kind}"));
            }
        }
        tar.arg("--directory").arg(&self.tree);
        self.step("unpacking the source package", &mut tar, &mut |_| {})?;
        if self.tree.join("Makefile").is_file() {
            return Ok(());
        }
        Err(KernelError::SourceUnusable {
            path: package.path.clone(),
            what: "it has no Makefile in its top folder",
        })
    }

    fn patch(&mut self, name: &str, text: &str) -> Result<(), KernelError> {
        let file = self.staging.join(name.replace('/', "-"));
        fs::write(&file, text).map_err(failed("write", &file))?;
        let mut patch = Command::new("patch");
        patch.args([
            "-p1",
            "--forward",
            "--batch",
            "--no-backup-if-mismatch",
            "--input",
        ]);
        patch.arg(&file).current_dir(&self.tree);
        self.step(&format!("patch {name}"), &mut patch, &mut |_| {})
    }

    fn configure(&mut self, recipe: &Recipe) -> Result<(), KernelError> {
        let requested = recipe.merged_config();
        let all = self.staging.join("all.config");
        fs::write(&all, &requested).map_err(failed("write", &all))?;
        let mut make = self.make(recipe);
        let mut assignment = std::ffi::OsString::from("KCONFIG_ALLCONFIG=");
        assignment.push(&all);
        make.arg(assignment).arg("allnoconfig");
        self.step("configuring", &mut make, &mut |_| {})?;

        let made = self.tree.join(".config");
        let made = fs::read_to_string(&made).map_err(failed("read", &made))?;
        let lost = config::lost(&requested, &made);
        if lost.is_empty() {
            Ok(())
        } else {
            Err(KernelError::OptionsLost { lost })
        }
    }

    fn compile(
        &mut self,
        recipe: &Recipe,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(u32, Vec<String>), KernelError> {
        let jobs = std::thread::available_parallelism().map_or(1, NonZero::get);
        let mut make = self.make(recipe);
        make.arg(format!("-j{jobs}")).arg("vmlinux");
        let words = std::iter::once(make.get_program()).chain(make.get_args());
        let command = words
            .map(|word| word.to_string_lossy().into_owned())
            .collect();

        let mut objects = 0;
        progress(Progress::Compiling {
            objects,
            expected: EXPECTED_OBJECTS,
        });
        self.step("compiling", &mut make, &mut |line| {
            if line.starts_with("  CC ") || line.starts_with("  AS ") {
                objects += 1;
                let expected = EXPECTED_OBJECTS.max(objects);
                progress(Progress::Compiling { objects, expected });
            }
        })?;
        Ok((objects, command))
    }

    /// Strips and collects; returns the version and the image.
    fn finish(&mut self) -> Result<(String, Vec<u8>), KernelError> {
        let done = self.staging.join("done");
        fs::create_dir(&done).map_err(failed("create", &done))?;
        let vmlinux = done.join("vmlinux");
        let mut strip = Command::new("objcopy");
        strip.args(["--strip-all", "--remove-section=.comment"]);
        strip.arg(self.tree.join("vmlinux")).arg(&vmlinux);
        self.step("stripping", &mut strip, &mut |_| {})?;
        for (from, to) in [("System.map", "System.map"), (".config", "config")] {
            let from = self.tree.join(from);
            fs::copy(&from, done.join(to)).map_err(failed("copy", &from))?;
        }
        let release = self.tree.join("include/config/kernel.release");
        let version = fs::read_to_string(&release).map_err(failed("read", &release))?;
        let image = fs::read(&vmlinux).map_err(failed("read", &vmlinux))?;
        Ok((version.trim().to_owned(), image))
    }

    fn make(&self, recipe: &Recipe) -> Command {
        let mut make = Command::new("make");
        make.arg("-C").arg(&self.tree).args(&recipe.variables);
        // A caller's own make must not lend its flags or its job slots.
        make.env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .env_remove("MFLAGS");
        make
    }

    /// Runs one program to its end, its output going to the log and, line by line, to `watch`.
    fn step(
        &mut self,
        name: &str,
        command: &mut Command,
        watch: &mut dyn FnMut(&str),
    ) -> Result<(), KernelError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let spawn = |source| KernelError::Spawn {
            program: program.clone(),
            source,
        };
        let (reader, writer) = std::io::pipe().map_err(spawn)?;
        let errors = writer.try_clone().map_err(spawn)?;
        command
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(errors)
            .env("LC_ALL", "C");
        let mut child = command.spawn().map_err(spawn)?;
        // The command still holds this end of the pipe; with it open the log would never end.
        command.stdout(Stdio::null()).stderr(Stdio::null());

        let mut tail = Tail::default();
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.map_err(spawn)?;
            self.log
                .write_all(&line)
                .and_then(|()| self.log.write_all(b"\n"))
                .map_err(failed("write", &self.log_path))?;
            let line = String::from_utf8_lossy(&line);
            watch(&line);
            tail.push(&line);
        }
        let status = child.wait().map_err(spawn)?;
        if status.success() {
            return Ok(());
        }
        let step = format!("{name} ({program}: {status})");
        Err(KernelError::Step {
            step,
            log: self.log_path.clone(),
            tail: tail.text(),
        })
    }
}

/// The last lines of a log.
#[derive(Default)]
struct Tail(std::collections::VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    fn text(self) -> String {
        Vec::from(self.0).join("\n")
    }
}
