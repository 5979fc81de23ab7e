// SPDX-License-Identifier: Apache-2.0
//! One blob from a registry into the store, on from where an earlier attempt ended.
//!
//! Runs on one of the pull's threads. A connection that stalls or breaks is tried again as
//! long as each attempt brings something.

use super::client::{Client, pause};
use super::{PullError, failed};
use crate::image::error::{BlobFault, ImageError};
use crate::image::manifest::Part;
use crate::image::name::Name;
use crate::image::store::Incoming;
use std::io::{self, Read as _};

/// Attempts in a row that may bring nothing.
const ATTEMPTS: u32 = 5;
const BUFFER: usize = 256 << 10;

/// `told` hears how many bytes are here, and says whether to go on.
pub fn fetch(
    client: &Client,
    name: &Name,
    mut incoming: Incoming<'_>,
    part: &Part,
    told: &mut dyn FnMut(u64) -> bool,
) -> Result<(), ImageError> {
    let mut fruitless = 0;
    loop {
        let before = incoming.have();
        told(before);
        if before < part.size || part.size == 0 {
            attempt(client, name, &mut incoming, part, told)?;
        }
        if incoming.have() == part.size {
            return incoming.finish();
        }
        fruitless = match incoming.have() > before {
            true => 0,
            false => fruitless + 1,
        };
        if fruitless >= ATTEMPTS {
            let cut = PullError::Cut {
                host: client.host().to_owned(),
                have: incoming.have(),
                size: part.size,
            };
            return Err(failed(name, cut));
        }
        pause(fruitless);
    }
}

/// Brings what one connection brings. A break is no failure: the caller sees how far it got.
fn attempt(
    client: &Client,
    name: &Name,
    incoming: &mut Incoming<'_>,
    part: &Part,
    told: &mut dyn FnMut(u64) -> bool,
) -> Result<(), ImageError> {
    let have = incoming.have();
    let answer = match client.blob(&part.digest, have) {
        Ok(answer) => answer,
        Err(PullError::Absent { .. }) => {
            return Err(crate::image::blob::fault(&part.digest, BlobFault::Absent));
        }
        Err(error) => return Err(failed(name, error)),
    };
    if answer.from != have {
        incoming.restart()?;
    }
    let mut body = answer.body;
    let mut buffer = vec![0; BUFFER];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => {
                incoming.write(&buffer[..len])?;
                if !told(incoming.have()) {
                    let stopped = io::Error::from(io::ErrorKind::Interrupted);
                    return Err(ImageError::io(
                        "write",
                        std::path::Path::new("layer"),
                        stopped,
                    ));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(()),
        }
    }
}
