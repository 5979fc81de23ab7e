// SPDX-License-Identifier: Apache-2.0
//! What `husk run` was asked, checked: every problem with it is found at once.
//!
//! Pure but for one look at whether the kernel's file is there.

use super::RunArgs;
use super::network::NetworkRequest;
use super::storage::Storage;
use crate::cli::host::Memory;
use crate::cli::image::PullWhen;
use crate::cli::output::Problem;
use crate::cli::ring::GuestRing;
use crate::cli::shape::Shape;
use crate::cli::signals;
use crate::cli::trace::TraceFormat;
use crate::instance::record::is_name;
use crate::units;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// HOST_NAME_MAX of Linux (sethostname(2)).
const MAX_HOSTNAME: usize = 64;
/// Longest label of a host name (RFC 1123, section 2.1).
const MAX_LABEL: usize = 63;
/// Longest user or group name (useradd(8)).
const MAX_NAME: usize = 32;
/// The id that means "no change" in setresuid(2).
const NO_ID: u32 = u32::MAX;

/// A run that can be attempted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunRequest {
    pub image: String,
    pub pull: PullWhen,
    /// None: the image's own. Empty: none at all.
    pub entrypoint: Option<OsString>,
    /// Empty: what the image says.
    pub command: Vec<OsString>,
    pub shape: Shape,
    pub storage: Storage,
    /// Where the host reaches the guest's vsock ports.
    pub vsock: Option<PathBuf>,
    /// In the order given; of two with one name the later counts.
    pub env: Vec<(OsString, OsString)>,
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, each a name or a number.
    pub user: Option<String>,
    pub hostname: Option<String>,
    pub network: NetworkRequest,
    pub interactive: bool,
    pub tty: bool,
    pub read_only: bool,
    /// None: husk's own.
    pub kernel: Option<PathBuf>,
    /// None: what this host does best, or what `kernel` wants.
    pub guest_ring: Option<GuestRing>,
    pub quiet: bool,
    /// Whether the guest is to be booted, template or not.
    pub cold: bool,
    pub jail: bool,
    pub trace: Option<TraceFormat>,
    /// For the guest to reach its agent.
    pub timeout: Duration,
    pub detach: bool,
    pub name: Option<String>,
    pub remove: bool,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<u8>,
}

impl RunRequest {
    /// `host_env` looks a variable up in husk's own environment.
    pub fn check(
        args: &RunArgs,
        host: Memory,
        host_env: impl Fn(&OsStr) -> Option<OsString>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let shape = Shape::check(&args.shape, host, &mut problems);
        let storage = Storage::check(&args.storage, args.read_only, &mut problems);
        let network = NetworkRequest::check(args, &mut problems);
        let mut note = |result: Result<(), Problem>| problems.extend(result.err());
        note(image(&args.image));
        note(args.kernel.as_deref().map_or(Ok(()), kernel_file));
        note(args.workdir.as_deref().map_or(Ok(()), workdir));
        note(args.user.as_deref().map_or(Ok(()), user));
        note(args.hostname.as_deref().map_or(Ok(()), hostname));
        let mut env = Vec::new();
        for word in &args.env {
            match variable(word, &host_env) {
                Ok(pair) => env.push(pair),
                Err(problem) => problems.push(problem),
            }
        }
        let mut note = |result: Result<(), Problem>| problems.extend(result.err());
        note(args.name.as_deref().map_or(Ok(()), name));
        note(detached(args));
        let stop_signal = args.stop_signal.as_deref().and_then(|text| {
            signals::parse(text)
                .map_err(|why| problems.push(Problem::new(format!("--stop-signal {why}"))))
                .ok()
        });
        let labels = labels(&args.label, &mut problems);
        let timeout = timeout(&args.timeout)
            .map_err(|problem| problems.push(problem))
            .ok();
        match (shape, timeout) {
            (Some(shape), Some(timeout)) if problems.is_empty() => Ok(Self {
                image: args.image.clone(),
                pull: args.pull,
                entrypoint: args.entrypoint.clone(),
                command: args.command.clone(),
                shape,
                storage,
                vsock: args.vsock.clone(),
                env,
                workdir: args.workdir.clone(),
                user: args.user.clone(),
                hostname: args.hostname.clone(),
                network,
                interactive: args.interactive,
                tty: args.tty,
                read_only: args.read_only,
                kernel: args.kernel.clone(),
                guest_ring: args.guest_ring,
                quiet: args.quiet,
                cold: args.cold,
                jail: !args.no_jail,
                trace: args.trace,
                timeout,
                detach: args.detach,
                name: args.name.clone(),
                // In the foreground there is nothing to come back to.
                remove: args.rm || !args.detach,
                labels,
                stop_signal,
            }),
            _ => Err(problems),
        }
    }
}

pub fn name(text: &str) -> Result<(), Problem> {
    match is_name(text) {
        true => Ok(()),
        false => Err(Problem::new(format!("--name {text}: not a name of a machine"))
            .hint("a name has letters, digits, '_', '.' and '-', and begins with one of the first two")),
    }
}

fn detached(args: &RunArgs) -> Result<(), Problem> {
    match args.detach && args.trace.is_some() {
        true => Err(Problem::new(
            "--detach and --trace: nobody is there to read the trace",
        )),
        false => Ok(()),
    }
}

/// `KEY[=VALUE]` each; of two with one key the later counts.
pub fn labels(words: &[String], problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key.is_empty() {
            true => problems.push(Problem::new(format!("--label {word}: it has no key"))),
            false => drop(labels.insert(key.to_owned(), value.to_owned())),
        }
    }
    labels
}

/// A kernel must be a file there is; whether it is a kernel is for the loader to say.
pub fn kernel_file(path: &Path) -> Result<(), Problem> {
    let about = |what: &str| format!("cannot use the kernel, {}{what}", path.display());
    match std::fs::metadata(path) {
        Err(error) => Err(Problem::new(about("")).because(&error)),
        Ok(meta) if !meta.is_file() => Err(Problem::new(about(": it is no file"))),
        Ok(_) => Ok(()),
    }
}

/// A deadline.
pub fn timeout(text: &str) -> Result<Duration, Problem> {
    match units::parse_span(text) {
        Ok(Duration::ZERO) => Err(Problem::new(format!(
            "--timeout {text}: no guest starts in no time"
        ))),
        Ok(span) => Ok(span),
        Err(error) => Err(Problem::new(format!("--timeout {text}: {error}"))
            .hint("times look like 30s, 2m or 1500ms; a bare number is seconds")),
    }
}

fn image(text: &str) -> Result<(), Problem> {
    match text.is_empty() {
        true => Err(Problem::new("the image's name is empty")),
        false => Ok(()),
    }
}

pub fn workdir(text: &str) -> Result<(), Problem> {
    match text.starts_with('/') {
        true => Ok(()),
        false => Err(Problem::new(format!(
            "--workdir {text}: a directory of the guest starts with '/'"
        ))),
    }
}

pub fn variable(
    word: &OsStr,
    host_env: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<(OsString, OsString), Problem> {
    let bytes = word.as_bytes();
    let end = bytes.iter().position(|&byte| byte == b'=');
    let name = &bytes[..end.unwrap_or(bytes.len())];
    let shown = String::from_utf8_lossy(name);
    let typed = word.to_string_lossy();
    if name.is_empty() {
        return Err(Problem::new(format!("--env {typed}: the name is empty")));
    }
    if name
        .iter()
        .any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control())
    {
        return Err(Problem::new(format!(
            "--env {}: a name has no spaces or control characters",
            typed.escape_debug()
        )));
    }
    let name_os = OsString::from_vec(name.to_vec());
    match end {
        Some(end) => Ok((name_os, OsString::from_vec(bytes[end + 1..].to_vec()))),
        None => match host_env(&name_os) {
            Some(value) => Ok((name_os, value)),
            None => Err(
                Problem::new(format!("--env {shown}: it is not set on this host"))
                    .hint(format!("for an empty value write --env {shown}=")),
            ),
        },
    }
}

pub fn user(text: &str) -> Result<(), Problem> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    match identity(user) && group.is_none_or(identity) {
        true => Ok(()),
        false => Err(Problem::new(format!("--user {text}: not a user"))
            .hint("a user is a name or a number, and so is a group after ':', as in 1000:staff")),
    }
}

/// A numeric id, or a name useradd(8) would accept or a distribution ships.
fn identity(text: &str) -> bool {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u32>().is_ok_and(|id| id != NO_ID);
    }
    let name = text.strip_suffix('$').unwrap_or(text);
    let first = name.bytes().next();
    text.len() <= MAX_NAME
        && first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

pub fn hostname(text: &str) -> Result<(), Problem> {
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match text.len() <= MAX_HOSTNAME && text.split('.').all(label) {
        true => Ok(()),
        false => Err(Problem::new(format!("--hostname {text}: not a host name"))
            .hint("a host name is at most 64 letters, digits and hyphens, in parts joined by '.'")),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::shape::tests::HOST;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    pub fn check(words: &[&str]) -> Result<RunRequest, Vec<Problem>> {
        let words = std::iter::once("run").chain(words.iter().copied());
        let line = Line::try_parse_from(words).expect("clap takes it");
        RunRequest::check(&line.run, HOST, |name| {
            (name == "LANG").then(|| OsString::from("C.UTF-8"))
        })
    }

    fn whats(words: &[&str]) -> Vec<String> {
        let problems = check(words).expect_err("problems");
        problems.into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn a_full_line_becomes_a_request() {
        let request = check(&[
            "-it",
            "-c2",
            "-m",
            "1.5g",
            "-e",
            "A=b=c",
            "-e",
            "LANG",
            "-e",
            "E=",
            "-w",
            "/srv",
            "-u",
            "1000:staff",
            "--hostname",
            "a.b-c",
            "--read-only",
            "--no-jail",
            "--trace",
            "--guest-ring",
            "3",
            "--timeout",
            "2m",
            "dir:/x",
            "sh",
            "-c",
            "--trace=json",
        ])
        .expect("a request");
        assert_eq!(request.command, ["sh", "-c", "--trace=json"]);
        assert_eq!(request.image, "dir:/x");
        assert_eq!(request.shape.memory.bytes(), 1536 << 20);
        let env: Vec<(&str, &str)> = request
            .env
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)))
            .collect();
        assert_eq!(env, [("A", "b=c"), ("LANG", "C.UTF-8"), ("E", "")]);
        assert_eq!(request.trace, Some(TraceFormat::Text));
        assert_eq!(request.guest_ring, Some(GuestRing::Three));
        assert_eq!(request.timeout, Duration::from_secs(120));
        assert!(request.interactive && request.tty && request.read_only && !request.jail);
    }

    #[test]
    fn the_trace_format_needs_an_equals_sign_so_that_the_image_is_not_eaten() {
        assert_eq!(
            check(&["--trace=json", "img"]).expect("a request").trace,
            Some(TraceFormat::Json)
        );
        let bare = check(&["--trace", "img"]).expect("a request");
        assert_eq!(
            (bare.trace, bare.image.as_str()),
            (Some(TraceFormat::Text), "img")
        );
        assert_eq!(check(&["img"]).expect("a request").trace, None);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let found = whats(&[
            "-c0",
            "-m1",
            "-e",
            "=x",
            "-e",
            "NOT_SET",
            "-e",
            "A B=1",
            "-w",
            "srv",
            "-u",
            "a:b:c",
            "--hostname=-x",
            "--timeout",
            "0",
            "--kernel",
            "/no/such/kernel",
            "",
        ]);
        assert_eq!(found.len(), 11, "{found:#?}");
    }

    #[test]
    fn a_kernel_that_is_no_file_is_refused() {
        assert!(whats(&["--kernel", "/", "img"])[0].contains("no file"));
    }

    #[test]
    fn users_and_host_names_are_what_linux_takes() {
        for good in [
            "root",
            "0",
            "1000:1000",
            "www-data",
            "_apt",
            "a$",
            "4294967294",
        ] {
            assert_eq!(user(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ":",
            "a:",
            ":b",
            "-a",
            "a b",
            "4294967295",
            "99999999999",
            "a:b:c",
            "ä",
        ] {
            assert!(user(bad).is_err(), "{bad}");
        }
        let long = "x".repeat(64);
        for good in ["a", "web-1", "web.example", "7"] {
            assert_eq!(hostname(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "a..b", "-a", "a-", "a_b", "ä", long.as_str()] {
            assert!(hostname(bad).is_err(), "{bad}");
        }
    }
}
