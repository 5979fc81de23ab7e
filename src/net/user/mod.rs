// SPDX-License-Identifier: Apache-2.0
//! The user-mode network: `husk net`, a process beside a machine's own that answers for
//! the whole world on the guest's link and carries what is allowed to the host's sockets.
//!
//! A process and not a thread: it parses hostile frames and may open connections, the
//! machine's process holds /dev/kvm and the guest's memory, and neither needs what the
//! other has. It sees the guest's frames, and of the host its network: no file, no
//! capability, no other process. It has one thread. The TCP stack is smoltcp's.

mod datagrams;
mod dns;
mod flows;
mod frame;
mod gates;
mod ground;
mod inquiry;
mod peers;
pub mod policy;
mod stack;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod wire;

pub use ground::random;

use super::Frames;
use crate::config::net::{Protocol, UserNet};
use crate::control::{MAX_COMPANION, READY};
use crate::jail::{self, Plan};
use crate::sys::descriptors::Inherited;
use crate::sys::seqpacket::SeqPacket;
use datagrams::Door;
use gates::Gate;
use peers::Peers;
use policy::Policy;
use stack::{Parts, Stack};
use std::error::Error;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::RawFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// Carries the network described by the first message on descriptor `control`. Returns once
/// the guest's link is gone, or the owner's half of the socket. An answer on it says that it
/// works, or why not; its end, that no port of the host is held any more.
pub fn run(control: RawFd) -> u8 {
    let mut inherited = Inherited::default();
    let Ok(socket) = inherited.take(control).map(SeqPacket::from_fd) else {
        eprintln!("husk: net: it is started by husk run, not by hand");
        return 2;
    };
    let mut stack = match begin(&socket, &mut inherited) {
        Ok(Some(stack)) => stack,
        Ok(None) => return 0,
        Err(error) => {
            let _ = socket.send(error.to_string().as_bytes());
            return 1;
        }
    };
    let _ = socket.send(READY);
    let outcome = stack.run(&socket);
    // Ports first: who waits for the socket's end wants them free. What the kernel has to do
    // for a process that leaves its namespaces takes tens of milliseconds more.
    drop(stack);
    drop(socket);
    u8::from(outcome.is_err())
}

fn begin(socket: &SeqPacket, inherited: &mut Inherited) -> Result<Option<Stack>, Box<dyn Error>> {
    let Some(text) = socket.recv(MAX_COMPANION)? else {
        return Ok(None);
    };
    let config: UserNet = serde_json::from_slice(&text)?;
    let mut parts = Parts {
        link: Frames::new(inherited.take(config.link)?),
        addresses: config.addresses,
        policy: Policy::new(config.addresses, config.open, config.rules.clone()),
        resolvers: config
            .resolvers
            .iter()
            .map(|ip| SocketAddr::new(*ip, datagrams::DOMAIN))
            .collect(),
        gates: Vec::new(),
        doors: Vec::new(),
        peers: None,
    };
    for published in &config.published {
        let fd = inherited.take(published.fd)?;
        let guest: IpAddr = match published.v6 {
            true => config.addresses.guest6.into(),
            false => config.addresses.guest4.into(),
        };
        let guest = SocketAddr::new(guest, published.guest_port);
        match published.protocol {
            Protocol::Tcp => {
                let listener = TcpListener::from(fd);
                listener.set_nonblocking(true)?;
                parts.gates.push(Gate { listener, guest });
            }
            Protocol::Udp => {
                let socket = UdpSocket::from(fd);
                socket.set_nonblocking(true)?;
                parts.doors.push(Door { socket, guest });
            }
        }
    }
    if let Some(member) = &config.private {
        let socket = UnixDatagram::from(inherited.take(member.socket)?);
        socket.set_nonblocking(true)?;
        let claim = File::from(inherited.take(member.claim)?);
        let folder = match config.jail {
            true => PathBuf::from("/"),
            false => member.folder.clone(),
        };
        parts.peers = Some(Peers::new(socket, claim, folder, member.number));
    }
    let folder = config
        .private
        .as_ref()
        .map(|member| member.folder.as_path());
    if let Some(folder) = folder {
        match config.jail {
            true => jail::make_root(folder)?,
            // The host's root stays: nothing of it but this is within reach.
            false => std::env::set_current_dir(folder)?,
        }
    }
    Plan::for_network(config.jail, folder.is_some()).enter()?;
    Ok(Some(Stack::new(parts)?))
}
