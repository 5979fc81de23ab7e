// SPDX-License-Identifier: Apache-2.0
//! Two runs, and what became worse or better between them. By intervals: a change counts where
//! the whole interval of the ratio of medians is beyond the threshold, so noise is no regression
//! and a regression is not explained away. The threshold is for what no interval of one run can
//! know: another boot, another layout of memory. Pure.

use super::analysis::{Analysis, Conditions, circumstances};
use super::figure::{Scale, line, percent};
use super::model::{Better, Machine, Results, Series, Unit};
use super::report::markdown::words;
use super::stats::{Ratio, Summary, unpaired};
use serde::Serialize;

/// Of each interval. Many series are judged at once, so each is asked for more than 95 %.
pub const CONFIDENCE: f64 = 0.99;

#[derive(Debug, Serialize)]
pub struct Comparison {
    pub threshold: f64,
    pub confidence: f64,
    /// Why the two may not be comparable, one line each.
    pub warnings: Vec<String>,
    /// Regressions first, the worst of them first.
    pub changes: Vec<Change>,
}

/// One series that both runs have, or one of them.
#[derive(Debug, Serialize)]
pub struct Change {
    pub study: String,
    pub contestant: String,
    pub metric: String,
    pub conditions: Conditions,
    pub unit: Unit,
    pub better: Better,
    pub verdict: Verdict,
    /// Medians.
    pub before: Option<f64>,
    pub after: Option<f64>,
    /// After ÷ before, and its interval.
    pub ratio: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// In words, where numbers do not say it.
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Regression,
    Improvement,
    /// The interval reaches over the threshold.
    Unsure,
    /// Within the threshold, surely.
    Same,
    /// Only one of them has it.
    Alone,
}

impl Verdict {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Regression => "regression",
            Self::Improvement => "improvement",
            Self::Unsure => "unsure",
            Self::Same => "same",
            Self::Alone => "one run only",
        }
    }
}

impl Comparison {
    /// `threshold` is a share: 0.05 lets everything be 5 % worse.
    #[must_use]
    pub fn of(before: &Results, after: &Results, threshold: f64) -> Self {
        let (old, new) = (Analysis::of(before), Analysis::of(after));
        let old = found(&old);
        let new = found(&new);
        let mut changes: Vec<Change> = Vec::new();
        for one in &old {
            let other = new.iter().find(|other| other.is_same(one));
            changes.push(change(one, other, threshold));
        }
        let fresh = new
            .iter()
            .filter(|one| !old.iter().any(|other| other.is_same(one)));
        changes.extend(fresh.map(|one| alone(one, None, one.median(), "only in the second run")));
        changes.sort_by(|a, b| {
            let size = |change: &Change| change.ratio.map_or(0.0, |ratio| ratio.ln().abs());
            (a.verdict.cmp(&b.verdict)).then(size(b).total_cmp(&size(a)))
        });
        Self {
            threshold,
            confidence: CONFIDENCE,
            warnings: warnings(before, after),
            changes,
        }
    }

    /// `2 regressions, 1 improvement, 3 unsure, 40 the same, beyond a threshold of 5.0 %`.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |verdict, one: &str, many: &str| match self.count(verdict) {
            1 => format!("1 {one}"),
            count => format!("{count} {many}"),
        };
        let counts = [
            count(Verdict::Regression, "regression", "regressions"),
            count(Verdict::Improvement, "improvement", "improvements"),
            count(Verdict::Unsure, "unsure", "unsure"),
            count(Verdict::Same, "the same", "the same"),
            count(Verdict::Alone, "in one run only", "in one run only"),
        ];
        let threshold = percent(self.threshold);
        format!("{}, by a threshold of {threshold}", counts.join(", "))
    }

    /// A table to be pasted into a page; with `all`, of what did not change too.
    #[must_use]
    pub fn markdown(&self, all: bool) -> String {
        let mut text = format!("{}.\n\n", self.summary());
        for warning in &self.warnings {
            text.push_str(&format!("- {}\n", words(warning)));
        }
        if !self.warnings.is_empty() {
            text.push('\n');
        }
        text.push_str(
            "| Verdict | Contestant | What | Before | After | Change (99 % interval) |\n",
        );
        text.push_str("|---|---|---|--:|--:|--:|\n");
        for change in self.changes.iter().filter(|change| all || change.is_news()) {
            let (before, after) = change.figures();
            let verdict = change.verdict.name();
            let (name, what) = (words(&change.contestant), words(&change.what()));
            let how = match &change.why {
                Some(why) => words(why),
                None => change.share(),
            };
            text.push_str(&format!(
                "| {verdict} | {name} | {what} | {before} | {after} | {how} |\n"
            ));
        }
        text
    }

    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        let changes = self.changes.iter();
        changes.filter(|change| change.verdict == verdict).count()
    }
}

impl Change {
    /// Whether it is told without being asked for.
    #[must_use]
    pub fn is_news(&self) -> bool {
        !matches!(self.verdict, Verdict::Same | Verdict::Unsure)
    }

    /// `start: process exit, page cache warm`.
    #[must_use]
    pub fn what(&self) -> String {
        match circumstances(&self.conditions).as_str() {
            "" => format!("{}: {}", self.study, self.metric),
            conditions => format!("{}: {}, {conditions}", self.study, self.metric),
        }
    }

    /// `12.1 ms`, or a dash.
    #[must_use]
    pub fn figures(&self) -> (String, String) {
        let scale = Scale::of(self.before.or(self.after).unwrap_or(0.0), self.unit);
        let shown = |value: Option<f64>| value.map_or_else(|| "–".into(), |v| scale.figure(v));
        (shown(self.before), shown(self.after))
    }

    /// `+12 % (10 % to 14 %)`.
    #[must_use]
    pub fn share(&self) -> String {
        let signed = |ratio: f64| match ratio >= 1.0 {
            true => format!("+{}", percent(ratio - 1.0)),
            false => format!("−{}", percent(1.0 - ratio)),
        };
        match (self.ratio, self.low, self.high) {
            (Some(ratio), Some(low), Some(high)) => {
                format!("{} ({} to {})", signed(ratio), signed(low), signed(high))
            }
            (Some(ratio), ..) => signed(ratio),
            _ => String::new(),
        }
    }
}

/// A series with what it says.
struct Found<'a> {
    series: &'a Series,
    summary: Option<Summary>,
    /// What there is in place of figures.
    instead: Option<String>,
}

impl Found<'_> {
    fn is_same(&self, other: &Found<'_>) -> bool {
        let (a, b) = (self.series, other.series);
        a.study == b.study
            && a.contestant == b.contestant
            && a.metric == b.metric
            && a.conditions == b.conditions
            && a.unit == b.unit
            && a.better == b.better
    }

    fn median(&self) -> Option<f64> {
        self.summary.as_ref().map(|summary| summary.median)
    }

    fn values(&self) -> Vec<f64> {
        match &self.series.outcome {
            super::model::Outcome::Measured { samples, .. } => {
                samples.iter().map(|sample| sample.value).collect()
            }
            super::model::Outcome::NotOffered(_) => Vec::new(),
        }
    }
}

fn found<'a>(analysis: &Analysis<'a>) -> Vec<Found<'a>> {
    let rows = analysis.groups().flat_map(|group| &group.rows);
    rows.map(|row| Found {
        series: row.series,
        summary: row.summary().cloned(),
        instead: row.instead(),
    })
    .collect()
}

fn change(before: &Found<'_>, after: Option<&Found<'_>>, threshold: f64) -> Change {
    let Some(after) = after else {
        return alone(before, before.median(), None, "only in the first run");
    };
    match (before.median(), after.median()) {
        (Some(old), Some(new)) => {
            let ratio = unpaired(&after.values(), &before.values(), CONFIDENCE);
            let worse = match before.series.better {
                Better::Lower => ratio,
                Better::Higher => ratio.map(Ratio::inverse),
            };
            let (verdict, why) = judge(worse, (old, new), threshold);
            let interval = ratio.and_then(|ratio| ratio.interval);
            Change {
                verdict,
                ratio: ratio.map(|ratio| ratio.value),
                low: interval.map(|of| of.low),
                high: interval.map(|of| of.high),
                ..alone(before, Some(old), Some(new), why)
            }
        }
        (Some(old), None) => {
            let why = after.instead.as_deref().unwrap_or("not measured");
            let failed = why.starts_with("failed");
            Change {
                // What worked and fails is worse than slow.
                verdict: if failed {
                    Verdict::Regression
                } else {
                    Verdict::Alone
                },
                ..alone(before, Some(old), None, &format!("now {why}"))
            }
        }
        (None, None) => {
            let why = after.instead.as_deref().unwrap_or("not measured");
            Change {
                verdict: Verdict::Same,
                ..alone(before, None, None, why)
            }
        }
        (None, new) => {
            let why = before.instead.as_deref().unwrap_or("not measured");
            alone(before, None, new, &format!("was {why}"))
        }
    }
}

fn judge(worse: Option<Ratio>, medians: (f64, f64), threshold: f64) -> (Verdict, &'static str) {
    let limit = 1.0 + threshold;
    match worse.map(|ratio| ratio.interval) {
        None if medians.0 == medians.1 => (Verdict::Same, ""),
        None => (Verdict::Unsure, "a median is 0"),
        Some(None) => (Verdict::Unsure, "too few samples for an interval"),
        Some(Some(of)) if of.low > limit => (Verdict::Regression, ""),
        Some(Some(of)) if of.high < 1.0 / limit => (Verdict::Improvement, ""),
        Some(Some(of)) if of.low >= 1.0 / limit && of.high <= limit => (Verdict::Same, ""),
        Some(Some(_)) => (Verdict::Unsure, ""),
    }
}

fn alone(found: &Found<'_>, before: Option<f64>, after: Option<f64>, why: &str) -> Change {
    let series = found.series;
    Change {
        study: series.study.clone(),
        contestant: series.contestant.clone(),
        metric: series.metric.clone(),
        conditions: series.conditions.clone(),
        unit: series.unit,
        better: series.better,
        verdict: Verdict::Alone,
        before,
        after,
        ratio: None,
        low: None,
        high: None,
        why: (!why.is_empty()).then(|| line(why)),
    }
}

fn warnings(before: &Results, after: &Results) -> Vec<String> {
    let mut warnings = machines(&before.machine, &after.machine);
    if before.image != after.image {
        warnings.push(differs("what was run", &before.image, &after.image));
    }
    for one in &before.contestants {
        let other = after
            .contestants
            .iter()
            .find(|other| other.name == one.name);
        if let (Some(a), Some(Some(b))) = (&one.version, other.map(|other| &other.version))
            && a != b
        {
            warnings.push(differs(&format!("the version of {}", one.name), a, b));
        }
    }
    let told = |run: &Results, what: &str| run.cautions.iter().any(|one| one.what == what);
    for one in &before.cautions {
        let which = match told(after, &one.what) {
            true => "both runs",
            false => "the first run",
        };
        warnings.push(line(&format!("{which}: {}", one.what)));
    }
    for one in &after.cautions {
        if !told(before, &one.what) {
            warnings.push(line(&format!("the second run: {}", one.what)));
        }
    }
    warnings
}

fn machines(a: &Machine, b: &Machine) -> Vec<String> {
    let rows = [
        ("the processor", a.processor.clone(), b.processor.clone()),
        ("the number of CPUs", a.cpus.to_string(), b.cpus.to_string()),
        ("the memory", bytes(a.memory), bytes(b.memory)),
        ("the kernel", a.kernel.clone(), b.kernel.clone()),
        ("KVM", a.kvm.clone(), b.kvm.clone()),
    ];
    let other = rows.into_iter().filter(|(_, a, b)| a != b);
    other
        .map(|(what, a, b)| format!("another machine: {}", differs(what, &a, &b)))
        .collect()
}

fn bytes(memory: u64) -> String {
    crate::bench::figure::figure(memory as f64, Unit::Bytes)
}

fn differs(what: &str, a: &str, b: &str) -> String {
    line(&format!("{what} was {a}, and is {b}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::model::Outcome;
    use crate::bench::testing::{bare, results, series};

    /// Spread evenly over a tenth.
    fn values(middle: f64) -> Vec<f64> {
        (0..40)
            .map(|round| middle * (0.95 + 0.1 * f64::from(round * 17 % 40) / 40.0))
            .collect()
    }

    fn judged(before: Series, after: Series) -> Change {
        let comparison = Comparison::of(&bare(vec![before]), &bare(vec![after]), 0.05);
        assert_eq!(comparison.changes.len(), 1);
        comparison.changes.into_iter().next().unwrap()
    }

    #[test]
    fn a_change_counts_where_the_whole_interval_is_beyond_the_threshold() {
        let of = |middle| series("husk", "process exit", &values(middle));
        assert_eq!(judged(of(10.0), of(13.0)).verdict, Verdict::Regression);
        assert_eq!(judged(of(13.0), of(10.0)).verdict, Verdict::Improvement);
        assert_eq!(judged(of(10.0), of(10.05)).verdict, Verdict::Same);
        assert_eq!(judged(of(10.0), of(10.5)).verdict, Verdict::Unsure);
        let rate = |middle| Series {
            better: Better::Higher,
            ..of(middle)
        };
        assert_eq!(judged(rate(13.0), rate(10.0)).verdict, Verdict::Regression);
        assert_eq!(judged(rate(10.0), rate(13.0)).verdict, Verdict::Improvement);
        let few = series("husk", "process exit", &[99.0; 3]);
        assert_eq!(judged(of(10.0), few).verdict, Verdict::Unsure);
        let share = judged(of(10.0), of(13.0)).share();
        assert!(share.starts_with("+30 % (+"), "{share}");
        let comparison = Comparison::of(&bare(vec![of(10.0)]), &bare(vec![of(13.0)]), 0.05);
        let text = comparison.markdown(false);
        assert!(text.starts_with("1 regression, 0 improvements, 0 unsure, 0 the same, 0 in one run only, by a threshold of 5.0 %.\n"), "{text}");
        assert!(
            text.contains("| regression | husk | start: process exit, page cache warm | 9.99 ns |"),
            "{text}"
        );
    }

    #[test]
    fn what_worked_and_fails_is_a_regression() {
        let of = |outcome| Series {
            outcome,
            ..series("husk", "process exit", &[])
        };
        let worked = || series("husk", "process exit", &values(10.0));
        let fails = of(Outcome::Measured {
            samples: Vec::new(),
            failures: vec!["no KVM".into()],
        });
        let change = judged(worked(), fails.clone());
        assert_eq!(change.verdict, Verdict::Regression);
        assert_eq!(change.why.as_deref(), Some("now failed: no KVM"));
        assert_eq!(judged(fails, worked()).verdict, Verdict::Alone);
        let none = of(Outcome::NotOffered("no service".into()));
        assert_eq!(judged(worked(), none).verdict, Verdict::Alone);
    }

    #[test]
    fn a_run_is_no_worse_than_itself() {
        let run = results();
        let comparison = Comparison::of(&run, &run, 0.05);
        assert_eq!(comparison.count(Verdict::Regression), 0);
        assert_eq!(comparison.count(Verdict::Improvement), 0);
        assert!(comparison.count(Verdict::Same) > 50);
        assert_eq!(comparison.changes.len(), run.series.len());
    }

    #[test]
    fn another_machine_is_said() {
        let (before, mut after) = (results(), results());
        after.machine.kernel = "6.12.1\x1b[2J".into();
        after.contestants[3].version = Some("runc 9".into());
        after.series.truncate(1);
        let comparison = Comparison::of(&before, &after, 0.05);
        assert_eq!(
            comparison.warnings[..2],
            [
                "another machine: the kernel was 6.1.0-example, and is 6.12.1\u{fffd}[2J",
                "the version of runc was runc version 1.1.5, and is runc 9",
            ]
        );
        assert_eq!(
            comparison.warnings[2..],
            ["both runs: the machine was busy: load 3.2 on 2 CPUs"]
        );
        assert_eq!(comparison.count(Verdict::Alone), before.series.len() - 1);
    }
}
