// SPDX-License-Identifier: Apache-2.0
//! Landlock with not one rule: every right this kernel can restrict is denied
//! (Documentation/userspace-api/landlock.rst).

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use std::io;

/// A kernel without Landlock, or with an old one, restricts what it can: the empty root and
/// the network namespace stand without it. `husk doctor` says which it is.
pub fn deny_all() -> io::Result<()> {
    let abi = ABI::V6;
    let denied = || -> Result<RulesetStatus, landlock::RulesetError> {
        let status = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .restrict_self()?;
        Ok(status.ruleset)
    };
    denied().map(|_| ()).map_err(io::Error::other)
}

/// As `deny_all`, but for what is done to files below `tree`, or read of them. Nothing there
/// is executed, and no device is made.
pub fn deny_all_but_tree(tree: &str, read_only: bool) -> io::Result<()> {
    let abi = ABI::V6;
    let allowed = match read_only {
        true => AccessFs::ReadFile | AccessFs::ReadDir,
        false => {
            let never =
                AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
            AccessFs::from_all(abi) & !never
        }
    };
    let tree = PathFd::new(tree).map_err(io::Error::other)?;
    let denied = || -> Result<(), landlock::RulesetError> {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .add_rule(PathBeneath::new(tree, allowed))?
            .restrict_self()?;
        Ok(())
    };
    denied().map_err(io::Error::other)
}

/// As `deny_all`, but TCP connections may be made, and files below `readable` be read.
pub fn deny_all_but_connect(readable: Option<&str>) -> io::Result<()> {
    let abi = ABI::V6;
    let denied = || -> Result<RulesetStatus, landlock::RulesetError> {
        let created = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::from_all(abi))?
            .create()?;
        let created = match readable.and_then(|path| PathFd::new(path).ok()) {
            Some(path) => {
                let reading = AccessFs::ReadFile | AccessFs::ReadDir;
                created.add_rule(PathBeneath::new(path, reading))?
            }
            None => created,
        };
        Ok(created.restrict_self()?.ruleset)
    };
    denied().map(|_| ()).map_err(io::Error::other)
}
