// SPDX-License-Identifier: Apache-2.0
//! What this host says of itself below `/proc` and `/sys`, read and not judged. Any thread;
//! changes nothing. Whatever is missing is `None`: kernels and containers differ in what they
//! show.

use std::path::{Path, PathBuf};

/// Below which `proc` and `sys` are: `/`, but in tests.
#[derive(Clone, Debug)]
pub struct Host(PathBuf);

/// Of `/proc/stat`, in clock ticks of all processors together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    pub all: u64,
    pub idle: u64,
    pub stolen: u64,
}

/// What a run of benchmarks may change, or find changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    pub ticks: Ticks,
    pub load: Option<f64>,
    /// Of each processor, kHz, as far as they are told.
    pub frequencies: Vec<u64>,
    pub available: Option<u64>,
    /// Pages swapped in and out since the start of the host.
    pub swapped: u64,
    /// How often this cgroup was stopped because its share of processors was used up.
    pub throttled: u64,
    /// How often a processor was slowed because it was too hot.
    pub too_hot: u64,
}

/// The cgroup this process is in, as far as it limits it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cgroup {
    pub version: u8,
    pub path: String,
    /// Processors' worth of time it may use.
    pub processors: Option<f64>,
    pub memory: Option<u64>,
    /// Whether moving a task into it is quick (`favordynmods`); only version 2 says.
    pub quick_moves: Option<bool>,
    folder: Option<PathBuf>,
}

impl Default for Host {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Host {
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// A small file, trimmed.
    pub fn text(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.0.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// The processes there are.
    pub fn pids(&self) -> Vec<i32> {
        let entries = std::fs::read_dir(self.0.join("proc"));
        let names = entries.into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// A line `KEY: VALUE` of `/proc/cpuinfo`, the first of that key.
    pub fn cpuinfo(&self, key: &str) -> Option<String> {
        colon(&self.text("proc/cpuinfo")?, key)
    }

    pub fn has_flag(&self, flag: &str) -> bool {
        let flags = self.cpuinfo("flags").unwrap_or_default();
        flags.split(' ').any(|word| word == flag)
    }

    pub fn processors(&self) -> u32 {
        let text = self.text("proc/cpuinfo").unwrap_or_default();
        let count = text.lines().filter(|line| line.starts_with("processor"));
        u32::try_from(count.count()).unwrap_or(u32::MAX)
    }

    /// A line of `/proc/meminfo`, in bytes.
    pub fn memory(&self, key: &str) -> Option<u64> {
        let value = colon(&self.text("proc/meminfo")?, key)?;
        let kib: u64 = value.strip_suffix(" kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    }

    /// What changes.
    pub fn reading(&self) -> Reading {
        Reading {
            ticks: self.ticks(),
            load: self
                .text("proc/loadavg")
                .and_then(|text| text.split(' ').next()?.parse().ok()),
            frequencies: self.frequencies(),
            available: self.memory("MemAvailable"),
            swapped: self.swapped(),
            throttled: self.throttled(),
            too_hot: self
                .each_processor("thermal_throttle/core_throttle_count")
                .iter()
                .fold(0, |sum, count| sum.saturating_add(*count)),
        }
    }

    fn ticks(&self) -> Ticks {
        let text = self.text("proc/stat").unwrap_or_default();
        let all = text.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq steal; guest time is in user's (proc(5)).
        let fields: Vec<u64> = all
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|field| field.parse().ok())
            .collect();
        let at = |index: usize| fields.get(index).copied().unwrap_or(0);
        Ticks {
            all: fields
                .iter()
                .fold(0, |sum, field| sum.saturating_add(*field)),
            idle: at(3).saturating_add(at(4)),
            stolen: at(7),
        }
    }

    /// `file` of each processor that has it, in their order.
    fn each_processor(&self, file: &str) -> Vec<u64> {
        (0..self.processors())
            .map_while(|cpu| self.number(&format!("sys/devices/system/cpu/cpu{cpu}/{file}")))
            .collect()
    }

    /// What the driver says; without one there is a constant in `/proc/cpuinfo`, or nothing.
    fn frequencies(&self) -> Vec<u64> {
        self.each_processor("cpufreq/scaling_cur_freq")
    }

    fn swapped(&self) -> u64 {
        let text = self.text("proc/vmstat").unwrap_or_default();
        let fields = text.lines().filter_map(|line| line.split_once(' '));
        fields
            .filter(|(key, _)| matches!(*key, "pswpin" | "pswpout"))
            .filter_map(|(_, value)| value.parse::<u64>().ok())
            .fold(0, u64::saturating_add)
    }

    fn throttled(&self) -> u64 {
        let Some(folder) = self.cgroup().folder else {
            return 0;
        };
        let text = std::fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix("nr_throttled "))
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(0)
    }

    /// The cgroup that rules this process's processor time; version 1 has one a controller.
    pub fn cgroup(&self) -> Cgroup {
        let text = self.text("proc/self/cgroup").unwrap_or_default();
        let lines = || text.lines().filter_map(line_of_cgroup);
        let of = |controller: &str| {
            lines()
                .find(|(names, _)| names.split(',').any(|name| name == controller))
                .map(|(_, path)| path)
        };
        match (of("cpu"), of("memory"), of("")) {
            (None, None, None) => Cgroup::default(),
            (None, None, Some(path)) => self.unified(path),
            (cpu, memory, _) => self.divided(cpu, memory),
        }
    }

    fn unified(&self, path: &str) -> Cgroup {
        let folder = self.0.join("sys/fs/cgroup").join(below(path));
        let limit = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let processors = limit("cpu.max").and_then(|text| {
            let (quota, period) = text.trim().split_once(' ')?;
            quotient(quota, period)
        });
        let mounts = self.text("proc/self/mounts").unwrap_or_default();
        let options = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields.get(2) == Some(&"cgroup2"))
            .map(|fields| fields.get(3).copied().unwrap_or_default().to_owned());
        Cgroup {
            version: 2,
            path: path.to_owned(),
            processors,
            memory: limit("memory.max").and_then(|text| text.trim().parse().ok()),
            quick_moves: options.map(|all| all.split(',').any(|word| word == "favordynmods")),
            folder: Some(folder),
        }
    }

    fn divided(&self, cpu: Option<&str>, memory: Option<&str>) -> Cgroup {
        let folder = |controller: &str, path: &str| {
            let base = self.0.join("sys/fs/cgroup").join(controller);
            base.join(below(path))
        };
        let read = |folder: &Path, file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let cpu_folder = cpu.map(|path| folder("cpu", path));
        let processors = cpu_folder.as_deref().and_then(|folder| {
            let quota = read(folder, "cpu.cfs_quota_us")?;
            let period = read(folder, "cpu.cfs_period_us")?;
            quotient(quota.trim(), period.trim())
        });
        let limit = memory.and_then(|path| {
            let text = read(&folder("memory", path), "memory.limit_in_bytes")?;
            text.trim().parse::<u64>().ok()
        });
        Cgroup {
            version: 1,
            path: memory.or(cpu).unwrap_or("/").to_owned(),
            processors,
            // No limit is the largest number of pages there is.
            memory: limit.filter(|bytes| *bytes < 1 << 60),
            quick_moves: None,
            folder: cpu_folder,
        }
    }

    /// The type of the file system that holds `path`, which is absolute.
    pub fn file_system(&self, path: &Path) -> Option<String> {
        let mounts = self.text("proc/self/mounts")?;
        mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                let (point, kind) = (fields.next()?, fields.next()?);
                path.starts_with(point)
                    .then(|| (point.len(), kind.to_owned()))
            })
            // Of two at one place the later is the one that is seen.
            .max_by_key(|(length, _)| *length)
            .map(|(_, kind)| kind)
    }
}

fn colon(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// `ID:CONTROLLERS:PATH` (cgroups(7)).
fn line_of_cgroup(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(':')?;
    rest.split_once(':')
}

fn below(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// `max` and `-1` are no limit.
fn quotient(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (i64, i64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}
