// SPDX-License-Identifier: Apache-2.0
//! Has a running machine saved into a folder, and reads what it was. Main thread.

use super::blueprint::Blueprint;
use crate::cli::output::Problem;
use crate::instance::desk::{Answer, Ask, BLUEPRINT};
use crate::instance::{Found, call};
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest blueprint that is read: a record, twice.
const MAX_BLUEPRINT: u64 = 2 * crate::instance::record::MAX_RECORD;

/// How a machine is saved.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// It is at its end then; else it goes on.
    pub hold: bool,
    /// Of its memory only what is not as it was when it was restored.
    pub changes: bool,
}

/// A machine that was saved.
pub struct Kept {
    /// For how long it stood still.
    pub paused: Duration,
    pub blueprint: Blueprint,
    /// One that is held goes on when this is dropped and it was not ended before: also when
    /// husk is killed.
    pub _hold: UnixStream,
}

/// Fills the folder, which is empty.
pub fn save(found: &Found, folder: &Path, how: How) -> Result<Kept, Problem> {
    let title = found.record.title();
    if !found.is_running() {
        return Err(Problem::new(format!("machine '{title}' does not run")));
    }
    let ask = Ask::Save {
        folder: folder.to_owned(),
        hold: how.hold,
        changes: how.changes,
    };
    let about = || format!("machine '{title}' cannot be saved");
    match call::ask_on(found, &ask) {
        Ok((Answer::Saved { paused }, hold)) => {
            let blueprint = take_blueprint(folder);
            let blueprint = blueprint.map_err(|error| Problem::new(about()).because(&error))?;
            Ok(Kept {
                paused: Duration::from_nanos(paused),
                blueprint,
                _hold: hold,
            })
        }
        Ok((Answer::Refused(why), _)) => Err(Problem::new(format!("{}: {why}", about()))),
        Ok(_) => Err(
            Problem::new(format!("{}: its owner says something else", about()))
                .hint("it was started by another version of husk"),
        ),
        Err(error) => Err(Problem::new(about()).because(&error)),
    }
}

fn take_blueprint(folder: &Path) -> io::Result<Blueprint> {
    let path = folder.join(BLUEPRINT);
    if fs::metadata(&path)?.len() > MAX_BLUEPRINT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let blueprint = serde_json::from_slice(&fs::read(&path)?)?;
    fs::remove_file(path)?;
    Ok(blueprint)
}
