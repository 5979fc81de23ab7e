// SPDX-License-Identifier: Apache-2.0
//! One session: a connection to the host and the process it started. Knows nothing of who
//! dialled. A single loop; it always reads its connection, so that neither a full standard
//! input nor a blocked output ever holds back a signal.

mod pump;

use crate::command::{self, failure};
use crate::sys::{self, Errno, Fd};
use crate::{kernel_log, network, root};
use alloc::rc::Rc;
use alloc::vec::Vec;
use husk_protocol::{
    ByteQueue, Decoder, Exit, Failure, Hello, Malformed, Message, Size, Stage, Start, Stream,
    VERSION,
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

struct Session {
    place: Place,
    link: Fd,
    children: Fd,
    out: ByteQueue,
    scratch: Vec<u8>,
    process: Option<Process>,
    input: Option<Input>,
    outputs: Vec<Output>,
    kernel_log: bool,
    /// Whether the process's end, or its failure to start, was told.
    told: bool,
    shutdown: bool,
}

/// Serves the host on `link` until it asks for a shutdown or is gone.
pub fn serve(link: Fd, place: Place, started: u64) -> Result<Ending, Malformed> {
    let Ok(children) = sys::watch_children() else {
        return Ok(Ending::LinkLost);
    };
    let mut session = Session {
        place,
        link,
        children,
        out: ByteQueue::new(),
        scratch: Vec::new(),
        process: None,
        input: None,
        outputs: Vec::new(),
        kernel_log: false,
        told: false,
        shutdown: false,
    };
    let ready = sys::uptime();
    session.tell(&Message::Hello(Hello {
        version: VERSION,
        started,
        ready,
    }));
    let mut decoder = Decoder::new();
    loop {
        if session.flush().is_err() {
            return Ok(Ending::LinkLost);
        }
        if session.shutdown {
            return Ok(Ending::Shutdown);
        }
        let (link, children) = session.wait();
        if link && !session.receive(&mut decoder)? {
            return Ok(Ending::LinkLost);
        }
        session.pump();
        if children {
            session.reap();
        }
        session.finish();
    }
}

impl Session {
    /// Queues a message. Those the agent makes all fit their frames.
    fn tell(&mut self, message: &Message<'_>) {
        let _ = message.encode(self.out.tail());
    }

    /// Sends what the connection takes now.
    fn flush(&mut self) -> sys::Result<()> {
        while !self.out.is_empty() {
            match sys::send(&self.link, self.out.peek()) {
                Ok(n) => self.out.consume(n),
                Err(errno) if errno.is(libc::EAGAIN) => break,
                Err(errno) if errno.is(libc::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Waits for something to do. Says whether the connection and a child are ready; what
    /// inputs and outputs are ready for is noted in them.
    fn wait(&mut self) -> (bool, bool) {
        let entry = |fd: &Fd, events| pollfd {
            fd: fd.number(),
            events,
            revents: 0,
        };
        let room = self.out.len() < MAX_BACKLOG;
        let sending = if self.out.is_empty() { 0 } else { POLLOUT };
        let mut fds: Vec<pollfd> = Vec::with_capacity(6);
        fds.push(entry(&self.link, POLLIN | sending));
        fds.push(entry(&self.children, POLLIN));
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
            fds.push(unless(input.wants(), entry(&input.fd, POLLOUT)));
        }
        // A terminal that others keep open after its process has no end of its own.
        let draining = self.process.as_ref().is_some_and(|p| p.exit.is_some())
            && self.outputs.iter().any(|output| room && output.wants());
        let silent = sys::poll(&mut fds, if draining { SILENCE } else { -1 }) == Ok(false);
        if draining && silent {
            for output in &mut self.outputs {
                output.end(&mut self.out);
            }
        }
        let mut ready = fds.iter().map(|fd| fd.revents != 0);
        let link = fds.first().is_some_and(|fd| fd.revents & !POLLOUT != 0);
        let children = ready.by_ref().nth(1).unwrap_or(false);
        for output in &mut self.outputs {
            output.ready = ready.next().unwrap_or(false);
        }
        if let Some(input) = &mut self.input {
            input.ready = ready.next().unwrap_or(false);
        }
        (link, children)
    }

    /// Reads the connection once and acts on each whole message. False at its end.
    fn receive(&mut self, decoder: &mut Decoder) -> Result<bool, Malformed> {
        match sys::receive(&self.link, decoder.space()) {
            Ok(0) => return Ok(false),
            Ok(n) => decoder.filled(n),
            Err(errno) => return Ok(errno.is(libc::EAGAIN) || errno.is(libc::EINTR)),
        }
        while let Some(message) = decoder.take()? {
            self.obey(message)?;
        }
        Ok(true)
    }

    fn obey(&mut self, message: Message<'_>) -> Result<(), Malformed> {
        match message {
            Message::Start(start) if !self.told && self.process.is_none() => {
                match self.start(&start) {
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
            Message::Shutdown => self.shutdown = true,
            _ => return Err(Malformed::Order),
        }
        Ok(())
    }

    fn start(&mut self, start: &Start) -> Result<u32, Failure> {
        self.kernel_log = start.kernel_log;
        let machine = self.place == Place::Machine;
        if machine {
            if start.wall_clock != 0 {
                let _ = sys::set_clock(start.wall_clock);
            }
            if !start.hostname.is_empty() {
                sys::set_hostname(start.hostname.as_bytes()).map_err(|errno| {
                    failure(Stage::Spawn, errno, "setting the host name".into())
                })?;
            }
        }
        if let Some(network) = start.network.as_deref().filter(|_| machine) {
            network::join(network)?;
        }
        match &start.root {
            Some(root) if machine => root::enter(root, &start.hostname, start.network.as_deref())?,
            Some(_) => {
                let message = "a root file system needs a machine".into();
                return Err(failure(Stage::Root, Errno(0), message));
            }
            None => {}
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
        let pid = command::spawn(start, &account.home, identity, [a, b, c])?;
        self.process = Some(Process { pid, exit: None });
        self.input = ends.input;
        self.outputs = ends.outputs;
        Ok(pid)
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
    fn pump(&mut self) {
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

    fn reap(&mut self) {
        let mut number = [0; 128];
        while sys::read(&self.children, &mut number).is_ok_and(|n| n > 0) {}
        while let Some((pid, status)) = sys::reap() {
            if self
                .process
                .as_ref()
                .is_some_and(|p| p.pid == pid && p.exit.is_none())
            {
                self.main_ended(exit_of(status));
            }
        }
    }

    /// As in a container, the end of the process is the end of all: the rest is killed,
    /// and of the output what was written by now is still sent.
    fn main_ended(&mut self, exit: Exit) {
        let Some(process) = &mut self.process else {
            return;
        };
        process.exit = Some(exit);
        let rest = match self.place {
            Place::Machine => -1,
            Place::Process => i32::try_from(process.pid).map_or(0, |pid| -pid),
        };
        if rest != 0 {
            let _ = sys::kill(rest, 9);
        }
        self.input = None;
        for output in &mut self.outputs {
            output.close_after_what_is_there(&mut self.out);
        }
        self.outputs.retain(|output| !output.ended);
    }

    /// Tells the process's end once all its output is on its way.
    fn finish(&mut self) {
        let exit = self.process.as_ref().and_then(|process| process.exit);
        let Some(exit) = exit.filter(|_| !self.told && self.outputs.is_empty()) else {
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
fn exit_of(status: c_int) -> Exit {
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
