// SPDX-License-Identifier: Apache-2.0
//! One page that a person would rather look at than read: self-contained, without the network,
//! in light and in dark, and whole without its script, which only adds what a hand can do. Texts
//! are HTML and never scaled, so the page is as readable on a telephone.

mod about;
mod axis;
mod curve;
mod markup;
mod matrix;
mod strip;
mod verdict;
mod waterfall;

use crate::bench::analysis::{Analysis, Study};
use crate::bench::figure::{line, moment};
use crate::bench::model::Results;
use crate::bench::sentences::{telling, telling_curve};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use markup::Markup;
use sha2::{Digest as _, Sha256};

const PAGE: &str = include_str!("../../../../resources/bench/report.html");
const STYLE: &str = include_str!("../../../../resources/bench/report.css");
const SCRIPT: &str = include_str!("../../../../resources/bench/report.js");

/// Studies as a person knows them, in the order in which they are shown.
const STUDIES: [(&str, &str, &str); 4] = [
    (
        "start",
        "Start-up",
        "From the start of the first process to each named point. Contestants took turns, round by round.",
    ),
    (
        "density",
        "Density",
        "What each further instance costs, by proportional set size: shared pages are divided among those who share them.",
    ),
    (
        "churn",
        "Churn",
        "Starting and ending, again and again, several at a time.",
    ),
    ("work", "Work", "The same program, inside and outside."),
];

#[must_use]
pub fn render(results: &Results) -> String {
    let analysis = Analysis::of(results);
    let palette = Palette::of(results);
    let mut body = Markup::default();
    verdict::draw(&analysis, &mut body);
    about::cautions(results, &mut body);
    for study in in_order(&analysis) {
        self::study(study, &analysis, &palette, &mut body);
    }
    about::draw(results, &palette, &mut body);
    fill(results, &contents(&analysis), body)
}

fn in_order<'s, 'a>(analysis: &'s Analysis<'a>) -> impl Iterator<Item = &'s Study<'a>> {
    let place = |study: &&Study<'_>| {
        let known = STUDIES.iter().position(|(name, ..)| *name == study.name);
        known.unwrap_or(STUDIES.len())
    };
    let mut studies: Vec<&Study<'_>> = analysis.studies.iter().collect();
    studies.sort_by_key(place);
    studies.into_iter()
}

fn title<'a>(study: &Study<'a>) -> (&'a str, &'static str) {
    let known = STUDIES.iter().find(|(name, ..)| *name == study.name);
    known.map_or((study.name, ""), |(_, title, about)| (title, about))
}

fn study(study: &Study<'_>, analysis: &Analysis<'_>, palette: &Palette<'_>, page: &mut Markup) {
    let (title, about) = title(study);
    page.tag("section", &[("id", &anchor(study.name))]);
    page.element("h2", "", title).element("p", "lede", about);
    if study.groups.len() > 2 {
        matrix::draw(study, analysis, page);
    }
    page.open("div", "views");
    let (group, curve) = (telling(study), telling_curve(study));
    for one in &study.groups {
        let first = group.is_some_and(|group| std::ptr::eq(group, one));
        strip::draw(one, first, analysis, palette, page);
    }
    for one in &study.curves {
        let first = curve.is_some_and(|curve| std::ptr::eq(curve, one));
        curve::draw(one, first, analysis, palette, page);
    }
    page.close("div");
    if study.name == "start" {
        waterfall::draw(analysis.results, palette, page);
    }
    page.close("section");
}

fn anchor(study: &str) -> String {
    format!("study-{study}")
}

fn contents(analysis: &Analysis<'_>) -> Markup {
    let mut page = Markup::default();
    let mut link = |to: &str, text: &str| {
        page.tag("a", &[("href", &format!("#{to}"))])
            .text(text)
            .close("a");
    };
    if analysis.reference.is_some() {
        link("said", "What can be said");
    }
    for study in in_order(analysis) {
        link(&anchor(study.name), title(study).0);
    }
    link("machine", "Machine");
    link("repeat", "Repeat");
    link("method", "Method");
    page
}

/// Puts the parts in their places. The page is gone through once: what was put in is not looked
/// at again, so nobody's words are taken for a place.
fn fill(results: &Results, contents: &Markup, body: Markup) -> String {
    let mut heading = Markup::default();
    heading.text(&results.image);
    let mut when = Markup::default();
    when.text(&format!("husk {}, {}", results.husk, moment(results.began)));
    let mut nav = Markup::default();
    nav.add(contents);
    let parts = [
        ("policy", policy()),
        ("style", STYLE.to_owned()),
        ("script", SCRIPT.to_owned()),
        ("image", heading.into_string()),
        ("when", when.into_string()),
        ("contents", nav.into_string()),
        ("body", body.into_string()),
        ("data", data(results)),
    ];
    let mut text = String::new();
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("the page's places have ends");
        let part = parts.iter().find(|(part, _)| *part == name);
        text.push_str(before);
        text.push_str(&part.expect("the page's places have names that are known").1);
        rest = after;
    }
    text.push_str(rest);
    text
}

/// What the browser lets the page do: apply this style, run this script, and nothing else. If
/// somebody's words did break out they still could not run, or call home.
fn policy() -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; \
         base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

/// All raw samples, so that the page is enough to go on with. An end of the element in it would
/// end it.
fn data(results: &Results) -> String {
    let text = serde_json::to_string(results).expect("plain data is JSON");
    text.replace('<', "\\u003c")
}

/// The same colour for a contestant everywhere: a family for how it isolates, a shade for which.
pub struct Palette<'a>(Vec<(&'a str, &'static str)>);

const FAMILIES: [[&str; 5]; 4] = [
    ["p0", "p1", "p2", "p3", "p4"],
    ["c0", "c1", "c2", "c3", "c4"],
    ["e0", "e1", "e2", "e3", "e4"],
    ["m0", "m1", "m2", "m3", "m4"],
];
/// Containers with an engine around them, which the kind does not tell apart.
const ENGINES: [&str; 3] = ["podman", "docker", "nerdctl"];

fn family(kind: &str) -> usize {
    match kind {
        "process" => 0,
        "engine" => 2,
        kind if kind.contains("machine") => 3,
        kind if kind.contains("container") || kind == "namespaces" => 1,
        // In another way: in a kernel that is a program.
        _ => 2,
    }
}

impl<'a> Palette<'a> {
    fn of(results: &'a Results) -> Self {
        let mut used = [0usize; FAMILIES.len()];
        let contestants = results.contestants.iter();
        Self(
            contestants
                .map(|one| {
                    let class = match one.name.as_str() {
                        "husk" => "h0",
                        "husk-cold" => "h1",
                        name => {
                            let engine = ENGINES.contains(&name);
                            let kind = if engine { "engine" } else { one.kind.as_str() };
                            let family = family(kind);
                            used[family] += 1;
                            FAMILIES[family][(used[family] - 1) % 5]
                        }
                    };
                    (one.name.as_str(), class)
                })
                .collect(),
        )
    }

    fn class(&self, contestant: &str) -> &'static str {
        let known = self.0.iter().find(|(name, _)| *name == contestant);
        known.map_or("p0", |(_, class)| class)
    }
}

/// A label of a figure for those who do not see it.
fn label(words: &[&str]) -> String {
    line(
        &words
            .iter()
            .filter(|word| !word.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(", "),
    )
}

#[cfg(test)]
mod tests;
