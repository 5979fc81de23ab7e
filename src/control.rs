// SPDX-License-Identifier: Apache-2.0
//! What the process that runs a guest and the process that started it tell each other.
//!
//! One JSON document per message over a `SOCK_SEQPACKET` pair: the first, towards the
//! machine, is its `VmConfig`; then `Request`s go in and `Report`s come out. The end of
//! the socket is the end of the machine.

use crate::units::Variant;
use serde::{Deserialize, Serialize};

/// Longest message either side accepts, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Longest configuration of a process beside a machine: `husk net`, `husk share`.
pub const MAX_COMPANION: usize = 128 << 10;
/// What such a process answers to its configuration when it works; else, what is wrong.
pub const READY: &[u8] = b"ready";

/// The mark at which the guest begins: nothing in it can be older.
pub const FIRST_INSTRUCTION: &str = "first guest instruction";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// End the machine now, without asking the guest.
    Stop,
    /// Send the console's last lines as a `Report::Console`.
    Console,
    /// Save the machine as it stands, into empty files that come with this message: its state,
    /// its memory, where `changes` is set the list of its pages, and one for each disk that can
    /// be written, in the order of the disks. Answered by `Captured` or `Saved`, and after
    /// `Captured` always by `Saved`.
    Save {
        /// Whether it stands still until it is stopped; else it goes on once it is captured.
        hold: bool,
        /// Of its memory only what is not as it was when it was restored.
        changes: bool,
    },
    /// A machine that a `Save` left standing goes on.
    Resume,
    /// Let the guest onto its network: until then a machine that was restored sends nothing
    /// and hears nothing there.
    Release,
    /// Send what the devices count as a `Report::Counted`.
    Count,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A step of start-up, in nanoseconds of CLOCK_MONOTONIC.
    Mark { name: String, at: u64 },
    /// Which kind of kernel was loaded; to a start that is traced.
    Kernel(Variant),
    /// What a guest kernel in ring 3 counted; likewise, at the end.
    RoundTrips(RoundTrips),
    /// The console's last lines, lossily decoded.
    Console { tail: String },
    /// What the devices counted so far.
    Counted(Counted),
    /// Something the operator may want to know, in one line.
    Note { line: String },
    /// The guest's kernel panicked; the machine ends when the guest resets or is stopped.
    Panicked { message: String },
    /// The machine stood still and nothing of what it does from now on is in the snapshot,
    /// whose memory is still being written. `paused`: for how many nanoseconds.
    Captured { paused: u64 },
    /// What became of a `Save`: nothing, or what was wrong.
    Saved { problem: Option<String> },
    /// What the guest wrote to first is in the file that was given for it.
    Learned,
    /// The last report.
    Ended(End),
}

/// What the devices of a machine count. What a machine does not have is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub net: Option<Traffic>,
    pub memory: Option<GuestMemory>,
}

/// What went through a network interface, as the guest names the directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub received_bytes: u64,
    pub received_frames: u64,
    pub sent_bytes: u64,
    pub sent_frames: u64,
}

/// What the guest says of its memory, in bytes: its word, and no older than the question
/// before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMemory {
    pub total: u64,
    pub free: u64,
    /// What programs could still have, caches included.
    pub available: u64,
    pub caches: u64,
}

/// How often a guest kernel that lives in ring 3 went through ring 0, in the order of `KINDS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrips(pub [u64; 16]);

impl RoundTrips {
    /// A name for programs, and words for people.
    pub const KINDS: [(&str, &str); 16] = [
        ("interrupts", "interrupts delivered"),
        ("interrupts_noted", "interrupts noted while masked"),
        ("interrupts_replayed", "interrupts replayed"),
        ("page_faults", "page faults"),
        ("if_on", "IF turned on"),
        ("returns_if_on", "returns that turn IF on"),
        ("halts", "halts"),
        ("cr3_loads", "CR3 loads"),
        ("tlb_flushes", "TLB flushes"),
        ("rdmsr", "RDMSR"),
        ("wrmsr", "WRMSR"),
        ("cpuid", "CPUID"),
        ("port_io", "port I/O"),
        ("completed_gp", "instructions completed after #GP"),
        ("control_registers", "control and debug registers"),
        ("other", "other"),
    ];

    /// Name, words and count of every kind.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let kinds = Self::KINDS.into_iter().zip(self.0);
        kinds.map(|((name, words), count)| (name, words, count))
    }
}

/// How a machine came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset, which ends a husk.
    Reset,
    /// A triple fault that was no request: the kernel lost its way.
    /// No address where KVM has reset the processor with it, as it does on AMD.
    TripleFault { rip: Option<u64> },
    /// The host asked for it.
    Stopped,
    /// An instruction neither the CPU, KVM nor husk completes.
    /// One line that names it, its bytes and its address.
    Unhandled { message: String },
    /// husk or the host failed; one line, causes included.
    Failed { message: String },
}
