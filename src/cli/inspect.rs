// SPDX-License-Identifier: Apache-2.0
//! `husk inspect`: all that is known of machines, as one document.

use super::output::{ExitStatus, Failure, Printer};
use super::run::{find, place};
use super::table;
use crate::instance::Found;
use crate::instance::call;
use crate::instance::desk::{Answer, Ask};
use crate::instance::record::{State, stamp};
use serde_json::{Value, json};

/// Tell all that is known of machines, as one JSON document
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk inspect web
  husk inspect web | jq '.[0].state'")]
pub struct InspectArgs {
    /// Names, ids or beginnings of ids
    #[arg(value_name = "MACHINE", required = true)]
    machines: Vec<String>,
}

pub fn execute(args: &InspectArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let place = place()?;
    let found = find(&place, &args.machines)?;
    let documents: Vec<Value> = found.iter().map(document).collect();
    table::json(&documents, printer)?;
    Ok(ExitStatus::Success)
}

fn document(found: &Found) -> Value {
    let record = &found.record;
    json!({
        "id": record.id,
        "name": record.name,
        "labels": record.labels,
        "image": record.image,
        "created": stamp(record.created),
        "state": state(found),
        "ports": record.ports,
        "exposed_ports": record.exposed,
        "volumes": record.volumes,
        "process": {
            "command": record.command,
            "env": record.env,
            "user": record.user,
            "workdir": record.workdir,
            "tty": record.tty,
            "interactive": record.interactive,
            "stop_signal": record.stop_signal,
        },
        "guest": {
            "kernel": record.kernel,
            "ring": record.ring,
            "cpus": record.cpus,
            "memory": record.memory,
            "hostname": record.hostname,
        },
        "mounts": record.mounts,
        "network": record.network,
        "host": {
            "detached": record.detached,
            "removed_at_end": record.remove,
            "jailed": record.jail,
            "folder": found.dir,
            "control": found.is_running().then(|| found.dir.join("control.sock")),
            "vsock": found.is_running().then(|| found.dir.join("vsock.sock")),
        },
    })
}

fn state(found: &Found) -> Value {
    match &found.state {
        State::Exited(ended) => json!({
            "status": "exited",
            "ended": stamp(ended.at),
            "exit_code": ended.code,
            "signal": ended.signal,
            "error": ended.error,
        }),
        State::Running => {
            // An owner that does not answer is told of as far as it is known.
            let live = match call::ask(found, &Ask::Inspect) {
                Ok(Answer::Live(live)) => Some(live),
                _ => None,
            };
            let started = live.as_ref().and_then(|live| live.started);
            json!({
                "status": if started.is_some() { "running" } else { "starting" },
                "started": started.map(stamp),
                "owner_pid": found.record.pid,
                "machine_pid": live.as_ref().map(|live| live.machine_pid),
                "guest_pid": live.as_ref().and_then(|live| live.guest_pid),
                "attached": live.as_ref().map(|live| live.attached),
                "answers": live.is_some(),
            })
        }
    }
}
