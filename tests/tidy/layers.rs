// SPDX-License-Identifier: Apache-2.0
//! The layer table of `docs/architecture.md`, and whether a file keeps to it.

use crate::source::{self, File};
use std::collections::BTreeSet;

const PAGE: &str = "docs/architecture.md";

/// The rows, in the page's order.
pub struct Table(Vec<(String, Vec<String>)>);

impl Table {
    pub fn read() -> Self {
        Self::parse(&source::read(PAGE))
    }

    fn parse(page: &str) -> Self {
        let block = page
            .split_once("```layers\n")
            .and_then(|(_, rest)| rest.split_once("\n```"))
            .unwrap_or_else(|| panic!("{PAGE} has no block `layers`"));
        let rows = block.0.lines().map(str::trim);
        Self(
            rows.filter(|row| !row.is_empty() && !row.starts_with('#'))
                .map(|row| {
                    let (name, uses) = row.split_once(':').expect("a row is `module: uses`");
                    let uses = uses.split_whitespace().filter(|word| *word != "-");
                    (name.to_owned(), uses.map(str::to_owned).collect())
                })
                .collect(),
        )
    }

    /// A row that names what is not above it.
    pub fn faults(&self) -> BTreeSet<String> {
        let mut above: Vec<&str> = Vec::new();
        let mut faults = BTreeSet::new();
        for (name, uses) in &self.0 {
            for used in uses.iter().filter(|used| !above.contains(&used.as_str())) {
                faults.insert(format!("{PAGE}: {name} uses {used}, which is not above it"));
            }
            if above.contains(&name.as_str()) {
                faults.insert(format!("{PAGE}: {name} has two rows"));
            }
            above.push(name);
        }
        faults
    }

    /// What `file` uses and may not.
    pub fn judge(&self, file: &File) -> Vec<String> {
        let modules = module_path(&file.path);
        let home = match modules.first() {
            // The binary speaks to the library by its name, and only to the command line.
            None if file.path == "src/main.rs" => return self.judge_main(file),
            None => return Vec::new(),
            Some(home) => *home,
        };
        let Some((_, allowed)) = self.0.iter().find(|(name, _)| name == home) else {
            return vec![format!("{}: `{home}` has no row in {PAGE}", file.path)];
        };
        used(&file.code, modules.len())
            .into_iter()
            .filter(|name| *name != home && self.is_module(name))
            .filter(|name| !allowed.iter().any(|allowed| allowed == name))
            .map(|name| format!("{}: `{home}` may not use `{name}`", file.path))
            .collect()
    }

    fn judge_main(&self, file: &File) -> Vec<String> {
        after(&file.code, "husk::")
            .into_iter()
            .filter(|name| self.is_module(name) && *name != "cli")
            .map(|name| format!("{}: the binary may not use `{name}`", file.path))
            .collect()
    }

    /// `crate::` may also be followed by a macro or a re-export, which no row is about.
    fn is_module(&self, name: &str) -> bool {
        let root = source::root().join("src").join(name);
        self.0.iter().any(|(row, _)| row == name)
            || root.is_dir()
            || root.with_extension("rs").is_file()
    }
}

/// `src/cli/run/mod.rs` is `cli::run`.
fn module_path(path: &str) -> Vec<&str> {
    let path = path.strip_prefix("src/").unwrap_or(path);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    match path {
        "lib" | "main" => Vec::new(),
        path => path.split('/').collect(),
    }
}

/// The top-level modules that a file `depth` modules deep refers to.
fn used(code: &str, depth: usize) -> Vec<&str> {
    let mut found = after(code, "crate::");
    // As many `super`s as there are modules climb out at the top.
    found.extend(after(code, &"super::".repeat(depth)));
    found
}

/// The names that follow `prefix`, one by one or in braces.
fn after<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = code[at + prefix.len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_heads(group)),
            None => names.extend(source::words(rest).next()),
        }
    }
    names
}

/// First words of the items of a `{a, b::{c, d}, e}` after its opening brace.
fn group_heads(group: &str) -> Vec<&str> {
    let (mut depth, mut start) = (0usize, 0usize);
    let mut heads = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                heads.extend(source::words(&group[start..at]).next());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    heads
}

#[test]
fn references_are_found_however_they_are_written() {
    let code = "use crate::{bus::{Bus, x}, irq, };\nuse crate::memory::GuestRam;\n\
                fn f(x: crate::config::VmConfig, y: my_crate::z) {}\nuse super::super::vmm::a;";
    assert_eq!(used(code, 2), ["bus", "irq", "memory", "config", "vmm"]);
    assert_eq!(used("use super::vmm;", 2), Vec::<&str>::new());
    assert_eq!(module_path("src/cli/run/mod.rs"), ["cli", "run"]);
    assert_eq!(module_path("src/bus.rs"), ["bus"]);
}

#[test]
fn a_table_with_a_cycle_is_refused() {
    let table = Table::parse("```layers\na: b\nb: a\na: -\n```\n");
    assert_eq!(table.faults().len(), 2);
}
