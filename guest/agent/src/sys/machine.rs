// SPDX-License-Identifier: Apache-2.0
//! Calls that change or ask the machine as a whole: mounts, paths, names, clocks, its end.

use super::{Result, at, call, descriptor, plain, word};
use core::ffi::{CStr, c_long};
use libc::timespec;

/// Resets the machine without writing anything back.
pub fn reset() -> ! {
    let (a, b) = (libc::LINUX_REBOOT_MAGIC1, libc::LINUX_REBOOT_MAGIC2);
    loop {
        let _ = plain(
            libc::SYS_reboot,
            [word(a), word(b), word(libc::RB_AUTOBOOT)],
        );
    }
}

pub fn sync() {
    let _ = plain(libc::SYS_sync, [0; 3]);
}

/// Gives the kernel's random generator 64 bytes it may trust, and has every generator that is
/// made from it start anew (random(4)).
pub fn seed_random(seed: &[u8]) -> Result<()> {
    const RNDADDENTROPY: usize = 0x4008_5203;
    const RNDRESEEDCRNG: usize = 0x5207;
    const SEED: usize = 64;
    /// `struct rand_pool_info`: bits, bytes, and the bytes.
    #[repr(C)]
    struct Pool {
        bits: i32,
        bytes: i32,
        data: [u8; SEED],
    }
    let mut pool = Pool {
        bits: 512,
        bytes: 64,
        data: [0; SEED],
    };
    let (Some(data), Some(seed)) = (pool.data.get_mut(..seed.len()), seed.get(..SEED)) else {
        return Err(super::Errno(libc::EINVAL as u16));
    };
    data.copy_from_slice(seed);
    let random = super::open(c"/dev/urandom", libc::O_RDWR, 0)?;
    let args = [
        word(random.number()),
        RNDADDENTROPY,
        (&raw const pool).expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: RNDADDENTROPY reads the structure and as many bytes behind its head as it says.
    unsafe { call(libc::SYS_ioctl, args) }?;
    plain(libc::SYS_ioctl, [word(random.number()), RNDRESEEDCRNG, 0]).map(drop)
}

pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> Result<()> {
    let flags = usize::try_from(flags).unwrap_or(0);
    let args = [at(source), at(target), at(kind), flags, at(data), 0];
    // SAFETY: four NUL-terminated strings the kernel reads.
    unsafe { call(libc::SYS_mount, args) }.map(drop)
}

pub fn unmount(target: &CStr) -> Result<()> {
    path_call(libc::SYS_umount2, target, libc::UMOUNT_NOFOLLOW as usize)
}

pub fn remove_directory(path: &CStr) -> Result<()> {
    path_call(libc::SYS_rmdir, path, 0)
}

fn path_call(number: c_long, path: &CStr, argument: usize) -> Result<()> {
    // SAFETY: used below for calls that read one path and take one number.
    unsafe { call(number, [at(path), argument, 0, 0, 0, 0]) }.map(drop)
}

pub fn make_directory(path: &CStr, mode: u32) -> Result<()> {
    path_call(libc::SYS_mkdir, path, mode as usize)
}

pub fn change_mode(path: &CStr, mode: u32) -> Result<()> {
    path_call(libc::SYS_chmod, path, mode as usize)
}

pub fn change_directory(path: &CStr) -> Result<()> {
    path_call(libc::SYS_chdir, path, 0)
}

pub fn change_root(path: &CStr) -> Result<()> {
    path_call(libc::SYS_chroot, path, 0)
}

pub fn change_owner(path: &CStr, uid: u32, gid: u32) -> Result<()> {
    let args = [at(path), uid as usize, gid as usize, 0, 0, 0];
    // SAFETY: the kernel reads one path.
    unsafe { call(libc::SYS_chown, args) }.map(drop)
}

pub fn link_symbolic(target: &CStr, path: &CStr) -> Result<()> {
    // SAFETY: the kernel reads two NUL-terminated strings.
    unsafe { call(libc::SYS_symlink, [at(target), at(path), 0, 0, 0, 0]) }.map(drop)
}

/// What `stat` says of a path: type and permission bits, owner, group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

pub fn stat(path: &CStr) -> Result<Stat> {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::zeroed();
    let args = [at(path), stat.as_mut_ptr().expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the kernel reads a path and writes a struct stat.
    unsafe { call(libc::SYS_stat, args) }?;
    // SAFETY: all zeroes is a valid struct stat, and the kernel filled it since.
    let stat = unsafe { stat.assume_init() };
    Ok(Stat {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
    })
}

pub fn set_hostname(name: &[u8]) -> Result<()> {
    let args = [name.as_ptr().expose_provenance(), name.len(), 0, 0, 0, 0];
    // SAFETY: the kernel reads `len` bytes.
    unsafe { call(libc::SYS_sethostname, args) }.map(drop)
}

/// Nanoseconds of CLOCK_BOOTTIME.
pub fn uptime() -> u64 {
    let mut now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let args = [
        word(libc::CLOCK_BOOTTIME),
        (&raw mut now).expose_provenance(),
        0,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes one timespec.
    let _ = unsafe { call(libc::SYS_clock_gettime, args) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Sets the wall clock to nanoseconds since 1970.
pub fn set_clock(nanoseconds: u64) -> Result<()> {
    let to = timespec {
        tv_sec: (nanoseconds / 1_000_000_000).cast_signed(),
        tv_nsec: (nanoseconds % 1_000_000_000).cast_signed(),
    };
    let args = [
        word(libc::CLOCK_REALTIME),
        (&raw const to).expose_provenance(),
        0,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel reads one timespec.
    unsafe { call(libc::SYS_clock_settime, args) }.map(drop)
}

/// Limits open files of this process and those it starts.
pub fn limit_open_files(soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    let args = [
        0,
        libc::RLIMIT_NOFILE as usize,
        limit.as_ptr().expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel reads a struct rlimit64, two 64-bit words.
    unsafe { call(libc::SYS_prlimit64, args) }.map(drop)
}

/// Brings the loopback interface up.
pub fn raise_loopback() -> Result<()> {
    let kind = word(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC);
    let socket = descriptor(plain(libc::SYS_socket, [word(libc::AF_INET), kind, 0])?);
    // struct ifreq: a name of 16 bytes, then a union whose 16-bit flags come first.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&1u16.to_ne_bytes());
    let args = [
        word(socket.0),
        libc::SIOCSIFFLAGS as usize,
        request.as_ptr().expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq of 40 bytes.
    unsafe { call(libc::SYS_ioctl, args) }.map(drop)
}
