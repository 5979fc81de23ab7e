// SPDX-License-Identifier: Apache-2.0
//! Wrong values for every option and every word of every verb. The table is held against
//! clap's own list: an option without a row fails, and so does a row without an option.
//!
//! Needs no KVM: each line fails before there is a machine, at the latest by its image,
//! machine or kernel, of which there is none.

use crate::support::{Outcome, finish, husk};
use clap::{Arg, ArgAction, Command};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

type Row = (&'static str, &'static [&'static str]);

/// A verb: the words that begin a line, those that end it, its code of failure, and wrong
/// values of what it takes. An option stands as `--long`, a word as its name in the help.
#[derive(Clone, Copy)]
struct Verb {
    name: &'static str,
    /// Without what is given in a row: a line that fails, or does nothing.
    rest: &'static [&'static str],
    code: i32,
    rows: &'static [Row],
}

/// Whatever a shell can hand over is a value: the guest or the file system decides.
const ANY: &[&str] = &[];
const FORMAT: (&str, &[&str]) = ("--format", &["xml", "", "JSON "]);
const MACHINE: (&str, &[&str]) = ("MACHINE", &["nobody", "", "../x", "a b"]);
const SINCE: (&str, &[&str]) = ("--since", &["soon", "", "1y", "-1", "2026-13-01"]);
const USER: (&str, &[&str]) = ("--user", &["", ":", "a:b:c", "4294967295", "-1", "a b"]);
const WORKDIR: (&str, &[&str]) = ("--workdir", &["", "here", "../x"]);
const ENV: (&str, &[&str]) = ("--env", &["", "=x", "NO_SUCH_VARIABLE"]);
const RING: (&str, &[&str]) = ("--guest-ring", &["1", "-3", "ring3", ""]);
const SIZES: &[&str] = &["0", "-1", "", "much", "1q", "99999999999999999999g"];
const MEMORY: (&str, &[&str]) = (
    "--memory",
    &["0", "1m", "-5", "", "plenty", "5q", "1000000g"],
);
const CPUS: (&str, &[&str]) = ("--cpus", &["0", "255", "-1", "two", "1.5", ""]);

const READY: &[&str] = &["", "0", "70000", "http://", "("];

/// A benchmark of an image that is not there ends before it begins.
const NO_IMAGE: &[&str] = &["--image", "dir:empty"];
const COUNTS: &[&str] = &["", "0", "-1", "many", "1.5", "99999999999"];
const CONCURRENCY: Row = ("--concurrency", COUNTS);
const INSTANCES: Row = ("--instances", COUNTS);
/// What every study takes.
const BENCH: [Row; 12] = [
    CPUS,
    MEMORY,
    (
        "--image",
        &["", "dir:", "oci:/no/such", "tar:/no/such", "A b"],
    ),
    ("--port", &["", "0", "70000", "-1", "http"]),
    ("--against", &["", "nobody", "runc,", "runc,nobody"]),
    ("--with", &["", "x", "x=y", "runc=/no/such", "runc=/"]),
    ("--rounds", COUNTS),
    ("--timeout", &["", "soon", "-1", "1y", "0"]),
    FORMAT,
    ("--report", &["", "/", "/no/such/folder/page.html"]),
    ("--out", &["", "/", "/no/such/folder/out.json"]),
    ("CMD", ANY),
];

/// What one study takes beside that.
const fn bench(own: Row) -> [Row; 13] {
    let mut rows = [own; 13];
    let mut place = 0;
    while place < BENCH.len() {
        rows[place] = BENCH[place];
        place += 1;
    }
    rows
}

const fn both() -> [Row; 14] {
    let mut rows = [INSTANCES; 14];
    let one = bench(CONCURRENCY);
    let mut place = 0;
    while place < one.len() {
        rows[place] = one[place];
        place += 1;
    }
    rows
}

/// What `bake` takes beside all that `run` takes.
const BAKE: &[Row] = &[("--as", &["", "a/b", "..", "a b"]), ("--vsock", ANY)];

/// All verbs: those below, and `bake`.
fn all() -> Vec<Verb> {
    let mut table = VERBS.to_vec();
    // A snapshot has no socket of this host's.
    let run = table[0].rows.iter().filter(|(name, _)| *name != "--vsock");
    let rows: Vec<Row> = run.chain(BAKE).copied().collect();
    table.push(Verb {
        name: "bake",
        rest: &[
            "--kernel",
            "/proc/self/exe",
            "--checkpoint-ready",
            "80",
            "dir:empty",
            "true",
        ],
        code: 1,
        rows: rows.leak(),
    });
    table
}

const VERBS: &[Verb] = &[
    Verb {
        name: "run",
        rest: &["--kernel", "/proc/self/exe", "dir:empty", "true"],
        code: 125,
        rows: &[
            CPUS,
            MEMORY,
            ("--disk-size", SIZES),
            (
                "--volume",
                &[
                    "",
                    "x",
                    ":",
                    "a:",
                    "a:b",
                    ":/x",
                    "a:/x:rx",
                    "a:/",
                    "/no/such:/x",
                    "a b:/x",
                ],
            ),
            (
                "--tmpfs",
                &["", "x", "/", "/x:size=0", "/x:size=", "/x:mode=7"],
            ),
            ("--disk-bps", SIZES),
            ("--net-bps", SIZES),
            ("--disk-iops", &["0", "-1", "", "many", "1.5"]),
            ("--vsock", &["", "/no/such/folder/socket"]),
            ENV,
            ("--entrypoint", ANY),
            ("--pull", &["", "sometimes"]),
            WORKDIR,
            USER,
            (
                "--publish",
                &[
                    "",
                    "80",
                    "0:80",
                    "80:0",
                    "70000:1",
                    "x:1:2",
                    "1:2/sctp",
                    "1.2.3.4.5:1:2",
                    "1:2:3:4",
                ],
            ),
            (
                "--allow",
                &[
                    "",
                    "a b",
                    "1.2.3.4/33",
                    "a:0",
                    "a:70000",
                    "[::1",
                    "::/129",
                    "1.2.3",
                ],
            ),
            (
                "--network",
                &[
                    "",
                    "wifi",
                    "tap:",
                    "bridge:",
                    "net:",
                    "net:../x",
                    "tap:a/b",
                    "tap:sixteen-letters-",
                ],
            ),
            ("--hostname", &["", "-", "a_b", "a..b", "a b"]),
            ("--name", &["", "a/b", "..", "-x", "a b"]),
            ("--label", &["", "=x"]),
            ("--stop-signal", &["", "0", "65", "-1", "NOPE"]),
            ("--kernel", &["", "/no/such/kernel", "/"]),
            RING,
            ("--checkpoint-ready", READY),
            ("--trace", &["xml", ""]),
            ("--timeout", &["", "soon", "-1", "1y", "0"]),
            (
                "IMAGE",
                &[
                    "",
                    "dir:",
                    "oci:/no/such",
                    "tar:/no/such",
                    "A b",
                    "a@sha256:1",
                ],
            ),
            ("CMD", ANY),
        ],
    },
    Verb {
        name: "boot",
        rest: &["--kernel", "/proc/self/exe"],
        code: 1,
        rows: &[
            CPUS,
            MEMORY,
            ("--kernel", &["", "/no/such/kernel", "/"]),
            ("--initrd", &["", "/no/such/initrd", "/"]),
            ("--cmdline", ANY),
            ("--disk", &["", "/no/such/disk", "/no/such/disk:ro"]),
            ("--trace", &["xml", ""]),
        ],
    },
    Verb {
        name: "exec",
        rest: &["nobody", "true"],
        code: 125,
        rows: &[ENV, WORKDIR, USER, MACHINE, ("CMD", ANY)],
    },
    Verb {
        name: "ps",
        rest: &[],
        code: 1,
        rows: &[
            ("--filter", &["", "x", "color=red", "status=well", "="]),
            FORMAT,
        ],
    },
    Verb {
        name: "logs",
        rest: &["nobody"],
        code: 1,
        rows: &[SINCE, ("--tail", &["", "-1", "all", "1.5"]), MACHINE],
    },
    Verb {
        name: "attach",
        rest: &["nobody"],
        code: 1,
        rows: &[MACHINE],
    },
    Verb {
        name: "cp",
        rest: &["nobody:/a", "/no/such/folder"],
        code: 1,
        rows: &[
            ("[MACHINE:]FROM", &["nobody:/x", "nobody:x"]),
            ("[MACHINE:]TO", ANY),
        ],
    },
    Verb {
        name: "stats",
        rest: &["nobody"],
        code: 1,
        rows: &[FORMAT, MACHINE],
    },
    Verb {
        name: "top",
        rest: &["nobody"],
        code: 1,
        rows: &[FORMAT, MACHINE],
    },
    Verb {
        name: "stop",
        rest: &["nobody"],
        code: 1,
        rows: &[
            ("--time", &["", "soon", "-1", "1y"]),
            ("--signal", &["", "0", "65", "NOPE"]),
            MACHINE,
        ],
    },
    Verb {
        name: "kill",
        rest: &["nobody"],
        code: 1,
        rows: &[("--signal", &["", "0", "65", "NOPE"]), MACHINE],
    },
    Verb {
        name: "wait",
        rest: &["nobody"],
        code: 1,
        rows: &[MACHINE],
    },
    Verb {
        name: "rm",
        rest: &["nobody"],
        code: 1,
        rows: &[MACHINE],
    },
    Verb {
        name: "inspect",
        rest: &["nobody"],
        code: 1,
        rows: &[MACHINE],
    },
    Verb {
        name: "events",
        rest: &[],
        code: 1,
        rows: &[SINCE, FORMAT],
    },
    Verb {
        name: "pull",
        rest: &["A b"],
        code: 1,
        rows: &[
            ("--pull", &["", "sometimes"]),
            ("IMAGE", &["", "A b", "UPPER", "a@sha256:1", "a:", "dir:/x"]),
        ],
    },
    Verb {
        name: "import",
        rest: &["oci:/no/such/layout"],
        code: 1,
        rows: &[
            (
                "SOURCE",
                &[
                    "",
                    "oci:",
                    "oci:/no/such",
                    "docker-archive:/no/such",
                    "plain",
                ],
            ),
            ("NAME", &["", "A b", "a@sha256:1"]),
        ],
    },
    Verb {
        name: "images",
        rest: &[],
        code: 1,
        rows: &[FORMAT],
    },
    Verb {
        name: "rmi",
        rest: &["none"],
        code: 1,
        rows: &[("IMAGE", &["", "none", "A b", "a@sha256:1"])],
    },
    Verb {
        name: "image inspect",
        rest: &["none"],
        code: 1,
        rows: &[FORMAT, ("IMAGE", &["", "none", "oci:/no/such", "A b"])],
    },
    Verb {
        name: "image gc",
        rest: &[],
        code: 1,
        rows: &[FORMAT],
    },
    Verb {
        name: "snapshots",
        rest: &[],
        code: 1,
        rows: &[FORMAT],
    },
    Verb {
        name: "fork",
        rest: &["nobody"],
        code: 1,
        rows: &[
            ("--count", &["", "0", "-1", "1001", "two"]),
            ("--name", &["", "a/b", "..", "a b"]),
            FORMAT,
            MACHINE,
        ],
    },
    Verb {
        name: "restore",
        rest: &["nobody"],
        code: 125,
        rows: &[
            ("--name", &["", "a/b", "..", "a b"]),
            ("--hostname", &["", "-", "a_b", "a..b", "a b"]),
            ("--label", &["", "=x"]),
            ("--publish", &["", "80", "0:80", "x:1:2"]),
            ("--timeout", &["", "soon", "-1", "1y"]),
            ("--trace", &["xml", ""]),
            ("SNAPSHOT", &["", "nobody", "../x", "a b"]),
        ],
    },
    Verb {
        name: "snapshot",
        rest: &["new", "nobody"],
        code: 1,
        rows: &[FORMAT, ("NAME", &["", "../x", "a/b", "ls "]), MACHINE],
    },
    Verb {
        name: "snapshot ls",
        rest: &[],
        code: 1,
        rows: &[FORMAT],
    },
    Verb {
        name: "snapshot inspect",
        rest: &["none"],
        code: 1,
        rows: &[FORMAT, ("NAME", &["", "none", "../x", "rm"])],
    },
    Verb {
        name: "snapshot rm",
        rest: &["none"],
        code: 1,
        rows: &[("NAME", &["", "none", "../x"])],
    },
    Verb {
        name: "snapshot export",
        rest: &["none", "file"],
        code: 1,
        rows: &[("NAME", &["", "none", "../x"]), ("FILE", ANY)],
    },
    Verb {
        name: "snapshot import",
        rest: &["none"],
        code: 1,
        rows: &[
            ("--name", &["", "a/b", "..", "ls", ".x", "a b"]),
            ("FILE", &["", "none", "/"]),
        ],
    },
    Verb {
        name: "snapshot flatten",
        rest: &["none"],
        code: 1,
        rows: &[("NAME", &["", "none", "../x"])],
    },
    Verb {
        name: "volume create",
        rest: &["a/b"],
        code: 1,
        rows: &[("--size", SIZES), ("NAME", &["", "a/b", "..", "a b", ".x"])],
    },
    Verb {
        name: "volume ls",
        rest: &[],
        code: 1,
        rows: &[FORMAT],
    },
    Verb {
        name: "volume inspect",
        rest: &["none"],
        code: 1,
        rows: &[("NAME", &["", "none", "../x"])],
    },
    Verb {
        name: "volume rm",
        rest: &["none"],
        code: 1,
        rows: &[("NAME", &["", "none", "../x"])],
    },
    Verb {
        name: "kernel build",
        rest: &[],
        code: 1,
        rows: &[RING],
    },
    Verb {
        name: "kernel list",
        rest: &[],
        code: 1,
        rows: &[FORMAT],
    },
    Verb {
        name: "kernel path",
        rest: &[],
        code: 1,
        rows: &[RING],
    },
    Verb {
        name: "bench start",
        rest: NO_IMAGE,
        code: 1,
        rows: &BENCH,
    },
    Verb {
        name: "bench churn",
        rest: NO_IMAGE,
        code: 1,
        rows: &bench(CONCURRENCY),
    },
    Verb {
        name: "bench density",
        rest: NO_IMAGE,
        code: 1,
        rows: &bench(INSTANCES),
    },
    Verb {
        name: "bench work",
        rest: NO_IMAGE,
        code: 1,
        rows: &BENCH,
    },
    Verb {
        name: "bench all",
        rest: NO_IMAGE,
        code: 1,
        rows: &both(),
    },
    Verb {
        name: "bench compare",
        rest: &["/no/such/before", "/no/such/after"],
        code: 1,
        rows: &[
            ("BEFORE", &["", "/no/such/file", "/"]),
            ("AFTER", &["", "/no/such/file", "/"]),
            ("--threshold", &["", "-1", "much", "nan"]),
            FORMAT,
        ],
    },
    Verb {
        name: "bench report",
        rest: &["/no/such/file"],
        code: 1,
        rows: &[
            ("RESULTS", &["", "/no/such/file", "/"]),
            FORMAT,
            ("--output", ANY),
        ],
    },
    Verb {
        name: "template ls",
        rest: &[],
        code: 1,
        rows: &[FORMAT],
    },
    Verb {
        name: "template rm",
        rest: &[],
        code: 1,
        rows: &[("KEY", &["", "..", "nothing", "0123456789ab"])],
    },
    Verb {
        name: "template prebuild",
        rest: &[],
        code: 1,
        rows: &[CPUS, MEMORY, RING],
    },
    Verb {
        name: "doctor",
        rest: &[],
        code: 1,
        rows: &[],
    },
    Verb {
        name: "completions",
        rest: &["tcsh"],
        code: 1,
        rows: &[("SHELL", &["", "tcsh"])],
    },
    Verb {
        name: "man",
        rest: &["fly"],
        code: 1,
        rows: &[("VERB", &["", "fly", "kernel/build"])],
    },
];

/// What a program, not a person, might put where a value belongs.
fn hostile() -> Vec<OsString> {
    let mut list: Vec<OsString> = [
        "",
        "-",
        "-1",
        "--",
        "../../etc",
        "\u{1b}[31mred",
        "a\nhusk: b",
        "%s%n",
        "\u{202e}abc",
        "18446744073709551616",
        "0x10",
        "1e9",
        "١٢",
        "NaN",
        "💥:/💥",
    ]
    .map(OsString::from)
    .to_vec();
    list.push("x".repeat(100_000).into());
    list.push(format!("/{}", "y/".repeat(5000)).into());
    list.push(OsStr::from_bytes(b"\xff\xfe=\x80").to_owned());
    list
}

struct Host(tempfile::TempDir);

impl Host {
    fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("empty")).expect("a folder");
        Self(folder)
    }

    /// A line of words, on a host that has nothing.
    fn line(&self, words: &[OsString]) -> Outcome {
        let folder = self.0.path();
        let mut command = husk();
        command.args(words).current_dir(folder).env("NO_COLOR", "1");
        for name in [
            "HOME",
            "XDG_RUNTIME_DIR",
            "HUSK_DATA_DIR",
            "HUSK_CACHE_DIR",
            "TMPDIR",
        ] {
            command.env(name, folder);
        }
        command.env_remove("NO_SUCH_VARIABLE");
        finish(&mut command)
    }
}

impl Verb {
    /// How a line ends that has a value for `name` already.
    fn rest_without(&self, name: &str) -> Vec<&'static str> {
        let given = self.rest.iter().position(|word| *word == name);
        let mut rest = self.rest.to_vec();
        if let Some(place) = given {
            rest.drain(place..=place + 1);
        }
        rest
    }

    /// How a line ends that has `value` where its first plain word is; behind it, if that is
    /// the second.
    fn rest_with(&self, name: &str, value: &'static str) -> Vec<&'static str> {
        let mut rest = self.rest.to_vec();
        let options = rest.chunks(2).take_while(|two| two[0].starts_with("--"));
        let plain = 2 * options.count();
        match rest.get_mut(plain) {
            Some(word) if name != "NAME" || self.name != "import" => *word = value,
            _ => rest.push(value),
        }
        rest
    }
}

fn words(verb: &Verb, more: &[&OsStr], rest: &[&str]) -> Vec<OsString> {
    let mut line: Vec<OsString> = verb.name.split(' ').map(OsString::from).collect();
    line.extend(more.iter().map(|word| (*word).to_owned()));
    line.extend(rest.iter().map(OsString::from));
    line
}

/// One problem, told in one line that names `what`, with nothing but causes and hints
/// behind it; the rest of it is what is wrong with the outcome.
fn complaint(outcome: &Outcome, code: i32, what: &[&str]) -> Option<String> {
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let said: Vec<&&str> = lines
        .iter()
        .filter(|line| line.starts_with("husk: "))
        .collect();
    let beside = lines.iter().find(|line| {
        !line.starts_with("husk: ") && !line.starts_with("hint: ") && !line.starts_with("  ")
    });
    let wrong = if outcome.code != code {
        format!("the code is {}, not {code}", outcome.code)
    } else if !outcome.stdout.is_empty() {
        "something is on standard output".to_owned()
    } else if said.len() != 1 {
        format!("{} problems are told", said.len())
    } else if !what.iter().any(|what| outcome.stderr.contains(what)) {
        format!("it names none of {what:?}")
    } else if let Some(line) = beside {
        format!("{line:?} is no line of husk's")
    } else {
        return None;
    };
    Some(format!("{wrong}: {}", shown(outcome)))
}

fn shown(outcome: &Outcome) -> String {
    let text: String = outcome.stderr.chars().take(300).collect();
    format!("{text:?}")
}

/// Verbs one can type, with their options; groups by their members.
fn typed(command: &Command, above: &str, list: &mut BTreeMap<String, Command>) {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("{above}{}", verb.get_name());
        match verb.get_subcommands().next() {
            Some(_) => {
                typed(verb, &format!("{name} "), list);
                // A group may be a verb as well.
                if verb.get_positionals().next().is_some() {
                    list.insert(name, verb.clone());
                }
            }
            None => drop(list.insert(name, verb.clone())),
        }
    }
}

fn verbs() -> BTreeMap<String, Command> {
    let mut list = BTreeMap::new();
    typed(&::husk::cli::command(), "", &mut list);
    list
}

/// As a row calls it.
fn name_of(arg: &Arg) -> String {
    match arg.get_long() {
        Some(long) => format!("--{long}"),
        None => arg.get_value_names().map_or_else(
            || arg.get_id().as_str().to_uppercase(),
            |names| names[0].to_string(),
        ),
    }
}

fn is_switch(arg: &Arg) -> bool {
    !arg.get_action().takes_values()
}

fn is_help(arg: &Arg) -> bool {
    matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    )
}

#[test]
fn every_option_of_every_verb_has_a_row() {
    let known = verbs();
    let mut wrong = Vec::new();
    let table = all();
    let tabled: BTreeSet<&str> = table.iter().map(|verb| verb.name).collect();
    for name in known.keys().filter(|name| !tabled.contains(name.as_str())) {
        wrong.push(format!("`husk {name}` has no entry"));
    }
    for verb in &all() {
        let Some(command) = known.get(verb.name) else {
            wrong.push(format!("there is no `husk {}`", verb.name));
            continue;
        };
        let takes: BTreeSet<String> = command
            .get_arguments()
            .filter(|arg| !is_switch(arg))
            .map(name_of)
            .collect();
        let rows: BTreeSet<String> = verb.rows.iter().map(|(name, _)| (*name).into()).collect();
        for missing in takes.difference(&rows) {
            wrong.push(format!("`husk {}` {missing} has no row", verb.name));
        }
        for surplus in rows.difference(&takes) {
            wrong.push(format!("`husk {}` takes no {surplus}", verb.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn wrong_values_are_refused_in_one_line() {
    let host = Host::empty();
    let mut wrong = Vec::new();
    for verb in &all() {
        for (name, values) in verb.rows {
            for value in *values {
                let joined = OsString::from(format!("{name}={value}"));
                let line = match name.starts_with("--") {
                    true => words(verb, &[&joined], &verb.rest_without(name)),
                    false => words(verb, &[], &verb.rest_with(name, value)),
                };
                let outcome = host.line(&line);
                let placeholder = format!("<{name}");
                // A path without its transport, a machine without its path.
                let part = value.split(':').find(|part| part.starts_with('/'));
                let what = match value.len() {
                    0 => vec![
                        name.trim_start_matches('-'),
                        "''",
                        "\"\"",
                        "empty",
                        &placeholder,
                    ],
                    _ => vec![
                        *name,
                        value,
                        part.unwrap_or(value),
                        &placeholder,
                        "'nobody'",
                    ],
                };
                if let Some(told) = complaint(&outcome, verb.code, &what) {
                    wrong.push(format!("{line:?}: {told}"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} lines:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn switches_take_no_value_and_options_want_one() {
    let host = Host::empty();
    let known = verbs();
    let mut wrong = Vec::new();
    for verb in &all() {
        let arguments = known[verb.name].get_arguments().cloned();
        let mut lines: Vec<(String, Vec<OsString>)> = Vec::new();
        for arg in arguments.filter(|arg| arg.get_long().is_some() && !is_help(arg)) {
            let name = name_of(&arg);
            if is_switch(&arg) {
                let joined = OsString::from(format!("{name}=yes"));
                lines.push((name, words(verb, &[&joined], verb.rest)));
            } else if !arg.is_require_equals_set() {
                let mut line = words(verb, &[], verb.rest);
                // In front of the words that are the guest's.
                let at = verb.name.split(' ').count();
                line.truncate(at);
                line.push(OsString::from(&name));
                lines.push((name, line));
            }
        }
        lines.push((
            "--loud".into(),
            words(verb, &[OsStr::new("--loud")], verb.rest),
        ));
        for (name, line) in lines {
            if let Some(told) = complaint(&host.line(&line), verb.code, &[&name]) {
                wrong.push(format!("{line:?}: {told}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} lines:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Whatever is in the place of a value: an answer, no panic, and nothing on the terminal
/// that the terminal would obey.
#[test]
fn hostile_values_are_answered_like_others() {
    let host = Host::empty();
    let mut wrong = Vec::new();
    for verb in &all() {
        for (name, _) in verb.rows.iter().filter(|(name, _)| name.starts_with("--")) {
            for value in hostile() {
                let mut joined = OsString::from(format!("{name}="));
                joined.push(&value);
                let rest = verb.rest_without(name);
                let line = words(verb, &[&joined], &rest);
                let outcome = host.line(&line);
                let answered =
                    outcome.code == verb.code || (verb.rest.is_empty() && outcome.code == 0);
                let obeyed = outcome.stderr.chars().any(|c| c.is_control() && c != '\n');
                let panicked = outcome.stderr.contains("panicked");
                if !answered || obeyed || panicked || outcome.stderr.len() > 16_384 {
                    let short: String = format!("{line:?}").chars().take(200).collect();
                    let length = outcome.stderr.len();
                    wrong.push(format!(
                        "{short}: code {}, {length} bytes: {}",
                        outcome.code,
                        shown(&outcome)
                    ));
                }
            }
        }
    }
    let left: Vec<_> = std::fs::read_dir(host.0.path().join("volumes"))
        .into_iter()
        .flatten()
        .collect();
    assert!(left.is_empty(), "volumes were made: {left:?}");
    assert!(
        wrong.is_empty(),
        "{} lines:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
