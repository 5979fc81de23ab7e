// SPDX-License-Identifier: Apache-2.0
//! Logins that a program of the operator's keeps: `docker-credential-NAME get`, with the
//! registry on its standard input and a document on its standard output.
//!
//! Runs on the thread that opens an image. The program is found in PATH by a name that
//! leads nowhere else, gets no arguments of a registry's or an image's making but the host
//! that was typed, and is ended when it takes too long.

use super::credentials::{Credentials, basic};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest name of a helper; with the prefix it is a file's.
const MAX_NAME: usize = 64;
/// Longest answer: a token, and what is around it. Stops a program that never stops writing.
const MAX_ANSWER: usize = 128 << 10;
/// Long enough to type a passphrase into whatever it shows.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of its complaint is shown.
const SHOWN: usize = 200;
/// What all of them say of a registry they know no login for; there is no code for it.
const UNKNOWN: &str = "credentials not found in native keychain";
/// The user's name where the secret is an identity token.
const TOKEN: &str = "<token>";

/// What is wrong with a helper.
#[derive(Debug, thiserror::Error)]
pub enum KeeperFault {
    #[error("a helper's name has letters, digits, '_' and '-'")]
    Name,
    #[error("it cannot be run")]
    Start(#[source] io::Error),
    #[error("it does not answer within {} seconds", .0.as_secs())]
    Slow(Duration),
    #[error("it writes more than 128 KiB")]
    Long,
    #[error("it says: {0}")]
    Refused(String),
    #[error("its answer is no login")]
    Answer,
}

/// The login of `server` that the helper of that name keeps, if it does.
pub fn ask(name: &str, server: &str) -> Result<Option<Credentials>, KeeperFault> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err(KeeperFault::Name);
    }
    let mut command = Command::new(program(name));
    command.arg("get");
    ask_by(command, server, PATIENCE)
}

pub fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

fn ask_by(
    mut command: Command,
    server: &str,
    patience: Duration,
) -> Result<Option<Credentials>, KeeperFault> {
    // Its standard error is the operator's: it may have to ask something.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut asked = Asked(command.spawn().map_err(KeeperFault::Start)?);
    let (stdin, stdout) = (asked.0.stdin.take(), asked.0.stdout.take());
    if let Some(mut stdin) = stdin {
        // Fits a pipe. One that does not read it may answer all the same.
        let _ = stdin.write_all(server.as_bytes());
    }
    let said = match stdout {
        Some(stdout) => asked.hear(stdout, patience)?,
        None => Vec::new(),
    };
    let good = asked.0.wait().map_err(KeeperFault::Start)?.success();
    if good {
        return login(&said).map(Some).ok_or(KeeperFault::Answer);
    }
    let said = String::from_utf8_lossy(&said);
    match said.trim() {
        UNKNOWN => Ok(None),
        said => Err(KeeperFault::Refused(said.chars().take(SHOWN).collect())),
    }
}

/// A helper under way, which does not outlive this.
struct Asked(Child);

impl Asked {
    /// All it says until its end. A process it leaves behind, with its standard output still
    /// open, is not waited for.
    fn hear(&self, mut stdout: ChildStdout, patience: Duration) -> Result<Vec<u8>, KeeperFault> {
        let failed = |errno: rustix::io::Errno| KeeperFault::Start(errno.into());
        let process = self.process().map_err(failed)?;
        rustix::fs::fcntl_setfl(&stdout, OFlags::NONBLOCK).map_err(failed)?;
        let end = Instant::now() + patience;
        let (mut said, mut open) = (Vec::new(), true);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(KeeperFault::Slow(patience));
            }
            let mut watched = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            if open {
                watched.push(PollFd::new(stdout.as_fd(), PollFlags::POLLIN));
            }
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut watched, left) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(KeeperFault::Start(errno.into())),
            }
            // In this order: what it wrote before its end is there when its end is seen.
            let ended = watched[0].any().unwrap_or_default();
            let mut chunk = [0; 4096];
            loop {
                match stdout.read(&mut chunk) {
                    Ok(0) => open = false,
                    Ok(count) => {
                        said.extend_from_slice(&chunk[..count]);
                        if said.len() > MAX_ANSWER {
                            return Err(KeeperFault::Long);
                        }
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(KeeperFault::Start(error)),
                }
                break;
            }
            if ended {
                return Ok(said);
            }
        }
    }

    fn process(&self) -> rustix::io::Result<OwnedFd> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        pidfd_open(pid.ok_or(rustix::io::Errno::SRCH)?, PidfdFlags::empty())
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn login(said: &[u8]) -> Option<Credentials> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let answer: Answer = serde_json::from_slice(said).ok()?;
    match answer.username.as_str() {
        _ if answer.secret.is_empty() => None,
        TOKEN => Some(Credentials::Token(answer.secret)),
        // The first colon ends the name (RFC 7617, section 2).
        name if name.is_empty() || name.contains(':') => None,
        name => Some(basic(name, &answer.secret)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(script: &str, patience: Duration) -> Result<Option<Credentials>, KeeperFault> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        ask_by(command, "r.io", patience)
    }

    fn said(script: &str) -> Result<Option<Credentials>, KeeperFault> {
        say(script, Duration::from_secs(60))
    }

    #[test]
    fn a_helper_is_asked_as_others_ask_it() {
        let answer = r#"read -r host; printf '{"ServerURL":"%s","Username":"%s","Secret":"s:1"}' $host $host"#;
        let found = said(answer).unwrap();
        assert!(found == Some(basic("r.io", "s:1")));
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        assert!(said(token).unwrap() == Some(Credentials::Token("t".into())));
        let none = "echo 'credentials not found in native keychain'; exit 1";
        assert!(said(none).unwrap().is_none());
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for (script, wanted) in [
            (
                "echo the keychain is locked; exit 1",
                "it says: the keychain is locked",
            ),
            ("true", "its answer is no login"),
            (
                "echo '{\"Username\":\"a:b\",\"Secret\":\"c\"}'",
                "its answer is no login",
            ),
            (
                "echo '{\"Username\":\"\",\"Secret\":\"c\"}'",
                "its answer is no login",
            ),
            (
                "echo '{\"Username\":\"a\",\"Secret\":\"\"}'",
                "its answer is no login",
            ),
            ("yes", "it writes more than 128 KiB"),
        ] {
            let error = said(script).expect_err(script);
            assert_eq!(error.to_string(), wanted, "{script}");
        }
        for name in ["", "../x", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(
                matches!(ask(name, "r.io"), Err(KeeperFault::Name)),
                "{name}"
            );
        }
        let absent = ask("of-nobody-at-all", "r.io");
        assert!(matches!(absent, Err(KeeperFault::Start(_))), "{absent:?}");
    }

    #[test]
    fn one_that_never_answers_is_ended() {
        let begin = Instant::now();
        let patience = Duration::from_millis(100);
        for script in ["exec sleep 1000", "exec >&-; exec sleep 1000"] {
            let slow = say(script, patience);
            assert!(matches!(slow, Err(KeeperFault::Slow(_))), "{slow:?}");
        }
        // What it leaves behind keeps its standard output, and nobody waiting.
        let left = said("sleep 100 & echo '{\"Username\":\"a\",\"Secret\":\"b\"}'");
        assert!(left.unwrap() == Some(basic("a", "b")));
        assert!(begin.elapsed() < Duration::from_secs(50));
    }
}
