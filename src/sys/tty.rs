// SPDX-License-Identifier: Apache-2.0
//! A terminal in raw mode that comes back whatever happens to the process.
//!
//! One guard at a time, made and dropped on the main thread. The signal handler may run
//! on any thread: it makes only async-signal-safe calls (signal-safety(7)) on state that
//! was complete before the handler was installed.
#![expect(
    unsafe_code,
    reason = "termios, TIOCGWINSZ and sigaction are C interfaces"
)]

use nix::errno::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Signals whose default ends the process and which reach us where nobody blocks them.
const FATAL: [libc::c_int; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
];

/// What the terminal was like before, for whoever has to restore it. Null: nothing to do.
/// The box behind it is leaked once per raw mode, because a handler on another thread may
/// still be reading it when the guard goes.
static SAVED: AtomicPtr<Saved> = AtomicPtr::new(std::ptr::null_mut());

struct Saved {
    fd: RawFd,
    termios: libc::termios,
}

/// A terminal in raw mode; dropping it restores what was before.
#[derive(Debug)]
pub struct RawMode {
    previous: Vec<(libc::c_int, libc::sigaction)>,
}

impl RawMode {
    /// Puts the terminal behind `fd` in raw mode. Fails with ENOTTY if it is none.
    pub fn enter(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let fd = fd.as_raw_fd();
        let mut termios = MaybeUninit::uninit();
        // SAFETY: the kernel fills the struct behind the pointer, or fails.
        Errno::result(unsafe { libc::tcgetattr(fd, termios.as_mut_ptr()) })?;
        // SAFETY: tcgetattr succeeded and filled it.
        let termios: libc::termios = unsafe { termios.assume_init() };
        let saved = Box::into_raw(Box::new(Saved { fd, termios }));
        if SAVED
            .compare_exchange(
                std::ptr::null_mut(),
                saved,
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .is_err()
        {
            // SAFETY: made three lines up and published to nobody.
            drop(unsafe { Box::from_raw(saved) });
            return Err(io::Error::other("the terminal is in raw mode already"));
        }
        // From here on a drop of `mode` undoes everything done so far.
        let mut mode = Self {
            previous: Vec::with_capacity(FATAL.len()),
        };
        for signal in FATAL {
            mode.catch(signal)?;
        }
        let mut raw = termios;
        // SAFETY: changes the struct in place.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // SAFETY: reads the struct behind the pointer.
        Errno::result(unsafe { libc::tcsetattr(fd, libc::TCSADRAIN, &raw const raw) })?;
        Ok(mode)
    }

    fn catch(&mut self, signal: libc::c_int) -> io::Result<()> {
        // SAFETY: for this plain C struct all zeroes is a valid value (default handler,
        // empty mask).
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = restore_and_die as *const () as libc::sighandler_t;
        // The second arrival of the signal meets the default and ends the process.
        action.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER | libc::SA_ONSTACK;
        let mut before = MaybeUninit::uninit();
        // SAFETY: the handler has the type sigaction(2) wants without SA_SIGINFO and makes
        // only async-signal-safe calls; the kernel fills `before`, or fails.
        let answer = unsafe { libc::sigaction(signal, &raw const action, before.as_mut_ptr()) };
        Errno::result(answer)?;
        // SAFETY: sigaction succeeded and filled it.
        self.previous
            .push((signal, unsafe { before.assume_init() }));
        Ok(())
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
        for (signal, action) in self.previous.drain(..) {
            // SAFETY: the struct is one the kernel gave for this very signal.
            unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
        }
    }
}

/// Restores the terminal if it is in raw mode. For exits that run no destructor (a panic
/// hook under `panic = "abort"`); harmless at any time, from any thread.
pub fn restore() {
    let saved = SAVED.swap(std::ptr::null_mut(), Ordering::AcqRel);
    if !saved.is_null() {
        // SAFETY: a non-null pointer was published complete and is never freed.
        let saved = unsafe { &*saved };
        // SAFETY: reads the struct behind the pointer. TCSANOW, because draining may wait
        // for a terminal that nobody reads.
        unsafe { libc::tcsetattr(saved.fd, libc::TCSANOW, &raw const saved.termios) };
    }
}

extern "C" fn restore_and_die(signal: libc::c_int) {
    restore();
    // SAFETY: SA_RESETHAND put the default back; a fault would come again by itself, a
    // signal someone sent has to be raised.
    unsafe { libc::raise(signal) };
}

/// Rows and columns of the terminal behind `fd`; nothing if it is none or does not know.
#[must_use]
pub fn window_size(fd: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the kernel fills the struct behind the pointer, or fails.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) };
    // SAFETY: all zeroes is a valid value, and so is what the kernel wrote.
    let size = unsafe { size.assume_init() };
    (answer == 0 && size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::{OpenptyResult, openpty};
    use nix::sys::termios::{LocalFlags, tcgetattr};
    use std::os::fd::AsFd as _;
    use std::sync::Mutex;

    /// There is one terminal to a process, and one guard.
    static TURN: Mutex<()> = Mutex::new(());

    fn pty(rows: u16, columns: u16) -> OpenptyResult {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        openpty(Some(&size), None).expect("a pseudo terminal")
    }

    fn echoes(fd: BorrowedFd<'_>) -> bool {
        let flags = tcgetattr(fd).expect("a terminal").local_flags;
        flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG)
    }

    #[test]
    fn raw_mode_ends_with_its_guard() {
        let _turn = TURN.lock();
        let pty = pty(24, 80);
        assert!(echoes(pty.slave.as_fd()));
        let raw = RawMode::enter(pty.slave.as_fd()).expect("raw mode");
        assert!(!echoes(pty.slave.as_fd()));
        assert!(RawMode::enter(pty.slave.as_fd()).is_err(), "one at a time");
        assert!(
            !echoes(pty.slave.as_fd()),
            "a refused second guard changes nothing"
        );
        drop(raw);
        assert!(echoes(pty.slave.as_fd()));
        drop(RawMode::enter(pty.slave.as_fd()).expect("raw mode again"));
        assert!(echoes(pty.slave.as_fd()));
    }

    #[test]
    fn a_fatal_signal_restores_the_terminal_and_still_kills() {
        let _turn = TURN.lock();
        for signal in [libc::SIGTERM, libc::SIGSEGV, libc::SIGABRT] {
            let pty = pty(24, 80);
            // SAFETY: the child makes its guard, one signal and nothing else; what it
            // allocates is safe because glibc keeps malloc usable in a forked child.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let raw = RawMode::enter(pty.slave.as_fd());
                let code = libc::c_int::from(raw.is_ok() && !echoes(pty.slave.as_fd()));
                // SAFETY: a signal to the process itself, and the end of it.
                unsafe {
                    libc::raise(signal);
                    libc::_exit(code)
                }
            }
            let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            let killer = nix::sys::signal::Signal::try_from(signal).expect("a signal");
            assert!(
                matches!(status, Ok(nix::sys::wait::WaitStatus::Signaled(_, by, _)) if by == killer),
                "{status:?}"
            );
            assert!(echoes(pty.slave.as_fd()), "{killer}");
        }
    }

    #[test]
    fn the_window_size_is_the_terminals() {
        let pty = pty(31, 117);
        assert_eq!(window_size(pty.slave.as_fd()), Some((31, 117)));
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        assert_eq!(window_size(null.as_fd()), None);
        assert_eq!(
            RawMode::enter(null.as_fd())
                .map_err(|e| e.raw_os_error())
                .err(),
            Some(Some(libc::ENOTTY))
        );
    }
}
