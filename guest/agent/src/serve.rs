// SPDX-License-Identifier: Apache-2.0
//! All sessions of an agent: the first is the machine's own, whose end is the end of all;
//! the others are connections the host opened since, each with one further process. One
//! loop; whatever a further session does wrong ends that session only.

use crate::session::{Ending, Place, Session};
use crate::sys::{self, Fd};
use alloc::vec::Vec;
use husk_protocol::{HOST_CID, Malformed};
use libc::{POLLIN, c_int, pollfd};

/// Sessions at once; a host that opens more has them wait to be accepted.
const MAX_SESSIONS: usize = 128;

/// Serves the host on `link` until it asks for a shutdown or is gone. `listener`: where it
/// connects for further processes.
pub fn serve(
    link: Fd,
    listener: Option<&Fd>,
    place: Place,
    started: u64,
) -> Result<Ending, Malformed> {
    let Ok(children) = sys::watch_children() else {
        return Ok(Ending::LinkLost);
    };
    let mut main = Session::new(link, place, true, started);
    let mut further: Vec<Session> = Vec::new();
    loop {
        if let Some(ending) = main.flush() {
            return Ok(main.lost(ending));
        }
        further.retain_mut(|session| {
            let over = session.flush().is_some();
            if over {
                session.abandon();
            }
            !over
        });
        let ready = wait(&mut main, &mut further, &children, listener);
        if main.is_linked() && !main.receive()? {
            return Ok(main.lost(Ending::LinkLost));
        }
        further.retain_mut(|session| {
            let alive = !session.is_linked() || matches!(session.receive(), Ok(true));
            if !alive {
                session.abandon();
            }
            alive
        });
        main.pump();
        further.iter_mut().for_each(Session::pump);
        if ready.children {
            reap(&mut main, &mut further, &children);
        }
        main.finish();
        further.iter_mut().for_each(Session::finish);
        if let (true, Some(listener)) = (ready.listener, listener)
            && let Ok((link, HOST_CID)) = sys::accept(listener)
        {
            // A kernel with a loopback for vsock lets the guest's own programs dial too: to
            // them the agent, who is root, does not listen.
            further.push(Session::new(link, place, false, started));
        }
    }
}

#[derive(Clone, Copy)]
struct Ready {
    children: bool,
    listener: bool,
}

/// Waits for something to do; what sessions are ready for is noted in them.
fn wait(
    main: &mut Session,
    further: &mut [Session],
    children: &Fd,
    listener: Option<&Fd>,
) -> Ready {
    let mut fds: Vec<pollfd> = Vec::with_capacity(8 + 4 * further.len());
    fds.push(entry(children, POLLIN));
    // Before the machine's own process there is no root for another one.
    let wanted = main.has_process() && further.len() < MAX_SESSIONS;
    fds.push(match listener.filter(|_| wanted) {
        Some(listener) => entry(listener, POLLIN),
        None => pollfd {
            fd: -1,
            events: 0,
            revents: 0,
        },
    });
    main.watch(&mut fds);
    for session in further.iter() {
        session.watch(&mut fds);
    }
    let sessions = || core::iter::once(&*main).chain(further.iter());
    let timeout: c_int = sessions()
        .map(Session::patience)
        .filter(|t| *t >= 0)
        .min()
        .unwrap_or(-1);
    let _ = sys::poll(&mut fds, timeout);
    let mut ready = fds.iter();
    let mut next = || ready.next().is_some_and(|fd| fd.revents != 0);
    let (children, listener) = (next(), next());
    let now = sys::uptime();
    main.note(&mut ready, now);
    for session in further {
        session.note(&mut ready, now);
    }
    Ready { children, listener }
}

/// An entry of what poll watches.
pub fn entry(fd: &Fd, events: i16) -> pollfd {
    pollfd {
        fd: fd.number(),
        events,
        revents: 0,
    }
}

fn reap(main: &mut Session, further: &mut [Session], children: &Fd) {
    let mut number = [0; 128];
    while sys::read(children, &mut number).is_ok_and(|n| n > 0) {}
    while let Some((pid, status)) = sys::reap() {
        if main.ended(pid, status) {
            continue;
        }
        for session in further.iter_mut() {
            if session.ended(pid, status) {
                break;
            }
        }
    }
}
