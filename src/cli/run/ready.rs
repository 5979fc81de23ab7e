// SPDX-License-Identifier: Apache-2.0
//! When a service is ready: what was typed, and waiting for it. Main thread.

use crate::cli::exec::own;
use crate::cli::follow::Watched;
use crate::cli::guest;
use crate::cli::output::{Failure, Problem};
use crate::instance::Place;
use crate::instance::logs::{Line, Reader};
use anyhow::Context as _;
use regex_lite::Regex;
use std::time::{Duration, Instant};

/// Bytes of a log's line an expression is tried on: the guest writes them.
const MAX_LINE: usize = 64 * 1024;

/// By what a service shows that it is ready.
#[derive(Clone, Debug)]
pub enum Ready {
    /// It takes a connection at this port of the guest's loopback address.
    Port(u16),
    /// It answers for this document there without an error.
    Url { port: u16, path: String },
    /// It writes a line that this matches.
    Line(Regex),
}

impl Ready {
    /// `80`, `http://localhost:80/health`, or an expression for a line of its output.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |why: &str| {
            Problem::new(format!("--checkpoint-ready {text}: {why}")).hint(
                "it is a port of the guest (80), an address there (http://localhost:80/health), \
                 or a regular expression for a line the service writes",
            )
        };
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(port) if port > 0 => Ok(Self::Port(port)),
                _ => Err(wrong("not a port")),
            };
        }
        if let Some(rest) = text.strip_prefix("http://") {
            let (authority, path) = match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, "/"),
            };
            let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
            let port = port.parse().ok().filter(|port| *port > 0);
            let port = port.ok_or_else(|| wrong("not a port"))?;
            if !["localhost", "127.0.0.1"].contains(&host) {
                return Err(wrong("it is asked inside the guest, at localhost"));
            }
            if path.bytes().any(|byte| !byte.is_ascii_graphic()) {
                return Err(wrong("not a path of an address"));
            }
            let path = path.to_owned();
            return Ok(Self::Url { port, path });
        }
        match Regex::new(text) {
            Ok(expression) if !text.is_empty() => Ok(Self::Line(expression)),
            _ => Err(wrong("not a regular expression")),
        }
    }

    /// Waits until it is so, or at most this long, or for the machine's end.
    pub fn wait(&self, place: &Place, id: &str, patience: Duration) -> Result<(), Failure> {
        let answers = match self {
            Self::Port(port) => asked(place, id, *port, None, patience),
            Self::Url { port, path } => asked(place, id, *port, Some(path), patience),
            Self::Line(expression) => heard(place, id, expression, patience),
        };
        match answers {
            Ok(true) => Ok(()),
            // However that showed itself to who asked.
            _ if ended(place, id)? => Err(Problem::new("the service ended before it was ready")
                .hint("husk run shows what it says")
                .into()),
            Err(failure) => Err(failure),
            Ok(false) => Err(Problem::new(format!(
                "the service is not ready within {} s",
                patience.as_secs_f32()
            ))
            .hint("--timeout gives it longer; husk run shows what it says")
            .into()),
        }
    }
}

/// Whether the machine is gone, or goes now: what asked in it was ended with the service, a moment
/// before the machine itself.
fn ended(place: &Place, id: &str) -> Result<bool, Failure> {
    const MOMENT: Duration = Duration::from_millis(500);
    let Ok(found) = place.find(id) else {
        return Ok(true);
    };
    let watched = Watched::new(&found.dir)?;
    let Some(owner) = found.owner().context("cannot watch the machine's owner")? else {
        return Ok(true);
    };
    let until = Instant::now() + MOMENT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if watched.wait_for(std::slice::from_ref(&owner), left)? {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

/// By a small program in the guest itself, which needs no port of the host.
fn asked(
    place: &Place,
    id: &str,
    port: u16,
    path: Option<&str>,
    patience: Duration,
) -> Result<bool, Failure> {
    let (limit, port) = (patience.as_secs().max(1).to_string(), port.to_string());
    let mut words: Vec<&[u8]> = vec![b"reach", limit.as_bytes(), port.as_bytes()];
    words.extend(path.map(str::as_bytes));
    let call = own(place, id, &words, false)?;
    Ok(guest::capture(call, 0)?.0 == 0)
}

/// By what the machine's log says.
fn heard(place: &Place, id: &str, expression: &Regex, patience: Duration) -> Result<bool, Failure> {
    let found = place.find(id).map_err(|error| super::problem(&error))?;
    let watched = Watched::new(&found.dir)?;
    let owner = found.owner().context("cannot watch the machine's owner")?;
    let owners: Vec<_> = owner.into_iter().collect();
    let mut reader = Reader::open(&found.dir);
    let until = Instant::now() + patience;
    loop {
        let text = reader.read().context("cannot read the machine's log")?;
        let lines = text.split(|byte| *byte == b'\n').filter_map(Line::parse);
        for line in lines {
            let content = &line.content[..line.content.len().min(MAX_LINE)];
            let said = String::from_utf8_lossy(content);
            if expression.is_match(&said) {
                return Ok(true);
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        if watched.wait_for(&owners, left)? {
            return Err(Problem::new("the service ended before it was ready").into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_told_apart() {
        assert!(matches!(Ready::parse("80"), Ok(Ready::Port(80))));
        let url = Ready::parse("http://localhost:8080/health?x=1").expect("an address");
        assert!(matches!(url, Ready::Url { port: 8080, path } if path == "/health?x=1"));
        let url = Ready::parse("http://127.0.0.1").expect("an address");
        assert!(matches!(url, Ready::Url { port: 80, path } if path == "/"));
        assert!(matches!(
            Ready::parse("ready to accept"),
            Ok(Ready::Line(_))
        ));
        for wrong in [
            "0",
            "65536",
            "http://localhost:0/",
            "http://example.org/",
            "(",
            "",
            "http://localhost/a b",
        ] {
            assert!(Ready::parse(wrong).is_err(), "{wrong}");
        }
    }
}
