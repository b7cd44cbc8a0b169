//! Who had asked: the questions to local resolvers and in other namespaces, to be joined with what is dropped later.

use std::collections::VecDeque;

use leakguard_common::abi::Event as Record;
use leakguard_common::packet::protocol;

use crate::event::Query;
use crate::event::query::first_question;

/// How many questions are remembered.
const REMEMBERED: usize = 4096;

/// How long a question is remembered, in nanoseconds: TCP tries for two minutes.
const AGE: u64 = 130_000_000_000;

/// How long after a question a resolver is taken to send on behalf of it, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;

/// The most resolvers that are taken to stand one behind the other.
const CHAIN: usize = 4;

const UDP_HEADER: usize = 8;

#[derive(Debug)]
struct Question {
    record: Record,
    query: Option<Query>,
}

/// The questions of the last time, oldest first.
#[derive(Debug, Default)]
pub(in crate::event) struct Questions(VecDeque<Question>);

impl Questions {
    /// Remembers a question.
    pub(in crate::event) fn note(&mut self, record: &Record) {
        while let Some(oldest) = self.0.front() {
            let is_old = record.boot_time.saturating_sub(oldest.record.boot_time) > AGE;
            if !is_old && self.0.len() < REMEMBERED {
                break;
            }
            self.0.pop_front();
        }
        let query = first_question(record.protocol, copied(record));
        self.0.push_back(Question {
            record: *record,
            query,
        });
    }

    /// Whether nobody has asked for anything lately.
    pub(in crate::event) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who had asked the sender of a packet for what it asks for now: the latest who asked for the same, and who is no
    /// resolver that was itself asked.
    pub(in crate::event) fn behind(&self, record: &Record, query: &Query) -> Option<&Record> {
        let mut passed = vec![record.sender()];
        let mut until = record.boot_time;
        let mut found = None;
        for _ in 0..CHAIN {
            let asked = self.0.iter().rev().find(|question| {
                let Question {
                    record: by,
                    query: asked,
                } = question;
                by.boot_time <= until
                    && record.boot_time - by.boot_time <= PATIENCE
                    && by.sender() != 0
                    && !passed.contains(&by.sender())
                    && asked.as_ref().is_some_and(|asked| is_same(asked, query))
            });
            let Some(Question { record: by, .. }) = asked else {
                break;
            };
            passed.push(by.sender());
            until = by.boot_time;
            found = Some(by);
        }
        found
    }

    /// Who had sent the same packet in another namespace, where its socket is.
    pub(in crate::event) fn elsewhere(&self, record: &Record) -> Option<&Record> {
        let wanted = fingerprint(record)?;
        let same = self.0.iter().rev().find(|question| {
            let sent = &question.record;
            sent.boot_time <= record.boot_time
                && sent.protocol == record.protocol
                && sent.destination_port == record.destination_port
                && fingerprint(sent) == Some(wanted)
        });
        same.map(|question| &question.record)
    }
}

/// Resolvers may ask for a name in other letters than they were asked (DNS 0x20).
fn is_same(one: &Query, other: &Query) -> bool {
    one.kind == other.kind && one.name.eq_ignore_ascii_case(&other.name)
}

/// What address translation leaves as it is, and two packets rarely share: the payload with its random number, or the
/// sequence numbers.
fn fingerprint(record: &Record) -> Option<&[u8]> {
    let bytes = copied(record);
    match record.protocol {
        protocol::UDP => bytes.get(UDP_HEADER..).filter(|payload| payload.len() > 2),
        protocol::TCP => bytes.get(4..12),
        _ => None,
    }
}

fn copied(record: &Record) -> &[u8] {
    record
        .bytes
        .get(..usize::from(record.bytes_len))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::record::record;

    const SECOND: u64 = 1_000_000_000;

    fn question(pid: u32, at: u64, name: &[u8]) -> Record {
        let mut asked = record();
        asked.pid = pid;
        asked.boot_time = at;
        let name_at = UDP_HEADER + 12;
        asked.bytes[name_at..name_at + name.len()].copy_from_slice(name);
        asked
    }

    fn query(name: &str) -> Query {
        Query {
            name: name.into(),
            kind: "A".into(),
        }
    }

    #[test]
    fn the_latest_who_asked_for_the_name_is_behind_it() {
        let mut questions = Questions::default();
        questions.note(&question(1, SECOND, b"\x07example"));
        questions.note(&question(2, 2 * SECOND, b"\x07eXAMPLE"));
        questions.note(&question(3, 3 * SECOND, b"\x07another"));
        questions.note(&question(9, 4 * SECOND, b"\x07example"));
        let asked_by = |at: u64, name: &str| {
            let sent = question(9, at, b"\x07example");
            questions.behind(&sent, &query(name)).map(|by| by.pid)
        };
        assert_eq!(asked_by(5 * SECOND, "Example.com."), Some(1));
        assert_eq!(asked_by(5 * SECOND, "other.com."), None);
        assert_eq!(
            asked_by(SECOND / 2, "example.com."),
            None,
            "before it was asked"
        );
        assert_eq!(asked_by(13 * SECOND, "example.com."), None, "too long ago");
    }

    #[test]
    fn behind_a_resolver_stands_who_asked_that() {
        let mut questions = Questions::default();
        questions.note(&question(1, SECOND, b"\x07example"));
        // 2 passes it on to 9.
        questions.note(&question(2, SECOND + 1, b"\x07example"));
        let sent = question(9, SECOND + 2, b"\x07example");
        let by = questions.behind(&sent, &query("example.com.")).unwrap();
        assert_eq!(by.pid, 1);
    }

    #[test]
    fn the_same_packet_is_found_whatever_its_addresses_are_now() {
        let mut questions = Questions::default();
        let inside = question(7, SECOND, b"\x07example");
        questions.note(&inside);
        let mut outside = inside;
        outside.pid = 0;
        outside.boot_time += 1;
        outside.source = [1; 16];
        outside.source_port = 1;
        outside.bytes[..2].copy_from_slice(&[0, 1]);
        outside.bytes[6..8].copy_from_slice(&[9, 9]);
        assert_eq!(questions.elsewhere(&outside).unwrap().pid, 7);
        outside.bytes[UDP_HEADER] ^= 1;
        assert!(questions.elsewhere(&outside).is_none(), "another number");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut questions = Questions::default();
        for at in 0..2 * REMEMBERED as u64 {
            questions.note(&question(1, at, b"\x07example"));
        }
        assert_eq!(questions.0.len(), REMEMBERED);
        questions.note(&question(1, 2 * AGE, b"\x07example"));
        assert_eq!(questions.0.len(), 1);
    }
}
