// SPDX-License-Identifier: Apache-2.0
//! Who this machine is. One that was restored shares its past with every other one of the same
//! snapshot, and must not share its future: PID 1 takes each of these steps before anything of
//! the image runs, or runs on. `docs/identity.md` has the reason of each.

pub mod hooks;

use crate::command::failure;
use crate::sys::{self, Errno, c_string};
use crate::{connections, later, network, root};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use husk_protocol::{Failure, Network, Rebirth, Stage, Step};
use libc::MS_BIND;

/// Holds what programs watch. Of the kernel's own file system for devices, which is there
/// whatever the image is, takes writes where its root takes none, and knows inotify.
const FOLDER: &CStr = c"/dev/husk";
const GENERATION: &CStr = c"/dev/husk/generation";
const GENERATION_NEXT: &CStr = c"/dev/husk/.generation";
const BOOT_ID: &CStr = c"/dev/husk/boot_id";
const KERNELS_BOOT_ID: &CStr = c"/proc/sys/kernel/random/boot_id";
const HOSTS: &CStr = c"/etc/hosts";
/// Longest /etc/hosts whose lines are kept: what is longer is nobody's to look names up in.
const MAX_HOSTS: usize = 256 * 1024;
/// systemd's, and where D-Bus looked for it first.
const MACHINE_IDS: [&CStr; 2] = [c"/etc/machine-id", c"/var/lib/dbus/machine-id"];

/// What the machine remembers of itself, from one life to the next.
#[derive(Default)]
pub struct Who {
    /// The lines of /etc/hosts that are ours.
    hosts: Vec<u8>,
    pub hostname: String,
    /// Where it was last told to be.
    interface: String,
    /// Whether a boot id of ours lies over the kernel's.
    covered: bool,
    /// Restored so often since it was booted.
    pub lives: u64,
}

impl Who {
    /// Notes what a start made of it.
    pub fn begins(&mut self, hostname: &str, network: Option<&Network>) {
        self.hosts = root::hosts(hostname, network);
        self.hostname = hostname.into();
        self.interface = interface(network);
    }
}

fn interface(network: Option<&Network>) -> String {
    network.map_or_else(|| "eth0".into(), |network| network.interface.clone())
}

/// The steps that come before a start's network and root.
pub fn first(rebirth: &Rebirth) -> Result<(), Failure> {
    random(&rebirth.seed)?;
    devices(&rebirth.devices)
}

/// The steps that come after them.
pub fn last(rebirth: &Rebirth, who: &mut Who) -> Result<(), Failure> {
    machine_id(&rebirth.machine_id)?;
    boot_id(&rebirth.boot_id, who)?;
    generation(&rebirth.generation, who.lives)
}

/// One step of a machine that was restored with its processes, which stand still; `Hooks` is
/// the loop's.
pub fn take(step: Step, rebirth: &Rebirth, who: &mut Who) -> Result<(), Failure> {
    match step {
        Step::Random => random(&rebirth.seed),
        Step::Devices => devices(&rebirth.devices),
        Step::Clock => clock(rebirth.wall_clock),
        Step::Connections => {
            network::go_silent(&who.interface)?;
            end_connections(rebirth.network.is_some())
        }
        Step::Network => match rebirth.network.as_deref() {
            Some(network) => {
                network::join_anew(network)?;
                network::name_servers(network);
                Ok(())
            }
            None => Ok(()),
        },
        Step::HostName => host_name(rebirth, who),
        Step::MachineId => machine_id(&rebirth.machine_id),
        Step::BootId => boot_id(&rebirth.boot_id, who),
        Step::Generation => {
            who.lives += 1;
            generation(&rebirth.generation, who.lives)
        }
        Step::Hooks => Ok(()),
    }
}

fn failed(what: &str) -> impl FnOnce(Errno) -> Failure {
    move |errno| failure(Stage::Identity, errno, String::from(what))
}

fn random(seed: &[u8]) -> Result<(), Failure> {
    sys::seed_random(seed).map_err(failed("seeding the random generator anew"))
}

fn devices(names: &[String]) -> Result<(), Failure> {
    names.iter().try_for_each(|name| {
        later::find(name)
            .map_err(|errno| failure(Stage::Root, errno, format!("finding the device {name}")))
    })
}

/// Timers of the wall clock that ask to hear of this are told (TFD_TIMER_CANCEL_ON_SET).
fn clock(now: u64) -> Result<(), Failure> {
    match now {
        0 => Ok(()),
        now => sys::set_clock(now).map_err(failed("setting the clock")),
    }
}

fn end_connections(networked: bool) -> Result<(), Failure> {
    match connections::end_all() {
        Err(errno) if errno.is(libc::EOPNOTSUPP) => Err(failure(
            Stage::Identity,
            errno,
            "this kernel cannot end connections (CONFIG_INET_DIAG_DESTROY)".into(),
        )),
        // A kernel without a list of sockets, in a machine that has no network.
        Err(errno) if networked => Err(failed("ending the connections of before")(errno)),
        _ => Ok(()),
    }
}

/// As at a start, but that lines of /etc/hosts which are not ours stay.
fn host_name(rebirth: &Rebirth, who: &mut Who) -> Result<(), Failure> {
    let network = rebirth.network.as_deref();
    who.interface = interface(network);
    if !rebirth.hostname.is_empty() {
        sys::set_hostname(rebirth.hostname.as_bytes()).map_err(failed("setting the host name"))?;
        who.hostname.clone_from(&rebirth.hostname);
        let line = format!("{}\n", who.hostname);
        written(replace(c"/etc/hostname", line.as_bytes()), c"/etc/hostname")?;
    }
    if who.hostname.is_empty() {
        return Ok(());
    }
    let ours = root::hosts(&who.hostname, network);
    let before = sys::read_file(HOSTS, MAX_HOSTS).unwrap_or_default();
    let text = renewed(&before, &who.hosts, &ours);
    who.hosts = ours;
    written(replace(HOSTS, &text), HOSTS)
}

/// What our lines were is left out, what they are comes first, the rest stays as it is.
fn renewed(text: &[u8], before: &[u8], now: &[u8]) -> Vec<u8> {
    let mut result: Vec<u8> = now.into();
    for line in text.split_inclusive(|&b| b == b'\n') {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        let ours = before.split(|&b| b == b'\n').any(|ours| ours == bare);
        if !ours || bare.is_empty() {
            result.extend_from_slice(line);
        }
    }
    result
}

/// An image without the folder looks nothing up there.
fn written(outcome: sys::Result<()>, path: &CStr) -> Result<(), Failure> {
    match outcome {
        Err(errno) if !errno.is(libc::ENOENT) && !errno.is(libc::ENOTDIR) => {
            let what = format!("writing {}", path.to_string_lossy());
            Err(failure(Stage::Identity, errno, what))
        }
        _ => Ok(()),
    }
}

/// Where the image has one, or an empty file, which asks for one (machine-id(5)).
fn machine_id(id: &str) -> Result<(), Failure> {
    /// S_IFMT and S_IFREG of sys/stat.h.
    const KIND: u32 = 0o170_000;
    const FILE: u32 = 0o100_000;
    if id.is_empty() {
        return Ok(());
    }
    let line = format!("{id}\n");
    MACHINE_IDS.into_iter().try_for_each(|path| {
        // A link leads to the other one.
        match sys::facts(path) {
            Ok(facts) if facts.mode & KIND == FILE => written(replace(path, line.as_bytes()), path),
            _ => Ok(()),
        }
    })
}

/// The kernel makes its own when it is first read, and keeps it: another can only lie over it.
fn boot_id(id: &str, who: &mut Who) -> Result<(), Failure> {
    if id.is_empty() {
        return Ok(());
    }
    let line = format!("{id}\n");
    let lay = |who: &mut Who| -> sys::Result<()> {
        let _ = sys::make_directory(FOLDER, 0o755);
        sys::write_file(BOOT_ID, line.as_bytes())?;
        if !who.covered {
            sys::mount(BOOT_ID, KERNELS_BOOT_ID, c"", MS_BIND, c"")?;
            who.covered = true;
        }
        Ok(())
    };
    lay(who).map_err(failed("giving the machine a boot id"))
}

/// One line: how often the machine was restored, and a name for this life of it. Another file
/// takes its place, so that who watches hears of it and nobody reads half of it.
fn generation(name: &str, lives: u64) -> Result<(), Failure> {
    if name.is_empty() {
        return Ok(());
    }
    let line = format!("{lives} {name}\n");
    let _ = sys::make_directory(FOLDER, 0o755);
    sys::write_file(GENERATION_NEXT, line.as_bytes())
        .and_then(|()| sys::rename(GENERATION_NEXT, GENERATION))
        .map_err(failed("naming the generation"))
}

/// Replaces the content of a file of the image. Where the root takes no writes, a file of ours
/// is laid over it; that one takes them from then on.
pub fn replace(path: &CStr, bytes: &[u8]) -> sys::Result<()> {
    match sys::write_file(path, bytes) {
        Err(errno) if errno.is(libc::EROFS) => {}
        done => return done,
    }
    let name: Vec<u8> = path
        .to_bytes()
        .iter()
        .map(|&b| if b == b'/' { b'-' } else { b })
        .collect();
    let ours: CString = c_string(&[FOLDER.to_bytes(), b"/", &name].concat());
    let _ = sys::make_directory(FOLDER, 0o755);
    sys::write_file(&ours, bytes)?;
    sys::mount(&ours, path, c"", MS_BIND, c"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_not_ours_stay() {
        let before = b"127.0.0.1\tlocalhost a\n10.0.2.2\thost\n";
        let now = b"127.0.0.1\tlocalhost b\n10.0.9.2\thost\n";
        let text = b"127.0.0.1\tlocalhost a\n10.0.2.2\thost\n\n# kept\n192.0.2.1 db\n";
        assert_eq!(
            renewed(text, before, now),
            b"127.0.0.1\tlocalhost b\n10.0.9.2\thost\n\n# kept\n192.0.2.1 db\n"
        );
        assert_eq!(renewed(b"", before, now), now);
        assert_eq!(renewed(b"x", b"", now), [&now[..], b"x"].concat());
    }
}
