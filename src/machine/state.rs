// SPDX-License-Identifier: Apache-2.0
//! A machine that stands still, as data: all that is not its memory. Written and read on the
//! `vmm` thread; what is read is distrusted by everything that takes it.

use crate::arch::assist::CountersState;
use crate::arch::state::{BoardState, CpuState};
use crate::sys::contents::contents;
use crate::units::Variant;
use crate::virtio::state::{SerialState, TransportState};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write as _};

/// Longest state that is read: 254 processors with 64 KiB of extended state each.
const MAX_BYTES: u64 = 32 << 20;

/// A machine without its memory.
#[derive(Clone, Serialize, Deserialize)]
pub struct MachineState {
    /// Bytes of its memory.
    pub memory: u64,
    pub variant: Variant,
    pub cpus: Vec<CpuState>,
    pub board: BoardState,
    pub counters: CountersState,
    pub serial: SerialState,
    /// Its fixed devices, in the order of their places.
    pub devices: Vec<TransportState>,
}

#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    #[error("the state cannot be read")]
    Read(#[source] io::Error),
    #[error("the state cannot be written")]
    Write(#[source] io::Error),
    #[error("the state is longer than {MAX_BYTES} bytes")]
    Long,
    #[error("the state does not make sense")]
    Malformed(#[source] postcard::Error),
}

impl MachineState {
    pub fn read(file: &File) -> Result<Self, StateFileError> {
        let bytes = contents(file, MAX_BYTES).map_err(StateFileError::Read)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(StateFileError::Long);
        }
        postcard::from_bytes(&bytes).map_err(StateFileError::Malformed)
    }

    pub fn write(&self, mut file: &File) -> Result<(), StateFileError> {
        let bytes = postcard::to_stdvec(self).map_err(StateFileError::Malformed)?;
        file.write_all(&bytes).map_err(StateFileError::Write)
    }
}

#[cfg(test)]
#[path = "state/tests.rs"]
mod tests;
