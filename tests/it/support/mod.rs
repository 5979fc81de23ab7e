// SPDX-License-Identifier: Apache-2.0
//! What the tests share: running husk as a user would, the files it is given, and what it
//! must not leave behind.

pub mod daily;
pub mod golden;
pub mod husk;
pub mod kernels;
pub mod kvm;
pub mod leftovers;
pub mod ports;
pub mod process;
pub mod pty;
pub mod root;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// The program under test: this build's, or the one HUSK_TEST_BIN names.
pub fn binary() -> OsString {
    std::env::var_os("HUSK_TEST_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_husk").into())
}

/// The `husk` of this build, in an environment that does not depend on who runs the test.
pub fn husk() -> Command {
    let mut command = Command::new(binary());
    command.stdin(Stdio::null());
    for name in [
        "NO_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "COLUMNS",
        "LINES",
        "HUSK_CACHE_DIR",
    ] {
        command.env_remove(name);
    }
    command
}

/// How a husk ended.
#[derive(Debug)]
pub struct Outcome {
    /// 128+N for signal N, as shells have it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs husk with these arguments to its end.
pub fn run<S: AsRef<OsStr>>(args: &[S]) -> Outcome {
    finish(husk().args(args))
}

/// Runs `command` to its end.
pub fn finish(command: &mut Command) -> Outcome {
    let output = command.output().expect("the command starts");
    Outcome {
        code: code(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// 128+N for signal N.
pub fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    let killed = status.signal().map(|signal| 128 + signal);
    status.code().or(killed).expect("it ended")
}

/// Says that the running test is left out for want of something, and fails it where
/// HUSK_REQUIRE_KVM=1.
pub fn skipped(why: &str) {
    aloud(&format!("SKIPPED {}: {why}", test()));
    let required = std::env::var_os("HUSK_REQUIRE_KVM").is_some_and(|value| value == "1");
    assert!(
        !required,
        "HUSK_REQUIRE_KVM=1, but {} is left out: {why}",
        test()
    );
}

/// Says that the running test is for the lab's run of it, by design.
pub fn left_to_the_lab(why: &str) {
    aloud(&format!("LEFT TO THE LAB {}: {why}", test()));
}

/// Says that the running test is for this host's own run of it, by design.
pub fn left_to_the_host(why: &str) {
    aloud(&format!("LEFT TO THE HOST {}: {why}", test()));
}

/// The test harness hides what a passing test prints by the usual macros.
fn aloud(line: &str) {
    // Standard error may be closed; then nobody wants to know.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn test() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}
