// SPDX-License-Identifier: Apache-2.0
//! From a checked request to the end of the machine: opens, starts, hands keys on, and says
//! how it ended. Main thread.

use super::keys::{Keys, Typed};
use super::{BootRequest, Disk};
use crate::cli::launch::Opened;
use crate::cli::output::{ExitStatus, Failure, Printer, Problem, visible};
use crate::cli::signals::Signals;
use crate::cli::terminal;
use crate::cli::trace::{Mark, Source, Waterfall};
use crate::config::{Begin, Boot, Console, Drive, VmConfig};
use crate::control::{End, Report, Request};
use crate::instance::{self, Spawned};
use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;

/// Boots, and returns when the machine is over.
pub fn boot(request: &BootRequest, exec: Mark, printer: &Printer) -> Result<ExitStatus, Failure> {
    let mut waterfall = Waterfall::starting(exec);
    let mut opened = Opened::default();
    let (config, mut keys) = configure(request, &mut opened)?;
    let signals = Signals::catch().context("cannot catch signals")?;
    waterfall.reached("files open");
    let machine = instance::spawn(&config).context("cannot start the machine")?;
    drop(opened);
    waterfall.reached("machine process started");

    let raw = match keys {
        Some(_) => terminal::raw_stdin().context("cannot use the terminal")?,
        None => None,
    };
    let mut ended = Ended::default();
    watch(
        &machine,
        &signals,
        &mut keys,
        &mut waterfall,
        &mut ended,
        printer,
    )?;
    drop(raw);
    waterfall.reached("machine over");
    if let Some(format) = request.trace {
        printer.talk(&waterfall.render(format, printer.talk));
    }
    // What is left of a machine that has said its last word is the kernel's to take apart, and
    // nobody waits for that; one that said nothing is asked how it died.
    if ended.end.is_none() {
        ended.code = machine.wait().context("cannot wait for the machine")?;
    }
    ended.verdict()
}

fn configure(
    request: &BootRequest,
    opened: &mut Opened,
) -> Result<(VmConfig, Option<Keys>), Failure> {
    let kvm = opened.kvm()?;
    let kernel = opened.file("kernel", &request.kernel, false)?;
    let initrd = match &request.initrd {
        Some(path) => Some(opened.file("initrd", path, false)?),
        None => None,
    };
    let mut drives = Vec::new();
    for Disk { path, read_only } in &request.disks {
        drives.push(Drive {
            file: opened.file("disk", path, !read_only)?,
            read_only: *read_only,
            bps: None,
            iops: None,
        });
    }
    let stdin = io::stdin();
    let input = stdin
        .as_fd()
        .try_clone_to_owned()
        .context("standard input")?;
    let (input, keys) = if stdin.is_terminal() {
        let (keys, machine) = Keys::new(input).context("cannot pass keys on")?;
        (machine, Some(keys))
    } else {
        (input, None)
    };
    let output = io::stdout().as_fd().try_clone_to_owned();
    let console = Console::Stdio {
        input: Some(opened.keep(input)),
        output: opened.keep(output.context("standard output")?),
        kind: request.console,
    };
    let config = VmConfig {
        name: request.kernel.display().to_string(),
        cpus: request.shape.cpus,
        memory: request.shape.memory.bytes(),
        begin: Begin::Boot(Boot {
            kernel,
            variant: None,
            initrd,
            cmdline: request.cmdline.clone(),
        }),
        places: false,
        stand_ins: false,
        drives,
        shares: Vec::new(),
        net: None,
        vsock: None,
        console,
        rng: true,
        balloon: false,
        pit: true,
        jail: request.jail,
        kvm,
        trace: request.trace.is_some(),
    };
    Ok((config, keys))
}

/// Serves the machine until its last report, or the end of its control socket.
fn watch(
    machine: &Spawned,
    signals: &Signals,
    keys: &mut Option<Keys>,
    waterfall: &mut Waterfall,
    ended: &mut Ended,
    printer: &Printer,
) -> anyhow::Result<()> {
    loop {
        let ready = wait(machine, signals, keys.as_ref())?;
        if ready[1] {
            while let Some(signal) = signals.next()? {
                if signal != nix::sys::signal::Signal::SIGWINCH {
                    stop(machine);
                }
            }
        }
        if ready[2]
            && let Some(typed) = keys.as_mut().map(Keys::ready).transpose()?
        {
            match typed {
                Typed::Passed => {}
                Typed::Escape => stop(machine),
                Typed::End => *keys = None,
            }
        }
        if ready[0] {
            match machine.control.recv()? {
                None => return Ok(()),
                Some(Report::Mark { name, at }) => waterfall.add(Mark {
                    name,
                    at,
                    source: Source::Vmm,
                }),
                Some(Report::Kernel(variant)) => waterfall.kernel(variant),
                Some(Report::RoundTrips(trips)) => waterfall.round_trips(trips),
                Some(Report::Note { line }) => {
                    printer.talk(&format!("husk: {}\r\n", visible(&line)));
                }
                Some(Report::Panicked { message }) => ended.panic = Some(message),
                Some(Report::Ended(end)) => {
                    ended.end = Some(end);
                    return Ok(());
                }
                Some(
                    Report::Console { .. }
                    | Report::Captured { .. }
                    | Report::Saved { .. }
                    | Report::Learned
                    | Report::Counted(_),
                ) => {}
            }
        }
    }
}

/// Which of control socket, signals and keys have something.
fn wait(machine: &Spawned, signals: &Signals, keys: Option<&Keys>) -> io::Result<[bool; 3]> {
    let mut list = vec![PollFd::new(machine.control.as_fd(), PollFlags::POLLIN)];
    list.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
    list.extend(keys.map(|keys| PollFd::new(keys.as_fd(), PollFlags::POLLIN)));
    loop {
        match poll(&mut list, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    let mut ready = [false; 3];
    for (flag, entry) in ready.iter_mut().zip(&list) {
        *flag = entry.any().unwrap_or(true);
    }
    Ok(ready)
}

fn stop(machine: &Spawned) {
    // A machine that is gone already has ended as asked.
    let _ = machine.control.send(&Request::Stop);
}

#[derive(Debug, Default)]
struct Ended {
    end: Option<End>,
    panic: Option<String>,
    /// Of the machine's process, where it ended without a word.
    code: i32,
}

impl Ended {
    fn verdict(self) -> Result<ExitStatus, Failure> {
        if let Some(message) = self.panic {
            return Err(Problem::new(format!("the guest's kernel panicked: {message}")).into());
        }
        match self.end {
            Some(End::PowerOff | End::Reset) => Ok(ExitStatus::Success),
            Some(End::Stopped) => Ok(ExitStatus::Code(130)),
            Some(End::TripleFault { rip }) => Err(Problem::new(format!(
                "the guest's processor shut down after a triple fault{}",
                rip.map(|rip| format!(" at {rip:#x}")).unwrap_or_default()
            ))
            .hint("a kernel that resets this way on purpose wants reboot=k on its command line")
            .into()),
            Some(End::Unhandled { message }) => Err(Problem::new(message).into()),
            Some(End::Failed { message }) => Err(Problem::new(message).into()),
            None => Err(Problem::new(format!(
                "the machine's process ended without a word, with code {}",
                self.code
            ))
            .into()),
        }
    }
}
