// SPDX-License-Identifier: Apache-2.0
//! What the tests share: running husk as a user would, and texts kept in `tests/golden`.

pub mod golden;

use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// The `husk` of this build, in an environment that does not depend on who runs the test.
pub fn husk() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_husk"));
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
    use std::os::unix::process::ExitStatusExt as _;
    let output = command.output().expect("the command starts");
    let status = output.status;
    let killed = status.signal().map(|signal| 128 + signal);
    Outcome {
        code: status.code().or(killed).expect("it ended"),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
