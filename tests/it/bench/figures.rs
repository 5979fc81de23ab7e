// SPDX-License-Identifier: Apache-2.0
//! `husk bench density` and `work` as they are typed: what they find of a process, which is
//! known, and of machines, where this host has them; and that nothing is left of it.

use crate::support::daily::Daily;
use crate::support::{finish, left_to_the_host};
use std::collections::BTreeSet;

/// Series of the results, by contestant and metric.
struct Found(serde_json::Value);

impl Found {
    fn of(host: &Daily, words: &[&str]) -> Self {
        let mut all = vec!["bench"];
        all.extend(words);
        all.extend(["--against", "process", "--quiet", "--format", "json"]);
        let mut command = host.command(&all);
        // The kernel that was built is in the cache of whoever runs the tests.
        command.env_remove("HUSK_CACHE_DIR");
        let outcome = finish(&mut command);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        Self(serde_json::from_str(&outcome.stdout).expect("as husk writes it"))
    }

    /// Who is to be looked at: without a kernel in that cache, as in the lab, no machine.
    fn players(&self) -> Vec<&'static str> {
        let all = self.0["contestants"].as_array().expect("as husk writes it");
        let husk = all
            .iter()
            .find(|one| one["name"] == "husk")
            .expect("as husk writes it");
        match husk["absent"].as_str() {
            None => vec!["process", "husk"],
            Some(why) => {
                left_to_the_host(&format!("figures of machines: {why}"));
                vec!["process"]
            }
        }
    }

    fn series(&self, contestant: &str) -> Vec<&serde_json::Value> {
        let all = self.0["series"]
            .as_array()
            .expect("as husk writes it")
            .iter();
        all.filter(|series| series["contestant"] == contestant)
            .collect()
    }

    /// All values of a metric, whatever the conditions; failures are none.
    fn values(&self, contestant: &str, metric: &str, condition: Option<(&str, &str)>) -> Vec<f64> {
        let matches = |series: &&&serde_json::Value| {
            series["metric"] == metric
                && condition.is_none_or(|(key, value)| series["conditions"][key] == value)
        };
        let all = self.series(contestant);
        let measured = all.iter().filter(matches).flat_map(|series| {
            let measured = &series["outcome"]["measured"];
            assert_eq!(measured["failures"], serde_json::json!([]), "{series}");
            measured["samples"]
                .as_array()
                .expect("as husk writes it")
                .clone()
        });
        measured
            .map(|sample| sample["value"].as_f64().expect("as husk writes it"))
            .collect()
    }
}

#[test]
fn work_is_done_inside_everybody_and_asked_for_from_outside() {
    let Some(host) = Daily::find() else { return };
    let found = Found::of(&host, &["work", "--quick", "--rounds", "2"]);
    for contestant in found.players() {
        let metrics: BTreeSet<String> = found
            .series(contestant)
            .iter()
            .map(|series| {
                series["metric"]
                    .as_str()
                    .expect("as husk writes it")
                    .to_owned()
            })
            .collect();
        assert_eq!(metrics.len(), 18, "{metrics:?}");
        for metric in metrics {
            let values = found.values(contestant, &metric, None);
            assert_eq!(values.len(), 2, "{contestant} {metric}");
            assert!(
                values.iter().all(|value| *value > 0.0),
                "{metric}: {values:?}"
            );
        }
    }
    let calls = |who| found.values(who, "system call (getppid)", None)[0];
    // Of nanoseconds: no processor makes one in less than ten, none takes a second.
    assert!(calls("process") > 10.0 && calls("process") < 1e9);
    assert_eq!(host.left(), [] as [std::path::PathBuf; 0]);
}

#[test]
fn memory_is_counted_of_each_process_and_of_no_other() {
    const MIB: f64 = 1_048_576.0;
    let Some(host) = Daily::find() else { return };
    let words = ["density", "--quick", "--rounds", "1", "--instances", "3"];
    let found = Found::of(&host, &words);
    for contestant in found.players() {
        for load in ["idle", "serving"] {
            let at = Some(("load", load));
            let ran = found.values(contestant, "instances that ran at once", at);
            assert_eq!(ran, [3.0], "{contestant}");
        }
        // Steps of one, two and three instances, idle and serving.
        let unique = found.values(contestant, "unique memory per instance", None);
        assert_eq!(unique.len(), 6, "{contestant}: {unique:?}");
    }
    let one = |who, metric| {
        let at = Some(("instances", "3"));
        found.values(who, metric, at)
    };
    assert_eq!(one("process", "processes per instance"), [1.0, 1.0]);
    // The program is 70 KiB, with a stack and little else; a machine has a kernel in it.
    for unique in one("process", "unique memory per instance") {
        assert!(unique > 4096.0 && unique < MIB, "{unique}");
    }
    let machines = one("husk", "unique memory per instance");
    assert_eq!(machines.is_empty(), found.players() == ["process"]);
    for unique in machines {
        assert!(unique > MIB && unique < 256.0 * MIB, "{unique}");
    }
    assert_eq!(host.left(), [] as [std::path::PathBuf; 0]);
}
