// SPDX-License-Identifier: Apache-2.0
//! The identity of a machine: what a restored one takes on before anything in it runs, and the
//! steps by which its agent says so. `docs/identity.md` has the reason of each.

use crate::message::{Network, one_of};
use crate::wire::{Malformed, Reader, Writer};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// Who a machine is: what no other one may be. Of a restored machine, whatever it was before.
/// PID 1 sees to all of it and acknowledges each step, or nothing runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebirth {
    /// What the kernel's random generator is seeded with anew: every machine of one snapshot
    /// had the same.
    pub seed: Vec<u8>,
    /// Devices that were not there before, by their names on the platform bus.
    pub devices: Vec<String>,
    /// Likewise, but nobody waits for them: they are found when the machine has run for a moment.
    pub later: Vec<String>,
    /// 32 hexadecimal digits; empty leaves /etc/machine-id as it is.
    pub machine_id: String,
    /// What /proc/sys/kernel/random/boot_id says from now on; empty leaves it as it is.
    pub boot_id: String,
    /// Names this life of the machine, for programs that watch for it.
    pub generation: String,
    /// Nanoseconds since 1970; zero leaves the clock as it is. In a `Start`, its own says that,
    /// as it does the two below.
    pub wall_clock: u64,
    /// Empty leaves the name as it is.
    pub hostname: String,
    pub network: Option<Box<Network>>,
}

/// What a `Rebirth` comes to, in the order of acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The kernel's random generator was seeded and started anew.
    Random,
    /// New devices were found.
    Devices,
    /// CLOCK_REALTIME was set.
    Clock,
    /// TCP and UDP connections of the past were ended.
    Connections,
    /// The interface has its new addresses, routes and name servers.
    Network,
    /// The host name and /etc/hosts.
    HostName,
    /// /etc/machine-id.
    MachineId,
    /// /proc/sys/kernel/random/boot_id.
    BootId,
    /// What programs watch was replaced.
    Generation,
    /// The image's own programs for this were run.
    Hooks,
}

/// Seconds one program of the image may take for the step `Hooks`, and all of them together.
pub const HOOK_SECONDS: u64 = 10;
pub const HOOKS_SECONDS: u64 = 60;

impl Step {
    /// Those of a machine that was restored with its processes.
    pub const OF_REBORN: [Self; 10] = [
        Self::Random,
        Self::Devices,
        Self::Clock,
        Self::Connections,
        Self::Network,
        Self::HostName,
        Self::MachineId,
        Self::BootId,
        Self::Generation,
        Self::Hooks,
    ];
    /// Those of a start: there is no past whose connections were to be ended, and no program
    /// yet that could have kept anything.
    pub const OF_START: [Self; 8] = [
        Self::Random,
        Self::Devices,
        Self::Clock,
        Self::Network,
        Self::HostName,
        Self::MachineId,
        Self::BootId,
        Self::Generation,
    ];

    /// What it is about, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "the random generator",
            Self::Devices => "new devices",
            Self::Clock => "the wall clock",
            Self::Connections => "connections of the past",
            Self::Network => "the network",
            Self::HostName => "the host name",
            Self::MachineId => "the machine id",
            Self::BootId => "the boot id",
            Self::Generation => "the generation",
            Self::Hooks => "the image's own programs",
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        one_of(&Self::OF_REBORN, r)
    }
}

impl Rebirth {
    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        w.bytes(&self.seed);
        w.list(&self.devices, |w, name| w.bytes(name.as_bytes()));
        w.list(&self.later, |w, name| w.bytes(name.as_bytes()));
        w.bytes(self.machine_id.as_bytes());
        w.bytes(self.boot_id.as_bytes());
        w.bytes(self.generation.as_bytes());
        w.u64(self.wall_clock);
        w.bytes(self.hostname.as_bytes());
        w.option(self.network.as_deref(), |w, network| network.write(w));
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            seed: r.bytes()?.into(),
            devices: r.list(Reader::string)?,
            later: r.list(Reader::string)?,
            machine_id: r.string()?,
            boot_id: r.string()?,
            generation: r.string()?,
            wall_clock: r.u64()?,
            hostname: r.string()?,
            network: r.option(|r| Network::read(r).map(Box::new))?,
        })
    }
}
