// SPDX-License-Identifier: Apache-2.0
//! The system calls that are left to a process: a list for each kind of process, in
//! `resources/seccomp`, with a reason beside every call. Any other ends the process at once
//! (seccomp(2), SECCOMP_RET_KILL_PROCESS). Runs while there is only one thread.

use seccompiler::{BpfMap, BpfProgram, apply_filter, compile_from_json};
use std::io;

/// What a process is, and so what it may ask of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// `husk net`: sockets of the Internet's families, and memory.
    Net,
    /// `husk share`: files, without a socket to be had, and memory.
    Share,
}

impl Calls {
    fn list(self) -> (&'static str, &'static str) {
        match self {
            Self::Net => ("net", include_str!("../../resources/seccomp/net.json")),
            Self::Share => ("share", include_str!("../../resources/seccomp/share.json")),
        }
    }
}

/// From here on this thread, and every one it starts, makes these calls and no others.
pub fn confine(calls: Calls) -> io::Result<()> {
    let (name, text) = calls.list();
    apply_filter(&compile(name, text)?).map_err(io::Error::other)
}

fn compile(name: &str, text: &str) -> io::Result<BpfProgram> {
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(io::Error::other)?;
    let mut all: BpfMap = compile_from_json(text.as_bytes(), arch).map_err(io::Error::other)?;
    all.remove(name)
        .ok_or_else(|| io::Error::other("the list of system calls has another name"))
}

#[cfg(test)]
mod tests {
    #![expect(unsafe_code, reason = "a mapping that is to be refused")]

    use super::*;
    use nix::errno::Errno;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use std::fs::File;

    /// What `act` comes to on a thread that is confined, where what would kill fails instead.
    fn confined<T: Send + 'static>(calls: Calls, act: impl FnOnce() -> T + Send + 'static) -> T {
        let (name, text) = calls.list();
        let harmless = text.replace("\"kill_process\"", "{\"errno\": 38}");
        assert_ne!(text, harmless, "the list kills");
        let program = compile(name, &harmless).expect("every call is known");
        let thread = std::thread::spawn(move || {
            apply_filter(&program).expect("a filter");
            act()
        });
        thread.join().expect("no panic")
    }

    fn refused<T>(result: Result<T, Errno>) -> bool {
        matches!(result, Err(Errno::ENOSYS))
    }

    /// Memory that would be code.
    fn code() -> Result<(), Errno> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
        let length = std::num::NonZeroUsize::new(4096).expect("not zero");
        let flags = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
        // SAFETY: a mapping of its own at a place the kernel chooses touches nothing else.
        unsafe { mmap_anonymous(None, length, flags, MapFlags::MAP_PRIVATE) }.map(drop)
    }

    fn open(family: AddressFamily, kind: SockType) -> Result<(), Errno> {
        socket(family, kind, SockFlag::SOCK_CLOEXEC, None).map(drop)
    }

    #[test]
    fn a_network_has_sockets_of_its_own_kind_only() {
        let outcome = confined(Calls::Net, || {
            let families = [
                AddressFamily::Unix,
                AddressFamily::Netlink,
                AddressFamily::Packet,
                AddressFamily::Vsock,
                AddressFamily::Alg,
            ];
            let others = families.map(|family| refused(open(family, SockType::Datagram)));
            let raw = refused(open(AddressFamily::Inet, SockType::Raw));
            let own = [AddressFamily::Inet, AddressFamily::Inet6].map(|family| {
                let kinds = [SockType::Stream, SockType::Datagram];
                kinds.map(|kind| refused(open(family, kind)))
            });
            (others, raw, own)
        });
        assert_eq!(outcome, ([true; 5], true, [[false; 2]; 2]));
    }

    #[test]
    fn a_share_has_no_socket_at_all() {
        let outcome = confined(Calls::Share, || {
            [AddressFamily::Unix, AddressFamily::Inet]
                .map(|family| refused(open(family, SockType::Stream)))
        });
        assert_eq!(outcome, [true; 2]);
    }

    #[test]
    fn neither_starts_traces_or_mounts_anything() {
        for calls in [Calls::Net, Calls::Share] {
            let outcome = confined(calls, || {
                let own = nix::unistd::getpid();
                [
                    refused(nix::unistd::execv(c"/bin/true", &[c"true"])),
                    refused(nix::sys::wait::waitpid(own, None)),
                    refused(nix::sys::signal::kill(own, None)),
                    refused(nix::unistd::chdir("/")),
                    refused(nix::unistd::setuid(nix::unistd::getuid())),
                    refused(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)),
                    refused(nix::mount::umount("/nowhere")),
                    refused(code()),
                ]
            });
            assert_eq!(outcome, [true; 8], "{calls:?}");
        }
    }

    #[test]
    fn a_network_writes_no_file() {
        let (read, written) = confined(Calls::Net, || {
            let write = File::options().append(true).open("/dev/null");
            let read = File::open("/dev/null");
            (read.is_ok(), write.map(drop).map_err(|e| e.raw_os_error()))
        });
        assert!(read, "members' names are files");
        assert_eq!(written, Err(Some(38)));
    }
}
