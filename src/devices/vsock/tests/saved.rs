// SPDX-License-Identifier: Apache-2.0
//! The device saved and restored: connections end, listeners live, and the guest knows before
//! anything else goes on.

use super::*;

impl Guest {
    /// The same guest with a fresh device, and what is behind its ports.
    fn restored(&self, ports: &[u32]) -> (Self, Vec<UnixStream>) {
        let pairs = ports.iter().map(|_| UnixStream::pair().expect("sockets"));
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.unzip();
        let ours = ports.iter().zip(ours);
        let ours = ours.map(|(&port, stream)| HostPort { port, stream });
        let cid = u32::try_from(CID).expect("small");
        let (vsock, dialer) = Vsock::new(cid, ours.collect(), None).expect("descriptors");
        let driver = self.driver.restored(Box::new(vsock));
        (self.with(driver, dialer), theirs)
    }

    /// Offers a buffer for an event, as the driver does at its start and after each.
    fn offer_event(&mut self) -> u64 {
        let at = self.driver.place(&[0xff; 4]);
        self.driver.offer(EVENTS, &[], &[(at, 4)]);
        self.driver.kick(EVENTS);
        at
    }

    fn offer_packet(&mut self, header: Header) {
        // Each in a place of its own: none is taken at once.
        let at = self.driver.place(&header.encode());
        self.driver.offer(TRANSMIT, &[(at, 44)], &[]);
        self.driver.kick(TRANSMIT);
        self.driver.settle();
    }
}

#[test]
fn a_restored_guest_learns_that_its_connections_are_gone_before_all_else() {
    let (mut guest, mut hosts) = Guest::new(&[50], None);
    let events: Vec<u64> = (0..8).map(|_| guest.offer_event()).collect();
    let mut socket = guest.connect(50, 1000);
    let (mut copy, mut others) = guest.restored(&[50]);
    // Told once, in the first buffer.
    assert_eq!(copy.driver.used(EVENTS).map(|used| used.1), Some(4));
    assert_eq!(
        copy.driver.fetch(events[0], 4),
        TRANSPORT_RESET.to_le_bytes()
    );
    assert_eq!(copy.driver.used(EVENTS), None);
    assert!(copy.driver.interrupts() > 0);
    // It has not acted on it yet: nobody is let in, and nothing is lost.
    let (near, mut far) = UnixStream::pair().expect("sockets");
    copy.dialer.connect(7000, near);
    let dead = Socket { ..socket.clone() };
    copy.offer_packet(dead.header(RW));
    copy.offer_packet(Socket::new(50, 1001).header(REQUEST));
    copy.expect_nothing();
    copy.rests("a guest that is slow to act");

    copy.offer_event();
    // What was sent on the old connection is refused; the new ones stand.
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (header, _) = copy.receive();
        seen.push((header.op, header.dst_port));
    }
    seen.sort_unstable();
    assert_eq!(seen, [(REQUEST, 7000), (RESPONSE, 1001), (RST, 1000)]);
    let mut socket_of_copy = Socket::new(50, 1001);
    socket_of_copy.write(&mut copy, b"here again");
    let mut text = [0; 10];
    others[0].read_exact(&mut text).expect("sent");
    assert_eq!(&text, b"here again");
    far.set_nonblocking(true).expect("a socket");
    assert_eq!(
        far.read(&mut text).map_err(|error| error.kind()),
        Err(ErrorKind::WouldBlock),
        "the dialed one waits for the guest"
    );
    // The parent's connection never noticed.
    socket.write(&mut guest, b"parent");
    hosts[0].read_exact(&mut text[..6]).expect("sent");
    assert_eq!(&text[..6], b"parent");
    assert_eq!(guest.driver.used(EVENTS), None);
}

#[test]
fn a_reset_waits_for_a_guest_that_has_no_buffer_for_it() {
    for features in [0, crate::virtio::testing::EVENT_IDX] {
        let (mut guest, _hosts) = Guest::new(&[50], None);
        guest.restart(F_STREAM | features);
        let (mut copy, _others) = guest.restored(&[50]);
        copy.offer_packet(Socket::new(50, 1).header(REQUEST));
        copy.expect_nothing();
        // Saved once more in between: it is owed still.
        let (mut copy, _others) = copy.restored(&[50]);
        copy.expect_nothing();
        let at = copy.offer_event();
        copy.driver.until(|driver| driver.used(EVENTS));
        assert_eq!(copy.driver.fetch(at, 4), TRANSPORT_RESET.to_le_bytes());
        copy.expect_nothing();
        copy.offer_event();
        copy.expect_op(RESPONSE);
        assert_eq!(copy.driver.used(EVENTS), None, "it is told once");
    }
}

#[test]
fn an_event_buffer_too_small_is_a_fault_and_the_next_one_serves() {
    let (mut guest, _hosts) = Guest::new(&[], None);
    let at = guest.driver.place(&[0xff; 4]);
    guest.driver.offer(EVENTS, &[], &[(at, 3)]);
    guest.driver.offer(EVENTS, &[(at, 4)], &[]);
    let (mut copy, _others) = guest.restored(&[]);
    assert_eq!(copy.driver.mmio.fault_count(), 2);
    assert_eq!(copy.driver.used(EVENTS).map(|used| used.1), Some(0));
    assert_eq!(copy.driver.used(EVENTS).map(|used| used.1), Some(0));
    let at = copy.offer_event();
    copy.driver.until(|driver| driver.used(EVENTS));
    assert_eq!(copy.driver.fetch(at, 4), TRANSPORT_RESET.to_le_bytes());
}

#[test]
fn a_driver_that_starts_over_is_owed_nothing() {
    let (mut guest, _hosts) = Guest::new(&[50], None);
    guest.connect(50, 1000);
    let (mut copy, _others) = guest.restored(&[50]);
    copy.start();
    copy.connect(50, 1000);
    copy.offer_event();
    copy.driver.settle();
    assert_eq!(copy.driver.used(EVENTS), None);
}
