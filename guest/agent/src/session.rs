// SPDX-License-Identifier: Apache-2.0
//! One session: a connection to the host and the process it started. Knows nothing of who
//! dialled. The loop (`serve`) always reads its connection, so that neither a full standard
//! input nor a blocked output ever holds back a signal.

mod pump;

use crate::command::{self, failure};
use crate::later::Later;
use crate::rebirth::{self, Who};
use crate::serve::entry;
use crate::sys::{self, Errno, Fd};
use crate::{kernel_log, network, root};
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
pub use husk_protocol::Exit;
use husk_protocol::{
    ByteQueue, Decoder, Failure, Hello, Malformed, Message, Rebirth, Running, SendWindow, Size,
    Stage, Start, Step, Stream, VERSION,
};
use libc::{POLLIN, POLLOUT, c_int, pollfd};
use pump::{Input, Output};

/// Where a session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In PID 1: root, host name, clock and all processes are ours.
    Machine,
    /// In an ordinary process, which leaves the machine alone.
    Process,
}

/// How a session ended, when it did nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Shutdown,
    LinkLost,
    /// The link was lost before anything was asked of the machine.
    Unused,
}

/// What the host wants of the machine and not of its process: the loop's to see to.
pub enum Order {
    Freeze { settle: bool },
    Thaw,
    Reborn(Rebirth),
}

/// Beyond this much waiting for the connection, outputs are not read: what they have
/// stays in their pipes.
const MAX_BACKLOG: usize = 64 * 1024;

/// Milliseconds without output after which a terminal, its process ended, is done: far
/// longer than the kernel takes to move what was written.
const SILENCE: c_int = 100;

/// Text of one kernel log frame; far from its limit.
const LOG_FRAME: usize = 16 * 1024;

struct Process {
    pid: u32,
    exit: Option<Exit>,
}

/// One connection of the host, and its process.
pub struct Session {
    place: Place,
    /// Whose end is the machine's end.
    main: bool,
    link: Fd,
    /// What poll said of the link.
    linked: bool,
    decoder: Decoder,
    out: ByteQueue,
    scratch: Vec<u8>,
    process: Option<Process>,
    input: Option<Input>,
    outputs: Vec<Output>,
    /// When an output was last ready, or the process ended.
    heard: u64,
    kernel_log: bool,
    /// Whether the process's end, or its failure to start, was told.
    told: bool,
    shutdown: bool,
    orders: VecDeque<Order>,
    /// The machine was restored, and what runs in it may not go on yet.
    awaiting: bool,
    /// Of the machine's own session: who the machine is.
    pub who: Who,
    later: Option<Later>,
}

impl Session {
    pub fn new(link: Fd, place: Place, main: bool, started: u64) -> Self {
        let mut session = Self {
            place,
            main,
            link,
            linked: false,
            decoder: Decoder::new(),
            out: ByteQueue::new(),
            scratch: Vec::new(),
            process: None,
            input: None,
            outputs: Vec::new(),
            heard: 0,
            kernel_log: false,
            told: false,
            shutdown: false,
            orders: VecDeque::new(),
            awaiting: false,
            who: Who::default(),
            later: None,
        };
        session.greet(started);
        session
    }

    fn greet(&mut self, started: u64) {
        let running = self.running().filter(|_| self.awaiting);
        let running = running.map(|pid| Running {
            pid,
            terminal: self.outputs.iter().any(|o| o.stream == Stream::Terminal),
            stdin: self.input.is_some(),
        });
        self.tell(&Message::Hello(Hello {
            version: VERSION,
            started,
            ready: sys::uptime(),
            running,
        }));
    }

    /// Goes on with another host, in a machine that was restored: what was under way with the
    /// one before is that one's.
    pub fn relink(&mut self, link: Fd, started: u64) {
        self.link = link;
        self.linked = false;
        self.decoder = Decoder::new();
        self.out.clear();
        self.orders.clear();
        self.kernel_log = false;
        if let Some(input) = &mut self.input {
            input.begin_anew();
        }
        for output in &mut self.outputs {
            output.window = SendWindow::new();
        }
        self.awaiting = true;
        self.greet(started);
    }

    /// The machine is who it is now, and its process runs again.
    pub fn go_on(&mut self) {
        self.awaiting = false;
        if let Some(process) = &self.process {
            let pid = process.pid;
            self.tell(&Message::Started { pid });
        }
    }

    pub fn is_awaiting(&self) -> bool {
        self.awaiting
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// The process, if it has not ended.
    pub fn running(&self) -> Option<u32> {
        let running = self.process.as_ref().filter(|p| p.exit.is_none());
        running.map(|process| process.pid)
    }

    pub fn next_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// What an ending comes to for this session.
    pub fn lost(&self, ending: Ending) -> Ending {
        let untouched = self.main && self.process.is_none() && !self.told;
        match ending {
            Ending::LinkLost if untouched && self.place == Place::Machine => Ending::Unused,
            other => other,
        }
    }

    pub fn has_process(&self) -> bool {
        self.process.is_some()
    }

    /// Whether the link has something to read.
    pub fn is_linked(&self) -> bool {
        self.linked
    }

    /// Queues a message. Those the agent makes all fit their frames.
    pub fn tell(&mut self, message: &Message<'_>) {
        let _ = message.encode(self.out.tail());
    }

    /// Sends what the connection takes now. Says if the session is over.
    pub fn flush(&mut self) -> Option<Ending> {
        while !self.out.is_empty() {
            match sys::send(&self.link, self.out.peek()) {
                Ok(n) => self.out.consume(n),
                Err(errno) if errno.is(libc::EAGAIN) => break,
                Err(errno) if errno.is(libc::EINTR) => {}
                Err(_) => return Some(Ending::LinkLost),
            }
        }
        self.shutdown.then_some(Ending::Shutdown)
    }

    /// The host is gone from a further session: its process is told as a terminal's would be.
    pub fn abandon(&mut self) {
        const HANGUP: u8 = 1;
        let running = self.process.as_ref().filter(|p| p.exit.is_none());
        if let Some(pid) = running.and_then(|p| i32::try_from(p.pid).ok()) {
            let _ = sys::kill(-pid, HANGUP);
        }
    }

    /// Appends what is to be watched; `note` takes as many entries.
    pub fn watch(&self, fds: &mut Vec<pollfd>) {
        let room = self.out.len() < MAX_BACKLOG && !self.awaiting;
        let sending = if self.out.is_empty() { 0 } else { POLLOUT };
        fds.push(entry(&self.link, POLLIN | sending));
        // An entry that must not wake us is left out by its negative descriptor: a hangup
        // would be reported whatever is asked for.
        let unless = |wanted: bool, mut entry: pollfd| {
            if !wanted {
                entry.fd = -1;
            }
            entry
        };
        for output in &self.outputs {
            fds.push(unless(room && output.wants(), entry(&output.fd, POLLIN)));
        }
        if let Some(input) = &self.input {
            let wanted = input.wants() && !self.awaiting;
            fds.push(unless(wanted, entry(&input.fd, POLLOUT)));
        }
    }

    /// Milliseconds poll may wait for this session's sake, or -1.
    pub fn patience(&self) -> c_int {
        let draining = self.is_draining().then_some(SILENCE);
        let later = self.later.as_ref().map(Later::patience);
        draining.into_iter().chain(later).min().unwrap_or(-1)
    }

    /// A terminal that others keep open after its process has no end of its own.
    fn is_draining(&self) -> bool {
        let room = self.out.len() < MAX_BACKLOG && !self.awaiting;
        self.process.as_ref().is_some_and(|p| p.exit.is_some())
            && self.outputs.iter().any(|output| room && output.wants())
    }

    /// Takes what poll said of the entries of `watch`.
    pub fn note<'a>(&mut self, ready: &mut impl Iterator<Item = &'a pollfd>, now: u64) {
        let draining = self.is_draining();
        self.linked = ready.next().is_some_and(|fd| fd.revents & !POLLOUT != 0);
        for output in &mut self.outputs {
            output.ready = ready.next().is_some_and(|fd| fd.revents != 0);
            if output.ready {
                self.heard = now;
            }
        }
        if let Some(input) = &mut self.input {
            input.ready = ready.next().is_some_and(|fd| fd.revents != 0);
        }
        let silence = u64::from(SILENCE.unsigned_abs()) * 1_000_000;
        if draining && now.saturating_sub(self.heard) >= silence {
            for output in &mut self.outputs {
                output.end(&mut self.out);
            }
        }
    }

    /// Reads the connection once and acts on each whole message. False at its end. `home` is
    /// the control group a process begins in.
    pub fn receive(&mut self, home: Option<&Fd>) -> Result<bool, Malformed> {
        let mut decoder = core::mem::take(&mut self.decoder);
        match sys::receive(&self.link, decoder.space()) {
            Ok(0) => return Ok(false),
            Ok(n) => decoder.filled(n),
            Err(errno) => {
                self.decoder = decoder;
                return Ok(errno.is(libc::EAGAIN) || errno.is(libc::EINTR));
            }
        }
        while let Some(message) = decoder.take()? {
            self.obey(message, home)?;
        }
        self.decoder = decoder;
        Ok(true)
    }

    fn obey(&mut self, message: Message<'_>, home: Option<&Fd>) -> Result<(), Malformed> {
        match message {
            Message::Start(start) if !self.told && self.process.is_none() => {
                match self.start(&start, home) {
                    Ok(pid) => self.tell(&Message::Started { pid }),
                    Err(why) => {
                        self.told = true;
                        self.tell(&Message::Failed(why));
                    }
                }
            }
            Message::Data { stream, bytes } => self.take_input(stream, bytes)?,
            Message::Eof { stream } => {
                if let Some(input) = self.input.as_mut().filter(|i| i.stream == stream) {
                    input.end();
                }
            }
            Message::Credit { stream, bytes } => {
                if let Some(output) = self.outputs.iter_mut().find(|o| o.stream == stream) {
                    output.window.grant(bytes)?;
                }
            }
            Message::Broken { stream } => self.hang_up(stream),
            Message::Signal { number } => self.signal(number),
            Message::Resize(size) => self.resize(size),
            Message::Shutdown if self.main => self.shutdown = true,
            Message::Freeze { settle } if self.main => {
                self.orders.push_back(Order::Freeze { settle });
            }
            Message::Thaw if self.main => self.orders.push_back(Order::Thaw),
            Message::Reborn(rebirth) if self.awaiting => {
                self.orders.push_back(Order::Reborn(rebirth));
            }
            _ => return Err(Malformed::Order),
        }
        Ok(())
    }

    fn start(&mut self, start: &Start, home: Option<&Fd>) -> Result<u32, Failure> {
        self.kernel_log = start.kernel_log;
        let machine = self.place == Place::Machine;
        if machine && self.main {
            self.become_whom(start)?;
        } else if let Some(network) = start.network.as_deref().filter(|_| machine) {
            network::join(network)?;
        }
        if start.root.is_some() && !(machine && self.main) {
            let message = "a root file system needs a machine of its own".into();
            return Err(failure(Stage::Root, Errno(0), message));
        }
        if start.rebirth.is_some() && self.main {
            for which in Step::OF_START {
                self.tell(&Message::Step {
                    which,
                    problem: None,
                });
            }
        }
        // An ordinary process stays who it is unless it is asked for somebody.
        let account = command::account(start)?;
        let identity = (machine || !start.user.is_empty()).then_some(&account.identity);
        let uid = identity.map_or(0, |identity| identity.uid);
        let ends = if start.terminal.is_some() {
            pump::terminal(start, uid)
        } else {
            pump::pipes(start.stdin, uid)
        };
        let ends = ends.map_err(|errno| {
            failure(
                Stage::Terminal,
                errno,
                "making the process's streams".into(),
            )
        })?;
        let [a, b, c] = &ends.theirs;
        let pid = command::spawn(start, &account.home, identity, [a, b, c], home)?;
        self.process = Some(Process { pid, exit: None });
        self.input = ends.input;
        self.outputs = ends.outputs;
        Ok(pid)
    }

    /// What a machine is before its first process: each step is done, or nothing starts.
    fn become_whom(&mut self, start: &Start) -> Result<(), Failure> {
        let network = start.network.as_deref();
        if let Some(rebirth) = start.rebirth.as_deref() {
            rebirth::first(rebirth)?;
        }
        if start.wall_clock != 0 {
            let _ = sys::set_clock(start.wall_clock);
        }
        if !start.hostname.is_empty() {
            sys::set_hostname(start.hostname.as_bytes())
                .map_err(|errno| failure(Stage::Spawn, errno, "setting the host name".into()))?;
        }
        if let Some(network) = network {
            network::join(network)?;
        }
        if let Some(root) = &start.root {
            root::enter(root, &start.hostname, &start.mounts, network)?;
        }
        self.who.begins(&start.hostname, network);
        if let Some(rebirth) = start.rebirth.as_deref() {
            rebirth::last(rebirth, &mut self.who)?;
            self.later = Later::of(&rebirth.later);
        }
        Ok(())
    }

    fn take_input(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Malformed> {
        match self.input.as_mut().filter(|input| input.stream == stream) {
            Some(input) => input.accept(bytes),
            // Was under way when the process closed its input, or ended.
            None if self.told || self.process.is_some() => Ok(()),
            None => Err(Malformed::Order),
        }
    }

    /// The host's reader is gone: the process finds out as it would from a closed pipe or
    /// a terminal that hung up.
    fn hang_up(&mut self, stream: Stream) {
        self.outputs.retain(|output| output.stream != stream);
        if stream == Stream::Terminal {
            self.input = None;
        }
    }

    fn signal(&self, number: u8) {
        let Some(process) = self.process.as_ref().filter(|p| p.exit.is_none()) else {
            return;
        };
        let Ok(pid) = i32::try_from(process.pid) else {
            return;
        };
        // What a terminal sends, it sends to the whole foreground group; the rest is meant
        // for the process.
        let group = [libc::SIGINT, libc::SIGQUIT].contains(&c_int::from(number));
        let _ = sys::kill(if group { -pid } else { pid }, number);
    }

    fn resize(&self, size: Size) {
        if let Some(terminal) = self.outputs.iter().find(|o| o.stream == Stream::Terminal) {
            let _ = sys::set_window_size(&terminal.fd, size.columns, size.rows);
        }
    }

    /// Moves what is ready: input to the process, its output to the connection.
    pub fn pump(&mut self) {
        if let Some(input) = self.input.as_mut().filter(|input| input.ready) {
            let progress = input.write();
            let stream = input.stream;
            if progress.broken {
                self.input = None;
                self.tell(&Message::Broken { stream });
            } else if let Some(bytes) = progress.credit {
                self.tell(&Message::Credit { stream, bytes });
            }
        }
        self.input = self.input.take().filter(|input| !input.is_finished());
        for output in self.outputs.iter_mut().filter(|output| output.ready) {
            output.ready = false;
            if self.out.len() < MAX_BACKLOG {
                output.read(&mut self.scratch, &mut self.out);
            }
        }
        self.outputs.retain(|output| !output.ended);
    }

    /// Takes the end of a child. False: it is not this session's process.
    pub fn ended(&mut self, pid: u32, status: c_int) -> bool {
        let process = self.process.as_mut();
        let Some(process) = process.filter(|p| p.pid == pid && p.exit.is_none()) else {
            return false;
        };
        process.exit = Some(exit_of(status));
        self.heard = sys::uptime();
        self.close();
        true
    }

    /// As in a container, the end of the machine's own process is the end of all: the rest is
    /// killed. Of the output what was written by now is still sent.
    fn close(&mut self) {
        if self.main {
            let process = self.process.as_ref().map_or(0, |process| process.pid);
            let rest = match self.place {
                Place::Machine => -1,
                Place::Process => i32::try_from(process).map_or(0, |pid| -pid),
            };
            if rest != 0 {
                let _ = sys::kill(rest, 9);
            }
        }
        self.input = None;
        for output in &mut self.outputs {
            output.close_after_what_is_there(&mut self.out);
        }
        self.outputs.retain(|output| !output.ended);
    }

    /// Tells the process's end once all its output is on its way.
    pub fn finish(&mut self) {
        if self.later.as_ref().is_some_and(Later::find) {
            self.later = None;
        }
        let exit = self.process.as_ref().and_then(|process| process.exit);
        let untold = !self.told && !self.awaiting && self.outputs.is_empty();
        let Some(exit) = exit.filter(|_| untold) else {
            return;
        };
        self.told = true;
        self.tell(&Message::Exited(exit));
        if self.kernel_log {
            self.tell_kernel_log();
        }
    }

    fn tell_kernel_log(&mut self) {
        let (mut records, mut size) = (Vec::new(), 0);
        for record in kernel_log::read() {
            size += record.text.len() + 16;
            records.push(record);
            if size > LOG_FRAME {
                let records = core::mem::take(&mut records);
                self.tell(&Message::KernelLog {
                    records,
                    last: false,
                });
                size = 0;
            }
        }
        self.tell(&Message::KernelLog {
            records,
            last: true,
        });
    }
}

/// A wait status as wait(2) lays it out.
pub fn exit_of(status: c_int) -> Exit {
    let byte = |value: c_int| u8::try_from(value & 0xff).unwrap_or(0);
    match status & 0x7f {
        0 => Exit::Code(byte(status >> 8)),
        signal => Exit::Signal(byte(signal)),
    }
}

/// The ends of a new process's streams.
struct Ends {
    theirs: [Rc<Fd>; 3],
    input: Option<Input>,
    outputs: Vec<Output>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_told_apart() {
        assert_eq!(exit_of(0), Exit::Code(0));
        assert_eq!(exit_of(0xff00), Exit::Code(255));
        assert_eq!(exit_of(9), Exit::Signal(9));
        assert_eq!(exit_of(0x80 | 11), Exit::Signal(11));
    }
}
