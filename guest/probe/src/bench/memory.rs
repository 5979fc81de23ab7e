// SPDX-License-Identifier: Apache-2.0
//! Rows of memory: first touches, copies on write, mappings.

use super::Batch;
use crate::sys::{self, Mapping};

const PAGE: usize = 4096;
/// 16 MiB, which every guest can spare.
pub const MOST_PAGES: u64 = 4096;

/// The first write to a fresh page.
pub fn fault() -> Result<Batch, String> {
    Ok(Box::new(|pages| Ok(touch(&fresh(pages)?))))
}

/// The first write to a page that a child still shares.
pub fn fault_copy() -> Result<Batch, String> {
    Ok(Box::new(|pages| {
        let memory = fresh(pages)?;
        touch(&memory);
        let [waits, goes] = sys::pipe()?;
        let child = sys::Child::fork(|| {
            sys::close(goes);
            i32::from(sys::read(waits) != Some(0))
        })?;
        let took = touch(&memory);
        sys::close(goes);
        sys::close(waits);
        child.exits(0)?;
        Ok(took)
    }))
}

/// One page mapped and unmapped, untouched.
pub fn map() -> Result<Batch, String> {
    Ok(Box::new(|count| {
        let start = sys::now();
        for _ in 0..count {
            drop(Mapping::private(PAGE)?);
        }
        Ok(sys::now() - start)
    }))
}

fn fresh(pages: u64) -> Result<Mapping, String> {
    let pages = usize::try_from(pages).expect("a machine of 64 bits");
    let memory = Mapping::private(pages * PAGE)?;
    memory.advise(libc::MADV_NOHUGEPAGE)?;
    Ok(memory)
}

fn touch(memory: &Mapping) -> u64 {
    let start = sys::now();
    for at in (0..memory.length).step_by(PAGE) {
        memory.write(at, 1);
    }
    sys::now() - start
}
