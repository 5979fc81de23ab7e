// SPDX-License-Identifier: Apache-2.0
//! Guests that really run, on the host's KVM or in the lab: each test holds the guest's
//! half, a script or a program, beside what the host must see of it.

mod balloon;
mod beside;
mod broken;
mod copies;
mod crowd;
mod daily;
mod disks;
mod execs;
mod exit;
mod filters;
mod grants;
mod identity;
mod kernel_paths;
mod killed;
mod lanes;
mod net;
mod net_private;
mod net_raw;
mod net_tap;
mod options;
mod readme;
mod refusals;
mod restores;
mod rings;
mod shapes;
mod shares;
mod signals;
mod snapshots;
mod stock;
mod streams;
mod templates;
mod terminal;
mod trace;
mod vanished;
mod vectors;
mod volumes;
