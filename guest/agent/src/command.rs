// SPDX-License-Identifier: Apache-2.0
//! From a `Start` to a running process: environment, program, directory, and what to say
//! when it cannot run.

use crate::account::{self, Account, Unknown};
use crate::sys::{self, Errno, Fd, Identity, Plan, Step, c_string};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use husk_protocol::{Failure, Stage, Start};

/// What container engines give a process whose image sets no PATH.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Exit codes as shells have them, and 125 for a failure that is not the command's.
const OURS: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

pub fn failure(stage: Stage, errno: Errno, message: String) -> Failure {
    Failure {
        stage,
        code: OURS,
        errno: errno.0,
        message,
    }
}

/// Looks the user up in the image this runs in.
pub fn account(start: &Start) -> Result<Account, Failure> {
    let file = |path| sys::read_file(path, account::MAX_FILE).unwrap_or_default();
    let (passwd, group) = (file(c"/etc/passwd"), file(c"/etc/group"));
    account::resolve(&start.user, &passwd, &group).map_err(|unknown| {
        let message = match unknown {
            Unknown::User(name) => format!("the image has no user '{name}'"),
            Unknown::Group(name) => format!("the image has no group '{name}'"),
        };
        failure(Stage::User, Errno(0), message)
    })
}

/// The environment with what every process expects to find in it.
pub fn environment(start: &Start, home: &[u8]) -> Vec<CString> {
    let mut env: Vec<CString> = start.env.iter().map(|var| c_string(var)).collect();
    let mut default = |name: &[u8], value: &[u8]| {
        if variable(&start.env, name).is_none() {
            env.push(c_string(&[name, b"=", value].concat()));
        }
    };
    default(b"PATH", PATH);
    default(b"HOME", if home.is_empty() { b"/" } else { home });
    if !start.hostname.is_empty() {
        default(b"HOSTNAME", start.hostname.as_bytes());
    }
    if let Some(terminal) = &start.terminal {
        let term = terminal.term.as_bytes();
        default(b"TERM", if term.is_empty() { b"xterm" } else { term });
    }
    env
}

/// The value of a variable, the last one if there are several.
fn variable<'a>(env: &'a [Vec<u8>], name: &[u8]) -> Option<&'a [u8]> {
    env.iter()
        .rev()
        .find_map(|var| var.strip_prefix(name)?.strip_prefix(b"="))
}

/// The files a command may mean, in the order they are tried.
pub fn candidates(command: &[u8], env: &[Vec<u8>]) -> Vec<CString> {
    if command.is_empty() {
        return Vec::new();
    }
    if command.contains(&b'/') {
        return alloc::vec![c_string(command)];
    }
    variable(env, b"PATH")
        .unwrap_or(PATH)
        .split(|&b| b == b':')
        // An empty element is the working directory, as POSIX has it.
        .map(|dir| if dir.is_empty() { b"." } else { dir })
        .map(|dir| c_string(&[dir, b"/", command].concat()))
        .collect()
}

/// Makes the working directory and those above it, as far as they are missing.
fn make_directories(path: &[u8]) {
    for (i, _) in path.iter().enumerate().skip(1).filter(|(_, b)| **b == b'/') {
        let _ = sys::make_directory(&c_string(path.get(..i).unwrap_or_default()), 0o755);
    }
    let _ = sys::make_directory(&c_string(path), 0o755);
}

/// Starts the process. `identity` of `None` stays who the agent is.
pub fn spawn(
    start: &Start,
    home: &[u8],
    identity: Option<&Identity>,
    stdio: [&Fd; 3],
    cgroup: Option<&Fd>,
) -> Result<u32, Failure> {
    let command = start.argv.first().map_or(&b""[..], Vec::as_slice);
    let own = start.own.then(|| c_string(b"husk-agent"));
    let argv = start.argv.iter().map(|arg| c_string(arg));
    let argv: Vec<CString> = own.into_iter().chain(argv).collect();
    let env = environment(start, home);
    let programs = if start.own {
        // Whatever the image has under that name: the link is the kernel's, to this program.
        alloc::vec![c_string(b"/proc/self/exe")]
    } else {
        candidates(command, &start.env)
    };
    let cwd = if start.cwd.is_empty() {
        c_string(b"/")
    } else {
        c_string(&start.cwd)
    };
    let plan = Plan {
        argv: &argv,
        env: &env,
        programs: &programs,
        cwd: &cwd,
        stdio,
        terminal: start.terminal.is_some(),
        identity,
        cgroup,
    };
    sys::spawn(&plan)
        .or_else(|why| match why {
            (Step::WorkingDirectory, errno) if errno.is(libc::ENOENT) => {
                make_directories(cwd.to_bytes());
                sys::spawn(&plan)
            }
            other => Err(other),
        })
        .map_err(|(step, errno)| explain(step, errno, command, &start.cwd, &programs))
}

fn explain(step: Step, errno: Errno, command: &[u8], cwd: &[u8], programs: &[CString]) -> Failure {
    let name = String::from_utf8_lossy(command);
    match step {
        Step::Clone => failure(Stage::Spawn, errno, "no new process".into()),
        Step::Streams => failure(Stage::Spawn, errno, "the process's streams".into()),
        Step::Terminal => failure(Stage::Terminal, errno, "no controlling terminal".into()),
        Step::User => failure(Stage::User, errno, "changing the user".into()),
        Step::WorkingDirectory => {
            let cwd = String::from_utf8_lossy(cwd);
            failure(
                Stage::WorkingDirectory,
                errno,
                format!("working directory '{cwd}'"),
            )
        }
        Step::Exec => {
            let missing = errno.is(libc::ENOENT) || errno.is(libc::ENOTDIR);
            let there = programs.iter().any(|path| sys::stat(path).is_ok());
            let (code, errno, message) = match (missing, there) {
                (true, false) => (NOT_FOUND, Errno(0), format!("'{name}': command not found")),
                (true, true) => (
                    NOT_FOUND,
                    errno,
                    format!("'{name}': its interpreter or dynamic loader is not in the image"),
                ),
                (false, _) => (
                    NOT_EXECUTABLE,
                    errno,
                    format!("'{name}' cannot be executed"),
                ),
            };
            Failure {
                stage: Stage::Exec,
                code,
                errno: errno.0,
                message,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<Vec<u8>> {
        items.iter().map(|s| s.as_bytes().to_vec()).collect()
    }

    #[test]
    fn commands_are_looked_for_where_a_shell_would() {
        let paths = |command: &str, env: &[&str]| {
            candidates(command.as_bytes(), &list(env))
                .into_iter()
                .map(|path| path.into_string().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(paths("./a", &["PATH=/x"]), ["./a"]);
        assert_eq!(paths("a", &["PATH=/x:/y/"]), ["/x/a", "/y//a"]);
        assert_eq!(paths("a", &["PATH=:/y:"]), ["./a", "/y/a", "./a"]);
        assert_eq!(paths("a", &["PATHS=/x", "PATH=/1", "PATH=/2"]), ["/2/a"]);
        assert_eq!(paths("a", &[]).len(), 6);
        assert!(paths("", &["PATH=/x"]).is_empty());
    }

    #[test]
    fn the_environment_has_defaults_that_do_not_override() {
        let start = Start {
            env: list(&["PATH=/x", "A=b"]),
            hostname: "h".into(),
            terminal: Some(husk_protocol::Terminal {
                size: husk_protocol::Size {
                    columns: 1,
                    rows: 1,
                },
                term: String::new(),
            }),
            ..Start::default()
        };
        let strings = |env: Vec<CString>| -> Vec<String> {
            env.into_iter()
                .map(|var| var.into_string().unwrap())
                .collect()
        };
        assert_eq!(
            strings(environment(&start, b"/root")),
            ["PATH=/x", "A=b", "HOME=/root", "HOSTNAME=h", "TERM=xterm"]
        );
        let bare = strings(environment(&Start::default(), b""));
        assert!(bare[0].starts_with("PATH=/usr/local/sbin:"));
        assert_eq!(bare[1..], ["HOME=/"]);
    }

    struct Bin(tempfile::TempDir);

    /// A file that is being written cannot be executed, and a child of another test's that was
    /// forked meanwhile keeps it open for writing until it executes something itself.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

    impl Bin {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(self, name: &str, content: &str, mode: u32) -> Self {
            use std::os::unix::fs::PermissionsExt;
            let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
            let path = self.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            self
        }

        /// Starts `command` with PATH set to the directories `a` and `b` below this one.
        fn spawn(&self, command: &str, cwd: &str) -> Result<u32, Failure> {
            let null = sys::open(c"/dev/null", libc::O_RDWR, 0).unwrap();
            let dir = self.0.path().display();
            let start = Start {
                argv: list(&[command]),
                env: list(&[&format!("PATH={dir}/a:{dir}/b")]),
                cwd: cwd.into(),
                ..Start::default()
            };
            let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
            super::spawn(&start, b"", None, [&null; 3], None)
        }

        fn refusal(&self, command: &str) -> (u8, String) {
            let failure = self.spawn(command, "/").unwrap_err();
            assert_eq!(failure.stage, Stage::Exec);
            (failure.code, failure.message)
        }
    }

    #[test]
    fn what_cannot_run_is_told_apart() {
        let bin = Bin::new()
            .file("a/plain", "#!/bin/sh\n", 0o644)
            .file("a/garbage", "neither fish\n", 0o755)
            .file("a/lost", "#!/no/such/shell\n", 0o755)
            .file("a/dir/x", "", 0o644);
        assert_eq!(bin.refusal("none").0, 127);
        assert_eq!(bin.refusal("none").1, "'none': command not found");
        assert_eq!(bin.refusal("/no/such/thing").0, 127);
        assert_eq!(bin.refusal("").0, 127);
        assert_eq!(bin.refusal("plain").0, 126);
        assert_eq!(bin.refusal("garbage").0, 126);
        assert_eq!(bin.refusal("dir").0, 126);
        let (code, message) = bin.refusal("lost");
        assert_eq!(code, 127);
        assert!(message.contains("interpreter"), "{message}");
    }

    #[test]
    fn a_file_that_may_not_be_executed_is_passed_over() {
        let bin = Bin::new().file("a/tool", "#!/bin/sh\n", 0o644).file(
            "b/tool",
            "#!/bin/sh\nexit 0\n",
            0o755,
        );
        let pid = bin.spawn("tool", "/").unwrap();
        assert!(pid > 0);
    }

    #[test]
    fn a_missing_working_directory_is_made() {
        let bin = Bin::new().file("b/tool", "#!/bin/sh\nexit 0\n", 0o755);
        let cwd = bin.0.path().join("new/and/deep");
        bin.spawn("tool", cwd.to_str().unwrap()).unwrap();
        assert!(cwd.is_dir());
        let file = bin.0.path().join("b/tool");
        let failure = bin.spawn("tool", file.to_str().unwrap()).unwrap_err();
        assert_eq!(failure.stage, Stage::WorkingDirectory);
        assert_eq!(failure.code, 125);
    }
}
