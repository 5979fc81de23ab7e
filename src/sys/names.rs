// SPDX-License-Identifier: Apache-2.0
//! How names of hosts are looked up. On the thread that asks for them first.
#![expect(unsafe_code, reason = "a function of glibc's that no crate declares")]

use nix::libc::{c_char, c_int};
use std::sync::Once;

/// Has names looked up in /etc/hosts and by DNS alone, whatever nsswitch.conf says.
///
/// husk is one static program, for any distribution. A service that nsswitch.conf names and
/// glibc has not built in (systemd's `resolve`, `mymachines`) would be loaded from the host,
/// and the host's own C library with it: another than this program was made with, which may
/// end it. What those services know is in resolv.conf as well, as a name server.
pub fn look_up_without_modules() {
    unsafe extern "C" {
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: glibc (nss/nsswitch.h) reads both strings, which end with a NUL and live for
        // ever, and changes its own table of services; `Once` keeps two threads from doing so
        // at a time. A failure leaves the table as nsswitch.conf has it.
        unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::ToSocketAddrs as _;

    #[test]
    fn this_host_is_still_found() {
        look_up_without_modules();
        let mut found = ("localhost", 80).to_socket_addrs().expect("an address");
        assert!(found.all(|address| address.ip().is_loopback()));
    }
}
