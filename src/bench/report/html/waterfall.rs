// SPDX-License-Identifier: Apache-2.0
//! How one start was spent: a block a contestant, a bar a step, all on the same axis.

use super::axis::Axis;
use super::markup::{Markup, share};
use super::{Palette, label};
use crate::bench::analysis::circumstances;
use crate::bench::figure::figure;
use crate::bench::model::{Results, Unit, Waterfall};

pub fn draw(results: &Results, palette: &Palette<'_>, page: &mut Markup) {
    if results.waterfalls.is_empty() {
        return;
    }
    page.raw("<figure class=\"card\" aria-label=\"Where a start goes\"><figcaption><h3>Where a start goes</h3>");
    page.raw("<p class=\"sub\">the median start of each, step by step; each block has its own length</p></figcaption>");
    page.open("div", "falls");
    for fall in &results.waterfalls {
        one(fall, palette, page);
    }
    page.raw("</div></figure>");
}

fn one(fall: &Waterfall, palette: &Palette<'_>, page: &mut Markup) {
    let end = fall.steps.iter().map(|(_, end)| *end).max().unwrap_or(0);
    let axis = Axis::linear(end as f64);
    let circumstances = circumstances(&fall.conditions);
    let class = format!("fall {}", palette.class(&fall.contestant));
    let name = label(&[&fall.contestant, &circumstances]);
    page.tag("section", &[("class", &class), ("aria-label", &name)]);
    page.open("h4", "").element("span", "who", &fall.contestant);
    page.element("i", "", &circumstances);
    page.element("b", "", &figure(end as f64, Unit::Nanoseconds))
        .close("h4");
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
