// SPDX-License-Identifier: Apache-2.0
//! Blueprints of machines, and of machines that no command line makes.

use super::*;
use crate::cli::run::request::tests::check as request;
use crate::units::Variant;
use proptest::prelude::*;
use serde_json::{Value, json};

fn blueprint(words: &[&str]) -> Blueprint {
    Blueprint {
        request: request(words).expect("a request"),
        record: Record::default(),
        root: RootId::Made {
            name: "image".to_owned(),
            length: 1,
        },
        parent: None,
    }
}

fn rich() -> Blueprint {
    blueprint(&[
        "-e",
        "A=b",
        "-l",
        "a=b",
        "-p",
        "8080:80",
        "-p",
        "0.0.0.0:53:53/udp",
        "-v",
        "data:/data",
        "-v",
        "/srv:/srv:ro",
        "--tmpfs",
        "/t:size=1m",
        "--disk-size",
        "1",
        "--disk-bps",
        "20m",
        "--disk-iops",
        "100",
        "--allow",
        "*.example.com:443",
        "--allow",
        "192.0.2.0/24",
        "--net-bps",
        "1m",
        "-u",
        "1000:staff",
        "-w",
        "/srv",
        "--hostname",
        "a.b",
        "--name",
        "a_b",
        "--stop-signal",
        "INT",
        "--vsock",
        "/run/x",
        "--timeout",
        "2m",
        "web",
        "sh",
        "-c",
        "true",
    ])
}

fn shape_of(blueprint: &Blueprint) -> Shape {
    Shape {
        cpus: blueprint.request.shape.cpus,
        memory: blueprint.request.shape.memory.bytes(),
        variant: Variant::Ring0,
        devices: Vec::new(),
    }
}

fn checked(blueprint: &Blueprint) -> Result<(), String> {
    check(blueprint, &shape_of(blueprint))
}

/// With one value of it another.
fn with(place: &str, value: Value) -> Option<Blueprint> {
    let mut text = serde_json::to_value(rich()).expect("JSON");
    let found = text.pointer_mut(place);
    *found.unwrap_or_else(|| panic!("no {place}")) = value;
    serde_json::from_value(text).ok()
}

#[test]
fn what_the_command_line_takes_is_taken() {
    assert_eq!(checked(&rich()), Ok(()));
    let lines: [&[&str]; 6] = [
        &["web"],
        &["--network", "none", "web"],
        &["--network", "open", "-p", "80:80", "web"],
        &["--network", "net:blue", "--allow", "example.com", "web"],
        &["--network", "tap:t0", "--net-bps", "1m", "web"],
        &["--read-only", "-c", "254", "-m", "9g", "web", ""],
    ];
    for line in lines {
        assert_eq!(checked(&blueprint(line)), Ok(()), "{line:?}");
    }
    let mut renamed = rich();
    renamed.record.hostname = "a_b".to_owned();
    assert_eq!(
        checked(&renamed),
        Ok(()),
        "a name stands in for a host name"
    );
}

#[test]
fn what_the_command_line_refuses_is_refused() {
    let long = "x".repeat(MAX_TEXT + 1);
    let many = |value: Value, count: usize| Value::Array(vec![value; count]);
    let port = serde_json::to_value(&rich().request.network.publish[0]).expect("JSON");
    let rule = serde_json::to_value(&rich().request.network.allow[0]).expect("JSON");
    let mount = |target: &str| json!({"what": {"Memory": 0}, "target": target, "read_only": false});
    let word = |bytes: &[u8]| json!({"Unix": bytes});
    let labels: serde_json::Map<String, Value> = (0..=MAX_LABELS)
        .map(|number| (number.to_string(), json!("")))
        .collect();
    let bad = [
        ("/request/shape/cpus", json!(0)),
        ("/request/shape/cpus", json!(255)),
        ("/request/shape/memory", json!(0)),
        ("/request/shape/memory", json!((512 << 20) + 1)),
        ("/request/shape/memory", json!(!0xf_ffff_u64)),
        ("/request/timeout", json!({"secs": 0, "nanos": 0})),
        ("/request/timeout", json!({"secs": u64::MAX, "nanos": 0})),
        ("/request/image", json!("")),
        ("/request/image", json!(long)),
        ("/request/name", json!("../x")),
        ("/request/hostname", json!("a b")),
        ("/request/hostname", json!(long)),
        ("/request/user", json!("a:b:c")),
        ("/request/workdir", json!("srv")),
        ("/request/workdir", json!(format!("/{long}"))),
        ("/request/stop_signal", json!(0)),
        ("/request/stop_signal", json!(65)),
        ("/request/vsock", json!("")),
        ("/request/kernel", json!("a\0")),
        ("/request/labels", json!({"": "x"})),
        ("/request/labels", json!({"x": long})),
        ("/request/labels", Value::Object(labels)),
        ("/request/command", many(word(b""), MAX_WORDS + 1)),
        ("/request/command", many(word(&[b'x'; 1024]), 1025)),
        ("/request/command", many(word(b"\0"), 1)),
        ("/request/entrypoint", word(b"\0")),
        ("/request/env", json!([[word(b""), word(b"")]])),
        ("/request/env", json!([[word(b"A=B"), word(b"")]])),
        ("/request/env", json!([[word(b"A"), word(b"\0")]])),
        ("/request/storage/disk_size", json!(0)),
        ("/request/storage/disk_size", json!(u64::MAX)),
        ("/request/storage/disk_size", json!((1 << 30) + 1)),
        ("/request/read_only", json!(true)),
        ("/request/storage/bps", json!(0)),
        ("/request/storage/iops", json!(0)),
        ("/request/storage/iops", json!(1_u64 << 32)),
        ("/request/storage/mounts", many(mount("/a"), 2)),
        ("/request/storage/mounts", many(mount("/a"), MAX_MOUNTS + 1)),
        ("/request/storage/mounts/0/target", json!("/a/../b")),
        ("/request/storage/mounts/0/target", json!("a")),
        ("/request/storage/mounts/0/target", json!("/a//b")),
        ("/request/storage/mounts/0/what", json!({"Volume": "../x"})),
        ("/request/storage/mounts/0/what", json!({"Directory": "x"})),
        ("/request/storage/mounts/1/what", json!({"Volume": "data"})),
        ("/request/network/mode", json!({"Tap": "../x"})),
        ("/request/network/mode", json!({"Bridge": ""})),
        ("/request/network/mode", json!({"Private": "../x"})),
        ("/request/network/mode", json!({"Tap": "t0"})),
        ("/request/network/mode", json!("None")),
        ("/request/network/mode", json!({"User": {"open": true}})),
        ("/request/network/publish", many(port, MAX_PUBLISHED + 1)),
        ("/request/network/publish/0/host", json!(0)),
        ("/request/network/publish/0/guest", json!(0)),
        ("/request/network/allow", many(rule, MAX_RULES + 1)),
        ("/request/network/allow/0/port", json!(0)),
        (
            "/request/network/allow/0/to/Name/name",
            json!("EXAMPLE.com"),
        ),
        ("/request/network/allow/0/to/Name/name", json!("a b")),
        ("/request/network/allow/1/to/Network/prefix", json!(33)),
        ("/request/network/bps", json!(0)),
        ("/record/hostname", json!("a b")),
        ("/record/stop_signal", json!(65)),
        ("/record/env", many(json!(""), MAX_WORDS + 1)),
        ("/record/env", many(json!("A=\0"), 1)),
        ("/record/kernel", json!("\0")),
        ("/root/Made/name", json!("")),
        ("/root/Made/name", json!("a\0b")),
    ];
    for (place, value) in bad {
        let shown: String = value.to_string().chars().take(60).collect();
        let blueprint = with(place, value).unwrap_or_else(|| panic!("{place}: {shown}"));
        let what = checked(&blueprint).expect_err(place);
        assert!(!what.is_empty() && !what.contains('\n'), "{place}: {what}");
    }
    let other = Shape {
        cpus: 2,
        ..shape_of(&rich())
    };
    assert!(check(&rich(), &other).is_err());
}

/// Every place in a document.
fn places(value: &Value, at: &str, list: &mut Vec<String>) {
    list.push(at.to_owned());
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, value)| places(value, &format!("{at}/{name}"), list)),
        Value::Array(items) => (0..)
            .zip(items)
            .for_each(|(number, value): (usize, _)| places(value, &format!("{at}/{number}"), list)),
        _ => {}
    }
}

fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![0_u64, 1, 32, 128, 4096, u64::MAX]).prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        prop::sample::select(vec!["", "/", "..", "None", "Always", "\0", "\u{1b}[2J"])
            .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!({"secs": u64::MAX, "nanos": 999_999_999})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn no_blueprint_harms_whoever_reads_it(
        changes in prop::collection::vec((any::<prop::sample::Index>(), anything()), 1..4)
    ) {
        let mut text = serde_json::to_value(rich()).expect("JSON");
        for (place, value) in changes {
            let mut all = Vec::new();
            places(&text, "", &mut all);
            let place = &all[place.index(all.len())];
            *text.pointer_mut(place).expect("there") = value;
        }
        if let Ok(blueprint) = serde_json::from_value::<Blueprint>(text) {
            let _ = blueprint.wants(true);
            let _ = blueprint.wants(false);
            if checked(&blueprint).is_ok() {
                let again = serde_json::to_vec(&blueprint).expect("JSON");
                let again: Blueprint = serde_json::from_slice(&again).expect("its own");
                prop_assert_eq!(checked(&again), Ok(()));
            }
        }
    }
}
