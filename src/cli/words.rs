// SPDX-License-Identifier: Apache-2.0
//! The words of a command line before clap has them: where husk's own end and those of a
//! guest's command begin. Main thread; reads nothing but the words.
//!
//! `husk run IMAGE -c x` hands `-c x` to the image's entry point, as container tools do. To
//! clap an option is an option wherever it stands, so the end of ours is marked for it.

use clap::{Arg, Command};
use std::ffi::OsString;

/// The verbs whose first plain word, an image or a machine, is the last that is husk's.
pub const VERBS: [&str; 3] = ["run", "exec", "bake"];

/// The words with a `--` behind the image or machine. `verb` defines one of `VERBS`.
pub fn marked(
    global: &Command,
    verb: impl Fn(&str) -> Option<Command>,
    mut words: Vec<OsString>,
) -> Vec<OsString> {
    if let Some(end) = end_of_ours(global, verb, &words) {
        words.insert(end, "--".into());
    }
    words
}

/// The place behind the image or machine; none if there is no such word, or somebody said
/// `--` before it.
fn end_of_ours(
    global: &Command,
    verb: impl Fn(&str) -> Option<Command>,
    words: &[OsString],
) -> Option<usize> {
    let place = plain(global, None, words, 1)?;
    let name = words[place].to_str().filter(|name| VERBS.contains(name))?;
    let options = verb(name)?;
    plain(&options, Some(global), words, place + 1).map(|place| place + 1)
}

/// The first word from `start` on that is neither an option nor an option's value.
fn plain(
    options: &Command,
    global: Option<&Command>,
    words: &[OsString],
    start: usize,
) -> Option<usize> {
    let mut place = start;
    loop {
        let word = words.get(place)?.to_string_lossy();
        if word == "--" {
            return None;
        }
        if !word.starts_with('-') || word == "-" {
            return Some(place);
        }
        let all = || {
            let above = global.into_iter().flat_map(Command::get_arguments);
            options.get_arguments().chain(above)
        };
        place += 1 + usize::from(eats_next(&word, all));
    }
}

/// Whether the value of the option in `word` is the next word.
fn eats_next<'a, I: Iterator<Item = &'a Arg>>(word: &str, all: impl Fn() -> I) -> bool {
    let wants = |arg: &Arg| arg.get_action().takes_values() && !arg.is_require_equals_set();
    if let Some(long) = word.strip_prefix("--") {
        let named = |arg: &&Arg| arg.get_long() == Some(long);
        return all().find(named).is_some_and(wants);
    }
    let mut letters = word.chars().skip(1);
    while let Some(letter) = letters.next() {
        let known = all().find(|arg| arg.get_short() == Some(letter));
        if known.is_some_and(wants) {
            // `-m512m` brings its value along.
            return letters.next().is_none();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::usage;

    fn marked(line: &str) -> String {
        let words = line.split_whitespace().map(OsString::from).collect();
        let words = super::marked(&usage::globals(), usage::verb, words);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn what_follows_an_image_or_a_machine_is_the_guests() {
        for (line, expected) in [
            ("husk run db -c x", "husk run db -- -c x"),
            (
                "husk run -c 2 -it -m512m db -c x",
                "husk run -c 2 -it -m512m db -- -c x",
            ),
            (
                "husk run -itc 2 --name=a --trace db --help",
                "husk run -itc 2 --name=a --trace db -- --help",
            ),
            (
                "husk --color never run --no-color -p 1:2 db",
                "husk --color never run --no-color -p 1:2 db --",
            ),
            (
                "husk run --color never db -- x",
                "husk run --color never db -- -- x",
            ),
            ("husk exec -u run web -x", "husk exec -u run web -- -x"),
        ] {
            assert_eq!(marked(line), expected);
        }
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        for line in [
            "husk",
            "husk run",
            "husk run -m",
            "husk run --help",
            "husk run -c 2 -- db -c x",
            "husk ps -a",
            "husk rm run x",
            "husk boot --kernel x -m 1",
        ] {
            assert_eq!(marked(line), line);
        }
    }
}
