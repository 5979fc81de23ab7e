// SPDX-License-Identifier: Apache-2.0
//! Ports of the host for tests to publish.

use std::net::TcpListener;

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
