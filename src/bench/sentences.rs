// SPDX-License-Identifier: Apache-2.0
//! The sentences that the data support, husk's losses like its gains. A sentence says which is
//! more only where the interval of the ratio leaves no doubt, says so where it does, and names
//! the points between which was measured. Pure.

use super::analysis::{Analysis, Curve, FEWEST, Group, Row, Study};
use super::figure::{digits, line, plus_minus};
use super::model::{Better, Unit};
use super::stats::{Interval, Ratio};

/// Named points by which a start is best told, the first that there is.
const TELLING: [&str; 3] = ["first HTTP 200", "first byte of output", "process exit"];
/// Against whom work is told first.
const HOST: &str = "process";
/// Too few rounds agree only where each differs by as much, and they are no fewer than this:
/// where nothing differs one round always agrees with itself, and three do every fourth time.
const AGREED: f64 = 1.02;
const FEWEST_AGREED: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// `husk warm starts 1.4 ± 0.1 times faster than podman here`.
    pub claim: String,
    /// Who is compared, as the claim calls them: the reference, and somebody.
    pub pair: (String, String),
    /// Between which points, under which conditions, of how many rounds.
    pub about: String,
    pub verdict: Verdict,
    /// Whether an interval says so; if not, it is what was seen in too few rounds for one.
    pub sure: bool,
    /// One of the few that are told first.
    pub headline: bool,
    pub study: String,
}

impl Sentence {
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} ({}).", self.claim, self.about)
    }
}

/// For the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Better,
    Worse,
    /// The interval holds 1.
    Even,
    /// There are too few rounds, and they do not agree.
    Unknown,
}

/// In the order of the results.
#[must_use]
pub fn sentences(analysis: &Analysis<'_>) -> Vec<Sentence> {
    let Some(reference) = analysis.reference else {
        return Vec::new();
    };
    let mut told = Vec::new();
    for study in &analysis.studies {
        let telling = telling(study);
        for group in &study.groups {
            let first = telling.is_some_and(|telling| std::ptr::eq(telling, group));
            for row in &group.rows {
                let headline = first || (study.name == "work" && row.contestant == HOST);
                told.extend(sentence(reference, group, row, None, headline));
            }
        }
        let telling = telling_curve(study);
        for curve in &study.curves {
            let first = telling.is_some_and(|telling| std::ptr::eq(telling, curve));
            for contestant in analysis.results.contestants.iter().map(|one| &one.name) {
                // The furthest that both came.
                let both = curve.points.iter().rev().find_map(|(at, group)| {
                    let row = group.row(contestant).filter(|row| row.against.is_some())?;
                    Some((*at, group, row))
                });
                if let Some((at, group, row)) = both {
                    let point = Some((curve.axis.as_str(), at));
                    told.extend(sentence(reference, group, row, point, first));
                }
            }
        }
    }
    told
}

/// The pairs of which nothing can be said, all in one line; none where there are none.
#[must_use]
pub fn unsaid(told: &[Sentence]) -> Option<String> {
    let mut studies: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for one in told.iter().filter(|one| one.verdict == Verdict::Unknown) {
        let (us, them) = (one.pair.0.as_str(), one.pair.1.as_str());
        match studies.iter_mut().find(|(study, ..)| *study == one.study) {
            Some((_, _, others)) if others.contains(&them) => {}
            Some((_, _, others)) => others.push(them),
            None => studies.push((&one.study, us, vec![them])),
        }
    }
    let study = |(study, us, others): &(&str, &str, Vec<&str>)| {
        let others: Vec<String> = others.iter().map(|name| line(name)).collect();
        let (study, us) = (line(study), line(us));
        format!("{study}: {us} and {}", others.join(", "))
    };
    let all: Vec<String> = studies.iter().map(study).collect();
    (!all.is_empty()).then(|| {
        format!(
            "Too few rounds for an interval ({FEWEST} are needed), and nothing can be said of \
             some figures of {}.",
            all.join("; ")
        )
    })
}

/// The group by which a study is told; none where it is told by all.
#[must_use]
pub fn telling<'s, 'a>(study: &'s Study<'a>) -> Option<&'s Group<'a>> {
    if study.name == "work" || !study.curves.is_empty() {
        return None;
    }
    let compared = |group: &&Group<'_>| group.rows.iter().any(|row| row.against.is_some());
    let is_cold = |group: &Group<'_>| group.conditions.values().any(|value| value == "cold");
    let rank = |group: &&Group<'_>| {
        let named = TELLING
            .iter()
            .position(|name| group.metric.starts_with(name));
        (named.unwrap_or(TELLING.len()), is_cold(group))
    };
    study.groups.iter().filter(compared).min_by_key(rank)
}

/// The curve by which a study is told: how often a second, if there is such.
#[must_use]
pub fn telling_curve<'s, 'a>(study: &'s Study<'a>) -> Option<&'s Curve<'a>> {
    let is_rate = |curve: &&Curve<'_>| {
        let first = curve.points.first();
        first.is_some_and(|(_, group)| group.unit == Unit::PerSecond)
    };
    study.curves.iter().find(is_rate).or(study.curves.first())
}

fn sentence(
    reference: &str,
    group: &Group<'_>,
    row: &Row<'_>,
    point: Option<(&str, f64)>,
    headline: bool,
) -> Option<Sentence> {
    let ratio = row.against?;
    let study = group.study;
    let (us, them) = (spoken(reference, study), spoken(row.contestant, study));
    // Above 1 it is the reference that does better.
    let gain = match group.better {
        Better::Lower => ratio,
        Better::Higher => ratio.inverse(),
    };
    let verdict = verdict(&gain);
    let claim = match (verdict, gain.interval) {
        (Verdict::Unknown, _) => format!("Between {us} and {them} nothing can be said"),
        (Verdict::Even, interval) => even(&us, &them, interval),
        (Verdict::Better, _) => ahead(group, &us, &them, &by(&gain), true),
        (Verdict::Worse, _) => ahead(group, &us, &them, &by(&gain.inverse()), false),
    };
    let mut details = vec![group.metric.to_owned()];
    details.extend(Some(group.circumstances()).filter(|text| !text.is_empty()));
    details.extend(point.map(|(axis, at)| format!("{axis} {at}")));
    let rounds = if ratio.count == 1 { "round" } else { "rounds" };
    details.push(match ratio.interval {
        Some(_) => format!("{} {rounds}", ratio.count),
        None => format!("{} {rounds}, and an interval needs {FEWEST}", ratio.count),
    });
    Some(Sentence {
        claim,
        pair: (us, them),
        about: details.join("; "),
        verdict,
        sure: ratio.interval.is_some(),
        headline: headline && verdict != Verdict::Unknown,
        study: study.to_owned(),
    })
}

fn verdict(gain: &Ratio) -> Verdict {
    match (gain.interval, gain.range) {
        (Some(of), _) if of.low > 1.0 => Verdict::Better,
        (Some(of), _) if of.high < 1.0 => Verdict::Worse,
        (Some(_), _) => Verdict::Even,
        // Without an interval all that can be told is that they agree.
        _ if gain.count < FEWEST_AGREED => Verdict::Unknown,
        (None, Some((least, _))) if least > AGREED => Verdict::Better,
        (None, Some((_, most))) if most < 1.0 / AGREED => Verdict::Worse,
        (None, _) => Verdict::Unknown,
    }
}

/// How many times, as surely as it is known: what was seen, where that is all.
fn by(ratio: &Ratio) -> String {
    let seen = || {
        let (least, most) = ratio.range.map(|(a, b)| (digits(a), digits(b)))?;
        (least != most).then(|| format!("{least} to {most}"))
    };
    plus_minus(ratio)
        .or_else(seen)
        .unwrap_or_else(|| digits(ratio.value))
}

fn even(us: &str, them: &str, interval: Option<Interval>) -> String {
    let (low, high) = interval.map_or((1.0, 1.0), |of| (of.low, of.high));
    let (low, high) = (digits(low), digits(high));
    format!("{us} and {them} cannot be told apart here: {low} to {high} times")
}

/// `by` is of more than 1; the reference is ahead if `ours`.
fn ahead(group: &Group<'_>, us: &str, them: &str, by: &str, ours: bool) -> String {
    let (more, less) = if ours { (us, them) } else { (them, us) };
    let than = if ours { "faster" } else { "slower" };
    match (group.unit, group.better, group.study) {
        (Unit::Nanoseconds, Better::Lower, "start") => {
            format!("{us} starts {by} times {than} than {them} here")
        }
        (Unit::Nanoseconds, Better::Lower, _) => {
            format!("{us} is {by} times {than} than {them} here")
        }
        (_, Better::Lower, _) => format!("{less} needs {by} times as much as {more} here"),
        (_, Better::Higher, _) => format!("{more} does {by} times as much as {less} here"),
    }
}

/// A start of husk is from a template, and one of `husk-cold` is not.
fn spoken(contestant: &str, study: &str) -> String {
    match (contestant, study) {
        ("husk", "start" | "churn") => "husk warm".into(),
        ("husk-cold", _) => "husk cold".into(),
        (name, _) => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::model::Series;
    use crate::bench::testing::{bare, series};

    /// Thirty rounds, each a little slower than the one before, for both.
    fn rounds(middle: f64) -> Vec<f64> {
        (0..30)
            .map(|round| middle * (1.0 + 0.001 * f64::from(round)))
            .collect()
    }

    fn noisy(middle: f64) -> Vec<f64> {
        let wobble = |round: u32| if round.is_multiple_of(2) { 1.05 } else { 0.95 };
        (0..30).map(|round| middle * wobble(round)).collect()
    }

    fn told(series: Vec<Series>) -> Vec<(Verdict, String)> {
        let results = bare(series);
        let told = sentences(&Analysis::of(&results));
        told.into_iter()
            .map(|one| (one.verdict, one.text()))
            .collect()
    }

    #[test]
    fn gains_and_losses_are_told_alike() {
        let exit = |name, values: &[f64]| series(name, "process exit", values);
        let told = told(vec![
            exit("husk", &rounds(10.0)),
            exit("podman", &rounds(14.0)),
            exit("runc", &rounds(5.0)),
            exit("crun", &noisy(10.15)),
            exit("bwrap", &[2.0, 2.5, 2.0]),
            exit("qemu", &[9.0, 11.0]),
        ]);
        let about = "process exit; page cache warm; 30 rounds";
        assert_eq!(
            told,
            [
                (
                    Verdict::Better,
                    format!(
                        "husk warm starts 1.400 ± 0.001 times faster than podman here ({about})."
                    )
                ),
                (
                    Verdict::Worse,
                    format!(
                        "husk warm starts 2.000 ± 0.001 times slower than runc here ({about})."
                    )
                ),
                (
                    Verdict::Even,
                    format!(
                        "husk warm and crun cannot be told apart here: 0.95 to 1.05 times ({about})."
                    )
                ),
                (
                    Verdict::Worse,
                    "husk warm starts 4.00 to 5.01 times slower than bwrap here (process exit; \
                     page cache warm; 3 rounds, and an interval needs 6)."
                        .into()
                ),
                (
                    Verdict::Unknown,
                    "Between husk warm and qemu nothing can be said (process exit; page cache \
                     warm; 2 rounds, and an interval needs 6)."
                        .into()
                ),
            ]
        );
    }

    #[test]
    fn one_round_agrees_with_itself_and_says_nothing() {
        for (count, verdict) in [
            (1, Verdict::Unknown),
            (2, Verdict::Unknown),
            (3, Verdict::Better),
        ] {
            let told = told(vec![
                series("husk", "process exit", &vec![1.0; count]),
                series("runc", "process exit", &vec![9.0; count]),
            ]);
            assert_eq!(told[0].0, verdict, "{count}");
        }
    }

    #[test]
    fn pairs_of_which_nothing_can_be_said_are_one_line() {
        let once = |name, metric| series(name, metric, &[1.0]);
        let work = |name| Series {
            study: "work".into(),
            ..once(name, "fork")
        };
        let all = ["husk", "runc", "crun"];
        let mut series: Vec<Series> = all.iter().map(|name| once(name, "process exit")).collect();
        series.extend(all.iter().map(|name| once(name, "command returned")));
        series.extend([work("husk"), work("runc")]);
        let results = bare(series);
        let told = sentences(&Analysis::of(&results));
        assert_eq!(
            unsaid(&told).unwrap(),
            "Too few rounds for an interval (6 are needed), and nothing can be said of some \
             figures of start: husk warm and runc, crun; work: husk and runc."
        );
        assert_eq!(unsaid(&[]), None);
    }

    #[test]
    fn memory_and_rates_are_told_by_who_has_more() {
        let of = |name, unit, better, middle| Series {
            study: "density".into(),
            unit,
            better,
            ..series(name, "it", &rounds(middle))
        };
        let told = told(vec![
            of("husk", Unit::Bytes, Better::Lower, 3e6),
            of("runc", Unit::Bytes, Better::Lower, 1e6),
            of("husk", Unit::PerSecond, Better::Higher, 30.0),
            of("runc", Unit::PerSecond, Better::Higher, 10.0),
        ]);
        let told: Vec<&str> = told
            .iter()
            .map(|(_, text)| text.split(" (").next().unwrap())
            .collect();
        assert_eq!(
            told,
            [
                "husk needs 3.000 ± 0.001 times as much as runc here",
                "husk does 3.000 ± 0.001 times as much as runc here",
            ]
        );
    }

    #[test]
    fn without_husk_nothing_is_told() {
        let told = told(vec![
            series("runc", "x", &rounds(1.0)),
            series("crun", "x", &rounds(2.0)),
        ]);
        assert_eq!(told, []);
    }

    #[test]
    fn a_curve_is_told_where_both_came_furthest() {
        let at = |name, instances: &str, middle| {
            let mut one = series(name, "memory", &rounds(middle));
            one.conditions = [("instances".to_owned(), instances.to_owned())].into();
            one
        };
        let told = told(vec![
            at("husk", "1", 10.0),
            at("husk", "16", 20.0),
            at("husk", "4", 30.0),
            at("runc", "1", 10.0),
            at("runc", "4", 60.0),
        ]);
        assert_eq!(told.len(), 1);
        assert!(
            told[0].1.ends_with("(memory; instances 4; 30 rounds)."),
            "{told:?}"
        );
        assert_eq!(told[0].0, Verdict::Better);
    }
}
