// SPDX-License-Identifier: Apache-2.0
//! Results in a file. What is read may be anything: its size is bounded, its format is looked at
//! before the rest, and what is no number that can be measured is refused.

use super::model::{FORMAT, Outcome, Results};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Of a file: far above the largest run, and `/dev/zero` has an end.
const MAX_BYTES: u64 = 64 << 20;
/// Series of a file: what is compared with what is searched for.
const MAX_SERIES: usize = 20_000;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read results from {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} is no results of husk bench: more than {limit} {what}")]
    TooMuch {
        path: PathBuf,
        limit: u64,
        what: &'static str,
    },
    #[error("{path} is no results of husk bench")]
    Other {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{path} has format {found}, and this husk reads {FORMAT}")]
    Format { path: PathBuf, found: u64 },
    #[error("{path} has a sample that no clock shows: {found}, of {metric}")]
    Sample {
        path: PathBuf,
        found: f64,
        metric: String,
    },
}

#[derive(Deserialize)]
struct Probe {
    format: u64,
}

pub fn load(path: &Path) -> Result<Results, FileError> {
    let read = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let too_much = |limit, what| FileError::TooMuch {
        path: path.to_owned(),
        limit,
        what,
    };
    let other = |source| FileError::Other {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    let file = File::open(path).map_err(read)?;
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(read)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(too_much(MAX_BYTES, "bytes"));
    }
    let probe: Probe = serde_json::from_slice(&text).map_err(other)?;
    if probe.format != u64::from(FORMAT) {
        return Err(FileError::Format {
            path: path.to_owned(),
            found: probe.format,
        });
    }
    let results: Results = serde_json::from_slice(&text).map_err(other)?;
    if results.series.len() > MAX_SERIES {
        return Err(too_much(MAX_SERIES as u64, "series"));
    }
    match strange(&results) {
        None => Ok(results),
        Some((found, metric)) => Err(FileError::Sample {
            path: path.to_owned(),
            found,
            metric,
        }),
    }
}

/// A sample below 0, or none that is finite.
fn strange(results: &Results) -> Option<(f64, String)> {
    results.series.iter().find_map(|series| {
        let Outcome::Measured { samples, .. } = &series.outcome else {
            return None;
        };
        let values = samples.iter().map(|sample| sample.value);
        let strange = values
            .into_iter()
            .find(|value| !(0.0..1e300).contains(value))?;
        Some((strange, series.metric.clone()))
    })
}

/// All of `bytes` or, if that fails, what was there before.
pub fn save(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let write = |source| FileError::Write {
        path: path.to_owned(),
        source,
    };
    // A pipe or a device is written to, not replaced.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return File::options()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(write);
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut file = tempfile::Builder::new()
        .permissions(readable)
        .tempfile_in(folder)
        .map_err(write)?;
    file.write_all(bytes).map_err(write)?;
    file.persist(path).map_err(|error| write(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::testing;

    fn refused(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        std::fs::write(&path, text).unwrap();
        load(&path)
            .expect_err("no results")
            .to_string()
            .replace(path.to_str().unwrap(), "FILE")
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        let results = testing::results();
        for _ in 0..2 {
            save(&path, &serde_json::to_vec(&results).unwrap()).unwrap();
            assert!(load(&path).unwrap() == results);
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_results_is_refused() {
        assert_eq!(refused(""), "FILE is no results of husk bench");
        assert_eq!(refused("[]"), "FILE is no results of husk bench");
        assert_eq!(
            refused("{\"format\": 1}"),
            "FILE is no results of husk bench"
        );
        assert_eq!(
            refused("{\"format\": 7, \"future\": true}"),
            "FILE has format 7, and this husk reads 1"
        );
        let text = serde_json::to_string(&testing::bare(vec![testing::series("x", "y", &[-1.0])]));
        assert_eq!(
            refused(&text.unwrap()),
            "FILE has a sample that no clock shows: -1, of y"
        );
        let error = load(Path::new("/dev/zero"))
            .expect_err("too much")
            .to_string();
        assert_eq!(
            error,
            "/dev/zero is no results of husk bench: more than 67108864 bytes"
        );
        let error = load(Path::new("/nonexistent/r.json"))
            .expect_err("none")
            .to_string();
        assert_eq!(error, "cannot read results from /nonexistent/r.json");
        assert!(save(Path::new("/nonexistent/r.json"), b"x").is_err());
    }
}
