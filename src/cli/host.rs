// SPDX-License-Identifier: Apache-2.0
//! What the tool needs to know of this host: its memory and where husk keeps its cache.

use super::output::Problem;
use crate::units::ByteSize;
use std::ffi::OsString;
use std::path::PathBuf;

/// Memory of the host, from /proc/meminfo (proc_meminfo(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub total: ByteSize,
    pub available: ByteSize,
    pub swap: ByteSize,
}

impl Memory {
    pub fn read() -> std::io::Result<Self> {
        let text = std::fs::read_to_string("/proc/meminfo")?;
        Self::parse(&text).ok_or_else(|| std::io::Error::other("/proc/meminfo has no MemTotal"))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(ByteSize::from_bytes(kib.checked_mul(1024)?))
        };
        Some(Self {
            total: field("MemTotal:")?,
            available: field("MemAvailable:")?,
            swap: field("SwapTotal:").unwrap_or_default(),
        })
    }

    /// The most a guest can be given at all: what is not RAM can be swapped.
    pub fn limit(self) -> ByteSize {
        ByteSize::from_bytes(self.total.bytes().saturating_add(self.swap.bytes()))
    }
}

/// Where images, kernels and templates are kept.
pub fn cache_dir() -> Result<PathBuf, Problem> {
    cache_dir_in(|name| std::env::var_os(name))
}

/// Where volumes and whatever else must not be lost are kept.
pub fn data_dir() -> Result<PathBuf, Problem> {
    place(
        |name| std::env::var_os(name),
        "HUSK_DATA_DIR",
        "XDG_DATA_HOME",
        ".local/share",
    )
}

fn cache_dir_in(env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Problem> {
    place(env, "HUSK_CACHE_DIR", "XDG_CACHE_HOME", ".cache")
}

fn place(
    env: impl Fn(&str) -> Option<OsString>,
    own: &str,
    xdg: &str,
    in_home: &str,
) -> Result<PathBuf, Problem> {
    let set = |name| {
        env(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(path) = set(own) {
        // A relative path would name another directory in each working directory.
        return std::path::absolute(&path)
            .map_err(|error| Problem::new(format!("cannot use {own}")).because(&error));
    }
    // The XDG base directory specification has relative paths ignored.
    let xdg = set(xdg).filter(|path| path.is_absolute());
    let home = set("HOME").filter(|path| path.is_absolute());
    xdg.or(home.map(|home| home.join(in_home)))
        .map(|base| base.join("husk"))
        .ok_or_else(|| {
            Problem::new("there is no place for husk's files: HOME is not set")
                .hint(format!("set {own} to a directory you may write"))
        })
}

/// Where the records of machines are kept: a folder of the user's own that goes with the
/// host's boot, as machines do.
pub fn runtime_dir() -> PathBuf {
    runtime_dir_in(
        |name| std::env::var_os(name),
        nix::unistd::geteuid().as_raw(),
    )
}

fn runtime_dir_in(env: impl Fn(&str) -> Option<OsString>, uid: u32) -> PathBuf {
    // The XDG base directory specification has relative paths ignored.
    let xdg = env("XDG_RUNTIME_DIR").map(PathBuf::from);
    if let Some(dir) = xdg.filter(|path| path.is_absolute()) {
        return dir.join("husk");
    }
    if uid == 0 {
        return "/run/husk".into();
    }
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    match usual.is_dir() {
        true => usual.join("husk"),
        false => format!("/tmp/husk-{uid}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_kept_where_a_users_sockets_are() {
        let dir = |value: &str, uid| {
            runtime_dir_in(
                |name| (name == "XDG_RUNTIME_DIR").then(|| OsString::from(value)),
                uid,
            )
        };
        assert_eq!(dir("/run/user/7", 7), PathBuf::from("/run/user/7/husk"));
        assert_eq!(dir("relative", 0), PathBuf::from("/run/husk"));
        assert_eq!(dir("", 4_000_000), PathBuf::from("/tmp/husk-4000000"));
    }

    fn dir(pairs: &[(&str, &str)]) -> Option<PathBuf> {
        cache_dir_in(|name| {
            let pair = pairs.iter().find(|(key, _)| *key == name)?;
            Some(OsString::from(pair.1))
        })
        .ok()
    }

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let all = [
            ("HUSK_CACHE_DIR", "/own"),
            ("XDG_CACHE_HOME", "/xdg"),
            ("HOME", "/home/me"),
        ];
        assert_eq!(dir(&all), Some("/own".into()));
        assert_eq!(dir(&all[1..]), Some("/xdg/husk".into()));
        assert_eq!(dir(&all[2..]), Some("/home/me/.cache/husk".into()));
        assert_eq!(
            dir(&[("XDG_CACHE_HOME", "relative"), ("HOME", "/h")]),
            Some("/h/.cache/husk".into())
        );
        assert_eq!(dir(&[("HUSK_CACHE_DIR", ""), ("HOME", "")]), None);
        assert!(dir(&[("HUSK_CACHE_DIR", "here")]).is_some_and(|path| path.is_absolute()));
    }

    #[test]
    fn meminfo_is_read_to_the_byte() {
        let text = "MemTotal:       24689012 kB\nMemFree: 1 kB\nMemAvailable:   20000 kB\nSwapTotal:  8 kB\n";
        let memory = Memory::parse(text).expect("fields");
        assert_eq!(memory.total.bytes(), 24_689_012 * 1024);
        assert_eq!(memory.available.bytes(), 20000 * 1024);
        assert_eq!(memory.limit().bytes(), (24_689_012 + 8) * 1024);
        assert_eq!(Memory::parse("MemTotal: lots\n"), None);
        assert!(Memory::read().is_ok_and(|memory| memory.available <= memory.total));
    }
}
