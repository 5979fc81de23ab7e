// SPDX-License-Identifier: Apache-2.0
//! The rules of the house that the compiler does not enforce: layers, sizes, names, the
//! homes of `unsafe` and of conditional compilation, and what may not be in the tree.
//!
//! Reads the sources as text. A rule that has to be bent is bent in `docs/` or here, in
//! the open, never by a comment in the file that breaks it.

#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/source.rs"]
mod source;

use source::{File, rust_files, text_files};
use std::collections::BTreeSet;

/// No file is longer than this, in lines of code, its tests included.
const MAX_LINES: usize = 800;
/// Files beyond this, without their tests, are named in the output: split them in time.
const LONG: usize = 400;

/// Where `unsafe` may be written, as prefixes of paths.
const UNSAFE_HOMES: [&str; 8] = [
    "src/sys/",
    "src/kvm/",
    "src/memory/",
    "src/jail/",
    "src/arch/x86_64/completion/",
    "src/arch/x86_64/ring3/",
    "guest/agent/src/sys",
    // Programs for tests that hold registers across system calls by hand.
    "guest/probe/src/",
];

/// Where the target's architecture may be asked for.
const ARCH_HOME: &str = "src/arch/";

/// Words that say nothing, in names of types, modules and files.
const EMPTY_WORDS: [&str; 6] = ["Manager", "Helper", "Util", "Common", "Base", "Misc"];

/// What work in progress leaves behind, as tokens of code.
const LEFT_BEHIND: [&str; 4] = ["todo!", "unimplemented!", "dbg!", "#[ignore"];

fn report(problems: &BTreeSet<String>) {
    let list: Vec<&str> = problems.iter().map(String::as_str).collect();
    assert!(list.is_empty(), "\n{}\n", list.join("\n"));
}

fn each(files: &[File], mut judge: impl FnMut(&File) -> Vec<String>) {
    assert!(
        !files.is_empty(),
        "no file was found: this test looks in the wrong place"
    );
    let mut problems = BTreeSet::new();
    for file in files {
        for problem in judge(file) {
            problems.insert(format!("{}: {problem}", file.path));
        }
    }
    report(&problems);
}

#[test]
fn modules_use_only_what_their_row_allows() {
    let table = layers::Table::read();
    let mut problems = table.faults();
    for file in rust_files()
        .iter()
        .filter(|file| file.path.starts_with("src/"))
    {
        problems.extend(table.judge(file));
    }
    report(&problems);
}

#[test]
fn files_are_short() {
    each(&rust_files(), |file| {
        let code = source::count(&file.code);
        let (own, _) = file
            .code
            .split_once("#[cfg(test)]")
            .unwrap_or((&file.code, ""));
        let own = source::count(own);
        if own >= LONG {
            eprintln!(
                "long: {} has {own} lines of code without its tests",
                file.path
            );
        }
        let too_long = format!("{code} lines of code, and {MAX_LINES} are the most");
        Vec::from_iter((code > MAX_LINES).then_some(too_long))
    });
}

#[test]
fn files_open_with_licence_and_purpose() {
    each(&rust_files(), |file| {
        let mut lines = file.text.lines();
        let licence = lines.next() == Some("// SPDX-License-Identifier: Apache-2.0");
        let purpose = lines.next().is_some_and(|line| line.starts_with("//! "));
        Vec::from_iter(
            (!licence || !purpose)
                .then(|| "opens with the SPDX line and then a `//!` saying what it is".to_owned()),
        )
    });
}

#[test]
fn unsafe_stays_in_its_homes() {
    each(&rust_files(), |file| {
        let at_home = UNSAFE_HOMES.iter().any(|home| file.path.starts_with(home));
        let used = source::words(&file.code).any(|word| word == "unsafe");
        match (used, at_home) {
            (true, false) => vec!["`unsafe` has no home here".to_owned()],
            (true, true) if !states_its_unsafe(file) => {
                vec!["uses `unsafe` without `#![expect(unsafe_code, reason = …)]`".to_owned()]
            }
            _ => Vec::new(),
        }
    });
}

/// At the file, or at the folder or module it is part of.
fn states_its_unsafe(file: &File) -> bool {
    let stated = |text: &str| {
        text.contains("expect(unsafe_code") || text.contains("expect(\n    unsafe_code")
    };
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let parents = [format!("{folder}/mod.rs"), format!("{folder}.rs")];
    stated(&file.code)
        || rust_files()
            .iter()
            .any(|other| parents.contains(&other.path) && stated(&other.code))
}

#[test]
fn only_arch_asks_for_the_architecture() {
    each(&rust_files(), |file| {
        let asks = source::words(&file.code).any(|word| word == "target_arch");
        let at_home = file.path.starts_with(ARCH_HOME);
        Vec::from_iter((asks && !at_home).then(|| format!("`target_arch` belongs in {ARCH_HOME}")))
    });
}

#[test]
fn names_say_something() {
    each(&rust_files(), |file| {
        let stem = file
            .path
            .rsplit('/')
            .next()
            .unwrap_or("")
            .trim_end_matches(".rs");
        source::declared_names(&file.code)
            .chain([stem])
            .filter(|name| source::name_words(name).iter().any(|w| is_empty_word(w)))
            .map(|name| format!("`{name}` holds a word that says nothing"))
            .collect()
    });
}

fn is_empty_word(word: &str) -> bool {
    let word = word.to_lowercase();
    EMPTY_WORDS.iter().any(|empty| {
        let empty = empty.to_lowercase();
        word == empty || word == empty + "s"
    })
}

#[test]
fn nothing_is_left_behind() {
    each(&rust_files(), |file| {
        let code: String = file.code.split_whitespace().collect();
        LEFT_BEHIND
            .iter()
            .filter(|left| {
                code.match_indices(*left).any(|(at, _)| {
                    let before = code[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                })
            })
            .map(|left| format!("`{left}` is left behind"))
            .collect()
    });
}

#[test]
fn the_tree_names_no_machine() {
    // Whoever runs this, wherever: neither the checkout nor the home may be in a file.
    let mut private = vec![env!("CARGO_MANIFEST_DIR").to_owned()];
    private.extend(std::env::var("CARGO_HOME"));
    private.extend(std::env::var("HOME").ok().map(|home| format!("{home}/.")));
    private.retain(|path| path.matches('/').count() >= 2 && path.len() > 4);
    // Written in pieces, so that this file does not name them.
    let mirrors = [
        ["artif", "actory"],
        ["jf", "rog"],
        ["/wo", "rk/"],
        ["pkg", ".dev"],
    ];
    private.extend(mirrors.map(|pieces| pieces.concat()));
    each(&text_files(), |file| {
        private
            .iter()
            .filter(|word| file.text.contains(word.as_str()))
            .map(|word| format!("names `{word}`"))
            .collect()
    });
}

#[test]
fn crates_come_from_the_public_index() {
    const INDEX: &str = r#"source = "registry+https://github.com/rust-lang/crates.io-index""#;
    let lock = source::read("Cargo.lock");
    let elsewhere = lock
        .lines()
        .filter(|line| line.starts_with("source = ") && *line != INDEX)
        .map(|line| format!("Cargo.lock: {line}"))
        .collect();
    report(&elsewhere);
}

#[test]
fn documents_that_are_referred_to_exist() {
    let root = source::root();
    each(&text_files(), |file| {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut gone = Vec::new();
        if file.path.ends_with(".md") {
            for link in source::links(&file.text) {
                if !root.join(folder).join(link).exists() {
                    gone.push(format!("links to {link}, which does not exist"));
                }
            }
        }
        for page in source::pages(&file.text) {
            if !root.join(page).is_file() {
                gone.push(format!("refers to {page}, which does not exist"));
            }
        }
        gone
    });
}
