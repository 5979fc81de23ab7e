// SPDX-License-Identifier: Apache-2.0
//! Results as they are read: what can be compared stands together, with its summary and with how
//! it stands to husk. What every report tells is worked out here, once. Pure.

use super::figure::{Scale, figure, percent};
use super::model::{Better, Outcome, Results, Series, Unit};
use super::stats::{CONFIDENCE, Ratio, Summary, paired};
use std::collections::{BTreeMap, BTreeSet};

/// Whom the others are compared with, by preference.
const REFERENCES: [&str; 2] = ["husk", "husk-cold"];
/// Samples below which an interval of a median cannot be given at 95 %.
pub const FEWEST: usize = 6;

pub type Conditions = BTreeMap<String, String>;

#[derive(Debug)]
pub struct Analysis<'a> {
    pub results: &'a Results,
    /// Whom the others are compared with.
    pub reference: Option<&'a str>,
    pub studies: Vec<Study<'a>>,
}

#[derive(Debug)]
pub struct Study<'a> {
    pub name: &'a str,
    /// What is one figure a contestant.
    pub groups: Vec<Group<'a>>,
    /// What is a figure for each of several numbers of something.
    pub curves: Vec<Curve<'a>>,
}

/// All contestants, of one metric, under the same conditions.
#[derive(Debug)]
pub struct Group<'a> {
    pub study: &'a str,
    pub metric: &'a str,
    pub unit: Unit,
    pub better: Better,
    pub conditions: Conditions,
    pub rows: Vec<Row<'a>>,
}

#[derive(Debug)]
pub struct Row<'a> {
    pub contestant: &'a str,
    pub series: &'a Series,
    pub state: State<'a>,
    /// This one ÷ the reference; none of the reference itself.
    pub against: Option<Ratio>,
}

#[derive(Debug)]
pub enum State<'a> {
    Measured {
        summary: Box<Summary>,
        failures: &'a [String],
    },
    /// Each time.
    Failed(&'a [String]),
    NotOffered(&'a str),
}

/// A metric as it goes with a number among the conditions.
#[derive(Debug)]
pub struct Curve<'a> {
    /// The condition that is the number: `instances`, `concurrency`.
    pub axis: String,
    /// One for each number, ascending; their conditions are without the axis.
    pub points: Vec<(f64, Group<'a>)>,
}

impl<'a> Analysis<'a> {
    #[must_use]
    pub fn of(results: &'a Results) -> Self {
        let reference = REFERENCES.into_iter().find(|name| {
            let mut series = results.series.iter();
            series.any(|series| series.contestant == *name)
        });
        let mut names: Vec<&str> = Vec::new();
        for series in &results.series {
            if !names.contains(&series.study.as_str()) {
                names.push(&series.study);
            }
        }
        let studies = names
            .into_iter()
            .map(|name| Study::of(name, results, reference));
        Self {
            results,
            reference,
            studies: studies.collect(),
        }
    }

    /// Of all studies, those of curves last.
    pub fn groups(&self) -> impl Iterator<Item = &Group<'a>> {
        self.studies.iter().flat_map(|study| {
            let points = study.curves.iter().flat_map(|curve| &curve.points);
            study.groups.iter().chain(points.map(|(_, group)| group))
        })
    }
}

impl<'a> Study<'a> {
    fn of(name: &'a str, results: &'a Results, reference: Option<&str>) -> Self {
        let series: Vec<&Series> = results.series.iter().filter(|s| s.study == name).collect();
        let mut groups: Vec<Group<'a>> = Vec::new();
        for one in series {
            let group = match groups.iter_mut().find(|group| group.takes(one)) {
                Some(group) => group,
                None => {
                    groups.push(Group::for_series(one));
                    groups.last_mut().expect("it was pushed")
                }
            };
            group.rows.push(Row::of(one));
        }
        let place = |row: &Row<'_>| {
            let mut contestants = results.contestants.iter();
            contestants
                .position(|one| one.name == row.contestant)
                .unwrap_or(usize::MAX)
        };
        // What everybody has every day comes first.
        groups.sort_by_key(|group| group.conditions.values().any(|value| value == "cold"));
        for group in &mut groups {
            group.rows.sort_by_key(place);
            group.compare(reference);
        }
        let (groups, curves) = curves(groups);
        Self {
            name,
            groups,
            curves,
        }
    }
}

/// Takes the groups that are points of a curve out of `groups`.
fn curves(groups: Vec<Group<'_>>) -> (Vec<Group<'_>>, Vec<Curve<'_>>) {
    let mut kept: Vec<Group<'_>> = Vec::new();
    let mut curves: Vec<Curve<'_>> = Vec::new();
    let axes: Vec<Option<String>> = groups.iter().map(|one| axis(one, &groups)).collect();
    for (mut group, axis) in groups.into_iter().zip(axes) {
        let at = axis.and_then(|axis| Some((number(&group.conditions.remove(&axis)?)?, axis)));
        let Some((at, axis)) = at else {
            kept.push(group);
            continue;
        };
        let same = |curve: &&mut Curve<'_>| {
            let of_it = curve
                .points
                .first()
                .is_some_and(|(_, first)| first.is_like(&group));
            curve.axis == axis && of_it
        };
        match curves.iter_mut().find(same) {
            Some(curve) => curve.points.push((at, group)),
            None => curves.push(Curve {
                axis,
                points: vec![(at, group)],
            }),
        }
    }
    for curve in &mut curves {
        curve.points.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    }
    (kept, curves)
}

/// The condition of `group` that is a number, and another number in a group that is like it in
/// all else.
fn axis(group: &Group<'_>, groups: &[Group<'_>]) -> Option<String> {
    let numbers = |key: &str| {
        let others = groups.iter().filter(|other| {
            let mut without = (other.conditions.clone(), group.conditions.clone());
            without.0.remove(key);
            without.1.remove(key);
            other.is_same_metric(group) && without.0 == without.1
        });
        let values: Option<BTreeSet<u64>> = others
            .map(|other| Some(number(other.conditions.get(key)?)?.to_bits()))
            .collect();
        values.is_some_and(|values| values.len() > 1)
    };
    group.conditions.keys().find(|key| numbers(key)).cloned()
}

fn number(text: &str) -> Option<f64> {
    let number = text.parse().ok()?;
    (0.0f64..1e15).contains(&number).then_some(number)
}

impl<'a> Group<'a> {
    fn for_series(series: &'a Series) -> Self {
        Self {
            study: &series.study,
            metric: &series.metric,
            unit: series.unit,
            better: series.better,
            conditions: series.conditions.clone(),
            rows: Vec::new(),
        }
    }

    fn takes(&self, series: &Series) -> bool {
        self.metric == series.metric
            && self.unit == series.unit
            && self.better == series.better
            && self.conditions == series.conditions
    }

    fn is_same_metric(&self, other: &Self) -> bool {
        self.metric == other.metric && self.unit == other.unit && self.better == other.better
    }

    fn is_like(&self, other: &Self) -> bool {
        self.is_same_metric(other) && self.conditions == other.conditions
    }

    fn compare(&mut self, reference: Option<&str>) {
        let is_it = |row: &Row<'_>| Some(row.contestant) == reference;
        let Some(base) = self
            .rows
            .iter()
            .find(|row| is_it(row))
            .map(|row| row.series)
        else {
            return;
        };
        for row in self.rows.iter_mut().filter(|row| !is_it(row)) {
            row.against = ratio(row.series, base);
        }
    }

    #[must_use]
    pub fn row(&self, contestant: &str) -> Option<&Row<'a>> {
        self.rows.iter().find(|row| row.contestant == contestant)
    }

    /// The best median of all, to scale by.
    #[must_use]
    pub fn scale(&self) -> Scale {
        let medians = self.rows.iter().filter_map(Row::summary).map(|s| s.median);
        let least = medians.fold(f64::INFINITY, f64::min);
        Scale::of(least, self.unit)
    }

    /// `page cache cold, concurrency 4`; nothing without conditions.
    #[must_use]
    pub fn circumstances(&self) -> String {
        circumstances(&self.conditions)
    }
}

/// `page cache cold, concurrency 4`; nothing without conditions.
#[must_use]
pub fn circumstances(conditions: &Conditions) -> String {
    let parts = conditions
        .iter()
        .map(|(key, value)| format!("{key} {value}"));
    parts.collect::<Vec<_>>().join(", ")
}

fn ratio(a: &Series, b: &Series) -> Option<Ratio> {
    match (&a.outcome, &b.outcome) {
        (Outcome::Measured { samples: a, .. }, Outcome::Measured { samples: b, .. }) => {
            paired(a, b, CONFIDENCE)
        }
        _ => None,
    }
}

impl<'a> Row<'a> {
    fn of(series: &'a Series) -> Self {
        let state = match &series.outcome {
            Outcome::NotOffered(why) => State::NotOffered(why),
            Outcome::Measured { samples, failures } => match Summary::of(samples) {
                Some(summary) => State::Measured {
                    summary: Box::new(summary),
                    failures,
                },
                None => State::Failed(failures),
            },
        };
        Self {
            contestant: &series.contestant,
            series,
            state,
            against: None,
        }
    }

    #[must_use]
    pub fn summary(&self) -> Option<&Summary> {
        match &self.state {
            State::Measured { summary, .. } => Some(summary),
            State::Failed(_) | State::NotOffered(_) => None,
        }
    }

    /// What there is in place of a figure: `not offered: no daemon`.
    #[must_use]
    pub fn instead(&self) -> Option<String> {
        match self.state {
            State::Measured { .. } => None,
            State::NotOffered(why) => Some(format!("not offered: {why}")),
            State::Failed([]) => Some("not measured".into()),
            State::Failed([first, ..]) => Some(format!("failed: {first}")),
        }
    }

    /// What makes the figure less than it looks, a sentence each.
    fn notes(&self) -> Vec<String> {
        let State::Measured { summary, failures } = &self.state else {
            return Vec::new();
        };
        let shown = |value| figure(value, self.series.unit);
        let mut notes = Vec::new();
        if let [first, ..] = failures {
            let all = failures.len() + summary.count;
            notes.push(format!("{} of {all} failed: {first}", failures.len()));
        }
        if summary.count < FEWEST {
            let count = summary.count;
            notes.push(format!(
                "{count} of the {FEWEST} samples that an interval needs"
            ));
        }
        if let Some(drift) = summary.drift {
            let way = if drift.change > 0.0 { "up" } else { "down" };
            let (first, last) = (shown(drift.first), shown(drift.last));
            notes.push(format!(
                "went {way} while it was measured, from {first} in the first third to {last} in the last"
            ));
        }
        if let Some(modes) = summary.modes {
            let (low, high) = (shown(modes.low), shown(modes.high));
            let share = percent(modes.share);
            notes.push(format!(
                "has two peaks, {low} ({share}) and {high}: the median is typical of neither"
            ));
        }
        notes
    }

    /// How many samples stand apart, and the furthest of them.
    fn apart(&self) -> Option<String> {
        let summary = self
            .summary()
            .filter(|summary| !summary.outliers.is_empty())?;
        let far = match summary.maximum - summary.median >= summary.median - summary.minimum {
            true => summary.maximum,
            false => summary.minimum,
        };
        let (count, far) = (summary.outliers.len(), figure(far, self.series.unit));
        Some(format!("{} {count} ({far})", self.contestant))
    }
}

/// What makes figures less than they look: of whom, and what. The same of several is told once.
#[must_use]
pub fn doubts<'a>(rows: impl Iterator<Item = &'a Row<'a>>) -> Vec<(String, String)> {
    let mut doubts: Vec<(Vec<&str>, String)> = Vec::new();
    let mut apart: Vec<String> = Vec::new();
    for row in rows {
        apart.extend(row.apart());
        for note in row.notes() {
            match doubts.iter_mut().find(|(_, known)| *known == note) {
                Some((names, _)) if names.contains(&row.contestant) => {}
                Some((names, _)) => names.push(row.contestant),
                None => doubts.push((vec![row.contestant], note)),
            }
        }
    }
    let mut doubts: Vec<(String, String)> = doubts
        .into_iter()
        .map(|(names, note)| (names.join(", "), note))
        .collect();
    if !apart.is_empty() {
        doubts.push((
            "samples that stand apart, and count".into(),
            apart.join(", "),
        ));
    }
    doubts
}
