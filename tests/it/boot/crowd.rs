// SPDX-License-Identifier: Apache-2.0
//! Many machines at once.

use crate::support::daily::Daily;
use std::sync::Mutex;

const MACHINES: usize = 50;
/// Starts at once: what a host with few processors can boot within the agent's patience.
const STARTERS: usize = 4;

#[test]
fn fifty_machines_run_at_once() {
    let Some(daily) = Daily::find() else { return };
    let names = Mutex::new((0..MACHINES).map(|i| format!("vm{i}")).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for _ in 0..STARTERS {
            scope.spawn(|| {
                loop {
                    let name = names.lock().expect("no panic").pop();
                    let Some(name) = name else { return };
                    let script = "echo I am $(hostname); exec sleep 600";
                    daily.detach(&["--name", &name, "-m", "64m"], script);
                }
            });
        }
    });
    assert_eq!(daily.does(&["ps", "-q"]).lines().count(), MACHINES);
    for name in ["vm0", "vm23", "vm49"] {
        assert_eq!(daily.does(&["exec", name, "hostname"]), format!("{name}\n"));
        daily.wait_for(name, &format!("I am {name}\n"));
    }
    let list: Vec<serde_json::Value> =
        serde_json::from_str(&daily.does(&["stats", "--format", "json"])).expect("JSON");
    assert_eq!(list.len(), MACHINES);
    let ids = daily.does(&["ps", "-q"]);
    let ids: Vec<&str> = ids.lines().collect();
    daily.does(&[&["rm", "-f"], &ids[..]].concat());
    assert!(daily.left().is_empty(), "{:?}", daily.left());
}
