// SPDX-License-Identifier: Apache-2.0
//! Many machines at once: each answers, each is stopped, and nothing is left of any.

use crate::support::daily::{Daily, lives};
use crate::support::leftovers::eventually;
use nix::unistd::Pid;
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
    for name in (0..MACHINES).map(|i| format!("vm{i}")) {
        assert_eq!(
            daily.does(&["exec", &name, "hostname"]),
            format!("{name}\n")
        );
        daily.wait_for(&name, &format!("I am {name}\n"));
    }
    let list: Vec<serde_json::Value> =
        serde_json::from_str(&daily.does(&["stats", "--format", "json"])).expect("JSON");
    assert_eq!(list.len(), MACHINES);
    let ids = daily.does(&["ps", "-q"]);
    let ids: Vec<&str> = ids.lines().collect();
    let documents: Vec<serde_json::Value> =
        serde_json::from_str(&daily.does(&[&["inspect"], &ids[..]].concat())).expect("JSON");
    let pids: Vec<Pid> = documents
        .iter()
        .flat_map(|one| ["owner_pid", "machine_pid"].map(|name| one["state"][name].as_i64()))
        .map(|pid| Pid::from_raw(i32::try_from(pid.expect("a pid")).expect("a pid")))
        .collect();
    assert_eq!(pids.len(), 2 * MACHINES);
    daily.does(&[&["stop"], &ids[..]].concat());
    let mut alive = Vec::new();
    let gone = eventually(|| {
        alive = pids.iter().filter(|pid| lives(**pid)).collect();
        alive.is_empty()
    });
    assert!(gone, "these live on: {alive:?}");
    assert_eq!(daily.does(&["ps", "-q"]), "");
    let left = daily.left();
    let socket = |path: &&std::path::PathBuf| path.extension().is_some_and(|end| end == "sock");
    assert_eq!(left.iter().find(socket), None);
    daily.does(&[&["rm"], &ids[..]].concat());
    assert!(daily.left().is_empty(), "{:?}", daily.left());
}
