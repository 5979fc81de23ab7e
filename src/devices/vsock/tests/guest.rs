// SPDX-License-Identifier: Apache-2.0
//! A guest's vsock driver and sockets, as far as the tests need them.

use super::super::packet::*;
use super::super::{HostPort, Vsock};
use super::*;
use crate::virtio::testing::Driver;
use std::os::unix::net::UnixStream;

pub const CID: u64 = 3;
pub const RX_BUFFERS: u16 = 64;
const RX_BYTES: usize = 4096;

pub struct Guest {
    pub driver: Driver,
    pub dialer: Arc<Dialer>,
    buffers: Vec<u64>,
    packet: u64,
}

impl Guest {
    /// A guest with one host stream behind each port; returns the host's ends.
    pub fn new(ports: &[u32], listener: Option<OwnedFd>) -> (Self, Vec<UnixStream>) {
        let pairs: Vec<_> = ports
            .iter()
            .map(|_| UnixStream::pair().expect("sockets"))
            .collect();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (&port, (near, far)) in ports.iter().zip(pairs) {
            ours.push(HostPort { port, stream: near });
            theirs.push(far);
        }
        let (vsock, dialer) =
            Vsock::new(u32::try_from(CID).expect("small"), ours, listener).expect("descriptors");
        let mut guest = Self {
            driver: Driver::new(Box::new(vsock)),
            dialer,
            buffers: Vec::new(),
            packet: 0,
        };
        guest.start();
        (guest, theirs)
    }

    /// This guest, by another driver's hands.
    pub fn with(&self, driver: Driver, dialer: Arc<Dialer>) -> Self {
        Self {
            driver,
            dialer,
            buffers: self.buffers.clone(),
            packet: self.packet,
        }
    }

    pub fn start(&mut self) {
        self.restart(F_STREAM);
    }

    pub fn restart(&mut self, features: u64) {
        self.driver.start(features);
        self.packet = self.driver.allocate(1 << 17);
        self.buffers.clear();
        for _ in 0..RX_BUFFERS {
            let at = self.driver.allocate(RX_BYTES);
            self.buffers.push(at);
            self.post(at);
        }
        self.driver.kick(RECEIVE);
        self.driver.settle();
    }

    fn post(&mut self, at: u64) -> u16 {
        let length = u32::try_from(RX_BYTES).expect("small");
        self.driver.offer(RECEIVE, &[], &[(at, length)])
    }

    /// Sends raw bytes as one packet and lets the device work.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.queue_raw(bytes);
        self.driver.kick(TRANSMIT);
        self.driver.until(|driver| driver.used(TRANSMIT));
        self.driver.settle();
    }

    /// Offers a packet without waiting for anything.
    pub fn queue_raw(&mut self, bytes: &[u8]) {
        let at = self.packet;
        let memory = &self.driver.memory;
        vm_memory::Bytes::write_slice(&**memory, bytes, vm_memory::GuestAddress(at))
            .expect("allocated");
        let length = u32::try_from(bytes.len()).expect("small");
        self.driver.offer(TRANSMIT, &[(at, length)], &[]);
    }

    pub fn send(&mut self, header: Header, payload: &[u8]) {
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(payload);
        self.send_raw(&bytes);
    }

    /// The next packet the device sent, if there is one.
    pub fn packet(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, length) = self.driver.used(RECEIVE)?;
        let length = usize::try_from(length).expect("small");
        // Single-descriptor chains in ring order: the head says which buffer it was.
        let size = 256;
        let at = self.buffers[usize::from(head % size) % usize::from(RX_BUFFERS)];
        let bytes = self.driver.fetch(at, length);
        let (header, payload) = bytes.split_first_chunk().expect("a whole header");
        let header = Header::decode(header);
        let payload = payload.to_vec();
        assert_eq!(header.len as usize, payload.len());
        assert_eq!((header.src_cid, header.dst_cid), (2, CID));
        self.post(at);
        self.driver.kick(RECEIVE);
        Some((header, payload))
    }

    /// Waits for a packet.
    pub fn receive(&mut self) -> (Header, Vec<u8>) {
        self.driver
            .until(|driver| driver.peek_used(RECEIVE).then_some(()));
        self.packet().expect("just seen")
    }

    pub fn expect_op(&mut self, op: u16) -> Header {
        let (header, _) = self.receive();
        assert_eq!(header.op, op, "{header:?}");
        header
    }

    pub fn expect_nothing(&mut self) {
        self.driver.settle();
        let packet = self.packet();
        assert!(packet.is_none(), "{:?}", packet.map(|packet| packet.0));
    }

    pub fn rests(&mut self, what: &str) {
        self.driver.settle();
        let woken = self.driver.events.turn(20).expect("event loop");
        assert_eq!(woken, 0, "{what}");
    }

    pub fn connect(&mut self, host_port: u32, port: u32) -> Socket {
        let socket = Socket::new(host_port, port);
        self.send(socket.header(REQUEST), &[]);
        self.expect_op(RESPONSE);
        socket
    }
}

/// The guest's end of a connection.
#[derive(Clone, Debug)]
pub struct Socket {
    pub host: u32,
    pub guest: u32,
    pub alloc: u32,
    /// What we consumed, and what we said of it.
    pub consumed: u32,
    pub said: u32,
    pub sent: u32,
    pub peer_alloc: u32,
    pub peer_forwarded: u32,
}

impl Socket {
    pub fn new(host: u32, guest: u32) -> Self {
        Self {
            host,
            guest,
            alloc: 1 << 16,
            consumed: 0,
            said: 0,
            sent: 0,
            peer_alloc: super::super::connection::WINDOW,
            peer_forwarded: 0,
        }
    }

    pub fn header(&self, op: u16) -> Header {
        Header {
            src_cid: CID,
            dst_cid: 2,
            src_port: self.guest,
            dst_port: self.host,
            kind: STREAM,
            op,
            buf_alloc: self.alloc,
            fwd_cnt: self.consumed,
            ..Header::default()
        }
    }

    pub fn write(&mut self, guest: &mut Guest, data: &[u8]) {
        let len = u32::try_from(data.len()).expect("small");
        let header = Header {
            len,
            ..self.header(RW)
        };
        self.sent = self.sent.wrapping_add(len);
        self.said = self.consumed;
        guest.send(header, data);
    }

    pub fn shutdown(&self, guest: &mut Guest, flags: u32) {
        let header = Header {
            flags,
            ..self.header(SHUTDOWN)
        };
        guest.send(header, &[]);
    }

    pub fn free(&self) -> u32 {
        self.peer_alloc - self.sent.wrapping_sub(self.peer_forwarded)
    }

    /// Takes note of a packet's counters, and of its payload; checks that the device keeps
    /// to the credit it has.
    pub fn note(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc;
        self.peer_forwarded = header.fwd_cnt;
        if header.op == RW {
            self.consumed = self.consumed.wrapping_add(header.len);
            let outstanding = self.consumed.wrapping_sub(self.said);
            assert!(outstanding <= self.alloc, "the device overran our buffer");
        }
    }

    pub fn update(&mut self, guest: &mut Guest) {
        self.said = self.consumed;
        let header = self.header(CREDIT_UPDATE);
        guest.send(header, &[]);
    }
}
