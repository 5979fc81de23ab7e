// SPDX-License-Identifier: Apache-2.0
//! Name lookups: reads the guest's questions and the name servers' answers. The thread of
//! `husk net`; pure.
//!
//! Both sides are hostile: a guest that asks for more than it may, and a name server whose
//! answers lead to places of the host's own.

use smoltcp::wire::DnsPacket;
use std::net::IpAddr;

/// Longest question passed on: one name, and what an extension (RFC 6891) adds.
pub const MAX_QUESTION: usize = 1024;
/// Longest answer passed on.
pub const MAX_ANSWER: usize = 16 << 10;
/// Records of an answer looked at; one with more is refused. Stops a name server from
/// keeping us busy with one packet.
const MAX_RECORDS: u16 = 256;
/// Longest name (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;

const HEADER: usize = 12;
const REFUSED: u8 = 5;
const NO_NAME: u8 = 3;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
/// How long an answer of our own may be kept, in seconds: members come and go.
const OWN_TTL: u32 = 5;

/// A question of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub id: u16,
    /// In lower case, without a final dot.
    pub name: String,
    pub kind: u16,
    /// The header and the question alone, as they came.
    head: Vec<u8>,
}

impl Question {
    /// `None` for what is no plain question for one name.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let packet = DnsPacket::new_checked(message).ok()?;
        let flags = u16::from_be_bytes([*message.get(2)?, *message.get(3)?]);
        // A response, another operation, or no single question.
        if message.len() > MAX_QUESTION || flags & 0xf800 != 0 || packet.question_count() != 1 {
            return None;
        }
        let (name, end) = name_at(message, HEADER)?;
        let kind = u16::from_be_bytes([*message.get(end)?, *message.get(end + 1)?]);
        Some(Self {
            id: packet.transaction_id(),
            name,
            kind,
            head: message.get(..end + 4)?.to_vec(),
        })
    }

    #[must_use]
    pub fn refusal(&self) -> Vec<u8> {
        self.answer(REFUSED, &[])
    }

    #[must_use]
    pub fn no_such_name(&self) -> Vec<u8> {
        self.answer(NO_NAME, &[])
    }

    /// An answer of our own: those of the addresses that were asked for.
    #[must_use]
    pub fn addresses(&self, addresses: &[IpAddr]) -> Vec<u8> {
        self.answer(0, addresses)
    }

    fn answer(&self, code: u8, addresses: &[IpAddr]) -> Vec<u8> {
        let mut message = self.head.clone();
        let mut count = 0u8;
        for address in addresses {
            let (kind, bytes) = match address {
                IpAddr::V4(v4) => (TYPE_A, v4.octets().to_vec()),
                IpAddr::V6(v6) => (TYPE_AAAA, v6.octets().to_vec()),
            };
            if kind != self.kind {
                continue;
            }
            count = count.saturating_add(1);
            // The name is that of the question, which lies right behind the header.
            message.extend([0xc0, 12]);
            message.extend(kind.to_be_bytes());
            message.extend(1u16.to_be_bytes());
            message.extend(OWN_TTL.to_be_bytes());
            message.extend(u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
            message.extend(bytes);
        }
        // An answer, recursion as it was asked for and had.
        let wanted = message[2] & 1;
        message[2..HEADER].copy_from_slice(&[
            0x80 | wanted,
            0x80 | code,
            0,
            1,
            0,
            count,
            0,
            0,
            0,
            0,
        ]);
        message
    }
}

/// What an answer says, if it is one to this question.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not to this question, or broken: wait for another.
    Stray,
    /// The addresses in it, which may be none: those that answer, and those of its other
    /// sections, which are of other names.
    Addresses {
        answered: Vec<IpAddr>,
        beside: Vec<IpAddr>,
    },
}

/// Reads an answer; `id` is the one we asked with.
#[must_use]
pub fn read_answer(message: &[u8], id: u16, question: &Question) -> Answer {
    addresses(message, id, question).unwrap_or(Answer::Stray)
}

fn addresses(message: &[u8], id: u16, question: &Question) -> Option<Answer> {
    let packet = DnsPacket::new_checked(message).ok()?;
    let is_answer = message.get(2)? & 0x80 != 0;
    if !is_answer || packet.transaction_id() != id || packet.question_count() != 1 {
        return None;
    }
    let (name, end) = name_at(message, HEADER)?;
    let kind = u16::from_be_bytes([*message.get(end)?, *message.get(end + 1)?]);
    if name != question.name || kind != question.kind {
        return None;
    }
    // Addresses count wherever they stand: a resolver may take those of any section.
    let answers = packet.answer_record_count();
    let records = answers
        .saturating_add(packet.authority_record_count())
        .saturating_add(packet.additional_record_count());
    if records > MAX_RECORDS {
        return None;
    }
    let (mut answered, mut beside) = (Vec::new(), Vec::new());
    let mut at = end + 4;
    for index in 0..records {
        at = skip_name(message, at)?;
        let fixed: &[u8; 10] = message.get(at..)?.first_chunk()?;
        let [k0, k1, .., l0, l1] = *fixed;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let data = message.get(at + 10..at + 10 + length)?;
        let list = match index < answers {
            true => &mut answered,
            false => &mut beside,
        };
        match (u16::from_be_bytes([k0, k1]), data.len()) {
            (TYPE_A, 4) => list.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            (TYPE_AAAA, 16) => list.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            (TYPE_A | TYPE_AAAA, _) => return None,
            (TYPE_OPT, _) | (_, _) => {}
        }
        at += 10 + length;
    }
    Some(Answer::Addresses { answered, beside })
}

/// The name at a place of a message, and where it ends.
fn name_at(message: &[u8], at: usize) -> Option<(String, usize)> {
    let end = skip_name(message, at)?;
    let packet = DnsPacket::new_checked(message).ok()?;
    let mut name = String::new();
    for label in packet.parse_name(message.get(at..)?) {
        let label = label.ok()?;
        let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'.';
        if !label.iter().all(plain) || name.len() + label.len() > MAX_NAME {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(
            label
                .iter()
                .map(|byte| char::from(byte.to_ascii_lowercase())),
        );
    }
    Some((name, end))
}

/// Where the name at a place ends: behind a zero, or behind a pointer.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *message.get(at)?;
        at += 1;
        match length {
            0 => return Some(at),
            1..=63 => at += usize::from(length),
            192.. => return Some(at + 1),
            _ => return None,
        }
    }
}

/// The same question under another number.
#[must_use]
pub fn renumber(message: &[u8], id: u16) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(start) = message.get_mut(..2) {
        start.copy_from_slice(&id.to_be_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).expect("short"));
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let asked = Question::read(&question("WWW.Example.COM", TYPE_A)).expect("a question");
        assert_eq!(
            (asked.id, asked.name.as_str(), asked.kind),
            (0x1234, "www.example.com", 1)
        );
        let refused = asked.refusal();
        assert_eq!(
            refused[..12],
            [0x12, 0x34, 0x81, 0x85, 0, 1, 0, 0, 0, 0, 0, 0]
        );
        let list: Vec<IpAddr> = ["10.0.3.2", "fd00::1"]
            .map(|ip| ip.parse().expect("one"))
            .into();
        let answer = asked.addresses(&list);
        assert_eq!(
            read_answer(&answer, 0x1234, &asked),
            Answer::Addresses {
                answered: list[..1].to_vec(),
                beside: Vec::new(),
            }
        );
        // The same record as one of the additional section: it answers nothing.
        let mut glue = answer.clone();
        (glue[7], glue[11]) = (0, 1);
        assert_eq!(
            read_answer(&glue, 0x1234, &asked),
            Answer::Addresses {
                answered: Vec::new(),
                beside: list[..1].to_vec(),
            }
        );
        assert_eq!(read_answer(&answer, 0x1235, &asked), Answer::Stray);
        let other = Question::read(&question("example.com", TYPE_A)).expect("a question");
        assert_eq!(read_answer(&answer, 0x1234, &other), Answer::Stray);
        let other = Question::read(&question("www.example.com", TYPE_AAAA)).expect("a question");
        assert_eq!(read_answer(&answer, 0x1234, &other), Answer::Stray);
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let mut answer = question("a", 1);
        answer[2] = 0x81;
        assert_eq!(Question::read(&answer), None);
        let mut update = question("a", 1);
        update[2] = 5 << 3;
        assert_eq!(Question::read(&update), None);
        let mut two = question("a", 1);
        two[5] = 2;
        assert_eq!(Question::read(&two), None);
        let mut looped = question("a", 1);
        (looped[12], looped[13]) = (0xc0, 12);
        assert_eq!(Question::read(&looped), None);
        assert_eq!(Question::read(&question("a b", 1)), None);
        assert_eq!(Question::read(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let asked = Question::read(&question("a.b", 1)).expect("a question");
            let _ = Question::read(&bytes).map(|question| question.refusal());
            let _ = read_answer(&bytes, 0, &asked);
            let mut answer = asked.addresses(&["1.2.3.4".parse().expect("one")]);
            answer.extend(&bytes);
            for (at, byte) in (0..answer.len()).zip(&bytes) {
                answer[at] ^= byte & 0x11;
                let _ = read_answer(&answer, asked.id, &asked);
            }
        }
    }
}
