// SPDX-License-Identifier: Apache-2.0
//! Clients of all kinds at a desk whose session is played by the test.

use super::*;
use crate::instance::record::Record;
use crate::instance::{Found, Place, call};
use husk_protocol::{Decoder, Message, Start};
use std::io::{Read as _, Write as _};
use std::thread;

struct Room {
    _folder: tempfile::TempDir,
    found: Found,
    desk: Option<Desk>,
}

impl Room {
    fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::open(&folder.path().join("husk")).expect("a place");
        let record = Record {
            detached: true,
            interactive: true,
            stop_signal: 15,
            ..Record::default()
        };
        let claim = place.claim(record).expect("a claim");
        let found = place.find(&claim.record.id).expect("found");
        Self {
            _folder: folder,
            found,
            desk: Some(Desk::open(claim, true, Described::default()).expect("a desk")),
        }
    }

    fn desk(&mut self) -> &mut Desk {
        self.desk.as_mut().expect("open")
    }

    /// Turns the desk as a session does, until `done`.
    #[track_caller]
    fn turn(&mut self, mut done: impl FnMut(&mut Desk) -> bool) {
        let until = Instant::now() + Duration::from_secs(30);
        let desk = self.desk();
        while !done(desk) {
            assert!(Instant::now() < until, "nothing came of it");
            let list = desk.watched();
            let mut fds: Vec<PollFd<'_>> = list
                .iter()
                .map(|(fd, flags)| PollFd::new(*fd, *flags))
                .collect();
            poll(&mut fds, PollTimeout::from(50u8)).expect("poll");
            let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
            let ready: Vec<usize> = (0..fds.len()).filter(|i| is_ready(&fds[*i])).collect();
            drop(fds);
            drop(list);
            desk.ready(&ready);
        }
    }

    /// Asks on another thread while the desk turns.
    fn ask(&mut self, ask: Ask) -> Answer {
        let found = self.found.clone();
        let asking = thread::spawn(move || call::ask(&found, &ask).expect("an answer"));
        self.turn(|_| asking.is_finished());
        asking.join().expect("no panic")
    }

    /// An attached client that has said hello.
    fn attach(&mut self) -> UnixStream {
        self.desk().told(&Event::Started { pid: 7 });
        let found = self.found.clone();
        let calling = thread::spawn(move || call::attach(&found).expect("a connection"));
        self.turn(|_| calling.is_finished());
        let mut stream = calling.join().expect("no panic").expect("attached");
        let mut frame = Vec::new();
        Message::Start(Start::default())
            .encode(&mut frame)
            .expect("it fits");
        stream.write_all(&frame).expect("room");
        stream
    }

    fn attached(&self) -> usize {
        let desk = self.desk.as_ref().expect("open");
        desk.clients
            .iter()
            .filter(|c| matches!(c, Client::Attached(_)))
            .count()
    }
}

#[test]
fn requests_are_answered_and_become_wishes() {
    let mut room = Room::open();
    assert_eq!(room.ask(Ask::Signal { number: 10 }), Answer::Done);
    let stop = Ask::Stop {
        signal: None,
        grace_ms: 5,
    };
    assert_eq!(room.ask(stop), Answer::Done);
    assert_eq!(room.desk().next_wish(), Some(Wish::Signal(10)));
    let grace = Duration::from_millis(5);
    assert_eq!(
        room.desk().next_wish(),
        Some(Wish::Stop { signal: 15, grace })
    );
    assert!(
        matches!(room.ask(Ask::Attach), Answer::Refused(_)),
        "nothing runs yet"
    );
    room.desk().told(&Event::Started { pid: 7 });
    let Answer::Live(live) = room.ask(Ask::Inspect) else {
        panic!("no answer");
    };
    assert_eq!(live.guest_pid, Some(7));
}

#[test]
fn who_waits_is_told_the_end() {
    let mut room = Room::open();
    let found = room.found.clone();
    let waiting = thread::spawn(move || call::ask(&found, &Ask::Wait).expect("an answer"));
    room.turn(|desk| desk.clients.iter().any(|c| matches!(c, Client::Waiting(_))));
    let ended = Ended {
        at: 1,
        code: 3,
        signal: None,
        error: None,
    };
    room.desk.take().expect("open").conclude(&ended);
    assert_eq!(waiting.join().expect("no panic"), Answer::Ended(ended));
}

#[test]
fn nonsense_is_shown_the_door() {
    let mut room = Room::open();
    for words in [
        &b"\n"[..],
        b"{}\n",
        b"\"Nope\"\n",
        &[b'x'; MAX_REQUEST + 1],
        b"\xff\xff\n",
    ] {
        let mut stream = room.found.call().expect("a connection");
        stream.write_all(words).expect("room");
        let reading = thread::spawn(move || {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            rest
        });
        room.turn(|_| reading.is_finished());
        assert!(reading.join().expect("no panic").is_empty());
    }
    // One that says nothing holds up nobody.
    let _silent = room.found.call().expect("a connection");
    assert!(matches!(room.ask(Ask::Inspect), Answer::Live(_)));
}

#[test]
fn an_onlooker_that_does_not_read_is_let_go_and_the_log_is_whole() {
    let mut room = Room::open();
    let stream = room.attach();
    room.turn(|desk| {
        matches!(desk.clients.first(), Some(Client::Attached(attached)) if !attached.has_more())
    });
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    let mut lines = 0;
    while room.attached() > 0 && lines < 100_000 {
        room.desk().heard(Stream::Stdout, &line);
        room.desk().ready(&[]);
        lines += 1;
    }
    assert!((1000..20_000).contains(&lines), "{lines}");
    drop(stream);
}

#[test]
fn onlookers_that_read_nothing_hold_up_the_end_together_and_not_each() {
    let mut room = Room::open();
    let _stuck: Vec<UnixStream> = (0..3).map(|_| room.attach()).collect();
    let greeted = |client: &Client| matches!(client, Client::Attached(a) if !a.has_more());
    room.turn(|desk| desk.clients.iter().all(greeted));
    // More than a socket takes, less than they may be behind.
    room.desk().heard(Stream::Stdout, &[b'x'; 1 << 20]);
    room.desk().told(&Event::Exited(Exit::Code(0)));
    assert_eq!(room.attached(), 3);
    let ended = Ended {
        at: 1,
        code: 0,
        signal: None,
        error: None,
    };
    let began = Instant::now();
    room.desk.take().expect("open").conclude(&ended);
    let took = began.elapsed();
    assert!((FAREWELL..2 * FAREWELL).contains(&took), "{took:?}");
}

#[test]
fn frames_that_make_no_sense_end_an_attachment_only() {
    let mut room = Room::open();
    let mut stream = room.attach();
    assert_eq!(room.attached(), 1);
    let mut frame = Vec::new();
    Message::Shutdown.encode(&mut frame).expect("it fits");
    stream.write_all(&frame).expect("room");
    room.turn(|desk| desk.clients.is_empty());
    assert_eq!(room.desk().next_wish(), None);
}

#[test]
fn what_is_typed_becomes_input_and_output_is_heard() {
    let mut room = Room::open();
    let mut stream = room.attach();
    let mut frames = Vec::new();
    let data = Message::Data {
        stream: Stream::Stdin,
        bytes: b"typed",
    };
    data.encode(&mut frames).expect("it fits");
    Message::Eof {
        stream: Stream::Stdin,
    }
    .encode(&mut frames)
    .expect("it fits");
    stream.write_all(&frames).expect("room");
    room.turn(|desk| desk.input_ended());
    assert_eq!(room.desk().input(3).as_deref(), Some(&b"typ"[..]));
    assert_eq!(room.desk().input(30).as_deref(), Some(&b"ed"[..]));
    assert_eq!(room.desk().input(30), None);
    room.desk().heard(Stream::Stdout, b"heard");
    room.desk().told(&Event::Exited(Exit::Code(4)));
    let ended = Ended {
        at: 1,
        code: 4,
        signal: None,
        error: None,
    };
    room.desk.take().expect("open").conclude(&ended);

    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("all of it");
    let mut decoder = Decoder::new();
    decoder.space()[..bytes.len()].copy_from_slice(&bytes);
    decoder.filled(bytes.len());
    let mut seen = Vec::new();
    while let Some(message) = decoder.take().expect("frames") {
        seen.push(format!("{message:?}"));
    }
    let all = seen.join(" ");
    assert!(
        all.starts_with("Hello") && all.ends_with("Exited(Code(4))"),
        "{all}"
    );
    assert!(all.contains("Started { pid: 7 }") && all.contains("[104, 101, 97, 114, 100]"));
}

#[test]
fn what_the_machine_counted_goes_to_all_who_asked() {
    let mut room = Room::open();
    let found = room.found.clone();
    let asking: Vec<_> = (0..2)
        .map(|_| {
            let found = found.clone();
            thread::spawn(move || call::ask(&found, &Ask::Count).expect("an answer"))
        })
        .collect();
    let mut wishes = 0;
    room.turn(|desk| {
        while let Some(wish) = desk.next_wish() {
            assert_eq!(wish, Wish::Count);
            wishes += 1;
        }
        wishes == 2
    });
    let counted = Counted {
        net: Some(crate::control::Traffic {
            received_bytes: 7,
            ..Default::default()
        }),
        memory: None,
    };
    room.desk().told(&Event::Report(Report::Counted(counted)));
    for thread in asking {
        assert_eq!(thread.join().expect("no panic"), Answer::Counted(counted));
    }
    // Nobody is told twice.
    room.desk().told(&Event::Report(Report::Counted(counted)));
    let waiting = thread::spawn(move || call::ask(&found, &Ask::Count).expect("an answer"));
    room.turn(|desk| desk.next_wish().is_some());
    let desk = room.desk.take().expect("open");
    desk.conclude(&Ended::vanished(1));
    let last = waiting.join().expect("no panic");
    assert!(matches!(last, Answer::Refused(_)), "{last:?}");
}

/// One that was killed between the answer and its word on what is to become of the machine.
#[test]
fn a_machine_is_held_for_as_long_as_whoever_had_it_saved_is_there() {
    let mut room = Room::open();
    room.desk().told(&Event::Started { pid: 7 });
    let folder = tempfile::tempdir().expect("a folder");
    let ask = Ask::Save {
        folder: folder.path().to_owned(),
        hold: true,
        changes: false,
    };
    let found = room.found.clone();
    let asking = thread::spawn(move || call::ask_on(&found, &ask).expect("an answer"));
    room.turn(|desk| matches!(desk.next_wish(), Some(Wish::Save(_))));
    room.desk().told(&Event::Saved(Ok(Saved { paused: 1 })));
    room.turn(|_| asking.is_finished());
    let (answer, hold) = asking.join().expect("no panic");
    assert_eq!(answer, Answer::Saved { paused: 1 });
    // Others come and go meanwhile.
    assert!(matches!(room.ask(Ask::Inspect), Answer::Live(_)));
    assert!(room.desk().next_wish().is_none(), "it is held");
    drop(hold);
    room.turn(|desk| matches!(desk.next_wish(), Some(Wish::Resume)));
}

/// A client that was killed: its snapshot goes on being made, and is nobody else's.
#[test]
fn a_save_whose_client_is_gone_is_not_taken_for_the_next_ones() {
    let mut room = Room::open();
    room.desk().told(&Event::Started { pid: 7 });
    let folders: Vec<_> = (0..2)
        .map(|_| tempfile::tempdir().expect("a folder"))
        .collect();
    let ask = |folder: &tempfile::TempDir| Ask::Save {
        folder: folder.path().to_owned(),
        hold: true,
        changes: false,
    };
    let (found, first) = (room.found.clone(), ask(&folders[0]));
    let mut client = UnixStream::connect(found.dir.join("control.sock")).expect("a connection");
    let mut line = serde_json::to_vec(&first).expect("data");
    line.push(b'\n');
    client.write_all(&line).expect("room");
    room.turn(|desk| matches!(desk.next_wish(), Some(Wish::Save(_))));
    drop(client);
    room.turn(|desk| desk.clients.is_empty());
    let refused = room.ask(ask(&folders[1]));
    assert!(matches!(refused, Answer::Refused(_)), "{refused:?}");
    let saved = Saved { paused: 1 };
    room.desk().told(&Event::Saved(Ok(saved)));
    assert!(
        matches!(room.desk().next_wish(), Some(Wish::Resume)),
        "it would stand still for ever"
    );
    let why = "as it goes".to_owned();
    let (found, second) = (room.found.clone(), ask(&folders[1]));
    let asking = thread::spawn(move || call::ask(&found, &second).expect("an answer"));
    room.turn(|desk| matches!(desk.next_wish(), Some(Wish::Save(_))));
    room.desk().told(&Event::Saved(Err(why.clone())));
    room.turn(|_| asking.is_finished());
    assert_eq!(asking.join().expect("no panic"), Answer::Refused(why));
    assert!(room.desk().next_wish().is_none(), "it goes on by itself");
}
