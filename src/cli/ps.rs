// SPDX-License-Identifier: Apache-2.0
//! `husk ps`: the machines there are.

use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::{place, problem};
use super::table::{self, Format};
use crate::instance::Found;
use crate::instance::record::{Port, Record, State, stamp};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

/// Longest command and image in a table; --no-trunc and json have them whole.
const WIDEST: usize = 28;
/// Longest list of ports there, which comes last.
const WIDEST_PORTS: usize = 80;

/// List machines
///
/// Every machine of this user that runs, or with --all also those that ended and were not
/// removed. What is listed comes from the kernel: a machine whose process was killed shows
/// as exited at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk ps
  husk ps -a --filter label=tier=web
  husk ps --format json")]
pub struct PsArgs {
    /// Also those that ended
    #[arg(short, long)]
    all: bool,
    /// Only ids, one a line
    #[arg(short, long)]
    quiet: bool,
    /// Only those: name=NAME, label=KEY[=VALUE], status=running or status=exited
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Cut nothing short
    #[arg(long)]
    no_trunc: bool,
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    name: Option<&'a str>,
    image: &'a str,
    command: &'a [String],
    created: String,
    status: &'static str,
    exit_code: Option<u8>,
    ended: Option<String>,
    error: Option<&'a str>,
    labels: &'a BTreeMap<String, String>,
    cpus: u32,
    memory: u64,
    ports: &'a [Port],
    exposed_ports: &'a [String],
    pid: Option<i32>,
}

pub fn execute(args: &PsArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let filters = filters(&args.filter)?;
    let mut list = place()?.list().map_err(|error| problem(&error))?;
    let status = filters
        .iter()
        .any(|filter| matches!(filter, Filter::Running(_)));
    list.retain(|found| args.all || status || found.is_running());
    list.retain(|found| filters.iter().all(|filter| filter.takes(found)));
    if args.format == Format::Json {
        let rows: Vec<Row<'_>> = list.iter().map(row).collect();
        table::json(&rows, printer)?;
    } else if args.quiet {
        let ids: String = list.iter().map(|f| format!("{}\n", f.record.id)).collect();
        printer.data(ids.as_bytes())?;
    } else {
        let heads = [
            "ID", "NAME", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS",
        ];
        let rows: Vec<_> = list.iter().map(|f| cells(f, args.no_trunc)).collect();
        printer.data(table::render(&heads, &rows, printer).as_bytes())?;
    }
    Ok(ExitStatus::Success)
}

enum Filter<'a> {
    Name(&'a str),
    Label(&'a str, Option<&'a str>),
    Running(bool),
}

fn filters(words: &[String]) -> Result<Vec<Filter<'_>>, Problem> {
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("name", name)) => Ok(Filter::Name(name)),
            Some(("label", label)) => Ok(match label.split_once('=') {
                Some((key, value)) => Filter::Label(key, Some(value)),
                None => Filter::Label(label, None),
            }),
            Some(("status", "running")) => Ok(Filter::Running(true)),
            Some(("status", "exited")) => Ok(Filter::Running(false)),
            _ => Err(
                Problem::new(format!("--filter {word}: there is no such filter"))
                    .hint("name=NAME, label=KEY[=VALUE], status=running or status=exited"),
            ),
        })
        .collect()
}

impl Filter<'_> {
    fn takes(&self, found: &Found) -> bool {
        match self {
            Self::Name(name) => found.record.name.as_deref() == Some(name),
            Self::Running(running) => found.is_running() == *running,
            Self::Label(key, wanted) => found
                .record
                .labels
                .get(*key)
                .is_some_and(|value| wanted.is_none_or(|wanted| wanted == value)),
        }
    }
}

fn row(found: &Found) -> Row<'_> {
    let record = &found.record;
    let ended = match &found.state {
        State::Running => None,
        State::Exited(ended) => Some(ended),
    };
    Row {
        id: &record.id,
        name: record.name.as_deref(),
        image: &record.image,
        command: &record.command,
        created: stamp(record.created),
        status: if ended.is_none() { "running" } else { "exited" },
        exit_code: ended.map(|ended| ended.code),
        ended: ended.map(|ended| stamp(ended.at)),
        error: ended.and_then(|ended| ended.error.as_deref()),
        labels: &record.labels,
        cpus: record.cpus,
        memory: record.memory,
        ports: &record.ports,
        exposed_ports: &record.exposed,
        pid: ended.is_none().then_some(record.pid),
    }
}

fn cells(found: &Found, whole: bool) -> Vec<String> {
    let record = &found.record;
    let most = if whole { usize::MAX } else { WIDEST };
    let status = match &found.state {
        State::Running => format!("up {}", table::span(table::since(record.created))),
        State::Exited(ended) => {
            let ago = table::span(table::since(ended.at));
            format!("exited ({}) {ago} ago", ended.code)
        }
    };
    vec![
        record.id.clone(),
        record.name.clone().unwrap_or_else(|| "-".into()),
        table::shorten(&record.image, most),
        table::shorten(&record.command.join(" "), most),
        format!("{} ago", table::span(table::since(record.created))),
        status,
        match found.is_running() {
            true => table::shorten(&ports(record), if whole { most } else { WIDEST_PORTS }),
            false => String::new(),
        },
    ]
}

/// `127.0.0.1:8080->80/tcp`, and `443/tcp` where the image listens and nothing leads there.
fn ports(record: &Record) -> String {
    let published = record.ports.iter().map(|port| {
        let address = port.address.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let host = SocketAddr::new(address, port.host);
        format!("{host}->{}/{}", port.guest, port.protocol)
    });
    let led = |exposed: &&String| {
        let mut guest = record
            .ports
            .iter()
            .map(|port| format!("{}/{}", port.guest, port.protocol));
        guest.any(|guest| guest == **exposed)
    };
    let exposed = record.exposed.iter().filter(|one| !led(one)).cloned();
    published.chain(exposed).collect::<Vec<_>>().join(", ")
}
