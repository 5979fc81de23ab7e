// SPDX-License-Identifier: Apache-2.0
//! The process that runs one guest: takes its configuration, enters its jail, builds the
//! machine, and serves it until its end. What it has to say goes to the process that
//! started it, over the control socket.

mod control;
mod saving;

use crate::boot;
use crate::config::net::NetLink;
use crate::config::{self, Begin, VmConfig};
use crate::control::{End, MAX_MESSAGE, Report};
use crate::devices::HostPort;
use crate::events::{Loop, Source};
use crate::jail::Plan;
use crate::machine::{self, Console, Marks, Outcome, Parts, VsockParts};
use crate::memory::saved::{self, Layer};
use crate::net::{Frames, Link, Tap};
use crate::sys::descriptors::Inherited;
use crate::sys::seqpacket::SeqPacket;
use crate::sys::{heap, limits};
use crate::telemetry;
use control::Desk;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{FlockOperation, flock};
use saving::Saver;
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A guest that runs longer than this has come to stay.
const START: Duration = Duration::from_secs(2);

/// Runs the guest described by the first message on descriptor `control`. Returns when the
/// machine is at its end; the process must exit then, which is what stops its vCPUs.
pub fn run(control: RawFd) -> u8 {
    heap::keep_little();
    let mut inherited = Inherited::default();
    let socket = match inherited.take(control) {
        Ok(fd) => Arc::new(SeqPacket::from_fd(fd)),
        Err(_) => {
            eprintln!("husk: vmm: it is started by husk run, not by hand");
            return 2;
        }
    };
    // A guest's disk is a file.
    limits::survive_file_size();
    tell_panics(&socket);
    tell_lines(&socket);
    match serve(&socket, &mut inherited) {
        Ok(code) => code,
        Err(error) => {
            let message = chain(&*error);
            last_word(&socket, End::Failed { message })
        }
    }
}

/// Tells how the machine ended and returns the process's exit code. Called while the machine
/// still stands: what follows is the kernel taking it apart, which takes tens of
/// milliseconds, and on a busy host would keep a person waiting. So the process that started
/// this one gets a moment to hear and go.
fn last_word(socket: &SeqPacket, end: End) -> u8 {
    const PATIENCE_MS: u16 = 100;
    let code = u8::from(matches!(end, End::Failed { .. }));
    // If nobody listens any more there is nobody to tell, or to wait for.
    if send(socket, &Report::Ended(end)).is_ok() {
        let mut list = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        let _ = poll(&mut list, PollTimeout::from(PATIENCE_MS));
    }
    code
}

/// Complaints about the guest go the same way, and are dropped where nobody takes them.
fn tell_lines(socket: &Arc<SeqPacket>) {
    let socket = Arc::clone(socket);
    telemetry::listen(Box::new(move |line| {
        let line = line.to_owned();
        let _ = send(&socket, &Report::Note { line });
    }));
}

/// The standard streams are /dev/null here: a fault of our own is told like any other end.
fn tell_panics(socket: &Arc<SeqPacket>) {
    let socket = Arc::clone(socket);
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        let message = format!("husk has a fault, in thread {name}: {info}").replace('\n', " ");
        let _ = send(&socket, &Report::Ended(End::Failed { message }));
    }));
}

fn send(socket: &SeqPacket, report: &Report) -> io::Result<()> {
    socket.send(&serde_json::to_vec(report)?)
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// Returns the exit code, once the machine is at its end and that is told.
fn serve(socket: &Arc<SeqPacket>, inherited: &mut Inherited) -> Result<u8, Box<dyn Error>> {
    let Some((text, fds)) = socket.recv_with(MAX_MESSAGE)? else {
        return Ok(0);
    };
    let config: VmConfig = serde_json::from_slice(&text)?;
    drop(text);
    // One that was started ahead of its machine has inherited none.
    if !fds.is_empty() {
        inherited.receive(config.descriptors(), fds);
    }
    let marks = Arc::new(Marks::new(config.trace));
    marks.mark("machine process up");
    let parts = take_parts(&config, inherited)?;
    let mut learned = match &config.begin {
        Begin::Restore(config::Restore {
            learn: Some(file), ..
        }) => Some(File::from(inherited.take(file.fd)?)),
        _ => None,
    };
    let disks = parts.drives.iter().map(File::try_clone);
    let disks: Vec<File> = disks.collect::<io::Result<_>>()?;
    let writable = config.drives.iter().zip(&disks);
    let writable = writable.filter(|(drive, _)| !drive.read_only);
    let writable = writable.map(|(_, disk)| disk.try_clone());
    let saver = Saver::new(writable.collect::<io::Result<_>>()?)?;
    Plan::new(config.jail).enter()?;
    marks.mark("jail entered");

    let outcome = Arc::new(Outcome::new()?);
    let teller = Arc::clone(socket);
    let on_panic = Box::new(move |message| {
        let _ = send(&teller, &Report::Panicked { message });
    });
    let machine = machine::build(&config, parts, &outcome, &marks, on_panic)?;
    let mut events = Loop::new()?;
    for source in machine.sources() {
        events.add(Arc::clone(source));
    }
    let desk = Desk::new(Arc::clone(socket), Arc::clone(&outcome), saver);
    events.add(Arc::clone(&desk) as Arc<dyn Source>);
    // What was marked so far is told at the first turn of the loop: each mark wakes a process, and
    // the guest is to start first.
    let variant = machine.variant();
    let running = machine.start()?;
    if config.trace {
        let _ = send(socket, &Report::Kernel(variant));
    }

    let mut settling = Some(Instant::now() + START);
    let end = loop {
        if let Some(end) = running.end() {
            break end;
        }
        let left = settling.map(|at| at.saturating_duration_since(Instant::now()));
        events.turn(left.map_or(-1, |left| i32::try_from(left.as_millis()).unwrap_or(0)))?;
        if settling.is_some_and(|at| Instant::now() >= at) {
            learned.take().inspect(|file| desk.learn(&running, file));
            running.settle();
            settling = None;
        }
        desk.answer(&running);
        report_marks(socket, &marks);
    };
    learned.inspect(|file| desk.learn(&running, file));
    running.flush();
    // Else they stay locked until the kernel has taken an io_uring apart, which it does after
    // this process is gone.
    for disk in &disks {
        let _ = flock(disk, FlockOperation::Unlock);
    }
    // Nobody can ask any more, and an end that was not looked for is told with them.
    desk.tell_console(&running);
    if let Some(trips) = running.round_trips().filter(|_| config.trace) {
        let _ = send(socket, &Report::RoundTrips(trips));
    }
    marks.mark("machine ended");
    report_marks(socket, &marks);
    Ok(last_word(socket, end))
}

fn report_marks(socket: &SeqPacket, marks: &Marks) {
    for (name, at) in marks.take() {
        let _ = send(socket, &Report::Mark { name, at });
    }
}

/// The files of a machine's memory, and what pages each has.
fn layers(
    list: &[config::Layer],
    file: &mut impl FnMut(&config::HostFile) -> io::Result<File>,
) -> io::Result<Vec<Layer>> {
    let layer = |layer: &config::Layer| {
        let runs = layer
            .pages
            .as_ref()
            .map(|pages| saved::read_runs(&file(pages)?));
        Ok(Layer {
            file: file(&layer.file)?,
            runs: runs.transpose()?,
        })
    };
    list.iter().map(layer).collect()
}

/// Everything the configuration names was opened by the process that started this one.
fn take_parts(config: &VmConfig, inherited: &mut Inherited) -> io::Result<Parts> {
    let mut file = |from: &config::HostFile| inherited.take(from.fd).map(File::from);
    let begin = match &config.begin {
        Begin::Boot(boot) => machine::Begin::Boot(boot::Files {
            kernel: file(&boot.kernel)?,
            initrd: boot.initrd.as_ref().map(&mut file).transpose()?,
        }),
        Begin::Restore(from) => machine::Begin::Restore(machine::Saved {
            state: file(&from.state)?,
            memory: layers(&from.memory, &mut file)?,
            // Without it the guest starts all the same.
            hot: match &from.hot {
                Some(hot) => saved::read_runs(&file(hot)?).unwrap_or_default(),
                None => Vec::new(),
            },
        }),
    };
    let drives = config
        .drives
        .iter()
        .map(|drive| file(&drive.file))
        .collect::<io::Result<_>>()?;
    let shares = config
        .shares
        .iter()
        .map(|share| inherited.take(share.fd).map(Into::into))
        .collect::<io::Result<_>>()?;
    let listener = config.vsock.as_ref().and_then(|vsock| vsock.listener);
    let listener = listener.map(|fd| inherited.take(fd)).transpose()?;
    let vsock = config.vsock.iter().flat_map(|vsock| &vsock.host_ports);
    let vsock = vsock
        .map(|port| {
            Ok(HostPort {
                port: port.port,
                stream: inherited.take(port.fd)?.into(),
            })
        })
        .collect::<io::Result<_>>()?;
    let console = match &config.console {
        config::Console::Quiet => Console::default(),
        config::Console::Stdio {
            input,
            output,
            kind,
        } => Console {
            kind: *kind,
            input: input.map(|fd| inherited.take(fd)).transpose()?,
            output: Some(inherited.take(*output)?),
        },
    };
    let net = config.net.as_ref().map(|net| -> io::Result<Box<dyn Link>> {
        Ok(match net.link {
            NetLink::Frames(fd) => Box::new(Frames::new(inherited.take(fd)?)),
            NetLink::Tap(fd) => Box::new(Tap::new(inherited.take(fd)?)),
        })
    });
    let net = net.transpose()?;
    Ok(Parts {
        kvm: inherited.take(config.kvm)?,
        begin,
        drives,
        shares,
        vsock: VsockParts {
            ports: vsock,
            listener,
        },
        console,
        net,
    })
}
