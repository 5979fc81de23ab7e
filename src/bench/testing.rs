// SPDX-License-Identifier: Apache-2.0
//! Results for tests, made from a seed: shaped like a run, and of nothing that was measured.

use super::model::{
    Better, Caution, Contestant, FORMAT, Machine, Outcome, Results, Sample, Series, Unit, Waterfall,
};
use super::stats::Random;
use std::collections::BTreeMap;

const ROUNDS: u32 = 60;
/// Name, kind, version, milliseconds to the first byte, KiB of memory.
const PARTS: [(&str, &str, Option<&str>, f64, f64); 9] = [
    ("process", "process", None, 1.1, 900.0),
    ("bwrap", "container", Some("bubblewrap 0.8.0"), 4.2, 1_100.0),
    (
        "crun",
        "container",
        Some("crun version 1.8.1"),
        11.0,
        1_500.0,
    ),
    (
        "runc",
        "container",
        Some("runc version 1.1.5"),
        24.0,
        2_300.0,
    ),
    (
        "podman",
        "container",
        Some("podman version 4.3.1"),
        190.0,
        9_000.0,
    ),
    (
        "firecracker",
        "machine",
        Some("Firecracker v1.7.0"),
        140.0,
        41_000.0,
    ),
    (
        "qemu",
        "machine",
        Some("QEMU emulator version 7.2.11"),
        310.0,
        88_000.0,
    ),
    ("husk", "machine", Some("husk 0.1.0"), 17.0, 14_000.0),
    ("husk-cold", "machine", Some("husk 0.1.0"), 121.0, 36_000.0),
];
/// The points of a start: how much later each is, and whether a bare process has it.
const POINTS: [(&str, f64, bool); 4] = [
    ("command returned", 0.9, false),
    ("first byte of output", 1.0, true),
    ("first HTTP 200 from the service", 1.25, true),
    ("process exit", 1.1, true),
];

pub fn conditions(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    owned.collect()
}

pub fn measured(values: &[f64]) -> Outcome {
    let rounds = values.iter().zip(0u32..);
    Outcome::Measured {
        samples: rounds
            .map(|(value, round)| Sample {
                round,
                value: *value,
            })
            .collect(),
        failures: Vec::new(),
    }
}

/// One series of nanoseconds of a start.
pub fn series(contestant: &str, metric: &str, values: &[f64]) -> Series {
    Series {
        study: "start".into(),
        contestant: contestant.into(),
        metric: metric.into(),
        unit: Unit::Nanoseconds,
        better: Better::Lower,
        conditions: conditions(&[("page cache", "warm")]),
        outcome: measured(values),
    }
}

/// Only what is asked for.
pub fn bare(series: Vec<Series>) -> Results {
    let mut names: Vec<String> = Vec::new();
    for one in &series {
        if !names.contains(&one.contestant) {
            names.push(one.contestant.clone());
        }
    }
    let contestants = names.into_iter().map(|name| Contestant {
        name,
        version: Some("1".into()),
        kind: "container".into(),
        absent: None,
    });
    Results {
        format: FORMAT,
        husk: "0.1.0".into(),
        began: 1_767_225_599_000_000_000,
        ended: 1_767_225_720_000_000_000,
        command: ["husk", "bench", "start"].map(str::to_owned).to_vec(),
        image: "alpine".into(),
        machine: Machine::default(),
        cautions: Vec::new(),
        contestants: contestants.collect(),
        series,
        waterfalls: Vec::new(),
    }
}

/// A value around `middle`, with a tail.
fn around(middle: f64, random: &mut Random) -> f64 {
    let body = (0..4).map(|_| random.share() - 0.5).sum::<f64>() * 0.12;
    let tail = if random.below(30) == 0 {
        random.share() * 1.5
    } else {
        0.0
    };
    middle * (1.0 + body + tail)
}

/// All studies, with all that can be odd about them.
pub fn results() -> Results {
    let mut random = Random::seeded(11);
    let mut all = Vec::new();
    for cache in ["cold", "warm"] {
        for (point, later, bare) in POINTS {
            for (name, _, _, start, _) in PARTS {
                let slow = if cache == "cold" { 2.2 } else { 1.0 };
                let middle = start * 1e6 * later * slow;
                let values: Vec<f64> = (0..ROUNDS).map(|_| around(middle, &mut random)).collect();
                let mut one = series(name, point, &values);
                one.conditions = conditions(&[("page cache", cache)]);
                if name == "process" && !bare {
                    one.outcome = Outcome::NotOffered("a process has no detached start".into());
                }
                all.push(one);
            }
        }
    }
    oddities(&mut all);
    for (name, _, _, start, memory) in PARTS {
        density(name, memory, &mut random, &mut all);
        churn(name, start, &mut random, &mut all);
        work(name, &mut random, &mut all);
    }
    let mut results = bare(all);
    results.contestants = contestants();
    results.machine = machine();
    results.image = "registry.example/alpine:3.20 /usr/sbin/httpd -f".into();
    results.command = [
        "husk",
        "bench",
        "all",
        "--image",
        "registry.example/alpine:3.20",
        "--rounds",
        "60",
    ]
    .map(str::to_owned)
    .to_vec();
    results.cautions = vec![Caution {
        what: "the machine was busy: load 3.2 on 2 CPUs".into(),
        hint: "end what else is running, and repeat".into(),
    }];
    results.waterfalls = waterfalls();
    results
}

fn oddities(all: &mut [Series]) {
    for one in all {
        let Outcome::Measured { samples, failures } = &mut one.outcome else {
            continue;
        };
        let warm = one.conditions.values().any(|value| value == "warm");
        match (one.contestant.as_str(), one.metric.as_str(), warm) {
            ("podman", "first byte of output", true) => {
                samples.truncate(57);
                failures.extend(
                    ["timed out after 10 s", "exit code 125", "exit code 125"].map(str::to_owned),
                );
            }
            ("runc", "process exit", true) => {
                for sample in samples.iter_mut().step_by(3) {
                    sample.value *= 1.9;
                }
            }
            ("qemu", "process exit", true) => {
                for sample in samples.iter_mut() {
                    sample.value *= 1.0 + f64::from(sample.round) / 100.0;
                }
            }
            ("firecracker", "first HTTP 200 from the service", _) => {
                samples.clear();
                failures.push("no answer within 10 s <b>&".into());
            }
            _ => {}
        }
    }
}

fn density(name: &str, memory: f64, random: &mut Random, all: &mut Vec<Series>) {
    for (metric, share) in [
        ("unique memory per instance", 1.0),
        ("shared memory per instance", 0.6),
    ] {
        for instances in [1u32, 2, 4, 8, 16] {
            let each = memory * 1024.0 * share * (1.0 + 0.8 / f64::from(instances));
            let values: Vec<f64> = (0..10).map(|_| around(each, random)).collect();
            all.push(Series {
                study: "density".into(),
                unit: Unit::Bytes,
                conditions: conditions(&[
                    ("instances", &instances.to_string()),
                    ("state", "serving"),
                ]),
                ..series(name, metric, &values)
            });
        }
    }
}

fn churn(name: &str, start: f64, random: &mut Random, all: &mut Vec<Series>) {
    for concurrency in [1u32, 2, 4, 8] {
        let rate = 1000.0 / start * f64::from(concurrency).sqrt();
        let values: Vec<f64> = (0..12).map(|_| around(rate, random)).collect();
        let mut one = Series {
            study: "churn".into(),
            unit: Unit::PerSecond,
            better: Better::Higher,
            conditions: conditions(&[("concurrency", &concurrency.to_string())]),
            ..series(name, "starts and stops a second", &values)
        };
        if name == "qemu" {
            one.outcome = Outcome::NotOffered("its disk can be opened once".into());
        }
        all.push(one);
    }
}

fn work(name: &str, random: &mut Random, all: &mut Vec<Series>) {
    let (calls, disk) = match name {
        "process" => (1.0, 1.0),
        "bwrap" | "crun" | "runc" | "podman" => (1.15, 1.1),
        _ => (0.95, 2.4),
    };
    for (metric, unit, better, value) in [
        ("CPU loop", Unit::Nanoseconds, Better::Lower, 81e6),
        (
            "memory bandwidth",
            Unit::BytesPerSecond,
            Better::Higher,
            9.1e9,
        ),
        (
            "system call",
            Unit::Nanoseconds,
            Better::Lower,
            112.0 * calls,
        ),
        (
            "fork and exec",
            Unit::Nanoseconds,
            Better::Lower,
            410e3 * calls,
        ),
        ("disk fsync", Unit::Nanoseconds, Better::Lower, 1.2e6 * disk),
        (
            "HTTP requests",
            Unit::PerSecond,
            Better::Higher,
            31e3 / disk,
        ),
    ] {
        let values: Vec<f64> = (0..20).map(|_| around(value, random)).collect();
        all.push(Series {
            study: "work".into(),
            unit,
            better,
            conditions: BTreeMap::new(),
            ..series(name, metric, &values)
        });
    }
}

fn contestants() -> Vec<Contestant> {
    let parts = PARTS.map(|(name, kind, version, ..)| Contestant {
        name: name.into(),
        version: version.map(str::to_owned),
        kind: kind.into(),
        absent: None,
    });
    let absent = Contestant {
        name: "docker".into(),
        version: None,
        kind: "container".into(),
        absent: Some("not installed: there is no docker in PATH".into()),
    };
    parts.into_iter().chain([absent]).collect()
}

fn machine() -> Machine {
    let facts = [
        ("clock source", "tsc"),
        ("frequency governor", "performance"),
        ("load before", "0.42 0.51 0.60"),
        ("file system of the work directory", "ext4"),
        ("cgroup", "v2, /user.slice"),
    ];
    Machine {
        processor: "Example Processor 9000 at 3.0 GHz".into(),
        cpus: 2,
        memory: 16 << 30,
        kernel: "6.1.0-example".into(),
        kvm: "hardware".into(),
        facts: facts
            .map(|(name, fact)| (name.to_owned(), fact.to_owned()))
            .to_vec(),
    }
}

fn waterfalls() -> Vec<Waterfall> {
    let fall = |name: &str, steps: &[(&str, u64)]| Waterfall {
        contestant: name.into(),
        conditions: conditions(&[("page cache", "warm")]),
        steps: steps
            .iter()
            .map(|(step, at)| ((*step).to_owned(), at * 1000))
            .collect(),
    };
    vec![
        fall(
            "husk",
            &[
                ("command parsed", 900),
                ("template found", 2_100),
                ("machine restored", 7_800),
                ("agent answers", 12_400),
                ("first byte of output", 17_000),
            ],
        ),
        fall(
            "husk-cold",
            &[
                ("command parsed", 900),
                ("machine built", 9_000),
                ("kernel decompressed", 41_000),
                ("agent answers", 112_000),
                ("first byte of output", 121_000),
            ],
        ),
        fall(
            "runc",
            &[
                ("first process", 3_100),
                ("namespaces and cgroup", 15_500),
                ("first byte of output", 24_000),
            ],
        ),
        fall(
            "podman",
            &[
                ("command parsed", 61_000),
                ("storage mounted", 98_000),
                ("runtime started", 171_000),
                ("first byte of output", 190_000),
            ],
        ),
    ]
}
