// SPDX-License-Identifier: Apache-2.0
//! Name lookups over TCP, with a name server that is a listener of the test's.

use super::*;
use std::thread::JoinHandle;

/// The guest's half of a connection to the gateway's name server, segment by segment.
pub struct Client {
    port: u16,
    seq: i32,
    next: TcpSeqNumber,
    heard: Vec<u8>,
    ended: bool,
}

impl Client {
    pub fn open(world: &mut World, port: u16) -> Self {
        world.say(&syn(port, gateway(53)));
        loop {
            let frame = world.wait();
            let answer = segment(&frame);
            if answer.syn && to_port(&frame) == port {
                return Self {
                    port,
                    seq: 1001,
                    next: answer.seq + 1,
                    heard: Vec::new(),
                    ended: false,
                };
            }
        }
    }

    pub fn say(&mut self, world: &mut World, payload: &[u8]) {
        let segment = Segment {
            control: TcpControl::Psh,
            seq: self.seq,
            ack: Some(self.next),
            payload,
        };
        self.seq += i32::try_from(payload.len()).expect("short");
        world.say(&tcp(self.port, gateway(53), segment));
    }

    /// Takes the next segment.
    fn listen(&mut self, world: &mut World) {
        let frame = world.wait();
        if to_port(&frame) != self.port {
            return;
        }
        let part = segment(&frame);
        if part.seq == self.next {
            self.next += part.payload.len();
            self.heard.extend(&part.payload);
        }
        self.ended |= part.fin || part.rst;
    }

    /// The next answer, without its length.
    #[track_caller]
    pub fn answer(&mut self, world: &mut World) -> Vec<u8> {
        loop {
            if let Some(prefix) = self.heard.first_chunk::<2>() {
                let whole = 2 + usize::from(u16::from_be_bytes(*prefix));
                if self.heard.len() >= whole {
                    let rest = self.heard.split_off(whole);
                    return std::mem::replace(&mut self.heard, rest).split_off(2);
                }
            }
            assert!(!self.ended, "the connection is over");
            self.listen(world);
        }
    }

    #[track_caller]
    pub fn ask(&mut self, world: &mut World, message: &[u8]) -> Vec<u8> {
        self.say(world, &framed(message));
        self.answer(world)
    }
}

/// The port of the guest's that a segment is for.
fn to_port(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[36], frame[37]])
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short");
    [&length.to_be_bytes()[..], message].concat()
}

/// A name server that answers each question with so many addresses.
fn server(answers: Vec<Vec<[u8; 4]>>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    let serving = std::thread::spawn(move || {
        for addresses in answers {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut prefix = [0; 2];
            stream.read_exact(&mut prefix).expect("a length");
            let mut message = vec![0; usize::from(u16::from_be_bytes(prefix))];
            stream.read_exact(&mut message).expect("a question");
            (message[2], message[3]) = (0x81, 0x80);
            message[7] = u8::try_from(addresses.len()).expect("few");
            for address in addresses {
                message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                message.extend(address);
            }
            // In parts, as a network has it.
            for part in framed(&message).chunks(700) {
                stream.write_all(part).expect("open");
            }
        }
    });
    (at, serving)
}

fn named() -> Rule {
    Rule {
        to: Destination::Name {
            name: "a.example".into(),
            below: false,
        },
        port: None,
    }
}

#[test]
fn an_answer_longer_than_a_datagram_comes_whole_and_opens_what_it_says() {
    let many: Vec<[u8; 4]> = (1..=200).map(|last| [203, 0, 113, last]).collect();
    let (resolver, serving) = server(vec![many, vec![[203, 0, 113, 250]]]);
    let mut world = World::asking(false, &[named()], Vec::new(), Vec::new(), vec![resolver]);
    let mut client = Client::open(&mut world, 5000);
    let answer = client.ask(&mut world, &question(1));
    assert_eq!(
        (&answer[..2], answer[3] & 0xf, answer[7]),
        (&[9, 9][..], 0, 200)
    );
    assert_eq!(answer.len(), question(1).len() + 200 * 16);
    // Another question on the same connection.
    let answer = client.ask(&mut world, &question(1));
    assert_eq!((answer[3] & 0xf, answer[7]), (0, 1));
    serving.join().expect("no panic");
}

#[test]
fn names_that_no_rule_has_are_refused_over_tcp_too() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("non-blocking");
    let resolver = listener.local_addr().expect("an address");
    let mut world = World::asking(false, &[], Vec::new(), Vec::new(), vec![resolver]);
    let mut client = Client::open(&mut world, 5000);
    let answer = client.ask(&mut world, &question(1));
    assert_eq!((&answer[..2], answer[3] & 0xf), (&[9, 9][..], 5));
    nobody_came(&listener);
}

#[test]
fn an_answer_over_tcp_never_leads_to_the_hosts_own_addresses() {
    let outside = [203, 0, 113, 5];
    let rebound = [
        vec![[127, 0, 0, 1]],
        vec![outside, [127, 0, 0, 1]],
        vec![[169, 254, 169, 254]],
    ];
    let (resolver, serving) = server(rebound.to_vec());
    let mut world = World::asking(false, &[named()], Vec::new(), Vec::new(), vec![resolver]);
    let mut client = Client::open(&mut world, 5000);
    for _ in 0..rebound.len() {
        let answer = client.ask(&mut world, &question(1));
        assert_eq!((answer[3] & 0xf, answer[7]), (3, 0));
    }
    serving.join().expect("no panic");
}

#[test]
fn a_name_server_that_is_not_there_is_passed_over() {
    let (_listener, closed) = service();
    drop(_listener);
    let dead = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), closed);
    let (resolver, serving) = server(vec![vec![[203, 0, 113, 5]]]);
    let resolvers = vec![dead, resolver];
    let mut world = World::asking(false, &[named()], Vec::new(), Vec::new(), resolvers);
    let mut client = Client::open(&mut world, 5000);
    let answer = client.ask(&mut world, &question(1));
    assert_eq!((answer[3] & 0xf, answer[7]), (0, 1));
    serving.join().expect("no panic");
}

#[test]
fn a_question_too_long_ends_its_connection_and_there_is_an_end_to_connections() {
    let mut world = World::asking(true, &[], Vec::new(), Vec::new(), Vec::new());
    let mut client = Client::open(&mut world, 5000);
    client.say(&mut world, &[0xff, 0xff, 0]);
    while !client.ended {
        client.listen(&mut world);
    }
    let mut refused = 0;
    for port in 6000..6040 {
        world.say(&syn(port, gateway(53)));
        refused += u32::from(segment(&world.wait()).rst);
    }
    assert!((20..40).contains(&refused), "{refused}");
}
