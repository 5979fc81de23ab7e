// SPDX-License-Identifier: Apache-2.0
//! What a page may hold, whoever's words are in the results.

use super::*;
use crate::bench::testing;

const HOSTILE: &str =
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{data}}\u{202e}\x1b[2J";

fn hostile() -> Results {
    let mut results = testing::results();
    let word = || HOSTILE.to_owned();
    results.image = word();
    results.husk = word();
    results.command.push(word());
    results.machine.processor = word();
    results.machine.facts.push((word(), word()));
    for caution in &mut results.cautions {
        (caution.what, caution.hint) = (word(), word());
    }
    for one in &mut results.contestants {
        (one.version, one.kind) = (Some(word()), word());
    }
    results.contestants[2].absent = Some(word());
    for series in &mut results.series {
        series.conditions.insert(word(), word());
        if series.contestant == "runc" {
            series.outcome = crate::bench::model::Outcome::NotOffered(word());
        }
    }
    let mut last = results.series.pop().expect("a series");
    (last.study, last.metric) = (word(), word());
    results.series.push(last);
    for fall in &mut results.waterfalls {
        fall.steps.push((word(), 1));
    }
    results
}

#[test]
fn nobodys_words_become_markup() {
    let page = render(&hostile());
    for never in [
        "<script>alert",
        "<img",
        "onerror=alert(2)>\"",
        "{{",
        "\u{202e}",
        "\x1b",
    ] {
        let shown = page.split_once("id=\"data\"").expect("the data").0;
        assert!(!shown.contains(never) || never == "{{", "{never}");
    }
    // The data, the script, and no other.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    assert_eq!(page.matches("<style").count(), 1);
}

#[test]
fn the_samples_in_a_page_are_the_results() {
    for results in [testing::results(), hostile()] {
        let page = render(&results);
        let (_, data) = page.split_once("id=\"data\">").expect("the data");
        let (data, _) = data.split_once("</script>").expect("its end");
        let read: Results = serde_json::from_str(data).expect("JSON");
        assert!(read == results);
    }
}

#[test]
fn a_page_asks_for_nothing_and_runs_only_its_own() {
    let page = render(&testing::results());
    for address in ["http:", "https:", "url(", "@import", "src=", "style="] {
        assert!(!page.contains(address), "{address}");
    }
    let (_, policy) = page
        .split_once("Content-Security-Policy\" content=\"")
        .expect("a policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"));
    assert!(
        !policy
            .split('"')
            .next()
            .expect("a policy")
            .contains("unsafe")
    );
}

#[test]
fn what_is_opened_is_closed() {
    let page = render(&testing::results());
    let (body, _) = page.split_once("<script").expect("a script");
    let (_, body) = body.split_once("</style>").expect("a style");
    for tag in [
        "section", "div", "figure", "details", "table", "ul", "ol", "li", "svg", "g", "text",
        "span", "p", "tr", "td", "th",
    ] {
        let opened =
            body.matches(&format!("<{tag} ")).count() + body.matches(&format!("<{tag}>")).count();
        let closed = body.matches(&format!("</{tag}>")).count();
        assert_eq!(opened, closed, "{tag}");
    }
}

#[test]
fn what_is_not_offered_is_said_and_never_zero() {
    let page = render(&testing::results());
    assert!(page.contains("not offered: a process has no detached start"));
    assert!(page.contains("failed: no answer within 10 s &lt;b&gt;&amp;"));
    assert!(page.contains("took no part: not installed: there is no docker in PATH"));
    assert!(!page.contains("NaN") && !page.contains("inf%"));
}

#[test]
fn results_of_nothing_are_a_page_too() {
    let mut results = testing::bare(Vec::new());
    assert!(render(&results).ends_with("</html>\n"));
    let mut one = testing::series("x", "y", &[0.0, 0.0]);
    one.conditions.insert("instances".into(), "4".into());
    let mut two = testing::series("x", "y", &[1e299]);
    two.conditions.insert("instances".into(), "1e14".into());
    results.series = vec![one, two, testing::series("z", "y", &[f64::MIN_POSITIVE])];
    let page = render(&results);
    assert!(!page.contains("NaN"), "{page}");
}
