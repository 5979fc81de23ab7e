// SPDX-License-Identifier: Apache-2.0
//! Every message, and how each is laid out in its frame.

use crate::rebirth::{Rebirth, Step};
use crate::wire::{Malformed, Reader, Writer};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

/// One message of either direction; the arrow says which side sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// agent → host, first: the agent is up and can take a `Start`.
    Hello(Hello),
    /// host → agent, once.
    Start(Start),
    /// agent → host: the process runs.
    Started { pid: u32 },
    /// agent → host: it does not, and nothing else will come.
    Failed(Failure),
    /// Both ways, within the stream's window.
    Data { stream: Stream, bytes: &'a [u8] },
    /// The receiver of a stream made room for `bytes` more.
    Credit { stream: Stream, bytes: u32 },
    /// The sender of a stream: nothing more will come.
    Eof { stream: Stream },
    /// The receiver of a stream: nobody reads it any more, what comes is dropped.
    Broken { stream: Stream },
    /// host → agent: send this signal to the process.
    Signal { number: u8 },
    /// host → agent: the terminal's window has this size now.
    Resize(Size),
    /// agent → host: how the process ended, after all its output.
    Exited(Exit),
    /// agent → host, after `Exited`, if `Start` asked for it; ends with one that is `last`.
    KernelLog { records: Vec<LogRecord>, last: bool },
    /// host → agent: make the disks consistent and reset the machine.
    Shutdown,
    /// host → agent: stop every process of the image, as the machine is about to be saved.
    /// Answered by one `Frozen` or `Unfrozen`, whatever comes meanwhile. `settle`: what they
    /// wrote is to be on the disks by then.
    Freeze { settle: bool },
    /// agent → host: they stand still until a `Thaw`, or until a restored machine's agent let
    /// them go.
    Frozen,
    /// agent → host: they do not, and go on; why, in one line.
    Unfrozen { reason: String },
    /// host → agent: let them go on. In a machine that is not frozen it means nothing.
    Thaw,
    /// host → agent, in place of `Start`, to one whose `Hello` says what runs.
    Reborn(Rebirth),
    /// agent → host: this step of a `Rebirth` is done, or why not: nothing else will come then.
    Step {
        which: Step,
        problem: Option<Failure>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// host → agent
    Stdin,
    /// agent → host
    Stdout,
    /// agent → host
    Stderr,
    /// Both ways, each with its own window.
    Terminal,
}

/// Times are nanoseconds of the guest's CLOCK_BOOTTIME.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    pub version: u16,
    /// When the agent's first instruction ran.
    pub started: u64,
    /// When this message was made.
    pub ready: u64,
    /// In a machine that was restored with its processes, which stand still.
    pub running: Option<Running>,
}

/// A process that another host started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    pub pid: u32,
    pub terminal: bool,
    /// Whether it still takes input.
    pub stdin: bool,
}

/// What to run and in which surroundings. Byte strings hold no NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value` each. The agent adds PATH, HOME, HOSTNAME and, with a terminal, TERM where absent.
    pub env: Vec<Vec<u8>>,
    /// `uid[:gid]` in numbers or names of the image's own files; empty is root.
    pub user: String,
    /// Absolute; made if absent. Empty is `/`.
    pub cwd: Vec<u8>,
    /// Empty leaves the name as it is.
    pub hostname: String,
    pub terminal: Option<Terminal>,
    /// Whether `Data` will come for the process's input; without, it reads /dev/null.
    pub stdin: bool,
    /// None runs the command where the agent itself is.
    pub root: Option<Root>,
    /// Whether `argv` names a program of the agent's own instead of one of the image.
    pub own: bool,
    pub kernel_log: bool,
    /// Nanoseconds since 1970; zero leaves the clock as it is.
    pub wall_clock: u64,
    /// What is mounted in the root, in this order.
    pub mounts: Vec<Mount>,
    /// None leaves the machine's interfaces alone.
    pub network: Option<Box<Network>>,
    /// What a machine that was restored becomes, before anything else; None was booted.
    pub rebirth: Option<Box<Rebirth>>,
}

/// A file system besides the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// A disk's device (`/dev/vdb`), a share's tag, or nothing.
    pub source: String,
    /// Absolute; made if absent.
    pub target: Vec<u8>,
    pub read_only: bool,
    /// Most bytes of a file system in memory; zero is half the memory.
    pub size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// ext4 on a disk of its own, kept after the machine's end.
    Volume,
    /// virtio-fs: a directory of the host.
    Share,
    /// In memory.
    Tmpfs,
    /// A directory of the root, which takes writes also where the root takes none.
    Own,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    pub size: Size,
    /// The value of TERM; empty leaves the choice to the agent.
    pub term: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// How the guest is on its network. Applied by PID 1 alone, before the process starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// `eth0`; brought up.
    pub interface: String,
    /// All zeroes leave the interface's as it is.
    pub mac: [u8; 6],
    /// Zero leaves it as it is.
    pub mtu: u16,
    pub addresses: Vec<Address>,
    /// Default routes, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// The content of /etc/resolv.conf; empty leaves the image's.
    pub resolv_conf: Vec<u8>,
    /// Lines for the end of /etc/hosts.
    pub hosts: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub ip: IpAddr,
    /// Bits of the network it lies in.
    pub prefix: u8,
}

/// Where the root file system is and what may be done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// `/dev/vda`; always mounted read-only.
    pub device: String,
    pub filesystem: Filesystem,
    /// Whether writes go to memory, or are refused.
    pub writable: bool,
    /// `/dev/vdb`, an ext4 file system that takes the writes instead of memory; or nothing.
    pub upper: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    Erofs,
    Ext4,
    Squashfs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub stage: Stage,
    /// What husk exits with, as shells have it: 126, 127, or 125 for our own failures.
    pub code: u8,
    /// The kernel's reason, or zero.
    pub errno: u16,
    /// One line, without the reason.
    pub message: String,
}

/// What was being done when a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Root,
    User,
    WorkingDirectory,
    Terminal,
    Spawn,
    Exec,
    Network,
    Identity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    Signal(u8),
}

/// One record of the guest's kernel log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Microseconds of the guest's boot clock.
    pub time: u64,
    /// As syslog counts: 0 is an emergency, 7 debugging.
    pub level: u8,
    pub text: String,
}

pub const KIND_START: u8 = 2;
const KIND_LAST: u8 = 19;

/// Whether a frame of this kind exists: refused before its payload is waited for.
pub fn known(kind: u8) -> bool {
    (1..=KIND_LAST).contains(&kind)
}

impl<'a> Message<'a> {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Start(_) => KIND_START,
            Self::Started { .. } => 3,
            Self::Failed(_) => 4,
            Self::Data { .. } => 5,
            Self::Credit { .. } => 6,
            Self::Eof { .. } => 7,
            Self::Broken { .. } => 8,
            Self::Signal { .. } => 9,
            Self::Resize(_) => 10,
            Self::Exited(_) => 11,
            Self::KernelLog { .. } => 12,
            Self::Shutdown => 13,
            Self::Freeze { .. } => 14,
            Self::Frozen => 15,
            Self::Unfrozen { .. } => 16,
            Self::Thaw => 17,
            Self::Reborn(_) => 18,
            Self::Step { .. } => KIND_LAST,
        }
    }

    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        match self {
            Self::Hello(hello) => {
                w.u16(hello.version);
                w.u64(hello.started);
                w.u64(hello.ready);
                w.option(hello.running.as_ref(), |w, running| {
                    w.u32(running.pid);
                    w.bool(running.terminal);
                    w.bool(running.stdin);
                });
            }
            Self::Start(start) => start.write(w),
            Self::Started { pid } => w.u32(*pid),
            Self::Failed(failure) => failure.write(w),
            Self::Data { stream, bytes } => {
                w.u8(*stream as u8);
                w.raw(bytes);
            }
            Self::Credit { stream, bytes } => {
                w.u8(*stream as u8);
                w.u32(*bytes);
            }
            Self::Eof { stream } | Self::Broken { stream } => w.u8(*stream as u8),
            Self::Signal { number } => w.u8(*number),
            Self::Resize(size) => size.write(w),
            Self::Exited(exit) => {
                let (how, value) = match *exit {
                    Exit::Code(code) => (0, code),
                    Exit::Signal(number) => (1, number),
                };
                w.u8(how);
                w.u8(value);
            }
            Self::KernelLog { records, last } => {
                w.bool(*last);
                w.list(records, |w, record| {
                    w.u64(record.time);
                    w.u8(record.level);
                    w.bytes(record.text.as_bytes());
                });
            }
            Self::Shutdown | Self::Frozen | Self::Thaw => {}
            Self::Freeze { settle } => w.bool(*settle),
            Self::Unfrozen { reason } => w.bytes(reason.as_bytes()),
            Self::Reborn(rebirth) => rebirth.write(w),
            Self::Step { which, problem } => {
                w.u8(*which as u8);
                w.option(problem.as_ref(), |w, problem| problem.write(w));
            }
        }
    }

    pub(crate) fn read(kind: u8, r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match kind {
            1 => Self::Hello(Hello {
                version: r.u16()?,
                started: r.u64()?,
                ready: r.u64()?,
                running: r.option(|r| {
                    Ok(Running {
                        pid: r.u32()?,
                        terminal: r.bool()?,
                        stdin: r.bool()?,
                    })
                })?,
            }),
            KIND_START => Self::Start(Start::read(r)?),
            3 => Self::Started { pid: r.u32()? },
            4 => Self::Failed(Failure::read(r)?),
            5 => Self::Data {
                stream: Stream::read(r)?,
                bytes: r.take(r.0.len())?,
            },
            6 => Self::Credit {
                stream: Stream::read(r)?,
                bytes: r.u32()?,
            },
            7 => Self::Eof {
                stream: Stream::read(r)?,
            },
            8 => Self::Broken {
                stream: Stream::read(r)?,
            },
            9 => Self::Signal { number: r.u8()? },
            10 => Self::Resize(Size::read(r)?),
            11 => Self::Exited(match (r.u8()?, r.u8()?) {
                (0, code) => Exit::Code(code),
                (1, number) => Exit::Signal(number),
                _ => return Err(Malformed::Value),
            }),
            12 => Self::KernelLog {
                last: r.bool()?,
                records: r.list(|r| {
                    Ok(LogRecord {
                        time: r.u64()?,
                        level: r.u8()?,
                        text: r.string()?,
                    })
                })?,
            },
            13 => Self::Shutdown,
            14 => Self::Freeze { settle: r.bool()? },
            15 => Self::Frozen,
            16 => Self::Unfrozen {
                reason: r.string()?,
            },
            17 => Self::Thaw,
            18 => Self::Reborn(Rebirth::read(r)?),
            KIND_LAST => Self::Step {
                which: Step::read(r)?,
                problem: r.option(Failure::read)?,
            },
            other => return Err(Malformed::Kind(other)),
        })
    }
}

impl Start {
    fn write(&self, w: &mut Writer<'_>) {
        w.list(&self.argv, |w, arg| w.bytes(arg));
        w.list(&self.env, |w, var| w.bytes(var));
        w.bytes(self.user.as_bytes());
        w.bytes(&self.cwd);
        w.bytes(self.hostname.as_bytes());
        w.option(self.terminal.as_ref(), |w, terminal| {
            terminal.size.write(w);
            w.bytes(terminal.term.as_bytes());
        });
        w.bool(self.stdin);
        w.option(self.root.as_ref(), |w, root| {
            w.bytes(root.device.as_bytes());
            w.u8(root.filesystem as u8);
            w.bool(root.writable);
            w.bytes(root.upper.as_bytes());
        });
        w.bool(self.own);
        w.bool(self.kernel_log);
        w.u64(self.wall_clock);
        w.list(&self.mounts, |w, mount| {
            w.u8(mount.kind as u8);
            w.bytes(mount.source.as_bytes());
            w.bytes(&mount.target);
            w.bool(mount.read_only);
            w.u64(mount.size);
        });
        w.option(self.network.as_deref(), |w, network| network.write(w));
        w.option(self.rebirth.as_deref(), |w, rebirth| rebirth.write(w));
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            argv: r.list(Reader::text)?,
            env: r.list(Reader::text)?,
            user: r.string()?,
            cwd: r.text()?,
            hostname: r.string()?,
            terminal: r.option(|r| {
                Ok(Terminal {
                    size: Size::read(r)?,
                    term: r.string()?,
                })
            })?,
            stdin: r.bool()?,
            root: r.option(|r| {
                Ok(Root {
                    device: r.string()?,
                    filesystem: Filesystem::read(r)?,
                    writable: r.bool()?,
                    upper: r.string()?,
                })
            })?,
            own: r.bool()?,
            kernel_log: r.bool()?,
            wall_clock: r.u64()?,
            mounts: r.list(|r| {
                Ok(Mount {
                    kind: one_of(&MountKind::ALL, r)?,
                    source: r.string()?,
                    target: r.text()?,
                    read_only: r.bool()?,
                    size: r.u64()?,
                })
            })?,
            network: r.option(|r| Network::read(r).map(Box::new))?,
            rebirth: r.option(|r| Rebirth::read(r).map(Box::new))?,
        })
    }
}

impl Network {
    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        w.bytes(self.interface.as_bytes());
        w.raw(&self.mac);
        w.u16(self.mtu);
        w.list(&self.addresses, |w, address| {
            write_ip(w, address.ip);
            w.u8(address.prefix);
        });
        w.list(&self.gateways, |w, gateway| write_ip(w, *gateway));
        w.bytes(&self.resolv_conf);
        w.bytes(&self.hosts);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            interface: r.string()?,
            mac: r.array()?,
            mtu: r.u16()?,
            addresses: r.list(|r| {
                Ok(Address {
                    ip: read_ip(r)?,
                    prefix: r.u8()?,
                })
            })?,
            gateways: r.list(read_ip)?,
            resolv_conf: r.bytes()?.into(),
            hosts: r.bytes()?.into(),
        })
    }
}

fn write_ip(w: &mut Writer<'_>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            w.u8(4);
            w.raw(&v4.octets());
        }
        IpAddr::V6(v6) => {
            w.u8(6);
            w.raw(&v6.octets());
        }
    }
}

fn read_ip(r: &mut Reader<'_>) -> Result<IpAddr, Malformed> {
    match r.u8()? {
        4 => Ok(r.array::<4>()?.into()),
        6 => Ok(r.array::<16>()?.into()),
        _ => Err(Malformed::Value),
    }
}

impl Size {
    fn write(&self, w: &mut Writer<'_>) {
        w.u16(self.columns);
        w.u16(self.rows);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            columns: r.u16()?,
            rows: r.u16()?,
        })
    }
}

/// Reads a byte as the enum whose variants, in order, are `all`.
pub(crate) fn one_of<T: Copy>(all: &[T], r: &mut Reader<'_>) -> Result<T, Malformed> {
    all.get(usize::from(r.u8()?))
        .copied()
        .ok_or(Malformed::Value)
}

impl Stream {
    pub const ALL: [Self; 4] = [Self::Stdin, Self::Stdout, Self::Stderr, Self::Terminal];

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        one_of(&Self::ALL, r)
    }
}

impl MountKind {
    pub const ALL: [Self; 4] = [Self::Volume, Self::Share, Self::Tmpfs, Self::Own];
}

impl Filesystem {
    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        one_of(&[Self::Erofs, Self::Ext4, Self::Squashfs], r)
    }

    /// The name mount(2) knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Ext4 => "ext4",
            Self::Squashfs => "squashfs",
        }
    }
}

impl Failure {
    fn write(&self, w: &mut Writer<'_>) {
        w.u8(self.stage as u8);
        w.u8(self.code);
        w.u16(self.errno);
        w.bytes(self.message.as_bytes());
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            stage: Stage::read(r)?,
            code: r.u8()?,
            errno: r.u16()?,
            message: r.string()?,
        })
    }
}

impl Stage {
    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        one_of(
            &[
                Self::Root,
                Self::User,
                Self::WorkingDirectory,
                Self::Terminal,
                Self::Spawn,
                Self::Exec,
                Self::Network,
                Self::Identity,
            ],
            r,
        )
    }
}
