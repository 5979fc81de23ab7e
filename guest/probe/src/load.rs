// SPDX-License-Identifier: Apache-2.0
//! Requests to a web server in the same guest, over loopback, as many as it answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The most of an answer's head; a server that sends more is not one of ours.
const MOST_HEAD: usize = 16 << 10;
/// A server that says nothing for so long has failed, also where the kernel is interpreted.
const PATIENCE: Duration = Duration::from_secs(30);

struct Tally {
    nanoseconds: Vec<u64>,
    failed: u64,
    why: Option<String>,
}

/// Asks `address` for `path` from `clients` threads for so many seconds; `keep` asks all of a
/// thread's requests in one connection. One JSON object tells of it.
pub fn http(
    address: &str,
    path: &str,
    clients: usize,
    seconds: usize,
    keep: bool,
) -> Result<(), String> {
    let address: SocketAddr = address
        .parse()
        .map_err(|error| format!("{address}: {error}"))?;
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds as u64);
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let path = path.to_owned();
            std::thread::spawn(move || ask(address, &path, end, keep))
        })
        .collect();
    let (mut all, mut failed, mut why) = (Vec::new(), 0, None);
    for thread in threads {
        let tally = thread.join().map_err(|_| "a client panicked")?;
        all.extend(tally.nanoseconds);
        failed += tally.failed;
        why = why.or(tally.why);
    }
    let took = start.elapsed().as_nanos();
    if all.is_empty() {
        return Err(why.unwrap_or_else(|| "no request was answered".to_owned()));
    }
    all.sort_unstable();
    let tenths = all.len() as u128 * 10_000_000_000 / took.max(1);
    println!(
        r#"{{"name":"http","requests":{},"failed":{failed},"per_second":{}.{},"median_ns":{},"p95_ns":{}}}"#,
        all.len(),
        tenths / 10,
        tenths % 10,
        all[all.len() / 2],
        all[(all.len() * 95).div_ceil(100) - 1],
    );
    match why {
        None => Ok(()),
        Some(why) => Err(format!("{failed} requests failed, the first: {why}")),
    }
}

fn ask(address: SocketAddr, path: &str, end: Instant, keep: bool) -> Tally {
    let version = if keep { "1.1" } else { "1.0" };
    let request = format!("GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n");
    let mut tally = Tally {
        nanoseconds: Vec::new(),
        failed: 0,
        why: None,
    };
    let mut kept = None;
    while Instant::now() < end {
        let start = Instant::now();
        match once(address, &request, kept.take()) {
            Ok(connection) => {
                let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                tally.nanoseconds.push(took);
                kept = connection.filter(|_| keep);
            }
            Err(why) => {
                tally.failed += 1;
                tally.why.get_or_insert(why);
            }
        }
    }
    tally
}

/// One request and its whole answer; the connection, where the server keeps it.
fn once(
    address: SocketAddr,
    request: &str,
    kept: Option<TcpStream>,
) -> Result<Option<TcpStream>, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut connection = match kept {
        Some(connection) => connection,
        None => TcpStream::connect_timeout(&address, PATIENCE).map_err(text)?,
    };
    connection.set_nodelay(true).map_err(text)?;
    connection.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    connection.write_all(request.as_bytes()).map_err(text)?;
    let mut buffer = vec![0; MOST_HEAD];
    let mut filled = 0;
    let head = loop {
        let read = connection.read(&mut buffer[filled..]).map_err(text)?;
        filled += read;
        if let Some(end) = buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if read == 0 {
            return Err("an answer without the end of its head".to_owned());
        }
    };
    let words = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    if words.split(' ').nth(1) != Some("200") {
        return Err(words.lines().next().unwrap_or("").to_owned());
    }
    let length = words
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|value| value.trim().parse::<usize>().ok());
    let mut left = length.map_or(usize::MAX, |length| length.saturating_sub(filled - head));
    while left > 0 {
        match connection.read(&mut buffer).map_err(text)? {
            0 if length.is_none() => return Ok(None),
            0 => return Err(format!("an answer that lacks {left} bytes")),
            read => left = left.saturating_sub(read),
        }
    }
    let closes = words.contains("\nconnection: close") || words.starts_with("http/1.0");
    Ok((!closes).then_some(connection))
}
