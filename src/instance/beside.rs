// SPDX-License-Identifier: Apache-2.0
//! What runs beside a machine for its sake: the process that carries its network, `husk
//! net`, and one for each shared directory, `husk share`. The machine's owner starts them
//! and sees them end. Tool side, main thread.

mod sleeper;

use super::seat::Seat;
use super::spawn::{Part, SpawnError, reap};
use crate::config::Served;
use crate::config::net::UserNet;
use crate::control::READY;
use crate::sys::namespaces::Child;
use crate::sys::seqpacket::SeqPacket;
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use sleeper::Sleeper;
use std::os::fd::RawFd;

/// Longest complaint taken from a process.
const MAX_COMPLAINT: usize = 4096;
/// How long a process that was told to leave may take; it takes microseconds.
const PATIENCE_MS: u16 = 500;

#[derive(Debug, thiserror::Error)]
pub enum BesideError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("{what}: {why}")]
    Refused { what: String, why: String },
}

/// What is to run beside a machine, as data: descriptors by the numbers they have in the
/// process that starts it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    pub network: Option<UserNet>,
    pub shares: Vec<Served>,
}

impl Plan {
    /// Every descriptor that must be open, under its number, until `start` returns.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut list: Vec<RawFd> = self.shares.iter().map(|served| served.stream).collect();
        list.extend(self.network.iter().flat_map(of_network));
        list
    }

    /// Nothing started yet; from here on a seat on a private network is given back with what
    /// is returned.
    #[must_use]
    pub fn seated(&self) -> Beside {
        let member = self.network.as_ref().and_then(|net| net.private.as_ref());
        Beside {
            parts: Vec::new(),
            sleeper: None,
            _seat: member.map(Seat::inherited),
        }
    }
}

impl Beside {
    /// Starts all of it; `ready` is to be asked before the guest's command is.
    pub fn start(&mut self, plan: &Plan) -> Result<(), BesideError> {
        if let Some(net) = &plan.network {
            let what = "the guest's network cannot be carried".to_owned();
            if net.published.is_empty() && net.private.is_none() {
                let sleeper = Sleeper::new(net, what).map_err(SpawnError::Process)?;
                self.sleeper = Some(sleeper);
            } else {
                let mut carrier = Companion::start(sleeper::part(net), net, what)?;
                carrier.end = Parting::Told;
                self.parts.push(carrier);
            }
        }
        for served in &plan.shares {
            // Confined even if the machine is not: it acts on files in the user's name.
            let part = Part {
                verb: "share",
                keep: vec![served.stream],
                namespaces: true,
                host_network: false,
                all_ids: served.all_ids,
            };
            let what = format!(
                "the directory {} cannot be served",
                served.directory.display()
            );
            self.parts.push(Companion::start(part, served, what)?);
        }
        Ok(())
    }

    /// Waits until each works.
    pub fn ready(&self) -> Result<(), BesideError> {
        self.parts.iter().try_for_each(Companion::ready)
    }
}

fn of_network(net: &UserNet) -> Vec<RawFd> {
    let mut list = vec![net.link];
    list.extend(net.published.iter().map(|published| published.fd));
    if let Some(member) = &net.private {
        list.extend([member.socket, member.claim]);
    }
    list
}

/// The processes. Dropping it ends them, and with them the sockets of published ports.
#[derive(Debug, Default)]
pub struct Beside {
    parts: Vec<Companion>,
    sleeper: Option<Sleeper>,
    /// Given back when nobody holds it any more: after `parts`.
    _seat: Option<Seat>,
}

/// How a process is ended. The kernel takes tens of milliseconds for one that leaves its
/// namespaces, which are waited for only where something depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parting {
    /// Killed and gone: what it did to files is done.
    Gone,
    /// It is told, and says when it holds nothing of the host's any more.
    Told,
    /// Killed. It held nothing that anybody waits for.
    Unseen,
}

#[derive(Debug)]
struct Companion {
    child: Child,
    control: SeqPacket,
    /// What it is for, should it fail.
    what: String,
    end: Parting,
}

impl Companion {
    fn start(part: Part, config: &impl Serialize, what: String) -> Result<Self, BesideError> {
        let (control, child) = part.start()?;
        let companion = Self {
            child,
            control,
            what,
            end: Parting::Gone,
        };
        let text = serde_json::to_vec(config).map_err(|e| SpawnError::Process(e.into()))?;
        let sent = companion.control.send(&text);
        sent.map_err(|error| companion.refused(&error.to_string()))?;
        Ok(companion)
    }

    fn refused(&self, why: &str) -> BesideError {
        BesideError::Refused {
            what: self.what.clone(),
            why: why.to_owned(),
        }
    }

    fn ready(&self) -> Result<(), BesideError> {
        match self.control.recv(MAX_COMPLAINT) {
            Ok(Some(word)) if word == READY => Ok(()),
            Ok(Some(why)) => Err(self.refused(&String::from_utf8_lossy(&why))),
            Ok(None) => Err(self.refused("its process ended without a word")),
            Err(error) => Err(self.refused(&error.to_string())),
        }
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        let told = self.end == Parting::Told && self.control.finish().is_ok();
        if told && self.control.ends_within(PATIENCE_MS) {
            return;
        }
        // Nothing of it is worth a moment: what it did for the guest is done when it says so.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        if self.end == Parting::Unseen {
            return;
        }
        let _ = reap(&self.child.pidfd);
    }
}
