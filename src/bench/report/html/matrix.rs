// SPDX-License-Identifier: Apache-2.0
//! All metrics of a study against all contestants, medians only, tinted by how far each is from
//! the best of its row.

use super::markup::Markup;
use crate::bench::analysis::{Analysis, Group, Row, State, Study};
use crate::bench::figure::{digits, figure};
use crate::bench::model::Better;

/// How many times worse than the best a tint begins at.
const TINTS: [(f64, &str); 5] = [
    (20.0, "t5"),
    (8.0, "t4"),
    (3.0, "t3"),
    (1.5, "t2"),
    (1.08, "t1"),
];

pub fn draw(study: &Study<'_>, analysis: &Analysis<'_>, page: &mut Markup) {
    let mut names: Vec<&str> = Vec::new();
    for one in &analysis.results.contestants {
        let has = |group: &Group<'_>| group.row(&one.name).is_some();
        if study.groups.iter().any(has) {
            names.push(&one.name);
        }
    }
    page.raw("<div class=\"card scroll\"><table class=\"matrix\"><caption>Medians; below, how many times the best of the row</caption><thead><tr><th></th>");
    for name in &names {
        let class = if Some(*name) == analysis.reference {
            "us"
        } else {
            ""
        };
        page.tag("th", &[("scope", "col"), ("class", class)])
            .text(name)
            .close("th");
    }
    page.raw("</tr></thead><tbody>");
    for group in &study.groups {
        page.raw("<tr><th scope=\"row\">").text(group.metric);
        page.element("i", "", &group.circumstances()).raw("</th>");
        let best = best(group);
        for name in &names {
            cell(group.row(name), group, best, page);
        }
        page.raw("</tr>");
    }
    page.raw("</tbody></table></div>");
}

fn best(group: &Group<'_>) -> f64 {
    let medians = group.rows.iter().filter_map(Row::summary).map(|s| s.median);
    match group.better {
        Better::Lower => medians.fold(f64::INFINITY, f64::min),
        Better::Higher => medians.fold(0.0, f64::max),
    }
}

fn cell(row: Option<&Row<'_>>, group: &Group<'_>, best: f64, page: &mut Markup) {
    let Some(row) = row else {
        page.raw("<td class=\"none\">–</td>");
        return;
    };
    let Some(summary) = row.summary() else {
        let why = row.instead().unwrap_or_default();
        page.tag("td", &[("class", "none"), ("title", &why)]);
        page.text(match row.state {
            State::NotOffered(_) => "not offered",
            _ => "failed",
        });
        page.close("td");
        return;
    };
    let worse = match group.better {
        Better::Lower => summary.median / best,
        Better::Higher => best / summary.median,
    };
    let tint = TINTS.iter().find(|(from, _)| worse >= *from);
    page.tag("td", &[("class", tint.map_or("t0", |(_, class)| class))]);
    page.text(&figure(summary.median, group.unit));
    let times = match worse.is_finite() {
        true if worse < 1.005 => "best".to_owned(),
        true => format!("× {}", digits(worse)),
        false => String::new(),
    };
    page.element("i", "", &times).close("td");
}
