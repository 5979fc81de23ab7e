// SPDX-License-Identifier: Apache-2.0
//! Did Kconfig take what the fragments asked for? Pure text in, answers out; on the calling
//! thread. Never decides that a lost option is harmless.

use std::collections::HashMap;
use std::fmt;

/// A fragment's line that Kconfig answered differently: a dependency was missing, the name is
/// unknown, or something else insists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub option: String,
    pub wanted: String,
    pub got: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} (it is {})", self.option, self.wanted, self.got)
    }
}

/// The fragments as one text. Of lines that set one option only the last stays: Kconfig would
/// take it too, but a choice it had answered by the first line it would leave answered.
pub(super) fn merge(fragments: &[&str]) -> String {
    let mut all = String::new();
    for fragment in fragments {
        all.push_str(fragment);
        all.push('\n');
    }
    let last: HashMap<&str, usize> = all
        .lines()
        .enumerate()
        .filter_map(|(at, line)| Some((parse(line)?.0, at)))
        .collect();
    let stays = |at: usize, line: &str| parse(line).is_none_or(|(option, _)| last[option] == at);
    let mut merged = String::with_capacity(all.len());
    for (at, line) in all.lines().enumerate() {
        if stays(at, line) {
            merged.push_str(line);
            merged.push('\n');
        }
    }
    merged
}

/// What an option that is off, or unknown, reads as.
const OFF: &str = "n";

/// Compares the options `requested` names, the last word on each counting, with the
/// configuration Kconfig `made`.
pub(super) fn lost(requested: &str, made: &str) -> Vec<Lost> {
    let made: HashMap<&str, &str> = made.lines().filter_map(parse).collect();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (option, value) in requested.lines().filter_map(parse) {
        match wanted.iter_mut().find(|(known, _)| *known == option) {
            Some(entry) => entry.1 = value,
            None => wanted.push((option, value)),
        }
    }
    wanted
        .into_iter()
        .filter_map(|(option, value)| {
            let got = made.get(option).copied().unwrap_or(OFF);
            (got != value).then(|| Lost {
                option: option.to_owned(),
                wanted: value.to_owned(),
                got: got.to_owned(),
            })
        })
        .collect()
}

pub(super) fn join(lost: &[Lost]) -> String {
    lost.iter()
        .map(Lost::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// `CONFIG_X=value` or `# CONFIG_X is not set`; anything else is a comment.
fn parse(line: &str) -> Option<(&str, &str)> {
    let off = line
        .strip_prefix("# ")
        .and_then(|rest| rest.strip_suffix(" is not set"));
    if let Some(option) = off {
        return option.starts_with("CONFIG_").then_some((option, OFF));
    }
    let (option, value) = line.split_once('=')?;
    option.starts_with("CONFIG_").then_some((option, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kconfig_took_is_not_lost() {
        let requested = "# why\nCONFIG_A=y\nCONFIG_N=64\nCONFIG_S=\"x=y\"\n# CONFIG_B is not set\n";
        let made = "CONFIG_A=y\nCONFIG_N=64\nCONFIG_S=\"x=y\"\nCONFIG_OTHER=y\n";
        assert_eq!(lost(requested, made), []);
    }

    #[test]
    fn a_dropped_a_changed_and_a_forced_option_are_named() {
        let requested = "CONFIG_GONE=y\nCONFIG_N=64\n# CONFIG_FORCED is not set\n";
        let made = "# CONFIG_GONE is not set\nCONFIG_N=8\nCONFIG_FORCED=y\n";
        let lost = lost(requested, made);
        assert_eq!(
            join(&lost),
            "CONFIG_GONE=y (it is n), CONFIG_N=64 (it is 8), CONFIG_FORCED=n (it is y)"
        );
    }

    #[test]
    fn a_later_fragment_overrides_an_earlier_one() {
        let ordinary = "# why\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=1";
        let merged = merge(&[ordinary, "# CONFIG_A is not set\nCONFIG_B=y\n"]);
        assert_eq!(
            merged,
            "# why\nCONFIG_C=1\n# CONFIG_A is not set\nCONFIG_B=y\n\n"
        );
        assert_eq!(lost(&merged, "CONFIG_B=y\nCONFIG_C=1\n"), []);
        assert_eq!(join(&lost(&merged, "CONFIG_C=1\n")), "CONFIG_B=y (it is n)");
        assert_eq!(merge(&[ordinary]), format!("{ordinary}\n"));
    }

    #[test]
    fn the_last_word_on_an_option_counts() {
        assert_eq!(lost("CONFIG_A=y\n# CONFIG_A is not set\n", ""), []);
    }
}
