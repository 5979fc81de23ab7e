// SPDX-License-Identifier: Apache-2.0
//! The process that serves one directory of the host to one machine: `husk share`, started
//! beside the machine's own process, confined to that directory before it hears a word.
//!
//! One thread, one loop: take a request of the guest's from the stream, do it, answer. The
//! guest writes the requests, so every length in them is checked against what came. The
//! stream's end is the machine's, and this process's.

mod jail;
mod operation;
mod saved;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use crate::config::Served;
use crate::control::{MAX_COMPANION, READY};
use crate::sys::descriptors::Inherited;
use crate::sys::limits;
use crate::sys::seqpacket::SeqPacket;
use std::io::{self, Read as _, Write as _};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use table::Table;
use wire::Request;

pub use operation::Server;

/// Longest request taken, and longest answer given: as in the device at the other end.
const MAX_MESSAGE: usize = (1 << 20) + 4096;
/// In the place of a request's length, from the device and never from its guest: what the
/// guest holds is asked for, in at most so many bytes as an answer may have; or is told, in so
/// many bytes. As in the device.
const EXPORT: u32 = u32::MAX;
const IMPORT: u32 = u32::MAX - 1;
/// Longest table of what a guest holds.
const MAX_TABLE: usize = 2 << 20;

/// Serves what the first message on descriptor `control` says. An answer on that socket says
/// that it works, or why not. Returns the exit code, once the machine's stream ends.
pub fn run(control: RawFd) -> u8 {
    let mut inherited = Inherited::default();
    let Ok(socket) = inherited.take(control).map(SeqPacket::from_fd) else {
        eprintln!("husk: share: it is started by husk run, not by hand");
        return 2;
    };
    limits::survive_file_size();
    match begin(&socket, &mut inherited) {
        Ok(Some((mut stream, mut server))) => {
            let _ = socket.send(READY);
            drop(socket);
            // However it ends, the other side is gone or does not make sense.
            let _ = serve(&mut stream, &mut server);
            0
        }
        Ok(None) => 0,
        Err(error) => {
            let _ = socket.send(error.to_string().as_bytes());
            1
        }
    }
}

/// None: whoever started this is gone.
fn begin(
    socket: &SeqPacket,
    inherited: &mut Inherited,
) -> io::Result<Option<(UnixStream, Server)>> {
    let Some(text) = socket.recv(MAX_COMPANION)? else {
        return Ok(None);
    };
    let config: Served = serde_json::from_slice(&text)?;
    let stream = UnixStream::from(inherited.take(config.stream)?);
    let doors = jail::enter(&config.directory, config.read_only)?;
    let table = Table::new(doors.root, doors.descriptors)?;
    let server = Server::new(
        table,
        doors.own_descriptors,
        config.read_only,
        config.all_ids,
    );
    Ok(Some((stream, server)))
}

/// Answers requests until the stream ends.
pub fn serve(stream: &mut UnixStream, server: &mut Server) -> io::Result<()> {
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    loop {
        let mut prefix = [0; 8];
        stream.read_exact(&mut prefix)?;
        let [l0, l1, l2, l3, room @ ..] = prefix;
        let word = u32::from_le_bytes([l0, l1, l2, l3]);
        let (length, room) = (word as usize, u32::from_le_bytes(room) as usize);
        if matches!(word, EXPORT | IMPORT) {
            carry(stream, server, word, room)?;
            continue;
        }
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

/// The guest's table, out to the device or in from it.
fn carry(stream: &mut UnixStream, server: &mut Server, way: u32, room: usize) -> io::Result<()> {
    if room > MAX_TABLE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let table = match way {
        EXPORT => server.export(room),
        _ => {
            let mut table = vec![0; room];
            stream.read_exact(&mut table)?;
            if server.import(&table).is_err() {
                eprintln!("husk: share: what the guest held cannot be read, and is stale");
            }
            Vec::new()
        }
    };
    let length = u32::try_from(table.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(&table)
}
