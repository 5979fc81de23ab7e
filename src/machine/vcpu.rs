// SPDX-License-Identifier: Apache-2.0
//! The exit loop of a `vcpu-N` thread: the guest stops, one match answers, it runs on.

use super::gate::Gate;
use super::marks::Marks;
use super::outcome::Outcome;
use crate::arch::assist;
use crate::arch::completion::{self, Cpu as _, CpuError, VcpuState};
use crate::arch::state::CpuState;
use crate::bus::Bus;
use crate::control::{End, FIRST_INSTRUCTION};
use crate::kvm::xsave::XsaveBuffer;
use crate::kvm::{Exit, KvmError, Vcpu, signal};
use crate::memory::GuestRam;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// RIP of a processor that was reset (SDM vol. 3, table 10-1).
const RESET_VECTOR: u64 = 0xfff0;

/// Most exits one instruction's completion may bring: KVM enters the guest anew after 1024
/// rounds of a repeated one. A guest that finds a way to more keeps nobody here.
const MOST_EXITS: usize = 4096;

/// What all vCPU threads of a machine share.
pub struct Shared {
    pub ports: Bus,
    pub mmio: Bus,
    pub ram: Arc<GuestRam>,
    pub outcome: Arc<Outcome>,
    pub marks: Arc<Marks>,
    /// Ring 0 of this guest is interpreted: help it along.
    pub assisted: bool,
    pub counters: assist::Counters,
    pub gate: Gate,
    /// The machine-specific registers this KVM saves.
    pub registers: Vec<u32>,
}

/// A vCPU with the scratch space completion needs.
pub struct Core {
    pub vcpu: Vcpu,
    pub xsave: XsaveBuffer,
}

/// Starts the thread. It ends with the machine, after which the process does.
pub fn spawn(mut core: Core, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(format!("vcpu-{}", core.vcpu.index()))
        .spawn(move || {
            if let Err(error) = core.vcpu.listen() {
                shared
                    .outcome
                    .tell(failed(format!("a vCPU cannot be called: {error}")));
                return;
            }
            if core.vcpu.index() == 0 {
                shared.marks.mark(FIRST_INSTRUCTION);
            }
            let end = run(&mut core, &shared);
            shared.outcome.tell(end);
        })
}

/// What follows an exit, once nothing of it is borrowed any more.
enum Next {
    Run,
    /// There was nothing to answer.
    Again,
    Assist,
    Complete,
    TripleFault,
}

fn run(core: &mut Core, shared: &Shared) -> End {
    loop {
        match step(core, shared) {
            Ok(Next::Again) => {
                // A call that came after the gate opened again would be the answer to every
                // KVM_RUN from here on. One that is for a gate closed since is seen below.
                signal::heard();
            }
            Ok(_) => {}
            Err(end) => return end,
        }
        // A device may have ended the machine, on this very exit.
        if let Some(end) = shared.outcome.end() {
            return end;
        }
        if shared.gate.is_closed()
            && let Err(end) = stand(core, shared)
        {
            return end;
        }
    }
}

/// The guest until it needs something, and the answer.
fn step(core: &mut Core, shared: &Shared) -> Result<Next, End> {
    let next = match core.vcpu.run() {
        Ok(Exit::PortWrite(assist::PORT, [_])) if shared.assisted => Next::Assist,
        Ok(Exit::PortWrite(port, data)) => {
            shared.ports.write(port.into(), data);
            Next::Run
        }
        Ok(Exit::PortRead(port, data)) => {
            read_ports(&shared.ports, port, data);
            Next::Run
        }
        Ok(Exit::MmioRead(address, data)) => {
            shared.mmio.read(address, data);
            Next::Run
        }
        Ok(Exit::MmioWrite(address, data)) => {
            shared.mmio.write(address, data);
            Next::Run
        }
        Ok(Exit::Again) => Next::Again,
        Ok(Exit::Shutdown) => Next::TripleFault,
        Ok(Exit::Emulation) => Next::Complete,
        Ok(Exit::Refused(reason)) => {
            return Err(failed(format!(
                "the processor refuses the guest's state: {reason:#x}"
            )));
        }
        Ok(Exit::Unknown(exit)) => return Err(failed(format!("KVM gave up: {exit}"))),
        Err(error) => return Err(error_end(&error)),
    };
    match follow(&next, core, shared) {
        Some(end) => Err(end),
        None => Ok(next),
    }
}

/// Has KVM finish what the last exit was about, and answers what it asks on the way: the
/// answers are in the guest's registers only after that. False: there was no end of it.
fn finish(core: &mut Core, shared: &Shared) -> Result<bool, End> {
    for _ in 0..MOST_EXITS {
        core.vcpu.stay(true);
        let next = step(core, shared);
        core.vcpu.stay(false);
        if let Next::Again = next? {
            return Ok(true);
        }
        if let Some(end) = shared.outcome.end() {
            return Err(end);
        }
    }
    Ok(false)
}

/// Stands still until the gate opens.
fn stand(core: &mut Core, shared: &Shared) -> Result<(), End> {
    signal::heard();
    let finished = finish(core, shared)?;
    let rests = CpuState::is_at_rest(&core.vcpu, &shared.ram);
    if !finished || !rests.map_err(|error| error_end(&error))? {
        // A few instructions further it is; whoever closed the gate calls again.
        return Ok(());
    }
    let index = usize::try_from(core.vcpu.index()).unwrap_or(usize::MAX);
    shared.gate.stop(index, || {
        CpuState::save(&core.vcpu, &mut core.xsave, &shared.registers).map(Box::new)
    });
    Ok(())
}

fn follow(next: &Next, core: &mut Core, shared: &Shared) -> Option<End> {
    match next {
        Next::Run | Next::Again => None,
        Next::Assist => assist(core, shared)
            .err()
            .map(|error| failed(format!("{error}: {}", error.source))),
        Next::Complete => complete(core, &shared.ram),
        Next::TripleFault => Some(match core.vcpu.regs() {
            Ok(regs) => End::TripleFault {
                rip: (regs.rip != RESET_VECTOR).then_some(regs.rip),
            },
            Err(error) => error_end(&error),
        }),
    }
}

/// `rep ins` brings several accesses at once; all our devices answer byte by byte there.
fn read_ports(ports: &Bus, port: u16, data: &mut [u8]) {
    if matches!(data.len(), 1 | 2 | 4) {
        ports.read(port.into(), data);
    } else {
        for byte in data.chunks_mut(1) {
            ports.read(port.into(), byte);
        }
    }
}

fn assist(core: &mut Core, shared: &Shared) -> Result<(), CpuError> {
    let mut state = VcpuState::new(core.vcpu.fd_mut(), &mut core.xsave);
    let mut regs = state.regs()?;
    assist::perform(&mut regs, &shared.ram, &shared.counters);
    state.set_regs(&regs)
}

fn complete(core: &mut Core, ram: &GuestRam) -> Option<End> {
    let Some(bytes) = core.vcpu.emulation_failure() else {
        return Some(failed("KVM has an internal error".to_owned()));
    };
    let mut state = VcpuState::new(core.vcpu.fd_mut(), &mut core.xsave);
    match completion::complete(&mut state, ram, bytes.as_slice()) {
        Ok(_) => None,
        Err(unhandled) => Some(End::Unhandled {
            message: unhandled.to_string(),
        }),
    }
}

fn error_end(error: &KvmError) -> End {
    failed(format!("{error}: {}", error.source))
}

fn failed(message: String) -> End {
    End::Failed { message }
}

#[cfg(test)]
mod tests;
