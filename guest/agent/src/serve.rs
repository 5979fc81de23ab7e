// SPDX-License-Identifier: Apache-2.0
//! All sessions of an agent: the first is the machine's own, whose end is the end of all;
//! the others are connections the host opened since, each with one further process. One
//! loop; whatever a further session does wrong ends that session only.

mod still;

use crate::freezer::Freezer;
use crate::session::{Ending, Place, Session};
use crate::sys::{self, Fd};
use alloc::vec::Vec;
use husk_protocol::{HOST_CID, HOST_PORT, Malformed};
use libc::{POLLIN, c_int, pollfd};
use still::Still;

/// Sessions at once; a host that opens more has them wait to be accepted.
const MAX_SESSIONS: usize = 128;

/// How a connection to the host comes to be, when another one has taken the machine over.
pub enum Dial {
    Host,
    /// In an ordinary process: the host calls, at a socket that listens.
    Accept(Fd),
}

impl Dial {
    fn again(&self) -> Option<Fd> {
        match self {
            Self::Host => sys::connect_vsock(HOST_CID, HOST_PORT).ok(),
            Self::Accept(listener) => sys::accept(listener).ok().map(|(link, _)| link),
        }
    }
}

/// What the loop has beside its sessions.
pub struct World<'a> {
    pub place: Place,
    /// When the agent began.
    pub started: u64,
    /// Where the host connects for further processes.
    pub listener: Option<&'a Fd>,
    pub dial: Dial,
    pub freezer: Freezer,
}

/// Serves the host on `link` until it asks for a shutdown or is gone.
pub fn serve(link: Fd, world: World<'_>) -> Result<Ending, Malformed> {
    let World {
        place,
        started,
        listener,
        dial,
        freezer,
    } = world;
    let Ok(children) = sys::watch_children() else {
        return Ok(Ending::LinkLost);
    };
    let mut main = Session::new(link, place, true, started);
    let mut further: Vec<Session> = Vec::new();
    let mut still = Still::new(freezer);
    loop {
        let ending = main.flush();
        let lost = ending == Some(Ending::LinkLost);
        if let Some(ending) = ending.filter(|_| !lost || !still.may_be_reborn()) {
            return Ok(main.lost(ending));
        }
        // While the image stands still, so does what was to be done for it.
        let still_before = !still.is_going();
        if !still_before {
            further.retain_mut(|session| {
                let over = session.flush().is_some();
                if over {
                    session.abandon();
                }
                !over
            });
        }
        let ready = match lost {
            true => Ready::default(),
            false => wait(&mut main, &mut further, &children, listener, &still),
        };
        if lost || main.is_linked() && !main.receive(still.freezer.home())? {
            if !still.may_be_reborn() {
                return Ok(main.lost(Ending::LinkLost));
            }
            let Some(link) = dial.again() else {
                return Ok(Ending::LinkLost);
            };
            main.relink(link, started);
            continue;
        }
        if !still_before {
            further.retain_mut(|session| {
                let alive = !session.is_linked()
                    || matches!(session.receive(still.freezer.home()), Ok(true));
                if !alive {
                    session.abandon();
                }
                alive
            });
        }
        while let Some(order) = main.next_order() {
            still.obey(order, &mut main);
        }
        main.pump();
        further.iter_mut().for_each(Session::pump);
        if ready.children {
            reap(&mut main, &mut further, &mut still, &children);
        }
        still.go_on(&mut main);
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

#[derive(Clone, Copy, Default)]
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
    still: &Still,
) -> Ready {
    let mut fds: Vec<pollfd> = Vec::with_capacity(8 + 4 * further.len());
    fds.push(entry(children, POLLIN));
    // Before the machine's own process there is no root for another one.
    let wanted = main.has_process() && further.len() < MAX_SESSIONS && still.is_going();
    fds.push(match listener.filter(|_| wanted) {
        Some(listener) => entry(listener, POLLIN),
        None => pollfd {
            fd: -1,
            events: 0,
            revents: 0,
        },
    });
    main.watch(&mut fds);
    // What a further session waits for in a machine that stands still would not let us wait.
    let heard = if still.is_going() { further } else { &mut [] };
    for session in heard.iter() {
        session.watch(&mut fds);
    }
    still.watch(&mut fds);
    let sessions = || core::iter::once(&*main).chain(heard.iter());
    let patience = sessions().map(Session::patience);
    let timeout: c_int = patience
        .chain(core::iter::once(still.patience()))
        .filter(|t| *t >= 0)
        .min()
        .unwrap_or(-1);
    let _ = sys::poll(&mut fds, timeout);
    let mut ready = fds.iter();
    let mut next = || ready.next().is_some_and(|fd| fd.revents != 0);
    let (children, listener) = (next(), next());
    let now = sys::uptime();
    main.note(&mut ready, now);
    for session in heard {
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

fn reap(main: &mut Session, further: &mut [Session], still: &mut Still, children: &Fd) {
    let mut number = [0; 128];
    while sys::read(children, &mut number).is_ok_and(|n| n > 0) {}
    while let Some((pid, status)) = sys::reap() {
        if main.ended(pid, status) || still.ended(pid, status, main) {
            continue;
        }
        for session in further.iter_mut() {
            if session.ended(pid, status) {
                break;
            }
        }
    }
}
