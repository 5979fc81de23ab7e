// SPDX-License-Identifier: Apache-2.0
//! The root file system guests of the tests run in: a static busybox and the probe, as a
//! directory and as each other kind of image. Made when the first test asks for it, gone
//! with the last that holds it.

use super::skipped;
use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

const BUSYBOX: &str = "/bin/busybox";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Names busybox goes by in the guest.
const APPLETS: [&str; 29] = [
    "awk",
    "cat",
    "cut",
    "date",
    "dd",
    "echo",
    "env",
    "false",
    "grep",
    "head",
    "hostname",
    "id",
    "kill",
    "ls",
    "mount",
    "od",
    "pwd",
    "reboot",
    "rm",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stty",
    "touch",
    "true",
    "tty",
    "wc",
];

/// A folder of files for guests, and the cache of the husks that use it.
pub struct Root {
    folder: tempfile::TempDir,
}

/// The root all tests share.
pub fn shared() -> Arc<Root> {
    static SHARED: Mutex<Weak<Root>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let root = Arc::new(Root::make());
        *shared = Arc::downgrade(&root);
        root
    })
}

impl Root {
    /// One of the test's own, to be changed.
    pub fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fill(&folder.path().join("root"));
        std::fs::create_dir(folder.path().join("cache")).expect("a folder");
        Self { folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub fn dir(&self) -> OsString {
        reference("dir:", &self.path())
    }

    pub fn tar(&self) -> OsString {
        let path = self.made("root.tar", |path| {
            let file = std::fs::File::create(path).expect("a file");
            let mut archive = tar::Builder::new(file);
            archive.follow_symlinks(false);
            archive
                .append_dir_all(".", self.path())
                .expect("an archive");
            archive.finish().expect("an archive");
            true
        });
        reference("tar:", &path.expect("made here"))
    }

    /// A ready image; `None`, said aloud, where the tool that makes it is missing.
    pub fn ext4(&self) -> Option<OsString> {
        self.ready("root.ext4", |root, path| {
            let mut command = tool("mke2fs");
            command.args(["-q", "-t", "ext4", "-d"]).arg(root);
            command.arg(path).arg("64M");
            command
        })
    }

    /// As `ext4`.
    pub fn erofs(&self) -> Option<OsString> {
        self.ready("root.erofs", |root, path| {
            let mut command = tool("mkfs.erofs");
            command.arg("--quiet").arg(path).arg(root);
            command
        })
    }

    fn ready(&self, name: &str, make: impl FnOnce(&Path, &Path) -> Command) -> Option<OsString> {
        let path = self.made(name, |path| {
            let mut command = make(&self.path(), path);
            let output = command.stdin(Stdio::null()).output();
            match output {
                Ok(output) => {
                    assert!(output.status.success(), "{command:?}: {output:?}");
                    true
                }
                Err(error) => {
                    let tool = command.get_program().display();
                    skipped(&format!("{tool} cannot be started: {error}"));
                    false
                }
            }
        });
        path.map(PathBuf::into_os_string)
    }

    /// The file `name` beside the root, made once.
    fn made(&self, name: &str, make: impl FnOnce(&Path) -> bool) -> Option<PathBuf> {
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.folder.path().join(name);
        (path.exists() || make(&path)).then_some(path)
    }
}

fn reference(kind: &str, path: &Path) -> OsString {
    let mut reference = OsString::from(kind);
    reference.push(path);
    reference
}

/// System programs are in folders an ordinary user's PATH may lack.
fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn fill(root: &Path) {
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    std::fs::copy(probe(), root.join("bin/husk-probe")).expect("the probe");
    let write = |name: &str, text: &str| std::fs::write(root.join(name), text).expect("a file");
    write(
        "etc/passwd",
        "root:x:0:0::/:/bin/sh\nguest:x:1000:1000::/:/bin/sh\n",
    );
    write("etc/group", "root:x:0:\nguest:x:1000:\n");
    write("etc/motd", "as it was\n");
    write("bin/no-program", "not even a script: 0 1\n");
}

/// The probe: HUSK_TEST_PROBE, or built here, static so that it needs nothing of the root.
fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| match std::env::var_os("HUSK_TEST_PROBE") {
        Some(path) => path.into(),
        None => build_probe(),
    })
}

fn build_probe() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("probe");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--package", "husk-probe"])
        .args(["--release", "--target", TARGET, "--target-dir"])
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{output:?}");
    folder.join(TARGET).join("release/husk-probe")
}
