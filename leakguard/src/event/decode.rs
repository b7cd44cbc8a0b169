//! From a record in the ring to an [`Event`].

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use leakguard_common::abi::{Event as Record, Family, Rate, RateKey};
use leakguard_common::hardening::{PACKET_QDISC_BYPASS, SOL_PACKET, SOL_XDP, SocketOption};
use leakguard_common::packet::protocol;

use super::attribution::{Attributor, Questions};
use super::judged::{Judged, Names, Numbers, copied, push_endpoint};
use super::query::first_question;
use super::{Event, Suppressed, Suppressions};
use crate::guard::Interfaces;
use crate::host::since_boot;

/// A record that is not one of this version.
#[derive(Debug, thiserror::Error)]
#[error("an event of {len} bytes from the kernel cannot be decoded")]
pub struct Undecodable {
    /// Its length.
    len: usize,
}

/// Numbers everything that is published, packets and notices alike; clones count on together.
#[derive(Clone, Debug, Default)]
pub struct Sequence(Arc<AtomicU64>);

impl Sequence {
    /// The next number, from 1 on.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Decodes records, names who is behind them, and numbers them.
#[derive(Debug, Default)]
pub struct Decoder {
    sequence: Sequence,
    attributor: Attributor,
    questions: Questions,
    suppressions: Suppressions,
    clock: Clock,
    /// The name of the interface that the last packet was to leave by: the next one's is most often the same.
    interface: Option<Arc<str>>,
}

impl Decoder {
    /// A decoder that shares its numbers with whoever else publishes.
    pub fn new(sequence: Sequence, suppressions: Suppressions) -> Self {
        Self {
            sequence,
            suppressions,
            ..Self::default()
        }
    }

    /// Remembers a record of a question that passes, to know who asked when something is dropped on behalf of it.
    pub fn note(&mut self, question: &[u8]) -> Result<(), Undecodable> {
        let len = question.len();
        let record = read(question).ok_or(Undecodable { len })?;
        self.questions.note(&record);
        Ok(())
    }

    /// What is left to tell of packets without events, numbered; `now` is on the boot clock, in nanoseconds.
    pub fn rest(
        &mut self,
        rates: impl IntoIterator<Item = (RateKey, Rate)>,
        now: u64,
    ) -> Vec<Suppressed> {
        let mut rest = self.suppressions.rest(rates, now);
        for suppressed in &mut rest {
            suppressed.seq = self.sequence.next();
        }
        rest
    }

    /// Decodes one record; interfaces are named as they are called now.
    pub fn decode(&mut self, bytes: &[u8], interfaces: &Interfaces) -> Result<Event, Undecodable> {
        self.judged(bytes, interfaces).map(|judged| judged.event())
    }

    /// The same, without rendering anything of it.
    pub fn judged(&mut self, bytes: &[u8], interfaces: &Interfaces) -> Result<Judged, Undecodable> {
        // Whatever becomes of it, it has been an event.
        let seq = self.sequence.next();
        let undecodable = || Undecodable { len: bytes.len() };
        let record = read(bytes).ok_or_else(undecodable)?;
        let names = Names::of(&record).ok_or_else(undecodable)?;
        let copied = copied(&record).ok_or_else(undecodable)?;
        let name = interfaces.get(&record.ifindex).map(|found| &*found.name);
        if self.interface.as_deref() != name {
            self.interface = name.map(Arc::from);
        }
        let mut judged = Judged {
            seq,
            time: self.clock.wall(record.boot_time),
            names,
            numbers: Numbers::of(&record),
            copied: copied.into(),
            interface: self.interface.clone(),
            sender: Arc::default(),
            client: None,
            suppressed: self.suppressions.before(&record),
        };
        self.attribute(&record, &mut judged);
        Ok(judged)
    }

    /// Names the sender, and who had asked it.
    fn attribute(&mut self, record: &Record, judged: &mut Judged) {
        let Self {
            attributor,
            questions,
            suppressions,
            ..
        } = self;
        judged.sender = attributor.sender(record);
        if questions.is_empty() {
            // There is nobody to look for.
        } else if record.sender() == 0 {
            if let Some(same) = questions.elsewhere(record) {
                judged.sender = Arc::new(attributor.sender(same).inferred());
            }
        } else if judged.names.may_ask()
            && let Some(query) = first_question(record.protocol, judged.copied())
            && let Some(asked) = questions.behind(record, &query)
        {
            judged.client = attributor.sender(asked).client().map(Box::new);
        }
        suppressions.name(record, &judged.sender);
    }
}

/// Reads a record as the kernel wrote it; `None` for one of another length.
pub(crate) fn read(bytes: &[u8]) -> Option<Record> {
    if bytes.len() != size_of::<Record>() {
        return None;
    }
    let mut record = MaybeUninit::<Record>::uninit();
    // SAFETY: both are `size_of::<Record>()` bytes and do not overlap; any bytes are a valid record, because all of its
    // fields are integers and arrays of them.
    Some(unsafe {
        record
            .as_mut_ptr()
            .cast::<u8>()
            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        record.assume_init()
    })
}

/// Tells what time it was at moments on the boot clock, which are mostly of the last few milliseconds.
#[derive(Debug, Default)]
struct Clock {
    /// The boot clock when both were read, in nanoseconds.
    read: u64,
    /// Both in nanoseconds: what the wall clock was ahead by.
    ahead: u64,
}

impl Clock {
    /// How long the two are taken to go alike.
    const HOLD: u64 = 10_000_000;

    /// The wall-clock time, in nanoseconds since 1970.
    fn wall(&mut self, boot_time: u64) -> u64 {
        if !(self.read.saturating_sub(Self::HOLD)..=self.read).contains(&boot_time) {
            let nanos = |read: u128| u64::try_from(read).unwrap_or_default();
            self.read = nanos(since_boot().unwrap_or_default().as_nanos());
            let wall = u128::try_from(Timestamp::now().as_nanosecond());
            self.ahead = nanos(wall.unwrap_or_default()).saturating_sub(self.read);
        }
        self.ahead.saturating_add(boot_time.min(self.read))
    }
}

/// The name of the option that an event tells of, or its level and number.
pub(super) fn option(copied: &[u8]) -> Option<Cow<'static, str>> {
    /// The options of `SOL_XDP` by number (`include/uapi/linux/if_xdp.h`).
    const OF_XDP: [&str; 9] = [
        "XDP_MMAP_OFFSETS",
        "XDP_RX_RING",
        "XDP_TX_RING",
        "XDP_UMEM_REG",
        "XDP_UMEM_FILL_RING",
        "XDP_UMEM_COMPLETION_RING",
        "XDP_STATISTICS",
        "XDP_OPTIONS",
        "XDP_MAX_TX_SKB_BUDGET",
    ];
    let SocketOption { level, name } = SocketOption::from_bytes(copied)?;
    let known = match (level, name) {
        (SOL_PACKET, PACKET_QDISC_BYPASS) => Some("PACKET_QDISC_BYPASS"),
        (SOL_XDP, 1..) => usize::try_from(name - 1)
            .ok()
            .and_then(|index| OF_XDP.get(index).copied()),
        _ => None,
    };
    Some(known.map_or_else(|| format!("{level}:{name}").into(), Cow::Borrowed))
}

/// The name of a transport, or its number.
pub(crate) fn protocol_name(number: u8) -> Cow<'static, str> {
    match number {
        protocol::TCP => "tcp".into(),
        protocol::UDP => "udp".into(),
        protocol::DCCP => "dccp".into(),
        protocol::SCTP => "sctp".into(),
        protocol::UDP_LITE => "udplite".into(),
        other => other.to_string().into(),
    }
}

/// The number that [`protocol_name`] gave this name to.
pub(crate) fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(protocol::TCP),
        "udp" => Some(protocol::UDP),
        "dccp" => Some(protocol::DCCP),
        "sctp" => Some(protocol::SCTP),
        "udplite" => Some(protocol::UDP_LITE),
        number => number.parse().ok(),
    }
}

/// An address, with the port where there is one.
pub(crate) fn endpoint(family: Family, address: [u8; 16], port: u16, protocol: u8) -> String {
    let mut text = String::new();
    push_endpoint(&mut text, family, address, port, protocol);
    text
}

#[cfg(test)]
mod tests {
    use leakguard_common::abi::Hook;

    use super::*;
    use crate::event::record::record;

    #[test]
    fn a_record_becomes_an_event() {
        let event = Decoder::default()
            .decode(record().as_bytes(), &Interfaces::new())
            .unwrap();
        assert_eq!(event.seq, 1);
        assert_eq!(event.source, "192.0.2.10:40112");
        assert_eq!(event.destination, "8.8.8.8:53");
        assert_eq!(event.query.unwrap().name, "example.com.");
        assert_eq!(event.process, None);
        let judged = Decoder::default()
            .judged(record().as_bytes(), &Interfaces::new())
            .unwrap();
        assert_eq!(judged.copied().len(), usize::from(record().bytes_len));
        assert!(event.time.ends_with('Z'), "{}", event.time);
    }

    #[test]
    fn a_protocol_is_found_by_its_name() {
        for number in 0..=u8::MAX {
            assert_eq!(protocol_number(&protocol_name(number)), Some(number));
        }
        assert_eq!(protocol_number("smoke"), None);
    }

    #[test]
    fn an_option_is_named() {
        let told = |level, name| {
            let mut option = record();
            option.hook = Hook::Setsockopt as u8;
            option.bytes_len = 8;
            let bytes = SocketOption { level, name }.to_bytes().concat();
            option.bytes[..bytes.len()].copy_from_slice(&bytes);
            let event = Decoder::default().decode(option.as_bytes(), &Interfaces::new());
            event.unwrap().option.unwrap()
        };
        assert_eq!(told(263, 20), "PACKET_QDISC_BYPASS");
        assert_eq!(told(283, 4), "XDP_UMEM_REG");
        assert_eq!(told(283, 0), "283:0");
        assert_eq!(told(283, 77), "283:77");
        let event = Decoder::default().decode(record().as_bytes(), &Interfaces::new());
        assert_eq!(event.unwrap().option, None, "a packet has none");
    }

    #[test]
    fn an_undecodable_record_leaves_a_gap() {
        let mut decoder = Decoder::default();
        assert!(decoder.decode(&[0; 7], &Interfaces::new()).is_err());
        let mut wrong = record();
        wrong.verdict = 200;
        assert!(
            decoder
                .decode(wrong.as_bytes(), &Interfaces::new())
                .is_err()
        );
        let mut long = record();
        long.bytes_len = u16::MAX;
        assert!(decoder.decode(long.as_bytes(), &Interfaces::new()).is_err());
        let event = decoder
            .decode(record().as_bytes(), &Interfaces::new())
            .unwrap();
        assert_eq!(event.seq, 4);
    }
}
