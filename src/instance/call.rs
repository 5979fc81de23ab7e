// SPDX-License-Identifier: Apache-2.0
//! The asking side of a machine's control socket, and of its guest's vsock ports.

use super::desk::{Answer, Ask, MAX_REQUEST};
use super::place::Found;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// For an owner that lives to answer what costs it nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// For a machine's memory and disks to be written, on a slow disk: longer than the session has
/// for it, which says so when it gives up.
const SAVING: Duration = Duration::from_secs(3660);

/// Asks, and waits for the answer; without end only where it is the machine's end.
pub fn ask(found: &Found, ask: &Ask) -> io::Result<Answer> {
    ask_on(found, ask).map(|(answer, _)| answer)
}

/// Asks on a connection that stays: a machine that is held since it was saved goes on when
/// that is closed, unless it was ended before.
pub fn ask_on(found: &Found, ask: &Ask) -> io::Result<(Answer, UnixStream)> {
    let mut stream = found.call()?;
    stream.set_read_timeout(match ask {
        Ask::Wait => None,
        Ask::Save { .. } => Some(SAVING),
        _ => Some(PATIENCE),
    })?;
    let answer = put(&mut stream, ask)?;
    Ok((answer, stream))
}

/// A connection on which the owner speaks as an agent does, of the machine's own process.
pub fn attach(found: &Found) -> io::Result<Result<UnixStream, String>> {
    let mut stream = found.call()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let answer = put(&mut stream, &Ask::Attach)?;
    stream.set_read_timeout(None)?;
    Ok(match answer {
        Answer::Done => Ok(stream),
        Answer::Refused(why) => Err(why),
        Answer::Live(_) | Answer::Ended(_) | Answer::Counted(_) | Answer::Saved { .. } => {
            Err("it answers something else".into())
        }
    })
}

/// A connection to a port of the guest. `first` goes with the call, so that whoever answers
/// finds it there: a round trip less.
pub fn dial(found: &Found, port: u32, first: &[u8]) -> io::Result<UnixStream> {
    let mut stream = found.call_vsock()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut call = format!("CONNECT {port}\n").into_bytes();
    call.extend_from_slice(first);
    stream.write_all(&call)?;
    let line = line(&mut stream)?;
    if !line.starts_with(b"OK ") {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok(stream)
}

fn put(stream: &mut UnixStream, ask: &Ask) -> io::Result<Answer> {
    let mut text = serde_json::to_vec(ask)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    Ok(serde_json::from_slice(&line(stream)?)?)
}

/// One line and not a byte beyond it: what follows belongs to somebody else.
fn line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MAX_REQUEST {
        match stream.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte == *b"\n" => return Ok(line),
            Ok(_) => line.extend(byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
