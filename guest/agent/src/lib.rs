// SPDX-License-Identifier: Apache-2.0
//! PID 1 of a husk guest: one thread that boots, runs one process for the host, and resets
//! the machine. Must never wait for anything but its poll, and never leave a machine
//! running that nobody can reach. Without std or a C library: see `sys`.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    feature = "load",
    allow(
        dead_code,
        unused_imports,
        reason = "that program needs a part of this"
    )
)]
extern crate alloc;

mod account;
mod command;
mod connections;
mod freezer;
mod kernel_log;
mod later;
#[cfg(feature = "load")]
mod load;
mod mounts;
mod network;
mod own;
mod rebirth;
mod root;
mod serve;
mod session;
mod sys;

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use freezer::Freezer;
use husk_protocol::{AGENT_PORT, HOST_CID, HOST_PORT};
use serve::{Dial, World};
use session::{Ending, Place};
use sys::Fd;

/// Open files a process may have, and may raise its limit to: the kernel's own ceiling
/// (fs.nr_open), as container engines allow.
const OPEN_FILES: (u64, u64) = (1024, 1_048_576);

/// The life of the agent. As PID 1 it ends with the machine. As any other process it
/// serves the session on its descriptor 0, touching nothing of the machine: so the host's
/// tests run the very program that guests run. With arguments it is one of its own small
/// programs.
pub fn boot(arguments: &[CString]) -> ! {
    #[cfg(feature = "load")]
    sys::exit(load::run(arguments));
    #[cfg(not(feature = "load"))]
    live(arguments)
}

#[cfg(not(feature = "load"))]
fn live(arguments: &[CString]) -> ! {
    let started = sys::uptime();
    if sys::own_pid() != 1 {
        if let Some((program, rest)) = arguments.get(1..).and_then(<[CString]>::split_first) {
            sys::exit(own::run(program, rest));
        }
        let _ = sys::adopt_orphans();
        let world = World {
            place: Place::Process,
            started,
            listener: None,
            dial: Dial::Accept(Fd::inherited(1)),
            freezer: Freezer::Signals,
        };
        let ending = serve::serve(Fd::inherited(0), world);
        sys::exit(if matches!(ending, Ok(Ending::Shutdown)) {
            0
        } else {
            1
        });
    }
    match run(started) {
        Ok(Ending::Shutdown) => {}
        Ok(Ending::LinkLost | Ending::Unused) => sys::log(format_args!("the host is gone")),
        Err(problem) => sys::log(format_args!("{problem}")),
    }
    // Whoever still runs must not write while the disks are made consistent.
    let _ = sys::kill(-1, 9);
    root::put_away();
    sys::reset()
}

fn run(started: u64) -> Result<Ending, String> {
    root::prepare().map_err(|why| format!("{} (errno {})", why.message, why.errno))?;
    reserve_streams();
    // A kernel without IPv4 has no loopback, and needs none.
    let _ = sys::raise_loopback();
    let _ = sys::limit_open_files(OPEN_FILES.0, OPEN_FILES.1);
    // A kernel that does not let us listen has one process per machine.
    let listener = sys::listen_vsock(AGENT_PORT).ok();
    loop {
        let link = sys::connect_vsock(HOST_CID, HOST_PORT)
            .map_err(|errno| format!("no connection to the host (errno {})", errno.0))?;
        let world = World {
            place: Place::Machine,
            started,
            listener: listener.as_ref(),
            dial: Dial::Host,
            freezer: Freezer::prepare(),
        };
        let ending = serve::serve(link, world).map_err(|why| format!("the host: {why}"))?;
        // A machine that is restored from a snapshot finds its connection cut, and another
        // host to greet.
        if ending != Ending::Unused {
            return Ok(ending);
        }
    }
}

/// Keeps descriptors 0 to 2 taken: a kernel without a console gives us none, and what we
/// open must lie above those that a process's streams replace.
fn reserve_streams() {
    while let Ok(null) = sys::open(c"/dev/null", libc::O_RDWR, 0) {
        if null.number() > 2 {
            break;
        }
        core::mem::forget(null);
    }
}
