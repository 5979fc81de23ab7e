// SPDX-License-Identifier: Apache-2.0
//! Reports that are read by programs and pasted into pages.

use super::*;
use crate::bench::model::Outcome;
use crate::bench::testing;

const ALL: [Format; 5] = [
    Format::Table,
    Format::Json,
    Format::Csv,
    Format::Markdown,
    Format::Html,
];

#[test]
fn the_same_results_are_the_same_bytes() {
    let (once, again) = (testing::results(), testing::results());
    for format in ALL {
        assert!(render(&once, format) == render(&again, format));
    }
}

#[test]
fn json_is_read_again() {
    let results = testing::results();
    let read: Results = serde_json::from_str(&render(&results, Format::Json)).unwrap();
    assert!(read == results);
}

fn hostile() -> Results {
    let words = "=cmd|' /C calc'!A0,\"x\"\n<b>`rm` [a](b) | \x1b[2J";
    let mut failing = testing::series("runc", "process exit", &[]);
    failing.outcome = Outcome::Measured {
        samples: Vec::new(),
        failures: vec![words.into()],
    };
    let mut results = testing::bare(vec![
        testing::series("husk", "process exit", &[2.5]),
        failing,
    ]);
    results.contestants[0].version = Some(words.into());
    results
}

#[test]
fn csv_has_a_row_for_each_sample_and_each_failure() {
    let text = render(&hostile(), Format::Csv);
    assert_eq!(
        text,
        "study,contestant,metric,conditions,unit,better,outcome,round,value,words\r\n\
         start,husk,process exit,page cache=warm,nanoseconds,lower,measured,0,2.5,\r\n\
         start,runc,process exit,page cache=warm,nanoseconds,lower,failed,,,\
         \"'=cmd|' /C calc'!A0,\"\"x\"\" <b>`rm` [a](b) | \u{fffd}[2J\"\r\n"
    );
}

#[test]
fn markdown_takes_nobodys_words_for_its_own() {
    let text = render(&hostile(), Format::Markdown);
    let words = "failed: =cmd\\|' /C calc'\\!A0,\"x\" &lt;b&gt;\\`rm\\` \\[a\\](b) \\|";
    assert!(text.contains(words), "{text}");
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let cells = |row: &str| row.replace("\\|", "").matches('|').count();
    assert!(rows.map(cells).all(|count| count == 9), "{text}");
}

#[test]
fn a_table_tells_doubts_and_what_can_be_said() {
    let text = render(&testing::results(), Format::Table);
    for told in [
        "start: first byte of output, page cache warm  lower is better",
        "not offered: a process has no detached start",
        "! podman: 3 of 60 failed: timed out after 10 s",
        "! runc: has two peaks, ",
        "! qemu: went up while it was measured, from ",
        "caution: the machine was busy: load 3.2 on 2 CPUs",
        "not here: docker: not installed: there is no docker in PATH",
        "− husk warm starts ",
        "+ husk warm starts ",
        "INSTANCES ",
    ] {
        assert!(text.contains(told), "{told}\n{text}");
    }
    assert!(!text.contains("NaN") && !text.contains('\x1b'));
}

#[test]
fn what_cannot_be_said_is_one_line_in_each_report() {
    let names = ["husk", "runc", "crun", "podman"];
    let series = names.map(|name| testing::series(name, "process exit", &[2.0, 3.0]));
    let results = testing::bare(series.to_vec());
    for format in [Format::Table, Format::Markdown, Format::Html] {
        let text = render(&results, format);
        let line = "Too few rounds for an interval (6 are needed), and nothing can be said of some";
        assert_eq!(text.matches(line).count(), 1, "{text}");
        assert!(!text.contains("Between husk"), "{text}");
    }
}

#[test]
fn formats_are_known_by_their_endings() {
    assert_eq!(Format::of(Path::new("a/b.html")), Some(Format::Html));
    assert_eq!(Format::of(Path::new("b.md")), Some(Format::Markdown));
    assert_eq!(Format::of(Path::new("html")), None);
}
