// SPDX-License-Identifier: Apache-2.0
//! Asks this host's KVM whether it carries a guest kernel in ring 3, by running a guest of
//! one page that does what such a kernel does (`arch::ring3`).
//!
//! Called on any thread of the tool, outside the jail: what runs is ours. The vCPU has a
//! thread of its own for the few milliseconds, so that a host that never comes back from
//! it costs a deadline and not the command.

pub use crate::arch::host::HostKind;
pub use crate::arch::ring3::{Finding, Step};

use crate::arch::host;
use crate::arch::ring3::{self, Cycles, Facts, PrepareError};
use crate::kvm::{CreateVm, Exit, KvmError, Vcpu, Vm};
use crate::memory::{self, GuestRam, MapError};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use vm_memory::GuestMemoryError;
use vmm_sys_util::signal::{Killable as _, SIGRTMIN, register_signal_handler};

/// The guest is through in two milliseconds, in ten on a slow day; one that is not is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a lost guest is told to stop, until it does.
const INSISTENCE: Duration = Duration::from_millis(1);
/// No RAM here: the guest's last write, and the local APIC.
const HOLE: std::ops::Range<u64> = ring3::END..0x1_0000_0000;

/// This host runs a kernel in ring 3; what its round trips cost here and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastLane {
    /// SYSCALL, and IRETQ back.
    pub system_call: Duration,
    /// INT 4 to a routine of one instruction in ring 0, and back.
    pub ring0_call: Duration,
    /// A fault, its page-table entry written by the handler, and back.
    pub page_fault: Duration,
    /// SYSCALL lets pending interrupts in, though FMASK does not say IF.
    pub system_call_unmasks: bool,
    /// What asking took, all in all.
    pub took: Duration,
}

/// Why the guest's kernel stays in ring 0.
#[derive(Debug, thiserror::Error)]
pub enum WhyNot {
    #[error("ring 0 is native here")]
    NotNeeded(HostKind),
    #[error(transparent)]
    Create(#[from] CreateVm),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Memory(#[from] MapError),
    #[error("what the probe found cannot be read")]
    Read(#[from] GuestMemoryError),
    #[error("the probe's thread cannot be started")]
    Thread(#[from] io::Error),
    /// The guest came to its end and was not content.
    #[error("{}", first(.0))]
    Findings(Vec<Finding>),
    #[error("{}: the guest stopped: {why}", place(*.step))]
    Stopped { step: Option<Step>, why: String },
    #[error("{}: no end after {} s", place(*.step), PATIENCE.as_secs())]
    Stuck { step: Option<Step> },
}

fn first(findings: &[Finding]) -> String {
    findings.first().map(Finding::to_string).unwrap_or_default()
}

fn place(step: Option<Step>) -> String {
    step.map_or_else(|| "before the first step".to_owned(), |s| s.to_string())
}

/// What stands behind this host's KVM.
#[must_use]
pub fn kind() -> HostKind {
    host::kind()
}

/// Which processor an answer is of.
#[must_use]
pub fn processor() -> String {
    host::processor()
}

/// May the guest's kernel live in ring 3 on this host, and should it? Takes an open
/// /dev/kvm, and a few milliseconds where the answer has to be found out.
pub fn fast_lane(kvm: OwnedFd) -> Result<FastLane, WhyNot> {
    let host = host::kind();
    if host.interprets_ring0() {
        examine(kvm, host)
    } else {
        Err(WhyNot::NotNeeded(host))
    }
}

/// The examination alone, whichever host this is.
fn examine(kvm: OwnedFd, host: HostKind) -> Result<FastLane, WhyNot> {
    let start = Instant::now();
    let (facts, hertz) = run_guest(kvm, host, PATIENCE, |_| Ok(()))?;
    let findings = facts.judge();
    if !findings.is_empty() {
        return Err(WhyNot::Findings(findings));
    }
    let Cycles {
        system_call,
        ring0_call,
        page_fault,
    } = facts.cycles();
    Ok(FastLane {
        system_call: duration(system_call, hertz),
        ring0_call: duration(ring0_call, hertz),
        page_fault: duration(page_fault, hertz),
        system_call_unmasks: facts.system_call_unmasks(),
        took: start.elapsed(),
    })
}

fn duration(cycles: u64, hertz: u64) -> Duration {
    let nanos = u128::from(cycles) * 1_000_000_000 / u128::from(hertz.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// What the guest found, and how many cycles its counter has a second. `change` may alter
/// it before it runs.
fn run_guest(
    kvm: OwnedFd,
    host: HostKind,
    patience: Duration,
    change: impl FnOnce(&GuestRam) -> Result<(), GuestMemoryError>,
) -> Result<(Facts, u64), WhyNot> {
    let ram = Arc::new(memory::anonymous(ring3::RAM, &HOLE)?);
    let vm = Vm::new(kvm, Arc::clone(&ram))?;
    vm.create_irqchip()?;
    let vcpu = ring3::prepare(&vm, &ram, host)?;
    change(&ram)?;
    let hertz = u64::from(vcpu.tsc_khz()?) * 1000;
    let end = Guest::start(vm, vcpu)?.wait(patience);
    let facts = Facts::read(&ram)?;
    let step = facts.under_way();
    match end? {
        End::Through => Ok((facts, hertz)),
        End::Stopped(why) => Err(WhyNot::Stopped { step, why }),
        End::Stuck => Err(WhyNot::Stuck { step }),
    }
}

/// How the guest's run ended.
enum End {
    Through,
    Stopped(String),
    Stuck,
}

/// The guest on its thread, which owns the machine: KVM takes ten milliseconds to take one
/// apart (it waits for an RCU grace period), and the answer need not wait for that.
struct Guest {
    thread: JoinHandle<()>,
    ended: Receiver<Result<End, KvmError>>,
    stop: Arc<AtomicBool>,
}

impl Guest {
    fn start(vm: Vm, mut vcpu: Vcpu) -> io::Result<Self> {
        // Nothing to do: KVM_RUN returns because a signal came.
        extern "C" fn wake(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        register_signal_handler(SIGRTMIN(), wake)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, ended) = mpsc::channel();
        let told = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || {
                let end = run(&mut vcpu, &told);
                // Nobody listens once patience ran out.
                let _ = tell.send(end);
                drop(vcpu);
                drop(vm);
            })?;
        Ok(Self {
            thread,
            ended,
            stop,
        })
    }

    fn wait(self, patience: Duration) -> Result<End, KvmError> {
        if let Ok(end) = self.ended.recv_timeout(patience) {
            return end;
        }
        self.stop.store(true, Ordering::Release);
        // A signal is lost if it comes between the look at `stop` and KVM_RUN: it is sent
        // until it is heard, or for as long again.
        let until = Instant::now() + patience;
        while Instant::now() < until && !self.thread.is_finished() {
            let _ = self.thread.kill(SIGRTMIN());
            match self.ended.recv_timeout(INSISTENCE) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(End::Stuck)
    }
}

fn run(vcpu: &mut Vcpu, stop: &AtomicBool) -> Result<End, KvmError> {
    while !stop.load(Ordering::Acquire) {
        let why = match vcpu.run()? {
            Exit::MmioWrite(ring3::END, _) => return Ok(End::Through),
            Exit::Again => continue,
            Exit::Shutdown => "a triple fault".to_owned(),
            Exit::Emulation => "KVM could not emulate an instruction".to_owned(),
            other => format!("{other:?}"),
        };
        return Ok(End::Stopped(why));
    }
    Ok(End::Stuck)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ring3::Entry;
    use std::fs::File;

    /// `None`, said aloud, where there is no usable KVM.
    fn kvm() -> Option<OwnedFd> {
        match File::options().read(true).write(true).open("/dev/kvm") {
            Ok(file) => Some(file.into()),
            Err(error) => {
                let required =
                    std::env::var_os("HUSK_REQUIRE_KVM").is_some_and(|value| value == "1");
                assert!(!required, "/dev/kvm cannot be opened: {error}");
                eprintln!("SKIPPED: /dev/kvm cannot be opened: {error}");
                None
            }
        }
    }

    /// On a processor's own virtualisation everything works but for one thing, by the book:
    /// SYSCALL goes to ring 0.
    #[test]
    fn the_guest_finds_what_this_kind_of_host_has() {
        let Some(fd) = kvm() else { return };
        let answer = examine(fd, host::kind());
        eprintln!("{:?}: {answer:?}", host::kind());
        if host::kind().interprets_ring0() {
            let lane = answer.expect("a PVM host carries a kernel in ring 3");
            for figure in [lane.system_call, lane.ring0_call, lane.page_fault] {
                assert!(figure > Duration::ZERO && figure < lane.took, "{lane:?}");
            }
            assert!(lane.system_call_unmasks);
            return;
        }
        let Err(WhyNot::Findings(findings)) = answer else {
            panic!("{answer:?}");
        };
        let steps: Vec<Step> = findings.iter().map(|finding| finding.step).collect();
        assert_eq!(steps, [Step::SystemCall], "{findings:?}");
        assert_eq!(findings[0].saw, "CS is 0x10, not 0x33");
    }

    #[test]
    fn nothing_is_asked_of_a_host_whose_ring_0_is_native() {
        let Some(fd) = kvm() else { return };
        let needed = !matches!(fast_lane(fd), Err(WhyNot::NotNeeded(_)));
        assert_eq!(needed, host::kind().interprets_ring0());
    }

    fn changed(change: impl FnOnce(&GuestRam) -> Result<(), GuestMemoryError>) -> Option<WhyNot> {
        const SHORT: Duration = Duration::from_millis(200);
        let answer = run_guest(kvm()?, host::kind(), SHORT, change);
        Some(answer.map(|_| ()).expect_err("the guest is broken"))
    }

    #[test]
    fn a_guest_that_hangs_is_left_behind_and_its_step_told() {
        for (entry, step) in [
            (Entry::Program, None),
            (Entry::Breakpoint, Some(Step::Breakpoint)),
            (Entry::PageFault, Some(Step::PageFault)),
        ] {
            let Some(why) = changed(|ram| ring3::hang_at(ram, entry)) else {
                return;
            };
            let WhyNot::Stuck { step: at } = why else {
                panic!("{entry:?}: {why}");
            };
            assert_eq!(at, step);
        }
    }

    #[test]
    fn a_guest_that_breaks_down_is_told_with_its_step() {
        let both = |ram: &GuestRam| {
            // Nor can the fault of the fault be told.
            [3, 8, 13]
                .into_iter()
                .try_for_each(|vector| ring3::close_gate(ram, vector))
        };
        let Some(why) = changed(both) else { return };
        let text = why.to_string();
        assert!(
            matches!(
                why,
                WhyNot::Stopped {
                    step: Some(Step::Breakpoint),
                    ..
                }
            ),
            "{why:?}"
        );
        assert!(text.contains("INT3 through a gate to ring 3"), "{text}");
    }
}
