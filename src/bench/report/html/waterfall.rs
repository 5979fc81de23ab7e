// SPDX-License-Identifier: Apache-2.0
//! How one start was spent: a block a contestant, a bar a step, each block as wide as its start
//! was long; a line above it is as long as the start is beside the longest.

use super::axis::Axis;
use super::markup::{Markup, share};
use super::{Palette, label};
use crate::bench::analysis::circumstances;
use crate::bench::figure::figure;
use crate::bench::model::{Results, Unit, Waterfall};

pub fn draw(results: &Results, palette: &Palette<'_>, page: &mut Markup) {
    let mut kinds: Vec<(String, Vec<&Waterfall>)> = Vec::new();
    for fall in &results.waterfalls {
        let end = fall.steps.last().map_or("", |(step, _)| step.as_str());
        let kind = label(&[&format!("to {end}"), &circumstances(&fall.conditions)]);
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, falls)) => falls.push(fall),
            None => kinds.push((kind, vec![fall])),
        }
    }
    page.open("div", "views");
    let first = kinds
        .iter()
        .position(|(_, falls)| falls.iter().any(|fall| is_warm(fall)));
    for (number, (kind, falls)) in kinds.iter().enumerate() {
        let shown = first == Some(number);
        let class = if shown {
            "card view first"
        } else {
            "card view"
        };
        page.tag(
            "figure",
            &[("class", class), ("data-view", kind), ("aria-label", kind)],
        );
        page.raw("<figcaption><h3>Where a start goes</h3><p class=\"sub\">");
        page.element("span", "tag", kind);
        page.raw(" the median start of each, as wide as it was long; the line above it is its length beside the longest</p></figcaption>");
        page.open("div", "falls");
        let longest = falls.iter().map(|fall| end(fall)).max().unwrap_or(0);
        for fall in falls {
            one(fall, longest, palette, page);
        }
        page.raw("</div></figure>");
    }
    page.close("div");
}

fn is_warm(fall: &Waterfall) -> bool {
    !fall.conditions.values().any(|value| value == "cold")
}

fn end(fall: &Waterfall) -> u64 {
    fall.steps.iter().map(|(_, end)| *end).max().unwrap_or(0)
}

fn one(fall: &Waterfall, longest: u64, palette: &Palette<'_>, page: &mut Markup) {
    let end = end(fall);
    let axis = Axis::linear(end as f64);
    let class = format!("fall {}", palette.class(&fall.contestant));
    page.tag(
        "section",
        &[("class", &class), ("aria-label", &fall.contestant)],
    );
    page.open("h4", "").element("span", "who", &fall.contestant);
    page.element("b", "", &figure(end as f64, Unit::Nanoseconds));
    page.close("h4");
    let length = share((end as f64 / longest.max(1) as f64).max(0.004));
    page.raw("<svg class=\"length\" aria-hidden=\"true\">");
    page.shape(
        "rect",
        &[("class", "rest"), ("width", "100%"), ("height", "3")],
    );
    page.shape(
        "rect",
        &[("class", "bar"), ("width", &length), ("height", "3")],
    );
    page.close("svg");
    page.open("ol", "");
    let mut began = 0;
    for (step, ended) in &fall.steps {
        // Steps are in order; what says otherwise has no length.
        let ended = (*ended).max(began);
        let spent = figure((ended - began) as f64, Unit::Nanoseconds);
        let (from, to) = (axis.place(began as f64), axis.place(ended as f64));
        page.raw("<li>").element("span", "step", step);
        page.raw("<svg class=\"plot\" aria-hidden=\"true\">");
        axis.grid(Unit::Nanoseconds, page);
        page.shape(
            "rect",
            &[
                ("class", "bar"),
                ("x", &share(from)),
                ("width", &share((to - from).max(0.003))),
                ("y", "3"),
                ("height", "12"),
                ("rx", "2"),
            ],
        );
        page.raw("</svg>").element("b", "", &spent).raw("</li>");
        began = ended;
    }
    page.raw("</ol><div class=\"under\"><span></span>");
    axis.draw(Unit::Nanoseconds, page);
    page.raw("</div>").close("section");
}
