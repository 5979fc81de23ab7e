// SPDX-License-Identifier: Apache-2.0
//! What the README shows is what happens: every `$ husk run` line of its tour is typed into
//! a shell, and what follows it there must follow it here.

use crate::support::binary;
use crate::support::husk::{Host, kernel};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

const README: &str = include_str!("../../../README.md");
const ROOTFS: &str = include_str!("../../../resources/demo/rootfs");
const PAGE: &str = include_str!("../../../resources/demo/www/index.html");
/// Fewer would mean that this test no longer finds the tour.
const LEAST: usize = 5;

/// Each command of the README that starts a machine, and what it prints there.
fn tour() -> Vec<(&'static str, String)> {
    let mut shown: Vec<(&str, String)> = Vec::new();
    let mut listening = false;
    for line in README.lines() {
        if line.starts_with("```") {
            listening = false;
        } else if let Some(command) = line.strip_prefix("$ ") {
            listening = command.contains("husk run ");
            if listening {
                shown.push((command, String::new()));
            }
        } else if listening && let Some((_, output)) = shown.last_mut() {
            output.push_str(line);
            output.push('\n');
        }
    }
    shown
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its mode");
}

/// A folder with `demo` in it, as `make run` makes it, and a `husk` that knows its kernel.
fn stage(folder: &Path) {
    std::fs::create_dir(folder.join("www")).expect("a folder");
    write(&folder.join("www/index.html"), PAGE, 0o644);
    write(&folder.join("rootfs"), ROOTFS, 0o755);
    let made = Command::new("sh")
        .args(["rootfs", "/bin/busybox", "demo"])
        .current_dir(folder)
        .status();
    assert!(made.expect("sh runs").success());
    let husk = format!(
        "#!/bin/sh\nverb=$1; shift\nexec '{}' \"$verb\" --kernel '{}' --timeout 200s \"$@\"\n",
        Path::new(&binary()).display(),
        kernel().display()
    );
    std::fs::create_dir(folder.join("bin")).expect("a folder");
    write(&folder.join("bin/husk"), &husk, 0o755);
}

#[test]
fn the_tour_is_what_happens() {
    let Some(_host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    stage(folder.path());
    let path = format!(
        "{}:{}",
        folder.path().join("bin").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let tour = tour();
    assert!(tour.len() >= LEAST, "{tour:#?}");
    for (command, expected) in tour {
        let output = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {command}")])
            .current_dir(folder.path())
            .env("PATH", &path)
            .env("HUSK_CACHE_DIR", folder.path().join("cache"))
            .stdin(Stdio::null())
            .output()
            .expect("sh runs");
        let seen = String::from_utf8_lossy(&output.stdout);
        assert_eq!(seen, expected, "$ {command}");
    }
}
