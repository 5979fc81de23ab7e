// SPDX-License-Identifier: Apache-2.0
//! The process that serves one directory of the host to one machine: `husk share`, started
//! beside the machine's own process, confined to that directory before it hears a word.
//!
//! One thread, one loop: take a request of the guest's from the stream, do it, answer. The
//! guest writes the requests, so every length in them is checked against what came. The
//! stream's end is the machine's, and this process's.

mod jail;
mod operation;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use crate::sys::descriptors::Inherited;
use std::io::{self, Read as _, Write as _};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use table::Table;
use wire::Request;

pub use operation::Server;

/// Longest request taken, and longest answer given: as in the device at the other end.
const MAX_MESSAGE: usize = (1 << 20) + 4096;

/// Serves `directory` on descriptor `stream`. Before the first request it says in one frame
/// that it is ready, by no bytes, or in bytes what went wrong. Returns the exit code.
pub fn run(stream: RawFd, directory: &Path, read_only: bool, all_ids: bool) -> u8 {
    let mut stream = match Inherited::default().take(stream) {
        Ok(fd) => UnixStream::from(fd),
        Err(_) => {
            eprintln!("husk: share: it is started by husk run, not by hand");
            return 2;
        }
    };
    let entered = jail::enter(directory, read_only).and_then(|doors| {
        let table = Table::new(doors.root, doors.descriptors)?;
        Ok(Server::new(
            table,
            doors.own_descriptors,
            read_only,
            all_ids,
        ))
    });
    match entered {
        Ok(mut server) => {
            if answer(&mut stream, &[]).is_ok() {
                // However it ends, the other side is gone or does not make sense.
                let _ = serve(&mut stream, &mut server);
            }
            0
        }
        Err(error) => {
            let _ = answer(&mut stream, error.to_string().as_bytes());
            1
        }
    }
}

/// Answers requests until the stream ends.
pub fn serve(stream: &mut UnixStream, server: &mut Server) -> io::Result<()> {
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    loop {
        let mut prefix = [0; 8];
        stream.read_exact(&mut prefix)?;
        let [l0, l1, l2, l3, room @ ..] = prefix;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let room = u32::from_le_bytes(room) as usize;
        if length > MAX_MESSAGE || room > MAX_MESSAGE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        request.resize(length, 0);
        stream.read_exact(&mut request)?;
        reply.clear();
        // A prefix for the answer, so that it goes out in one piece.
        reply.extend_from_slice(&[0; 4]);
        if let Some(request) = Request::read(&request) {
            server.answer(&request, room, &mut reply);
        }
        let length = reply.len().saturating_sub(4);
        let length = u32::try_from(length).map_err(io::Error::other)?;
        if let Some(prefix) = reply.first_chunk_mut() {
            *prefix = length.to_le_bytes();
        }
        stream.write_all(&reply)?;
    }
}

fn answer(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(bytes)
}
