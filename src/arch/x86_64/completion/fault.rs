// SPDX-License-Identifier: Apache-2.0
//! How a completion can end other than well: an exception for the guest, or words for the
//! operator. Data only; never touches the vCPU.

use super::CpuError;
use crate::kvm::failure::InstructionBytes;
use iced_x86::{FastFormatter, Instruction};
use std::fmt;

/// An exception to deliver to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    pub vector: u8,
    pub error_code: Option<u32>,
    pub extra: Extra,
}

/// What the processor writes elsewhere when it raises the exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    Nothing,
    /// CR2, for #PF.
    Address(u64),
    /// DR6.BS, for #DB after a single step.
    SingleStep,
}

impl Exception {
    pub(super) const DEBUG: Self = Self {
        extra: Extra::SingleStep,
        ..Self::plain(1)
    };
    pub(super) const BREAKPOINT: Self = Self::plain(3);
    pub(super) const UNDEFINED: Self = Self::plain(6);
    pub(super) const NO_DEVICE: Self = Self::plain(7);
    pub(super) const STACK: Self = Self::with_code(12, 0);
    pub(super) const PROTECTION: Self = Self::with_code(13, 0);
    pub(super) const MATH: Self = Self::plain(16);

    const fn plain(vector: u8) -> Self {
        Self {
            vector,
            error_code: None,
            extra: Extra::Nothing,
        }
    }

    const fn with_code(vector: u8, code: u32) -> Self {
        Self {
            vector,
            error_code: Some(code),
            extra: Extra::Nothing,
        }
    }

    pub(super) const fn page_fault(code: u32, address: u64) -> Self {
        Self {
            vector: 14,
            error_code: Some(code),
            extra: Extra::Address(address),
        }
    }
}

/// Why a handler did not get to its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The guest's own affair.
    Fault(Exception),
    /// We do not know how; the VM ends.
    Refused(Reason),
    /// The host failed us.
    Host(CpuError),
}

impl From<CpuError> for Stop {
    fn from(error: CpuError) -> Self {
        Self::Host(error)
    }
}

/// What a handler did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Go on behind the instruction.
    Advance,
    /// The handler has set RIP.
    Jump,
    /// Go on behind the instruction, but deliver this first.
    Trap(Exception),
}

pub(super) type Step = Result<Next, Stop>;

/// Why an instruction was not completed.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    #[error("no handler completes it")]
    NoHandler,
    #[error("no handler completes this form of it")]
    Form,
    #[error("the bytes are no instruction")]
    Undecodable,
    #[error("its operand at guest-physical {0:#x} is not RAM")]
    NotRam(u64),
    #[error("a page table at guest-physical {0:#x} is not in RAM")]
    TableNotRam(u64),
    #[error("page tables change faster than they can be walked")]
    RestlessTables,
    #[error("32-bit paging is not walked")]
    LegacyPaging,
    #[error("a locked operand is misaligned")]
    SplitLock,
    #[error("its bytes cannot be read: exception {} at RIP", .0.vector)]
    Fetch(Exception),
    #[error(transparent)]
    Host(CpuError),
}

/// An instruction nobody completes. Its Display is the one line that ends the VM.
#[derive(Debug)]
pub struct Unhandled {
    pub rip: u64,
    pub bytes: InstructionBytes,
    /// Intel syntax; `None` if the bytes could not be decoded.
    pub text: Option<String>,
    pub reason: Reason,
}

impl Unhandled {
    pub(super) fn new(
        rip: u64,
        bytes: &[u8],
        instruction: Option<&Instruction>,
        reason: Reason,
    ) -> Self {
        let text = instruction
            .filter(|known| !known.is_invalid())
            .map(|known| {
                let mut text = String::new();
                FastFormatter::new().format(known, &mut text);
                text
            });
        let len = instruction.map_or(bytes.len(), |known| known.len().max(1));
        let shown = if text.is_some() {
            &bytes[..len.min(bytes.len())]
        } else {
            bytes
        };
        Self {
            rip,
            bytes: InstructionBytes::new(shown),
            text,
            reason,
        }
    }

    pub(super) fn early(error: CpuError, bytes: &[u8]) -> Box<Self> {
        Box::new(Self::new(0, bytes, None, Reason::Host(error)))
    }
}

impl fmt::Display for Unhandled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.as_deref().unwrap_or("(unknown)");
        write!(f, "guest instruction `{text}` [")?;
        for (i, byte) in self.bytes.as_slice().iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            write!(f, "{gap}{byte:02x}")?;
        }
        write!(
            f,
            "] at RIP {:#x} cannot be completed: {}",
            self.rip, self.reason
        )
    }
}

impl std::error::Error for Unhandled {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Host(error) => Some(&error.source),
            _ => None,
        }
    }
}
