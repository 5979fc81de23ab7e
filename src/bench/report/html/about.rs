// SPDX-License-Identifier: Apache-2.0
//! What the figures stand on: doubts, the machine, who took part, how to repeat it, the method.

use super::Palette;
use super::markup::Markup;
use crate::bench::figure::{command, figure, moment};
use crate::bench::model::{Results, Unit};

const METHOD: [(&str, &str); 9] = [
    (
        "Turns",
        "Contestants are started in turn, round by round, in an order that changes with each round, so that what slows the machine for a while slows all of them. The first rounds warm up and do not count.",
    ),
    (
        "Points",
        "A time is told between two named points, from the start of the first process. What a contestant does not have is not offered, and never zero.",
    ),
    (
        "Median",
        "The middle sample. Quantiles are of Hyndman and Fan's definition 7. Every sample counts; none is dropped.",
    ),
    (
        "Interval",
        "Of a median: from order statistics, exact for any distribution, at least 95 %. It tells how well this run knows the median, not how another machine or another day would be.",
    ),
    (
        "Times",
        "The median of the ratios of pairs that were taken in the same round, with its own interval of 95 %, which a ± is never narrower than.",
    ),
    (
        "p5, p95, p99",
        "A tilde stands before one of too few samples to bound it: 59 for p5 and p95, 299 for p99.",
    ),
    (
        "Stands apart",
        "Further from the median than 3.5 scaled median absolute deviations. Said, and kept.",
    ),
    (
        "Went up or down",
        "A trend over the rounds by Mann and Kendall's test at 1 %, of more than 3 % of the median by Theil and Sen's slope.",
    ),
    (
        "Two peaks",
        "By the dip of the distribution at 1 %, where the peaks are more than 5 % of the median apart.",
    ),
];

pub fn cautions(results: &Results, page: &mut Markup) {
    if results.cautions.is_empty() {
        return;
    }
    page.raw("<section class=\"cautions\" aria-label=\"Cautions\"><h2>Read with care</h2><ul>");
    for caution in &results.cautions {
        page.raw("<li>").element("b", "", &caution.what);
        page.element("span", "", &caution.hint).raw("</li>");
    }
    page.raw("</ul></section>");
}

pub fn draw(results: &Results, palette: &Palette<'_>, page: &mut Markup) {
    page.raw("<section id=\"machine\"><h2>Machine</h2><div class=\"two\"><div class=\"card\"><h3>Where it ran</h3>");
    machine(results, page);
    page.raw("</div><div class=\"card\"><h3>Who took part</h3><ul class=\"who-list\">");
    for one in &results.contestants {
        page.tag("li", &[("class", palette.class(&one.name))]);
        page.raw("<span class=\"swatch\"></span>")
            .element("b", "", &one.name);
        page.element("i", "", &one.kind);
        match (&one.absent, &one.version) {
            (Some(why), _) => page.element("span", "absent", &format!("took no part: {why}")),
            (None, Some(version)) => page.element("span", "", version),
            (None, None) => page.element("span", "absent", "tells no version"),
        };
        page.close("li");
    }
    page.raw("</ul></div></div></section>");
    repeat(results, page);
    page.raw("<section id=\"method\"><h2>Method</h2><div class=\"card\"><dl class=\"method\">");
    for (term, words) in METHOD {
        page.raw("<dt>")
            .raw(term)
            .raw("</dt><dd>")
            .raw(words)
            .raw("</dd>");
    }
    page.raw("</dl></div></section>");
}

fn machine(results: &Results, page: &mut Markup) {
    let machine = &results.machine;
    let memory = figure(machine.memory as f64, Unit::Bytes);
    let cpus = machine.cpus.to_string();
    page.open("dl", "facts");
    let known = [
        ("processor", machine.processor.as_str()),
        ("CPUs", &cpus),
        ("memory", &memory),
        ("kernel", &machine.kernel),
        ("KVM", &machine.kvm),
    ];
    let facts = machine
        .facts
        .iter()
        .map(|(name, fact)| (name.as_str(), fact.as_str()));
    for (name, fact) in known.into_iter().chain(facts) {
        page.element("dt", "", name).element("dd", "", fact);
    }
    page.close("dl");
}

fn repeat(results: &Results, page: &mut Markup) {
    let seconds = results.ended.saturating_sub(results.began) as f64;
    page.raw("<section id=\"repeat\"><h2>Repeat</h2><div class=\"card\"><p>");
    page.text(&format!(
        "Began {}, took {}.",
        moment(results.began),
        figure(seconds, Unit::Nanoseconds)
    ));
    page.raw("</p><div class=\"command\"><pre><code>");
    page.whole(&command(&results.command));
    page.raw("</code></pre></div><p>With the samples of this page, saved below, a later run is held against this one:</p><div class=\"command\"><pre><code>husk bench compare results.json later.json</code></pre></div><p class=\"save\"></p></div></section>");
}
