// SPDX-License-Identifier: Apache-2.0
//! What PID 1 does first in a machine that was restored: it shares its past with every other
//! one of the same snapshot, and must not share its future. Each step is done or the start
//! fails; nothing of the image has run yet.

use crate::command::failure;
use crate::sys;
use alloc::format;
use husk_protocol::{Failure, Rebirth, Stage};

pub fn take(rebirth: &Rebirth) -> Result<(), Failure> {
    sys::seed_random(&rebirth.seed).map_err(|errno| {
        failure(
            Stage::Spawn,
            errno,
            "seeding the random generator anew".into(),
        )
    })?;
    for name in &rebirth.devices {
        // Written to this file, a name has the driver look at the device once more, and the
        // write ends when that is done (Documentation/driver-api/driver-model/binding.rst).
        sys::write_file(
            c"/sys/bus/platform/drivers/virtio-mmio/bind",
            name.as_bytes(),
        )
        .map_err(|errno| failure(Stage::Root, errno, format!("finding the device {name}")))?;
    }
    Ok(())
}
