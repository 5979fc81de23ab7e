// SPDX-License-Identifier: Apache-2.0
//! What the README shows is what happens: every line of its tour is typed into a shell, and
//! what follows it there must follow it here, but for ids and times.

use crate::support::binary;
use crate::support::husk::{Host, kernel};
use crate::support::ports::free_port;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

const README: &str = include_str!("../../../README.md");
const ROOTFS: &str = include_str!("../../../resources/demo/rootfs");
const PAGE: &str = include_str!("../../../resources/demo/www/index.html");
/// Fewer would mean that this test no longer finds the tour.
const LEAST: usize = 12;
/// The port the tour publishes, which something else may have here.
const PORT: &str = "8080";

/// Each command of the README, and what it prints there.
fn tour() -> Vec<(&'static str, String)> {
    let mut shown: Vec<(&str, String)> = Vec::new();
    let mut listening = false;
    for line in README.lines() {
        if line.starts_with("```") {
            listening = false;
        } else if let Some(command) = line.strip_prefix("$ ") {
            // What a host can do, and how fast, is another one's on each; tests/it/bench measures.
            let own = ["husk doctor", "husk bench "];
            listening = !own.iter().any(|own| command.starts_with(own));
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
        "#!/bin/sh\nif [ \"$1\" = run ]; then\n    shift\n    \
            exec '{0}' run --kernel '{1}' --timeout 200s \"$@\"\nfi\nexec '{0}' \"$@\"\n",
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
    let port = free_port().to_string();
    let _ended = Ended(folder.path());
    for (command, expected) in tour {
        let (command, expected) = (command.replace(PORT, &port), expected.replace(PORT, &port));
        let output = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {command}")])
            .current_dir(folder.path())
            .env("PATH", &path)
            .env("HUSK_CACHE_DIR", folder.path().join("cache"))
            .env("HUSK_DATA_DIR", folder.path().join("data"))
            .env("XDG_RUNTIME_DIR", folder.path().join("run"))
            .stdin(Stdio::null())
            .output()
            .expect("sh runs");
        let seen = String::from_utf8_lossy(&output.stdout);
        assert_eq!(plain(&seen), plain(&expected), "$ {command}");
    }
}

/// No machine of the tour outlives it, however it ends.
struct Ended<'a>(&'a Path);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let husk = |words: &[&str]| {
            let mut husk = crate::support::husk();
            husk.env("XDG_RUNTIME_DIR", self.0.join("run"));
            crate::support::finish(husk.args(words)).stdout
        };
        for id in husk(&["ps", "-aq"]).lines() {
            husk(&["rm", "-f", id]);
        }
    }
}

/// The words of a text, without what differs from run to run: ids, seconds, and how wide a
/// column became of them.
fn plain(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(|line| line.split_whitespace().map(word).collect())
        .collect()
}

fn word(word: &str) -> &str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match word {
        id if id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => "ID",
        time if time.strip_suffix('s').is_some_and(digits) => "TIME",
        other => other,
    }
}
