// SPDX-License-Identifier: Apache-2.0
//! A metric as it goes with a number of something: a line a contestant, its median's interval a
//! band around it, and beside it the list of them in the order in which the lines end.

use super::axis::Axis;
use super::markup::{Markup, Path, share};
use super::{Palette, label};
use crate::bench::analysis::{Analysis, Curve, Group, Row};
use crate::bench::figure::figure;
use crate::bench::model::{Better, Unit};
use crate::bench::stats::Summary;

const WIDE: f64 = 1000.0;
const HIGH: f64 = 300.0;

/// One contestant's.
struct Line<'a> {
    contestant: &'a str,
    points: Vec<(f64, &'a Summary)>,
    instead: Option<String>,
}

/// `shown` is shown where only one is.
pub fn draw(
    curve: &Curve<'_>,
    shown: bool,
    analysis: &Analysis<'_>,
    palette: &Palette<'_>,
    page: &mut Markup,
) {
    let Some((_, first)) = curve.points.first() else {
        return;
    };
    let lines = lines(curve, analysis);
    let along = Axis::of(curve.points.iter().map(|(at, _)| *at));
    let values = || {
        lines
            .iter()
            .flat_map(|line| line.points.iter().map(|(_, s)| s.median))
    };
    let up = Axis::of(values().collect::<Vec<_>>().into_iter());
    let circumstances = first.circumstances();
    let name = label(&[first.metric, &circumstances, &format!("by {}", curve.axis)]);
    let view = label(&[first.metric, &circumstances]);
    let class = if shown {
        "card view first"
    } else {
        "card view"
    };
    page.tag(
        "figure",
        &[
            ("class", class),
            ("data-view", &view),
            ("aria-label", &name),
        ],
    );
    caption(curve, first, [&along, &up], page);
    page.open("div", "chart");
    upright(&up, first.unit, page);
    page.tag(
        "svg",
        &[("class", "plot"), ("role", "img"), ("aria-label", &name)],
    );
    for (value, _) in up.marks(first.unit) {
        let at = share(1.0 - up.place(value));
        page.shape(
            "line",
            &[
                ("class", "grid"),
                ("x1", "0"),
                ("x2", "100%"),
                ("y1", &at),
                ("y2", &at),
            ],
        );
    }
    page.tag(
        "svg",
        &[("viewBox", "0 0 1000 300"), ("preserveAspectRatio", "none")],
    );
    for line in &lines {
        self::line(line, &along, &up, palette, page);
    }
    page.raw("</svg></svg>");
    legend(&lines, first.unit, first.better, palette, page);
    along_axis(curve, &along, page);
    page.close("div");
    super::strip::notes(curve.points.iter().flat_map(|(_, group)| &group.rows), page);
    table(curve, &lines, page);
    page.close("figure");
}

fn caption(curve: &Curve<'_>, first: &Group<'_>, axes: [&Axis; 2], page: &mut Markup) {
    page.open("figcaption", "").element("h3", "", first.metric);
    page.open("p", "sub");
    page.element("span", "tag", &first.circumstances());
    page.text(match first.better {
        Better::Lower => " lower is better",
        Better::Higher => " higher is better",
    });
    for (axis, name) in axes.iter().zip([curve.axis.as_str(), first.metric]) {
        if axis.goes_by_powers() {
            page.text(", ").text(name).text(" logarithmic");
        }
    }
    page.close("p").close("figcaption");
}

fn lines<'a>(curve: &'a Curve<'a>, analysis: &'a Analysis<'a>) -> Vec<Line<'a>> {
    let names = analysis
        .results
        .contestants
        .iter()
        .map(|one| one.name.as_str());
    names
        .filter_map(|name| {
            let rows: Vec<(f64, &Row<'_>)> = curve
                .points
                .iter()
                .filter_map(|(at, group)| Some((*at, group.row(name)?)))
                .collect();
            let points = rows
                .iter()
                .filter_map(|(at, row)| Some((*at, row.summary()?)));
            (!rows.is_empty()).then(|| Line {
                contestant: name,
                points: points.collect(),
                instead: rows.iter().find_map(|(_, row)| row.instead()),
            })
        })
        .collect()
}

fn upright(up: &Axis, unit: Unit, page: &mut Markup) {
    page.tag("svg", &[("class", "upright"), ("aria-hidden", "true")]);
    for (value, text) in up.marks(unit) {
        let place = 1.0 - up.place(value);
        let attributes = [
            ("x", "100%"),
            ("y", &*share(place)),
            ("dy", "0.35em"),
            ("dx", "-6"),
        ];
        page.tag(
            "text",
            &[&attributes[..], &[("text-anchor", "end")]].concat(),
        );
        page.text(&text).close("text");
    }
    page.close("svg");
}

fn along_axis(curve: &Curve<'_>, along: &Axis, page: &mut Markup) {
    page.tag("svg", &[("class", "axis"), ("aria-hidden", "true")]);
    let mut last = f64::NEG_INFINITY;
    for (at, _) in &curve.points {
        let place = along.place(*at);
        // Where points are close together not each has room for its number.
        if place - last < 0.06 {
            continue;
        }
        last = place;
        page.shape(
            "line",
            &[
                ("x1", &share(place)),
                ("x2", &share(place)),
                ("y1", "0"),
                ("y2", "5"),
            ],
        );
        let anchor = if place > 0.94 { "end" } else { "middle" };
        page.tag(
            "text",
            &[("x", &share(place)), ("y", "17"), ("text-anchor", anchor)],
        );
        page.text(&at.to_string()).close("text");
    }
    page.tag(
        "text",
        &[("x", "50%"), ("y", "34"), ("text-anchor", "middle")],
    );
    page.text(&curve.axis).raw("</text></svg>");
}

fn line(line: &Line<'_>, along: &Axis, up: &Axis, palette: &Palette<'_>, page: &mut Markup) {
    let at = |number: f64, value: f64| (along.place(number) * WIDE, (1.0 - up.place(value)) * HIGH);
    let class = format!("line {}", palette.class(line.contestant));
    page.tag("g", &[("class", &class), ("data-who", line.contestant)]);
    let banded: Vec<(f64, f64, f64)> = line
        .points
        .iter()
        .filter_map(|(at, s)| s.interval.map(|of| (*at, of.low, of.high)))
        .collect();
    let mut band = Path::default();
    let there = banded.iter().map(|(number, low, _)| at(*number, *low));
    let back = banded
        .iter()
        .rev()
        .map(|(number, _, high)| at(*number, *high));
    for (number, (x, y)) in there.chain(back).enumerate() {
        band.to(if number == 0 { 'M' } else { 'L' }, x, y);
    }
    page.path("band", &band);
    let (mut path, mut dots) = (Path::default(), Path::default());
    for (number, (along, summary)) in line.points.iter().enumerate() {
        let (x, y) = at(*along, summary.median);
        path.to(if number == 0 { 'M' } else { 'L' }, x, y);
        dots.dot(x, y);
    }
    page.path("way", &path).path("dots", &dots).close("g");
}

fn legend(
    lines: &[Line<'_>],
    unit: Unit,
    better: Better,
    palette: &Palette<'_>,
    page: &mut Markup,
) {
    let mut order: Vec<&Line<'_>> = lines.iter().collect();
    let end = |line: &Line<'_>| line.points.last().map(|(_, summary)| summary.median);
    // As the lines end, from the top.
    order.sort_by(|a, b| end(b).unwrap_or(-1.0).total_cmp(&end(a).unwrap_or(-1.0)));
    page.tag(
        "ul",
        &[
            ("class", "legend"),
            (
                "data-better",
                if better == Better::Lower {
                    "lower"
                } else {
                    "higher"
                },
            ),
        ],
    );
    for line in order {
        let class = palette.class(line.contestant);
        page.tag("li", &[("class", class), ("data-who", line.contestant)]);
        page.raw("<svg class=\"key\" aria-hidden=\"true\"><line x1=\"1\" x2=\"21\" y1=\"6\" y2=\"6\"/></svg>");
        page.element("span", "", line.contestant);
        match (line.points.last(), &line.instead) {
            (Some((at, summary)), _) => {
                page.tag("b", &[("title", &format!("at {at}"))]);
                page.text(&figure(summary.median, unit)).close("b");
            }
            (None, instead) => {
                page.element("i", "", instead.as_deref().unwrap_or("not measured"));
            }
        }
        page.close("li");
    }
    page.close("ul");
}

fn table(curve: &Curve<'_>, lines: &[Line<'_>], page: &mut Markup) {
    page.raw("<details><summary>Figures</summary><div class=\"scroll\"><table><thead><tr>");
    page.element("th", "", &curve.axis);
    for (at, _) in &curve.points {
        page.element("th", "", &at.to_string());
    }
    page.raw("</tr></thead><tbody>");
    for line in lines {
        page.raw("<tr><th scope=\"row\">")
            .text(line.contestant)
            .raw("</th>");
        for (_, group) in &curve.points {
            let row = group.row(line.contestant);
            let cell = match row.map(|row| (row.summary(), row.instead())) {
                Some((Some(summary), _)) => figure(summary.median, group.unit),
                Some((None, Some(instead))) => instead,
                _ => "–".into(),
            };
            page.element("td", "", &cell);
        }
        page.raw("</tr>");
    }
    page.raw("</tbody></table></div></details>");
}
