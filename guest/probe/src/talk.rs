// SPDX-License-Identifier: Apache-2.0
//! What a connection carries: bytes one way, bytes the other, and one there and back. The same
//! program is at both ends, in a guest or beside it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// What a client wants, its first byte.
const UP: u8 = b'u';
const DOWN: u8 = b'd';
const ECHO: u8 = b'e';

const CHUNK: usize = 128 << 10;
/// A peer that says nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves every client, without end.
pub fn serve(address: &str) -> Result<(), String> {
    let listener = TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
    println!("serving");
    for stream in listener.incoming() {
        let stream = stream.map_err(|error| error.to_string())?;
        // A client that leaves is no failure of the server's.
        std::thread::spawn(move || drop(answer(stream)));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut wanted = [0];
    stream.read_exact(&mut wanted)?;
    let mut buffer = vec![0; CHUNK];
    match wanted[0] {
        UP => {
            let mut count = 0u64;
            loop {
                match stream.read(&mut buffer)? {
                    0 => return stream.write_all(&count.to_le_bytes()),
                    n => count += n as u64,
                }
            }
        }
        DOWN => loop {
            stream.write_all(&buffer)?;
        },
        _ => loop {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
        },
    }
}

/// Measures each for so long against a server, and tells of it in a JSON object each.
pub fn measure(address: &str, milliseconds: usize) -> Result<(), String> {
    let address: SocketAddr = address
        .parse()
        .map_err(|error| format!("{address}: {error}"))?;
    let limit = Duration::from_millis(milliseconds as u64);
    let told = |error: std::io::Error| error.to_string();
    for (row, wanted) in [("to the server", UP), ("from the server", DOWN)] {
        let (bytes, took) = stream(address, wanted, limit).map_err(told)?;
        let rate = bytes as f64 / took.as_secs_f64() / f64::from(1 << 20);
        println!(r#"{{"row":"{row}","mib_per_second":{rate:.1}}}"#);
    }
    let times = echo(address, limit).map_err(told)?;
    let at = |share: usize| times.get(times.len() * share / 100).copied();
    let (Some(median), Some(late)) = (at(50), at(95)) else {
        return Err("no byte came back".to_owned());
    };
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        r#"{{"row":"there and back","microseconds":{:.1},"p95":{:.1},"count":{}}}"#,
        micros(median),
        micros(late),
        times.len()
    );
    Ok(())
}

/// A client that is served: a port may be there before the service behind it is.
fn connect(address: SocketAddr, wanted: u8) -> std::io::Result<TcpStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        let tried = TcpStream::connect(address).and_then(|mut stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&[ECHO])?;
            // It answers, so the next one will be answered too.
            stream.write_all(&[0])?;
            stream.read_exact(&mut [0])?;
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&[wanted])?;
            Ok(stream)
        });
        match tried {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
}

fn stream(address: SocketAddr, wanted: u8, limit: Duration) -> std::io::Result<(u64, Duration)> {
    let mut stream = connect(address, wanted)?;
    let mut buffer = vec![0; CHUNK];
    let mut count = 0;
    let start = Instant::now();
    while start.elapsed() < limit {
        match wanted {
            UP => stream.write_all(&buffer)?,
            _ => match stream.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => count += n as u64,
            },
        }
    }
    if wanted == UP {
        // What counts is what arrived.
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut told = [0; 8];
        stream.read_exact(&mut told)?;
        count = u64::from_le_bytes(told);
    }
    Ok((count, start.elapsed()))
}

fn echo(address: SocketAddr, limit: Duration) -> std::io::Result<Vec<Duration>> {
    let mut stream = connect(address, ECHO)?;
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < limit {
        let sent = Instant::now();
        stream.write_all(&[0])?;
        stream.read_exact(&mut [0])?;
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}
