// SPDX-License-Identifier: Apache-2.0
//! All samples of one metric, a row a contestant: each sample a dot, the middle half a box, the
//! interval of the median a bar, and a line where husk is.

use super::axis::Axis;
use super::markup::{Markup, Path, share};
use super::{Palette, label};
use crate::bench::analysis::{Analysis, FEWEST, Group, Row, doubts};
use crate::bench::figure::{Scale, times};
use crate::bench::model::{Better, Outcome};
use crate::bench::stats::Summary;

/// Dots of a row; of more samples every second, third … in their order is shown.
const MOST_DOTS: usize = 1500;
/// Dots are spread over the height of a row in steps of the golden ratio, which fill it evenly.
const GOLDEN: f64 = 0.618_033_988_75;
const WIDE: f64 = 1000.0;
const HIGH: f64 = 36.0;

/// `first` is shown where only one is.
pub fn draw(
    group: &Group<'_>,
    first: bool,
    analysis: &Analysis<'_>,
    palette: &Palette<'_>,
    page: &mut Markup,
) {
    let all = group.rows.iter().filter_map(Row::summary);
    let axis = Axis::of(all.flat_map(|s| [s.minimum, s.maximum, s.median]));
    let circumstances = group.circumstances();
    let name = label(&[group.metric, &circumstances]);
    let class = if first {
        "card view first"
    } else {
        "card view"
    };
    page.tag(
        "figure",
        &[
            ("class", class),
            ("data-view", &name),
            ("aria-label", &name),
        ],
    );
    page.open("figcaption", "").element("h3", "", group.metric);
    page.open("p", "sub").element("span", "tag", &circumstances);
    page.text(match group.better {
        Better::Lower => " shorter is better",
        Better::Higher => " longer is better",
    });
    page.text(if axis.goes_by_powers() {
        ", logarithmic"
    } else {
        ", from zero"
    });
    page.close("p").close("figcaption");
    let base = analysis
        .reference
        .and_then(|name| group.row(name)?.summary());
    page.open("div", "strips");
    for row in in_order(group) {
        self::row(row, group, &axis, base, palette, page);
    }
    page.raw("<div class=\"foot\"><span></span>");
    axis.draw(group.unit, page);
    page.raw("</div></div>");
    notes(group.rows.iter(), page);
    table(group, analysis, page);
    page.close("figure");
}

/// The best first, then what has no figure.
fn in_order<'g, 'a>(group: &'g Group<'a>) -> Vec<&'g Row<'a>> {
    let mut rows: Vec<&Row<'_>> = group.rows.iter().collect();
    rows.sort_by(|a, b| match (a.summary(), b.summary()) {
        (Some(a), Some(b)) if group.better == Better::Lower => a.median.total_cmp(&b.median),
        (Some(a), Some(b)) => b.median.total_cmp(&a.median),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    rows
}

fn row(
    row: &Row<'_>,
    group: &Group<'_>,
    axis: &Axis,
    base: Option<&Summary>,
    palette: &Palette<'_>,
    page: &mut Markup,
) {
    let class = format!("strip {}", palette.class(row.contestant));
    page.tag("div", &[("class", &class)]);
    page.element("span", "who", row.contestant);
    let Some(summary) = row.summary() else {
        let instead = row.instead().unwrap_or_default();
        page.element("span", "instead", &instead).close("div");
        return;
    };
    let scale = Scale::of(summary.median, group.unit);
    let median = scale.figure(summary.median);
    let interval = summary
        .interval
        .map(|of| scale.interval(&of))
        .unwrap_or_default();
    let said = label(&[
        row.contestant,
        &format!("median {median}"),
        &match interval.as_str() {
            "" => String::new(),
            interval => format!("95 % interval {interval}"),
        },
        &format!("{} samples", summary.count),
    ]);
    page.tag(
        "svg",
        &[("class", "plot"), ("role", "img"), ("aria-label", &said)],
    );
    page.element("title", "", &said);
    axis.grid(group.unit, page);
    if let Some(base) = base {
        let at = share(axis.place(base.median));
        page.shape(
            "line",
            &[
                ("class", "base"),
                ("x1", &at),
                ("x2", &at),
                ("y1", "0"),
                ("y2", "100%"),
            ],
        );
    }
    spread(summary, axis, page);
    dots(row, axis, page);
    middle(summary, axis, page);
    page.close("svg");
    page.open("span", "value").element("b", "", &median);
    page.element("i", "", &interval).close("span");
    let against = row.against.map(|ratio| format!("× {}", times(&ratio)));
    page.element("span", "times", &against.unwrap_or_default())
        .close("div");
}

/// A box around the middle half, and a line from p5 to p95.
fn spread(summary: &Summary, axis: &Axis, page: &mut Markup) {
    let line = [axis.place(summary.p5.value), axis.place(summary.p95.value)].map(share);
    let (low, high) = (axis.place(summary.p25), axis.place(summary.p75));
    page.shape(
        "line",
        &[
            ("class", "whisker"),
            ("x1", &line[0]),
            ("x2", &line[1]),
            ("y1", "50%"),
            ("y2", "50%"),
        ],
    );
    page.shape(
        "rect",
        &[
            ("class", "box"),
            ("x", &share(low)),
            ("width", &share(high - low)),
            ("y", "7"),
            ("height", "22"),
            ("rx", "3"),
        ],
    );
}

fn dots(row: &Row<'_>, axis: &Axis, page: &mut Markup) {
    let Outcome::Measured { samples, .. } = &row.series.outcome else {
        return;
    };
    let step = samples.len().div_ceil(MOST_DOTS).max(1);
    let mut path = Path::default();
    for (number, sample) in samples.iter().step_by(step).enumerate() {
        let height = (number as f64 * GOLDEN).fract() * (HIGH - 12.0) + 6.0;
        path.dot(axis.place(sample.value) * WIDE, height);
    }
    page.tag(
        "svg",
        &[("viewBox", "0 0 1000 36"), ("preserveAspectRatio", "none")],
    );
    page.path("dots", &path).close("svg");
}

fn middle(summary: &Summary, axis: &Axis, page: &mut Markup) {
    if let Some(interval) = summary.interval {
        let (low, high) = (axis.place(interval.low), axis.place(interval.high));
        page.shape(
            "rect",
            &[
                ("class", "interval"),
                ("x", &share(low)),
                ("width", &share(high - low)),
                ("y", "15"),
                ("height", "6"),
                ("rx", "3"),
            ],
        );
    }
    let at = share(axis.place(summary.median));
    page.shape(
        "line",
        &[
            ("class", "median"),
            ("x1", &at),
            ("x2", &at),
            ("y1", "4"),
            ("y2", "32"),
        ],
    );
}

pub fn notes<'a>(rows: impl Iterator<Item = &'a Row<'a>>, page: &mut Markup) {
    let notes = doubts(rows);
    if notes.is_empty() {
        return;
    }
    page.open("details", "notes");
    let count = notes.len();
    let heading = if count == 1 {
        "1 doubt".into()
    } else {
        format!("{count} doubts")
    };
    page.element("summary", "", &heading).open("ul", "");
    for (name, note) in &notes {
        page.raw("<li>")
            .element("b", "", name)
            .raw(" ")
            .text(note)
            .raw("</li>");
    }
    page.raw("</ul></details>");
}

fn table(group: &Group<'_>, analysis: &Analysis<'_>, page: &mut Markup) {
    page.raw("<details><summary>Figures</summary><div class=\"scroll\"><table><thead><tr>");
    let heads = [
        "contestant",
        "median",
        "95 % interval",
        "p5",
        "p95",
        "p99",
        "least",
        "most",
        "samples",
    ];
    for head in heads {
        page.element("th", "", head);
    }
    if let Some(reference) = analysis.reference {
        page.element("th", "", &format!("× {reference}"));
    }
    page.raw("</tr></thead><tbody>");
    for row in in_order(group) {
        page.raw("<tr>")
            .raw("<th scope=\"row\">")
            .text(row.contestant)
            .raw("</th>");
        match row.summary() {
            None => {
                page.raw("<td class=\"instead\" colspan=\"9\">");
                page.text(&row.instead().unwrap_or_default()).raw("</td>");
            }
            Some(summary) => cells(row, summary, group, page),
        }
        page.raw("</tr>");
    }
    page.raw("</tbody></table></div></details>");
}

fn cells(row: &Row<'_>, summary: &Summary, group: &Group<'_>, page: &mut Markup) {
    let scale = Scale::of(summary.median, group.unit);
    let interval = summary.interval.map(|of| scale.interval(&of));
    let tails = [summary.p5, summary.p95, summary.p99].map(|tail| {
        if summary.count < FEWEST {
            return "–".to_owned();
        }
        let sign = if tail.sound { "" } else { "~" };
        format!(
            "{sign}{}",
            crate::bench::figure::figure(tail.value, group.unit)
        )
    });
    let [p5, p95, p99] = tails;
    for cell in [
        scale.figure(summary.median),
        interval.unwrap_or_else(|| "–".into()),
        p5,
        p95,
        p99,
        crate::bench::figure::figure(summary.minimum, group.unit),
        crate::bench::figure::figure(summary.maximum, group.unit),
        summary.count.to_string(),
        row.against.map(|ratio| times(&ratio)).unwrap_or_default(),
    ] {
        page.element("td", "", &cell);
    }
}
