// SPDX-License-Identifier: Apache-2.0
//! The network of a guest that nobody can reach: nothing is on its way until the guest says
//! something, and most commands never do. A thread of the owner's waits for that and starts
//! `husk net` then; the guest's frames wait in the link. What the kernel of every guest says
//! when its interface comes up is nobody's answer to give, and is passed over.

use super::{Companion, Parting, of_network};
use crate::config::net::UserNet;
use crate::instance::spawn::{Part, without_signals};
use crate::sys::descriptors::another;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Bytes of a frame that are looked at: the headers of Ethernet and IPv6.
const LOOK: usize = 54;

#[derive(Debug)]
pub struct Sleeper {
    cancel: Arc<EventFd>,
    thread: Option<JoinHandle<Option<Companion>>>,
}

impl Sleeper {
    /// From now on somebody listens. `net.link` is open in this process until this returns.
    pub fn new(net: &UserNet, what: String) -> io::Result<Self> {
        let link = another(net.link)?;
        let net = UserNet {
            link: link.as_raw_fd(),
            ..net.clone()
        };
        let cancel = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let heard = Arc::clone(&cancel);
        let born = thread::Builder::new().name("sleeper".to_owned());
        let thread = without_signals(|| {
            born.spawn(move || {
                let spoke = wait(&link, &heard).unwrap_or(false);
                // What fails here, fails as a network whose process ended: the guest is alone.
                let started = spoke.then(|| Companion::start(part(&net), &net, what));
                let mut carrier = started?.ok()?;
                carrier.end = Parting::Unseen;
                Some(carrier)
            })
        })?;
        Ok(Self {
            cancel,
            thread: Some(thread),
        })
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.cancel.write(1);
        // A network that was started ends here.
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The process that carries a network.
pub fn part(net: &UserNet) -> Part {
    Part {
        verb: "net",
        keep: of_network(net),
        namespaces: net.jail,
        host_network: true,
        all_ids: false,
    }
}

/// Until the guest says something that may want an answer. False: it is over before.
fn wait(link: &OwnedFd, cancel: &EventFd) -> io::Result<bool> {
    loop {
        let mut fds = [
            PollFd::new(link.as_fd(), PollFlags::POLLIN),
            PollFd::new(cancel.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => result?,
        };
        if fds[1].any() == Some(true) {
            return Ok(false);
        }
        let mut frame = [0; LOOK];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        match recv(link.as_raw_fd(), &mut frame, flags) {
            Ok(0) => return Ok(false),
            Ok(length) if !is_idle(&frame[..length]) => return Ok(true),
            Ok(_) => recv(link.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT)?,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
    }
}

/// Group membership, router solicitation, and whether an address is taken: IPv6 from an
/// address that leads nowhere, to many.
fn is_idle(frame: &[u8]) -> bool {
    let to_many = frame.first().is_some_and(|byte| byte & 1 == 1);
    let ipv6 = frame.get(12..14) == Some(&[0x86, 0xdd]);
    let from = frame.get(22..38).unwrap_or_default();
    let nobody = from == [0; 16];
    let local = from.starts_with(&[0xfe, 0x80]);
    to_many && ipv6 && (nobody || local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, send, socketpair};

    fn frame(to: u8, kind: [u8; 2], from: [u8; 2]) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[0] = to;
        frame[12..14].copy_from_slice(&kind);
        frame[22..24].copy_from_slice(&from);
        frame
    }

    #[test]
    fn only_what_wants_an_answer_wakes() {
        let ipv6 = [0x86, 0xdd];
        for quiet in [frame(0x33, ipv6, [0, 0]), frame(0x33, ipv6, [0xfe, 0x80])] {
            assert!(is_idle(&quiet));
        }
        let loud = [
            frame(0xff, [8, 6], [0, 0]),
            frame(0x33, ipv6, [0xfd, 0x68]),
            frame(0x02, ipv6, [0xfe, 0x80]),
            frame(0x02, [8, 0], [0, 0]),
            vec![0x33],
            Vec::new(),
        ];
        assert!(!loud.iter().any(|frame| is_idle(frame)));
    }

    #[test]
    fn a_frame_that_wakes_is_still_there() {
        // As the link between a machine and its network is.
        let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
        let pair = socketpair(family, kind, None, SockFlag::SOCK_NONBLOCK);
        let (guest, host) = pair.expect("sockets");
        let cancel = EventFd::new().expect("an eventfd");
        let say = |frame: &[u8]| {
            send(guest.as_raw_fd(), frame, MsgFlags::empty()).expect("room");
        };
        say(&frame(0x33, [0x86, 0xdd], [0, 0]));
        let arp = frame(0xff, [8, 6], [0, 0]);
        say(&arp);
        assert!(wait(&host, &cancel).expect("a link"));
        let mut seen = vec![0; 100];
        let length = recv(host.as_raw_fd(), &mut seen, MsgFlags::empty()).expect("a frame");
        assert_eq!(seen[..length], arp);
        cancel.write(1).expect("room");
        assert!(!wait(&host, &cancel).expect("a link"), "it is over");
        drop(guest);
        let fresh = EventFd::new().expect("an eventfd");
        assert!(!wait(&host, &fresh).expect("a link"), "its guest is gone");
    }
}
