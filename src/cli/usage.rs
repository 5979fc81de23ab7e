// SPDX-License-Identifier: Apache-2.0
//! The command as clap knows it: grouped verbs, examples, and usage errors in husk's words.

use super::bake::BakeArgs;
use super::exec::ExecArgs;
use super::fork::ForkArgs;
use super::output::{ColorWhen, ExitStatus, Failure, Printer, Problem};
use super::restore::RestoreArgs;
use super::run::{KeepArgs, RunArgs};
use super::{Cli, Globals, PartArgs};
use clap::error::ErrorKind;
use clap::{ArgMatches, Args as _, Command, CommandFactory as _, ValueEnum as _};
use std::ffi::OsString;
use std::fmt::Write as _;

pub const TOP_EXAMPLES: &str = "\
Examples:
  husk doctor                          What this host can do, and how to mend the rest
  husk run dir:./alpine uname -a       A command in a machine of its own
  husk run -it dir:./alpine sh         A shell, with your terminal
  husk run -d --name web dir:./site    One that stays; husk ps, logs, exec, stop find it
  husk boot --kernel ./bzImage         Any kernel, its console on this terminal

Exit codes: 0 done, 1 something you can mend, 2 something unexpected. `husk run` hands
on the command's own code, and answers 125 when husk itself failed.";

/// The order in which `husk --help` presents its verbs.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Start a machine", &["run", "boot"]),
    (
        "Look at machines",
        &["ps", "logs", "stats", "top", "inspect", "events"],
    ),
    (
        "Work with a machine",
        &["exec", "cp", "attach", "wait", "stop", "kill", "rm"],
    ),
    (
        "Images and disks",
        &["pull", "import", "images", "rmi", "image", "volume"],
    ),
    (
        "Snapshots",
        &["snapshot", "snapshots", "restore", "fork", "bake"],
    ),
    ("This host", &["doctor", "kernel", "template", "bench"]),
    ("Your shell", &["completions", "man"]),
];

/// What was typed. To define all the verbs takes a third of the time that a start of husk
/// has, so those that must be quick, and those by which husk starts itself, are first tried
/// alone; whoever has something to tell knows them all.
pub fn parse(words: &[OsString]) -> Result<ArgMatches, clap::Error> {
    quick(words).map_or_else(|| command().try_get_matches_from(words), Ok)
}

/// The command without its verbs.
pub fn globals() -> Command {
    Globals::augment_args(Command::new("husk"))
}

/// One verb by itself, of those that must be quick.
pub fn verb(name: &str) -> Option<Command> {
    Some(match name {
        "bake" => BakeArgs::augment_args(Command::new("bake")),
        "exec" => ExecArgs::augment_args(Command::new("exec")),
        "fork" => ForkArgs::augment_args(Command::new("fork")),
        "restore" => RestoreArgs::augment_args(Command::new("restore")),
        "run" => RunArgs::augment_args(Command::new("run")),
        "keep" => KeepArgs::augment_args(Command::new("keep")),
        "vmm" => PartArgs::augment_args(Command::new("vmm")),
        "share" => PartArgs::augment_args(Command::new("share")),
        "net" => PartArgs::augment_args(Command::new("net")),
        _ => return None,
    })
}

fn quick(words: &[OsString]) -> Option<ArgMatches> {
    let verb = verb(words.get(1)?.to_str()?)?;
    globals().subcommand(verb).try_get_matches_from(words).ok()
}

/// The whole command line.
pub fn command() -> Command {
    let command = Cli::command();
    let mut verbs = String::new();
    for (title, names) in GROUPS {
        let _ = writeln!(verbs, "{title}:");
        for verb in names.iter().filter_map(|n| command.find_subcommand(n)) {
            let about = verb.get_about().map(ToString::to_string);
            let _ = writeln!(
                verbs,
                "  {:<12} {}",
                verb.get_name(),
                about.unwrap_or_default()
            );
        }
        verbs.push('\n');
    }
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{verbs}Options:\n{{options}}{{after-help}}"
    ))
}

/// Answers what clap did not accept, or `--help` and `--version`.
pub fn answer(error: &clap::Error, words: &[OsString]) -> ExitStatus {
    let printer = Printer::new(color_asked(words));
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return help(error, &printer);
    }
    let verb = verb_of(words);
    printer.fail(&Failure::from(problem(error, &verb)), &verb)
}

fn help(error: &clap::Error, printer: &Printer) -> ExitStatus {
    let styled = error.render();
    let text = if printer.data.off.is_empty() {
        styled.to_string()
    } else {
        styled.ansi().to_string()
    };
    // clap pads the empty lines between its paragraphs.
    let trimmed: String = text.lines().flat_map(|l| [l.trim_end(), "\n"]).collect();
    match printer.data(trimmed.as_bytes()) {
        Ok(()) => ExitStatus::Success,
        Err(failure) => printer.fail(&failure, ""),
    }
}

/// clap's answer is a paragraph, maybe tips, the usage and a pointer: of these, the first
/// becomes the one line, and the tips become hints.
fn problem(error: &clap::Error, verb: &str) -> Problem {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first: Vec<&str> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect();
    let help = match verb {
        "" => "husk --help".to_owned(),
        verb => format!("husk {verb} --help"),
    };
    let tip = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("tip: "));
    let (what, hint) = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => (
            match verb {
                "" => "a verb is missing".to_owned(),
                verb => format!("a verb is missing after '{verb}'"),
            },
            format!("{help} lists them"),
        ),
        _ => (
            first.join(" "),
            match tip {
                Some(tip) => format!("{tip}; {help} says more"),
                None => format!("{help} says what it takes"),
            },
        ),
    };
    Problem::new(what).hint(hint)
}

/// The verb that was meant: the first word that is one. Its options come after it, and
/// before it there is only `--color WHEN`, whose values are no verbs.
fn verb_of(words: &[OsString]) -> String {
    let command = Cli::command();
    words
        .iter()
        .skip(1)
        .filter_map(|word| word.to_str())
        .find(|word| command.find_subcommand(word).is_some())
        .unwrap_or_default()
        .to_owned()
}

/// `--color` as far as it can be known of words that clap refused.
fn color_asked(words: &[OsString]) -> ColorWhen {
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let spaced = words
        .windows(2)
        .find(|pair| pair[0] == "--color")
        .map(|pair| pair[1]);
    if words.contains(&"--no-color") {
        return ColorWhen::Never;
    }
    let joined = words.iter().find_map(|word| word.strip_prefix("--color="));
    joined
        .or(spaced)
        .and_then(|value| ColorWhen::from_str(value, true).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn refused(line: &str) -> Problem {
        let words = words(line);
        let error = command()
            .try_get_matches_from(&words)
            .expect_err("a usage error");
        problem(&error, &verb_of(&words))
    }

    #[test]
    fn the_definition_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn every_visible_verb_is_in_one_group() {
        let mut grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        let count = grouped.len();
        grouped.sort_unstable();
        grouped.dedup();
        assert_eq!(grouped.len(), count, "a verb is in two groups");
        for verb in Cli::command().get_subcommands() {
            assert!(
                verb.is_hide_set() || grouped.contains(&verb.get_name()),
                "{}",
                verb.get_name()
            );
        }
    }

    /// A verb that is tried alone means what it means among the others.
    #[test]
    fn what_is_read_quickly_is_read_alike() {
        use clap::FromArgMatches as _;
        for line in [
            "husk exec -it -e A=1 web sh -c --help",
            "husk exec --color never web true",
            "husk run --no-color -d --name web dir:x sleep 9",
            "husk vmm --control 3",
            "husk share --control 3",
            "husk net --control 3",
        ] {
            let words = words(line);
            let quick = quick(&words).expect(line);
            let full = command().try_get_matches_from(&words).expect(line);
            let read = |matches| format!("{:?}", Cli::from_arg_matches(matches).expect(line));
            assert_eq!(read(&quick), read(&full), "{line}");
        }
        for line in [
            "husk exec --help",
            "husk exec web",
            "husk ps",
            "husk",
            "husk run",
        ] {
            assert!(quick(&words(line)).is_none(), "{line}");
        }
    }

    #[test]
    fn a_usage_error_is_one_line_and_a_hint() {
        let unknown = refused("husk run --cpu 2 dir:x");
        assert!(
            unknown.what.starts_with("unexpected argument '--cpu'"),
            "{unknown:?}"
        );
        assert!(unknown.hint.is_some_and(|hint| hint.contains("--cpus")));

        let missing = refused("husk run -c 2");
        assert!(missing.what.contains("IMAGE"), "{missing:?}");
        assert!(!missing.what.contains('\n'));
        assert_eq!(
            missing.hint.as_deref(),
            Some("husk run --help says what it takes")
        );
        assert_eq!(refused("husk").what, "a verb is missing");
    }

    #[test]
    fn the_verb_of_a_refused_line_is_found() {
        assert_eq!(verb_of(&words("husk --color never run --bogus")), "run");
        assert_eq!(verb_of(&words("husk --bogus")), "");
    }

    #[test]
    fn color_is_known_before_clap_agrees() {
        assert_eq!(
            color_asked(&words("husk --color never x")),
            ColorWhen::Never
        );
        assert_eq!(
            color_asked(&words("husk --color=always x")),
            ColorWhen::Always
        );
        assert_eq!(color_asked(&words("husk --color loud")), ColorWhen::Auto);
    }
}
