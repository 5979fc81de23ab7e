// SPDX-License-Identifier: Apache-2.0
//! `husk run --trace=json`: every step of a start, in nanoseconds, on one clock.

use crate::support::husk::Host;
use serde_json::Value;

#[test]
fn the_trace_tells_every_step_in_order() {
    let Some(host) = Host::find() else { return };
    let options = ["--cold", "--trace=json"];
    let ended = host.run(&["true"]).options(&options).end();
    assert_eq!((ended.code, ended.text().as_str()), (0, ""), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    let trace: Value = serde_json::from_str(&ended.stderr).expect("JSON");
    assert_eq!(trace["schema"], "husk-trace/1");
    assert_eq!(trace["clock"], "CLOCK_MONOTONIC");

    let variant = trace["variant"].as_str();
    assert!(matches!(variant, Some("ring0" | "ring3")), "{variant:?}");

    let marks = trace["marks"].as_array().expect("a list");
    let number = |mark: &Value, field: &str| mark[field].as_u64().expect("nanoseconds");
    for pair in marks.windows(2) {
        let took = number(&pair[1], "at_ns").checked_sub(number(&pair[0], "at_ns"));
        assert_eq!(took, Some(number(&pair[0], "took_ns")), "{pair:?}");
    }
    let (first, last) = (&marks[0], &marks[marks.len() - 1]);
    assert_eq!(first["name"], "exec");
    let total = number(last, "at_ns") - number(first, "at_ns");
    assert_eq!(trace["total_ns"], total);
    assert!(total > 0);

    let place = |name: &str, source: &str| {
        let is = |mark: &Value| mark["name"] == name && mark["source"] == source;
        let place = marks.iter().position(is);
        place.unwrap_or_else(|| panic!("no {name:?} of {source} in {}", ended.stderr))
    };
    let order = [
        ("exec", "host"),
        ("image ready", "host"),
        ("files open", "host"),
        ("machine process up", "vmm"),
        ("jail entered", "vmm"),
        ("VM made", "vmm"),
        ("kernel loaded", "vmm"),
        ("initrd loaded", "vmm"),
        ("vCPUs made", "vmm"),
        ("first guest instruction", "vmm"),
        ("kernel: disk found", "vmm"),
        ("kernel: disk ready", "vmm"),
        ("agent up", "host"),
        ("command started", "host"),
        ("command exited", "host"),
        ("machine ended", "vmm"),
        ("session over", "host"),
    ];
    let places = order.map(|(name, source)| place(name, source));
    assert!(places.is_sorted(), "{order:?} are at {places:?}");
    assert!(
        marks.iter().any(|mark| mark["source"] == "guest"),
        "the kernel's own log is in it"
    );
}
