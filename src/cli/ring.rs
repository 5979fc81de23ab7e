// SPDX-License-Identifier: Apache-2.0
//! Which guest kernel a start uses: what was asked, what this host can do, and which of them
//! prevailed. Main thread, before anything is opened.

use super::host::runtime_dir;
use super::output::Problem;
use crate::probe::{self, FastLane, WhyNot};
use crate::units::Variant;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

/// `--guest-ring`, as typed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
pub enum GuestRing {
    #[value(name = "0")]
    Zero,
    #[value(name = "3")]
    Three,
}

impl GuestRing {
    pub const fn variant(self) -> Variant {
        match self {
            Self::Zero => Variant::Ring0,
            Self::Three => Variant::Ring3,
        }
    }
}

/// Whether this host runs a guest's kernel in ring 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lane {
    /// KVM interprets ring 0, and ring 3 does all that a kernel needs.
    Open,
    /// KVM interprets ring 0, and ring 3 does not do.
    Shut { why: String },
    /// The processor runs ring 0 itself.
    Hardware,
}

/// A variant, and why it is not the fast one where that might be expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub variant: Variant,
    pub fallback: Option<String>,
}

/// The variant to use on this host.
pub fn choose(asked: Option<GuestRing>) -> Result<Choice, Problem> {
    // Who asks for ring 0 need not know what else there is.
    let lane = match asked {
        Some(GuestRing::Zero) => Lane::Hardware,
        _ => lane(),
    };
    decide(asked, &lane)
}

fn decide(asked: Option<GuestRing>, lane: &Lane) -> Result<Choice, Problem> {
    let plain = |variant| {
        Ok(Choice {
            variant,
            fallback: None,
        })
    };
    match (asked, lane) {
        (Some(GuestRing::Zero), _) | (None, Lane::Hardware) => plain(Variant::Ring0),
        (_, Lane::Open) => plain(Variant::Ring3),
        (None, Lane::Shut { why }) => Ok(Choice {
            variant: Variant::Ring0,
            fallback: Some(format!("this host cannot run it in ring 3: {why}")),
        }),
        (Some(GuestRing::Three), Lane::Shut { why }) => Err(Problem::new(format!(
            "--guest-ring 3: this host cannot run a guest's kernel in ring 3: {why}"
        ))
        .hint("without the option the kernel is interpreted, which works and is slow")),
        (Some(GuestRing::Three), Lane::Hardware) => Err(Problem::new(
            "--guest-ring 3: this host's processor runs a guest's kernel in ring 0 itself",
        )
        .hint("leave the option out: ring 3 is for hosts whose KVM interprets ring 0")),
    }
}

/// What this host can do. That ring 3 does is remembered for as long as the host is up: to
/// ask takes milliseconds, of which a start has few.
pub fn lane() -> Lane {
    let remembered = runtime_dir().join("lane");
    let key = key();
    let known = key.as_ref().is_some_and(|key| is_ours(&remembered, key));
    if known {
        return Lane::Open;
    }
    let lane = find();
    if let (Lane::Open, Some(key)) = (&lane, key) {
        // Where it cannot be written down, it is asked again.
        let _ = remember(&remembered, &key);
    }
    lane
}

/// What an answer holds for: this husk, this boot of this kernel, this processor.
fn key() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let version = std::fs::read_to_string("/proc/version").ok()?;
    let processor = probe::processor();
    let husk = env!("CARGO_PKG_VERSION");
    Some(format!("{husk} {processor} {boot}{version}"))
}

fn is_ours(path: &Path, key: &str) -> bool {
    let owner = std::fs::symlink_metadata(path).map(|meta| (meta.is_file(), meta.uid()));
    let uid = nix::unistd::geteuid().as_raw();
    owner.is_ok_and(|owner| owner == (true, uid))
        && std::fs::read_to_string(path).is_ok_and(|text| text == key)
}

fn remember(path: &Path, key: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let new = path.with_extension(format!("{}", std::process::id()));
    std::fs::write(&new, key)?;
    std::fs::rename(new, path)
}

fn find() -> Lane {
    match ask() {
        Some(Ok(_)) => Lane::Open,
        // Where KVM cannot be opened nothing is promised; opening it for the machine says more.
        None | Some(Err(WhyNot::NotNeeded(_))) => Lane::Hardware,
        Some(Err(why)) => Lane::Shut {
            why: why.to_string(),
        },
    }
}

/// What the probe finds. `None` where /dev/kvm does not open.
pub fn ask() -> Option<Result<FastLane, WhyNot>> {
    let kvm = File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .ok()?;
    Some(probe::fast_lane(kvm.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shut() -> Lane {
        Lane::Shut {
            why: "SYSCALL leaves it".into(),
        }
    }

    #[test]
    fn the_host_decides_where_nobody_asked() {
        let auto = |lane| decide(None, &lane).expect("a choice");
        assert_eq!(auto(Lane::Open).variant, Variant::Ring3);
        assert_eq!(auto(Lane::Hardware).variant, Variant::Ring0);
        assert_eq!(auto(Lane::Hardware).fallback, None);
        let fallen = auto(shut());
        assert_eq!(fallen.variant, Variant::Ring0);
        assert!(
            fallen
                .fallback
                .is_some_and(|why| why.contains("SYSCALL leaves it"))
        );
    }

    #[test]
    fn what_was_asked_is_had_or_refused() {
        for lane in [Lane::Open, Lane::Hardware, shut()] {
            let zero = decide(Some(GuestRing::Zero), &lane).expect("always possible");
            assert_eq!((zero.variant, zero.fallback), (Variant::Ring0, None));
        }
        let three = |lane| decide(Some(GuestRing::Three), &lane);
        assert_eq!(
            three(Lane::Open).map(|choice| choice.variant),
            Ok(Variant::Ring3)
        );
        let reason = three(shut()).expect_err("impossible").what;
        assert!(reason.contains("SYSCALL leaves it"), "{reason}");
        let reason = three(Lane::Hardware).expect_err("pointless").what;
        assert!(reason.contains("in ring 0 itself"), "{reason}");
    }
}
