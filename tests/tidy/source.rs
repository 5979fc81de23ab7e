// SPDX-License-Identifier: Apache-2.0
//! The tree as text: which files there are, and Rust without its comments and literals.

use std::path::{Path, PathBuf};

/// Folders that are not part of the tree: built, or the version control's own.
const SKIPPED: [&str; 3] = ["target", "build", ".git"];
/// Endings of files that people write and read.
const TEXT: [&str; 12] = [
    "rs", "md", "toml", "lock", "json", "yaml", "yml", "sh", "config", "patch", "txt", "mk",
];

/// One file of the tree.
pub struct File {
    /// From the root of the tree, with forward slashes.
    pub path: String,
    pub text: String,
    /// Rust only: the text with comments and literals blanked out.
    pub code: String,
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn rust_files() -> Vec<File> {
    files(|path| path.ends_with(".rs"))
}

pub fn text_files() -> Vec<File> {
    files(|path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        match name.rsplit_once('.') {
            Some((_, ending)) => TEXT.contains(&ending),
            None => true,
        }
    })
}

fn files(wanted: impl Fn(&str) -> bool) -> Vec<File> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the tree") {
            let entry = entry.expect("an entry");
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) {
                folders.push(path);
            } else if kind.is_file() {
                found.extend(File::load(&root, &path).filter(|file| wanted(&file.path)));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

impl File {
    fn load(root: &Path, path: &Path) -> Option<Self> {
        let text = String::from_utf8(std::fs::read(path).ok()?).ok()?;
        let path = path.strip_prefix(root).ok()?.to_str()?.to_owned();
        let code = match path.ends_with(".rs") {
            true => blank(&text),
            false => String::new(),
        };
        // The worktree's pointer to its repository is the version control's own too.
        (path != ".git").then_some(Self { path, text, code })
    }
}

/// Lines with something on them.
pub fn count(code: &str) -> usize {
    code.lines().filter(|line| !line.trim().is_empty()).count()
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !in_word(c)).filter(|word| !word.is_empty())
}

/// Names of the types, traits and modules that `code` declares.
pub fn declared_names(code: &str) -> impl Iterator<Item = &str> {
    let pairs = words(code).zip(words(code).skip(1));
    pairs
        .filter(|(word, _)| {
            matches!(
                *word,
                "struct" | "enum" | "trait" | "type" | "mod" | "union"
            )
        })
        .map(|(_, name)| name)
}

/// `ByteSize` and `byte_size` are both two words.
pub fn name_words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c == '-' || c.is_uppercase() {
            words.push(String::new());
        }
        if let (true, Some(word)) = (c.is_alphanumeric(), words.last_mut()) {
            word.push(c);
        }
    }
    words
}

/// Relative targets of a page's links, without their fragments.
pub fn links(text: &str) -> Vec<&str> {
    text.match_indices("](")
        .filter_map(|(at, mark)| text[at + mark.len()..].split_once(')'))
        .filter_map(|(target, _)| target.split('#').next())
        .filter(|target| !target.is_empty() && !target.contains(':') && !target.contains(' '))
        .collect()
}

/// Every `docs/….md` a text mentions.
pub fn pages(text: &str) -> Vec<&str> {
    text.match_indices("docs/")
        .filter_map(|(at, _)| {
            let rest = &text[at..];
            let end = rest
                .find(|c: char| !in_word(c) && !matches!(c, '/' | '-' | '.'))
                .unwrap_or(rest.len());
            let page = rest[..end].trim_end_matches('.');
            let whole = !text[..at].ends_with(|c: char| in_word(c) || c == '/' || c == '-');
            (whole && page.ends_with(".md")).then_some(page)
        })
        .collect()
}

/// Rust with the insides of comments, strings and characters replaced by spaces; lines
/// and columns stay where they are.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = literal(rest, code.chars().next_back());
        let (piece, keep) = match skipped {
            0 => (&rest[..c.len_utf8()], true),
            length => (&rest[..length], false),
        };
        match keep {
            true => code.push_str(piece),
            false => code.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
        }
        rest = &rest[piece.len()..];
    }
    code
}

/// Bytes of the comment or literal that `rest` begins with, 0 if it begins with neither.
fn literal(rest: &str, before: Option<char>) -> usize {
    let after_word = before.is_some_and(in_word);
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest);
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    let raw = rest.trim_start_matches(['b', 'c']).strip_prefix('r');
    match raw {
        Some(raw) if !after_word => raw_string(rest, raw),
        _ => 0,
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0usize);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character has its closing quote after one character or one escape; otherwise this is
/// a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(0, |at| at + 4),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

fn raw_string(rest: &str, raw: &str) -> usize {
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if !raw[hashes..].starts_with('"') {
        return 0;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - raw.len() + hashes + 1;
    rest[start..]
        .find(&close)
        .map_or(rest.len(), |at| start + at + close.len())
}

#[test]
fn comments_and_literals_are_blanked_and_nothing_else() {
    let cases = [
        ("a // unsafe\nb", "a          \nb"),
        ("a /* x /* y */ z */ b", "a                   b"),
        (r#"f("un\"safe", x)"#, "f(          , x)"),
        (r###"r#"un"safe"# b"###, "             b"),
        ("b\"x\" c", "b    c"),
        (
            "'a' 'b: &'static str '\\'' '\\u{1f}' x",
            "    'b: &'static str               x",
        ),
        ("var\"x\"", "var   "),
    ];
    for (text, code) in cases {
        assert_eq!(blank(text), code, "{text}");
    }
    assert_eq!(name_words("HTTPBaseThing")[5..], ["Base", "Thing"]);
    assert_eq!(links("[a](b.md#c) [d](https://e) [f](#g)"), ["b.md"]);
    assert_eq!(pages("see docs/cli.md. And src/docs/z.md"), ["docs/cli.md"]);
}
