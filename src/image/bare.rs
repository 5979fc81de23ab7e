// SPDX-License-Identifier: Apache-2.0
//! A root file system that says nothing of what is to be run: a directory of the host, or a
//! tar archive, made into an image of the cache.
//!
//! Runs on the thread that opens an image. What is read may change meanwhile; it is never
//! changed from here.

use super::cache::{Cache, Wait};
use super::error::{ImageError, Misread};
use super::reference::{self, Packing};
use super::source::archive::Archive;
use super::source::dir::{Directory, Scan};
use super::source::{Moment, stamp};
use super::unpack::Spool;
use super::{Progress, RootFs, erofs, key, open_for_reading, unpack, write};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a directory that changes while it is read is read again.
const ATTEMPTS: usize = 3;
/// How long a clock may stand still that should tick at least a hundred times a second.
const SLOWEST_TICK: Duration = Duration::from_millis(100);

pub fn open_directory(
    path: &Path,
    cache: &Cache,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<RootFs, ImageError> {
    let directory = Directory::open(path)?;
    let mut changing = None;
    for _ in 0..ATTEMPTS {
        match try_directory(&directory, cache, progress) {
            Err(error @ ImageError::Changing { .. }) => changing = Some(error),
            other => return other,
        }
    }
    Err(changing.unwrap_or(ImageError::Changing {
        path: path.to_owned(),
    }))
}

fn try_directory(
    directory: &Directory,
    cache: &Cache,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<RootFs, ImageError> {
    let found = settled(|| {
        let scan = directory.scan(false)?;
        Ok((scan.newest, scan))
    })?;
    for (path, why) in &found.skipped {
        progress(Progress::Skipped { path, why });
    }
    let key = key(b"dir", &found.digest);
    // What it was made of must still be what it was found to be, or the key lies.
    let unchanged = |scan: &Scan| {
        if scan.digest == found.digest {
            return Ok(());
        }
        Err(ImageError::Changing {
            path: erofs::Contents::path(directory).to_owned(),
        })
    };
    let image = cache.image(&key, &mut |wait| match wait {
        Wait::Other => {
            progress(Progress::Waiting);
            Ok(())
        }
        Wait::Write(part) => {
            let scan = directory.scan(true)?;
            unchanged(&scan)?;
            write(&scan.tree, directory, part, progress)?;
            unchanged(&directory.scan(false)?)
        }
    })?;
    Ok(image.into())
}

pub fn open_archive(
    path: &Path,
    cache: &Cache,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<RootFs, ImageError> {
    let file = open_for_reading(path, Misread::NotFile)?;
    let packing = reference::packing(&file, 0, path)?;
    let look = || {
        let stat = rustix::fs::fstat(&file).map_err(|errno| ImageError::io("read", path, errno))?;
        Ok((Moment::changed(&stat), stamp(&stat)))
    };
    let stamp = settled(look)?;
    let image = cache.image(&key(b"tar", &stamp), &mut |wait| match wait {
        Wait::Other => {
            progress(Progress::Waiting);
            Ok(())
        }
        Wait::Write(part) => {
            let plain = match packing {
                Packing::Plain => file
                    .try_clone()
                    .map_err(|error| ImageError::io("read", path, error))?,
                packing => {
                    let spool = part.spool()?;
                    let at = Spool {
                        file: &spool,
                        path: &part.path,
                    };
                    unpack(&file, path, packing, &at, progress)?;
                    spool
                }
            };
            let archive = Archive::new(plain, path)?;
            write(&archive.tree()?, &archive, part, progress)?;
            if look()?.1 != stamp {
                return Err(ImageError::Changing {
                    path: path.to_owned(),
                });
            }
            Ok(())
        }
    })?;
    Ok(image.into())
}

/// Looks until what is found was last changed before the look began. The kernel stamps
/// changes with a clock that ticks every few milliseconds: a second change within the tick
/// of the first leaves the same stamp, and would go unseen for ever.
fn settled<T>(mut look: impl FnMut() -> Result<(Moment, T), ImageError>) -> Result<T, ImageError> {
    let begin = Instant::now();
    loop {
        let now = Moment::now();
        let (newest, found) = look()?;
        // A stamp of the future is another machine's clock, or ours set back: no waiting
        // for that.
        if newest < now || begin.elapsed() > SLOWEST_TICK {
            return Ok(found);
        }
        // A condition no call waits for: the clock's next tick.
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod clock {
    use super::*;

    // Recent kernels stamp more finely once somebody has looked, so no real directory
    // shows this on every host.
    #[test]
    fn what_changed_in_this_tick_is_looked_at_again() {
        let mut stamp = None;
        let mut looks = 0;
        let looked = settled(|| {
            looks += 1;
            Ok((*stamp.get_or_insert_with(Moment::now), looks))
        });
        assert!(looked.unwrap() > 1);
    }

    #[test]
    fn a_stamp_of_the_future_is_not_waited_for() {
        let far = Moment {
            seconds: i64::MAX,
            nanoseconds: 0,
        };
        settled(|| Ok((far, ()))).unwrap();
    }
}
