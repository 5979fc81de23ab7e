// SPDX-License-Identifier: Apache-2.0
//! What can be said, first of all: husk's gains and losses alike, then every other comparison.

use super::STUDIES;
use super::markup::Markup;
use crate::bench::analysis::Analysis;
use crate::bench::sentences::{Sentence, Verdict, sentences, unsaid};

pub fn draw(analysis: &Analysis<'_>, page: &mut Markup) {
    let told = sentences(analysis);
    if told.is_empty() {
        return;
    }
    page.raw("<section id=\"said\"><h2>What can be said</h2><p class=\"lede\">Medians of pairs taken in the same rounds, with 95 % intervals. Of twenty such sentences one may be chance. An open triangle: all rounds agree, and are too few for an interval.</p><div class=\"said\">");
    for study in studies(&told) {
        let headlines = || told.iter().filter(|one| one.headline && one.study == study);
        if headlines().next().is_none() {
            continue;
        }
        let known = STUDIES.iter().find(|(name, ..)| *name == study);
        page.open("div", "card");
        page.element("h3", "", known.map_or(study, |(_, title, _)| title));
        // What all of them are about is said once.
        let about = headlines().next().map(|one| one.about.as_str());
        let shared = about.filter(|about| headlines().all(|one| one.about == *about));
        page.element("p", "sub", shared.unwrap_or_default());
        list(headlines(), shared.is_none(), page);
        page.close("div");
    }
    page.close("div");
    if let Some(line) = unsaid(&told) {
        page.open("p", "lede").whole(&line).close("p");
    }
    let is_other = |one: &&Sentence| !one.headline && one.verdict != Verdict::Unknown;
    let others = || told.iter().filter(is_other);
    let count = others().count();
    if count > 0 {
        page.open("details", "")
            .element("summary", "", &format!("{count} other comparisons"));
        list(others(), true, page);
        page.close("details");
    }
    page.close("section");
}

fn studies(told: &[Sentence]) -> Vec<&str> {
    let mut studies: Vec<&str> = Vec::new();
    for one in told {
        if !studies.contains(&one.study.as_str()) {
            studies.push(&one.study);
        }
    }
    studies
}

fn list<'a>(told: impl Iterator<Item = &'a Sentence>, about: bool, page: &mut Markup) {
    page.open("ul", "sentences");
    for sentence in told {
        let (class, mark, name) = match (sentence.verdict, sentence.sure) {
            (Verdict::Better, true) => ("better", "▲", "husk is ahead"),
            (Verdict::Worse, true) => ("worse", "▼", "husk is behind"),
            (Verdict::Better, false) => ("better", "△", "husk seems ahead"),
            (Verdict::Worse, false) => ("worse", "▽", "husk seems behind"),
            (Verdict::Even, _) => ("even", "=", "no difference is seen"),
            (Verdict::Unknown, _) => ("unknown", "?", "too little is known"),
        };
        page.tag("li", &[("class", class)]);
        page.tag(
            "span",
            &[("class", "mark"), ("role", "img"), ("aria-label", name)],
        );
        page.text(mark).close("span");
        page.raw("<span>").text(&sentence.claim).raw(".");
        if about {
            page.raw(" ").element("i", "", &sentence.about);
        }
        page.raw("</span>");
        page.close("li");
    }
    page.close("ul");
}
