// SPDX-License-Identifier: Apache-2.0
//! How husk speaks: data on standard output, talk on standard error, and exit codes.
//!
//! An error is one line, `husk: what, where`; then numbered causes, where they add
//! something; then what to do about it, as `hint:`.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

/// What `run` answers when husk itself failed, as container tools do: 1 and 2 may be
/// the command's own.
const RUN_FAILED: u8 = 125;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Success,
    /// The operator can mend it.
    UserError,
    /// husk or the host is to blame.
    Unexpected,
    /// Another program's exit code, handed on.
    Code(u8),
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Success => Self::SUCCESS,
            ExitStatus::UserError => Self::from(1),
            ExitStatus::Unexpected => Self::from(2),
            ExitStatus::Code(code) => Self::from(code),
        }
    }
}

/// What `verb` exits with when it fails and `status` is whose fault it was. A code that was
/// chosen stands: 126 and 127 are the command's.
#[must_use]
pub fn failed(verb: &str, status: ExitStatus) -> ExitStatus {
    match (verb, status) {
        ("run" | "exec" | "restore", ExitStatus::Code(_)) => status,
        ("run" | "exec" | "restore", _) => ExitStatus::Code(RUN_FAILED),
        _ => status,
    }
}

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    pub causes: Vec<String>,
    pub hint: Option<String>,
}

impl Problem {
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A problem that is `error`, with what lies below it as causes.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let problem = Self::new(error.to_string());
        match error.source() {
            Some(cause) => problem.because(cause),
            None => problem,
        }
    }

    /// A problem whose causes are those of `error`, itself first.
    #[must_use]
    pub fn because(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.causes.push(plain(cause));
            next = cause.source();
        }
        self
    }
}

/// Why a verb did not do what it was asked: every problem found, and whose fault it is.
#[derive(Debug)]
pub struct Failure {
    pub status: ExitStatus,
    pub problems: Vec<Problem>,
}

impl Failure {
    /// The operator can mend these.
    pub fn operator(problems: impl IntoIterator<Item = Problem>) -> Self {
        Self {
            status: ExitStatus::UserError,
            problems: problems.into_iter().collect(),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::operator([problem])
    }
}

/// What nobody foresaw: the host's fault or ours.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let mut chain = error.chain().map(plain);
        let what = chain.next().unwrap_or_default();
        Self {
            status: ExitStatus::Unexpected,
            problems: vec![Problem {
                what,
                causes: chain.collect(),
                hint: None,
            }],
        }
    }
}

/// The words of an error without the number of the errno, which tells people nothing.
fn plain(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(at) if text.ends_with(')') => text[..at].to_owned(),
        _ => text,
    }
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

impl ColorWhen {
    fn on(self, terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        }
    }
}

/// The styles husk uses; all empty where colour is off.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub bad: &'static str,
    pub warn: &'static str,
    pub good: &'static str,
    pub strong: &'static str,
    pub dim: &'static str,
    pub off: &'static str,
}

impl Style {
    pub const PLAIN: Self = Self {
        bad: "",
        warn: "",
        good: "",
        strong: "",
        dim: "",
        off: "",
    };
    const COLOR: Self = Self {
        bad: "\x1b[1;31m",
        warn: "\x1b[33m",
        good: "\x1b[32m",
        strong: "\x1b[1m",
        dim: "\x1b[2m",
        off: "\x1b[0m",
    };

    const fn when(color: bool) -> Self {
        if color { Self::COLOR } else { Self::PLAIN }
    }
}

/// Writes both streams.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    /// For standard output.
    pub data: Style,
    /// For standard error.
    pub talk: Style,
}

impl Printer {
    #[must_use]
    pub fn new(when: ColorWhen) -> Self {
        Self {
            data: Style::when(when.on(io::stdout().is_terminal())),
            talk: Style::when(when.on(io::stderr().is_terminal())),
        }
    }

    /// Writes data. A reader that went away (`husk … | head`) wanted no more of it, and
    /// that is nobody's failure.
    pub fn data(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(anyhow::Error::new(error)
                    .context("cannot write to standard output")
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Writes talk. If nobody can hear it there is nobody to tell.
    pub fn talk(&self, text: &str) {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// Tells a failure of `verb`, and says how the process ends.
    pub fn fail(&self, failure: &Failure, verb: &str) -> ExitStatus {
        self.talk(&render(failure, self.talk));
        failed(verb, failure.status)
    }
}

/// A guest's words may stand in an error, and go to a terminal: none of them may be an escape
/// sequence. Lines stay lines.
pub fn visible(text: &str) -> String {
    let shown = |letter: char| match letter {
        '\n' | '\t' => letter,
        _ if letter.is_control() => '\u{fffd}',
        _ => letter,
    };
    text.chars().map(shown).collect()
}

/// Letters of one problem, cause or hint that are shown. What was typed stands in it, and may
/// be anything a script put there.
const MAX_SHOWN: usize = 4096;

/// The text as it may be shown: what is too long has lost its middle, since it begins with
/// what and ends with why.
fn shown(text: &str) -> String {
    let text = visible(text);
    let count = text.chars().count();
    if count <= MAX_SHOWN {
        return text;
    }
    let head = text.chars().take(MAX_SHOWN / 2);
    let tail = text.chars().skip(count - MAX_SHOWN / 2);
    head.chain(" … ".chars()).chain(tail).collect()
}

fn render(failure: &Failure, style: Style) -> String {
    let mut text = String::new();
    for problem in &failure.problems {
        let _ = writeln!(
            text,
            "{}husk:{} {}",
            style.bad,
            style.off,
            shown(&problem.what)
        );
        let mut said = problem.what.clone();
        let mut number = 0;
        for cause in &problem.causes {
            // Many errors repeat their source; a line that says nothing new is left out.
            if !said.contains(cause.as_str()) {
                number += 1;
                let _ = writeln!(text, "  {number}: {}", shown(cause));
                said.clone_from(cause);
            }
        }
    }
    let mut hints: Vec<&str> = Vec::new();
    for hint in failure.problems.iter().filter_map(|p| p.hint.as_deref()) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    for hint in hints {
        let hint = shown(hint);
        let _ = writeln!(text, "{}hint:{} {hint}", style.strong, style.off);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_word_of_a_mebibyte_loses_its_middle() {
        let word = "é".repeat(1 << 19);
        let failure = Problem::new(format!("--memory {word}: unknown unit"));
        let text = render(&Failure::operator([failure.hint(word)]), Style::PLAIN);
        assert!(text.chars().count() < 3 * MAX_SHOWN, "{} bytes", text.len());
        assert!(text.starts_with("husk: --memory é") && text.contains(": unknown unit\n"));
    }

    #[test]
    fn words_of_a_guest_are_no_escape_sequences() {
        let cause = io::Error::other("\x1b[2Jcause");
        let problem = Problem::new("panicked: \x1b]0;title\x07").because(&cause);
        let text = render(&Failure::operator([problem]), Style::PLAIN);
        assert_eq!(
            text,
            "husk: panicked: \u{fffd}]0;title\u{fffd}\n  1: \u{fffd}[2Jcause\n"
        );
    }

    #[test]
    fn a_failure_is_a_line_then_causes_then_hints() {
        let gone = io::Error::from_raw_os_error(libc::ENOENT);
        let failure = Failure::operator([
            Problem::new("cannot open the kernel, /k")
                .because(&gone)
                .hint("husk kernel build"),
            Problem::new("0 CPUs are too few"),
            Problem::new("cannot open the initrd, /i").hint("husk kernel build"),
        ]);
        assert_eq!(
            render(&failure, Style::PLAIN),
            "husk: cannot open the kernel, /k\n  \
               1: No such file or directory\n\
             husk: 0 CPUs are too few\n\
             husk: cannot open the initrd, /i\n\
             hint: husk kernel build\n"
        );
    }

    #[test]
    fn a_cause_that_repeats_its_effect_is_left_out() {
        let error = Err::<(), _>(io::Error::other("disk on fire"))
            .context("read failed: disk on fire")
            .context("cannot load the image")
            .expect_err("an error");
        let failure = Failure::from(error);
        assert_eq!(failure.status, ExitStatus::Unexpected);
        assert_eq!(
            render(&failure, Style::PLAIN),
            "husk: cannot load the image\n  1: read failed: disk on fire\n"
        );
    }

    #[test]
    fn only_run_answers_125() {
        assert_eq!(failed("run", ExitStatus::Unexpected), ExitStatus::Code(125));
        let not_found = ExitStatus::Code(127);
        assert_eq!(failed("run", not_found), not_found);
        assert_eq!(failed("boot", ExitStatus::UserError), ExitStatus::UserError);
    }
}
