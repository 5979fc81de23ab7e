// SPDX-License-Identifier: Apache-2.0
//! Results in files: compared, told again in every form, and refused where they are none.

use crate::support::{Outcome, run};
use serde_json::{Value, json};
use std::path::PathBuf;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn put(&self, name: &str, text: impl ToString) -> String {
        let path = self.path(name);
        std::fs::write(&path, text.to_string()).expect("it is ours");
        path.display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Of husk, forty rounds around `middle` nanoseconds.
fn results(middle: f64) -> Value {
    let samples: Vec<Value> = (0..40)
        .map(|round| json!({"round": round, "value": middle * (0.97 + f64::from(round * 17 % 40) / 700.0)}))
        .collect();
    json!({
        "format": 1, "husk": "0.1.0", "began": 0, "ended": 9, "image": "an image",
        "command": ["husk", "bench", "start"], "cautions": [], "waterfalls": [],
        "machine": {"processor": "a processor", "cpus": 2, "memory": 1 << 30, "kernel": "6",
                    "kvm": "hardware", "facts": []},
        "contestants": [{"name": "husk", "version": "<b>1</b>", "kind": "machine", "absent": null}],
        "series": [{
            "study": "start", "contestant": "husk", "metric": "process exit",
            "unit": "nanoseconds", "better": "lower", "conditions": {},
            "outcome": {"measured": {"samples": samples, "failures": []}}
        }]
    })
}

#[track_caller]
fn is(outcome: &Outcome, code: i32, part: &str) {
    assert_eq!(outcome.code, code, "{outcome:?}");
    let told = [&outcome.stdout, &outcome.stderr]
        .map(String::as_str)
        .concat();
    assert!(told.contains(part), "{part}: {outcome:?}");
}

#[test]
fn a_regression_is_an_exit_code() {
    let files = Files::new();
    let before = files.put("before.json", results(1e7));
    let after = files.put("after.json", results(1.2e7));
    let compare = |words: &[&str]| run(&[&["bench", "compare"], words].concat());
    let worse = compare(&[&before, &after]);
    is(&worse, 1, "regression  husk        start: process exit");
    is(&worse, 1, "1 regression, 0 improvements, 0 unsure");
    is(
        &compare(&[&after, &before]),
        0,
        "0 regressions, 1 improvement",
    );
    is(&compare(&[&before, &before]), 0, "1 the same");
    is(
        &compare(&[&before, &after, "--threshold", "50%"]),
        0,
        "0 regressions",
    );
    let document = compare(&[&before, &after, "--format", "json"]);
    let document: Value = serde_json::from_str(&document.stdout).expect("JSON");
    assert_eq!(document["changes"][0]["verdict"], "regression");
    let mut other = results(1e7);
    other["machine"]["kernel"] = json!("7");
    let other = files.put("other.json", other);
    is(
        &compare(&[&before, &other]),
        0,
        "caution: another machine: the kernel was 6, and is 7",
    );
}

#[test]
fn runs_that_have_nothing_in_common_are_no_good_news() {
    let files = Files::new();
    let before = files.put("before.json", results(1e7));
    let mut other = results(1e7);
    other["series"][0]["study"] = json!("churn");
    let other = files.put("other.json", other);
    let outcome = run(&["bench", "compare", &before, &other]);
    is(&outcome, 1, "2 in one run only");
    is(&outcome, 1, "husk: there is no figure that both runs have");
    // Some of it is enough to be compared.
    let mut both = results(1e7);
    let mut more = both["series"][0].clone();
    more["metric"] = json!("another");
    both["series"].as_array_mut().expect("a list").push(more);
    let both = files.put("both.json", both);
    is(&run(&["bench", "compare", &before, &both]), 0, "1 the same");
}

#[test]
fn what_is_no_results_is_told_and_refused() {
    let files = Files::new();
    let good = files.put("good.json", results(1e7));
    let mut future = results(1e7);
    future["format"] = json!(9);
    let future = files.put("future.json", future);
    let text = files.put("text.json", "no JSON");
    let gone = files.path("gone.json").display().to_string();
    let compare = |a: &str, b: &str| run(&["bench", "compare", a, b]);
    is(
        &compare(&good, &future),
        1,
        "future.json has format 9, and this husk reads 1",
    );
    is(
        &compare(&text, &good),
        1,
        "text.json is no results of husk bench",
    );
    is(&compare(&text, &good), 1, "hint: ");
    // Both are told at once.
    let both = compare(&text, &gone);
    is(&both, 1, "text.json is no results of husk bench");
    is(&both, 1, "cannot read results from");
    is(&compare("/dev/zero", &good), 1, "more than 67108864 bytes");
    is(&compare(&good, "/"), 1, "cannot read results from /");
    let threshold = run(&["bench", "compare", &good, &good, "--threshold", "-3"]);
    assert_eq!(threshold.code, 1, "{threshold:?}");
    let report = |words: &[&str]| run(&[&["bench", "report"], words].concat());
    is(&report(&[&text]), 1, "is no results");
    is(
        &report(&[&good, "-o", "x.doc"]),
        1,
        "x.doc has no ending that says its form",
    );
    is(
        &report(&[&good, "-o", "/nonexistent/x.html"]),
        1,
        "cannot write /nonexistent/x.html",
    );
}

#[test]
fn results_are_told_again_in_every_form() {
    let files = Files::new();
    let results = files.put("r.json", results(1e7));
    let report = |words: &[&str]| run(&[&["bench", "report", &*results], words].concat());
    is(&report(&[]), 0, "start: process exit  lower is better");
    is(
        &report(&["--format", "markdown"]),
        0,
        "| Contestant | Median |",
    );
    is(
        &report(&["--format", "csv"]),
        0,
        "start,husk,process exit,,nanoseconds,lower,measured,0,",
    );
    let (page, again) = (files.path("a.html"), files.path("b.html"));
    for path in [&page, &again] {
        let outcome = report(&["-o", &path.display().to_string()]);
        is(&outcome, 0, "");
        assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""));
    }
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page == std::fs::read_to_string(again).expect("a page"));
    assert!(page.contains("&lt;b&gt;1&lt;/b&gt;") && page.ends_with("</html>\n"));
    // What is saved is what was read.
    let saved = files.path("s.json").display().to_string();
    is(&report(&["-o", &saved]), 0, "");
    let compared = run(&["bench", "compare", &results, &saved, "--threshold", "9%"]);
    is(&compared, 0, "1 the same");
}
