// SPDX-License-Identifier: Apache-2.0
//! The devices: one file or folder each, and the only list of them.
//!
//! Virtio devices are built here and put behind a transport by the machine. The serial port
//! and the reset port stand on the port I/O bus and are built by their own constructors.

pub mod balloon;
pub mod blk;
pub mod bucket;
pub mod console;
pub mod console_log;
pub mod fs;
pub mod net;
pub mod reset;
pub mod rng;
pub mod serial;
pub mod sleep;
mod stdio;
pub mod vsock;

pub use vsock::HostPort;

use crate::config::net::MacAddr;
use crate::net::Link;
use crate::virtio::device::VirtioDevice;
use console::Window;
use console_log::ConsoleLog;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vsock::Dialer;

/// A virtio device to build, with what it is joined to. Arguments as in the constructors.
pub enum Spec {
    Blk {
        file: File,
        read_only: bool,
        stand_in: bool,
        id: String,
        limits: blk::Limits,
    },
    Console {
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
        log: Arc<ConsoleLog>,
        size: (u16, u16),
    },
    Net {
        link: Box<dyn Link>,
        stand_in: bool,
        mac: MacAddr,
        mtu: u16,
        bps: Option<u64>,
    },
    Rng,
    Balloon,
    Fs {
        stream: UnixStream,
        tag: String,
    },
    Vsock {
        cid: u32,
        ports: Vec<HostPort>,
        listener: Option<OwnedFd>,
    },
}

impl Spec {
    /// What to call the device in a message.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Blk { .. } => "disk",
            Self::Console { .. } => "console",
            Self::Fs { .. } => "shared directory",
            Self::Balloon => "balloon",
            Self::Net { .. } => "network device",
            Self::Rng => "entropy device",
            Self::Vsock { .. } => "vsock device",
        }
    }
}

/// A device, and what reaches it from outside the guest.
pub struct Built {
    pub device: Box<dyn VirtioDevice>,
    pub handle: Handle,
}

/// How the machine talks to a device that lives behind its transport. Any thread.
pub enum Handle {
    None,
    Window(Arc<Window>),
    Dialer(Arc<Dialer>),
    Balloon(Arc<balloon::Control>),
    Net(Arc<net::Control>),
}

/// Builds a device. Errors are the host's: a file without a length, no descriptors left.
pub fn build(spec: Spec) -> io::Result<Built> {
    let (device, handle): (Box<dyn VirtioDevice>, Handle) = match spec {
        Spec::Blk {
            file,
            read_only,
            stand_in,
            id,
            limits,
        } => {
            let blk = blk::Blk::new(file, read_only, &id, limits, blk::Choice::Best)?;
            let blk = if stand_in { blk.standing_in() } else { blk };
            (Box::new(blk), Handle::None)
        }
        Spec::Console {
            input,
            output,
            log,
            size,
        } => {
            let (console, window) = console::Console::new(input, output, log, size)?;
            (Box::new(console), Handle::Window(window))
        }
        Spec::Net {
            link,
            stand_in,
            mac,
            mtu,
            bps,
        } => {
            let (net, control) = net::Net::new(link, mac, mtu, bps)?;
            let net = if stand_in { net.standing_in() } else { net };
            (Box::new(net), Handle::Net(control))
        }
        Spec::Rng => (Box::new(rng::Rng), Handle::None),
        Spec::Balloon => {
            let (balloon, control) = balloon::Balloon::new()?;
            (Box::new(balloon), Handle::Balloon(control))
        }
        Spec::Fs { stream, tag } => (Box::new(fs::Fs::new(stream, &tag)?), Handle::None),
        Spec::Vsock {
            cid,
            ports,
            listener,
        } => {
            let (vsock, dialer) = vsock::Vsock::new(cid, ports, listener)?;
            (Box::new(vsock), Handle::Dialer(dialer))
        }
    };
    Ok(Built { device, handle })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Frames;
    use crate::virtio::testing::{Driver, any_descriptor};
    use proptest::prelude::*;

    fn specs() -> [Spec; 7] {
        let file = tempfile::tempfile().expect("file");
        file.set_len(1 << 20).expect("a hole");
        [
            Spec::Blk {
                file,
                read_only: false,
                stand_in: false,
                id: "scratch".to_owned(),
                limits: blk::Limits::default(),
            },
            Spec::Console {
                input: None,
                output: None,
                log: ConsoleLog::new(None),
                size: (80, 25),
            },
            Spec::Net {
                // Without a world: what the guest sends goes nowhere.
                link: Box::new(Frames::new(Frames::pair().expect("sockets").0)),
                stand_in: false,
                mac: MacAddr([2, 0, 0, 0, 0, 1]),
                mtu: 1500,
                bps: None,
            },
            Spec::Rng,
            Spec::Balloon,
            Spec::Vsock {
                cid: 3,
                ports: Vec::new(),
                listener: None,
            },
            Spec::Fs {
                stream: UnixStream::pair().expect("a pair").0,
                tag: "share".to_owned(),
            },
        ]
    }

    #[test]
    fn every_device_is_built_starts_and_survives_a_reset_at_any_step() {
        let mut ids = Vec::new();
        for spec in specs() {
            let name = spec.name();
            let device = build(spec).expect("built").device;
            ids.push(device.kind().id);
            let mut driver = Driver::new(device);
            // All that is offered; then nothing; with a reset before, between and after.
            let offered = driver.offered();
            driver.write(0x70, 0);
            for features in [offered, 0] {
                driver.negotiate(features);
                driver.settle();
                driver.start(features);
                for queue in 0..4 {
                    driver.kick(queue);
                }
                driver.settle();
                driver.write(0x70, 0);
                assert_eq!(driver.status(), 0, "{name}");
            }
            let woken = driver.events.turn(20).expect("event loop");
            assert!(woken <= 1, "{name}");
            assert_eq!(driver.events.turn(20).expect("event loop"), 0, "{name}");
        }
        assert_eq!(ids, [2, 3, 1, 4, 5, 19, 26], "the numbers of section 5");
    }

    #[test]
    fn configuration_space_has_an_end() {
        let built = build(Spec::Vsock {
            cid: 0x0403_0201,
            ports: Vec::new(),
            listener: None,
        });
        let driver = Driver::new(built.expect("built").device);
        assert_eq!(driver.config::<12>(0), [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(driver.config::<4>(0xe00), [0; 4]);
        driver.write_config(0, 0xff);
        assert_eq!(driver.config::<1>(0), [1], "nothing there is writable");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever lies in any of its rings, no device panics, hangs or dies for good.
        #[test]
        fn no_ring_content_harms_more_than_the_device(
            table in proptest::collection::vec(any_descriptor(), 64),
            bytes in proptest::collection::vec(0..12u8, 64),
            heads in proptest::collection::vec(0..64u16, 1..16),
            queue in 0..2usize,
        ) {
            for spec in specs() {
                let mut driver = Driver::started(build(spec).expect("built").device, 0);
                let queue = if driver.queue_count() > queue { queue } else { 0 };
                // Some of the buffers hold something like a request.
                let at = driver.place(&bytes);
                for (slot, descriptor) in (0..).zip(&table) {
                    let mut descriptor = *descriptor;
                    if descriptor.address % 3 == 0 {
                        (descriptor.address, descriptor.length) = (at, 44);
                    }
                    driver.store(queue, slot, descriptor);
                }
                for head in &heads {
                    driver.make_available(queue, *head);
                }
                driver.kick(queue);
                // Answers may land in the rings and make more work: bounded turns, not rest.
                for _ in 0..20 {
                    driver.events.turn(0).expect("event loop");
                }
                driver.start(0);
                prop_assert_eq!(driver.status(), 15);
                driver.kick(queue);
                driver.settle();
                prop_assert_eq!(driver.status(), 15);
            }
        }
    }
}
