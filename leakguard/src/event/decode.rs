//! From a record in the ring to an [`Event`].

use std::mem::{MaybeUninit, offset_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use leakguard_common::abi::{
    Carrier, Event as Record, Family, Hook, Rate, RateKey, Reason, Role, Verdict,
};
use leakguard_common::hardening::{PACKET_QDISC_BYPASS, SOL_PACKET, SOL_XDP, SocketOption};
use leakguard_common::packet::{has_ports, protocol};

use super::attribution::{Attributor, Questions, Sender};
use super::query::first_question;
use super::{
    Attribution, Client, Event, InterfaceRef, PacketKind, Process, Suppressed, Suppressions,
    VERSION,
};
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
        // Whatever becomes of it, it has been an event.
        let seq = self.sequence.next();
        let undecodable = || Undecodable { len: bytes.len() };
        let record = read(bytes).ok_or_else(undecodable)?;
        let mut event = event(seq, &record, interfaces).ok_or_else(undecodable)?;
        event.suppressed = self.suppressions.before(&record);
        self.attribute(&record, &mut event);
        Ok(event)
    }

    /// Names the sender, and who had asked it.
    fn attribute(&mut self, record: &Record, event: &mut Event) {
        let Self {
            attributor,
            questions,
            suppressions,
            sequence: _,
        } = self;
        let mut sender = attributor.sender(record);
        if record.sender() == 0
            && let Some(same) = questions.elsewhere(record)
        {
            sender = inferred(attributor.sender(same));
        }
        if record.sender() != 0
            && let Some(query) = &event.query
            && let Some(asked) = questions.behind(record, query)
            && let Sender {
                process: Some(process),
                cgroup,
                unit,
                container,
            } = inferred(attributor.sender(asked))
        {
            event.client = Some(Client {
                process,
                cgroup,
                unit,
                container,
            });
        }
        suppressions.name(record, &sender);
        let Sender {
            process,
            cgroup,
            unit,
            container,
        } = sender;
        event.process = process;
        event.cgroup = cgroup;
        event.unit = unit;
        event.container = container;
    }
}

/// A sender of another packet, by which this one's is guessed.
fn inferred(sender: Sender) -> Sender {
    Sender {
        process: sender.process.map(|process| Process {
            attribution: Some(Attribution::Inferred),
            ..process
        }),
        ..sender
    }
}

fn event(seq: u64, record: &Record, interfaces: &Interfaces) -> Option<Event> {
    let family = Family::from_wire(record.family)?;
    let copied = record.bytes.get(..usize::from(record.bytes_len))?;
    let hook = Hook::from_wire(record.hook)?;
    let interface = interfaces.get(&record.ifindex);
    let reason = Reason::from_wire(record.reason)?;
    let query = match reason {
        // It is encrypted.
        Reason::Doh => None,
        // A call names a destination before there is a question.
        _ if hook == Hook::SockAddr => None,
        _ => first_question(record.protocol, copied),
    };
    Some(Event {
        v: VERSION,
        seq,
        kind: PacketKind::Packet,
        time: wall_time(record.boot_time).to_string(),
        verdict: Verdict::from_wire(record.verdict)?.name().into(),
        reason: reason.name().into(),
        hook: hook.name().into(),
        interface: InterfaceRef {
            index: record.ifindex,
            name: interface.map(|interface| interface.name.clone()),
            role: Role::from_wire(record.role)?.name().into(),
        },
        netns: "host".into(),
        family: family.name().into(),
        protocol: protocol_name(record.protocol),
        source: endpoint(family, record.source, record.source_port, record.protocol),
        destination: endpoint(
            family,
            record.destination,
            record.destination_port,
            record.protocol,
        ),
        encapsulation: match Carrier::from_wire(record.carrier)? {
            Carrier::None => None,
            carrier => Some(carrier.name().into()),
        },
        length: record.length,
        query,
        redirected_to: (hook == Hook::SockAddr)
            .then(|| <[u8; 16]>::try_from(copied).ok())
            .flatten()
            .map(|target| endpoint(family, target, record.destination_port, record.protocol)),
        option: (hook == Hook::Setsockopt).then(|| option(copied)).flatten(),
        process: None,
        cgroup: None,
        unit: None,
        container: None,
        client: None,
        packets: record.segments,
        suppressed: 0,
    })
}

/// What the kernel copied of a packet into its record, from the transport header on; empty if that is no record.
pub fn copied(record: &Bytes) -> Bytes {
    let start = offset_of!(Record, bytes);
    let length = read(record).map_or(0, |read| usize::from(read.bytes_len));
    if start + length <= record.len() {
        record.slice(start..start + length)
    } else {
        Bytes::new()
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

/// The wall-clock time of a moment on the boot clock.
fn wall_time(boot_time: u64) -> Timestamp {
    let now = since_boot().unwrap_or_default();
    let age = now.saturating_sub(Duration::from_nanos(boot_time));
    let wall = Timestamp::now();
    wall.checked_sub(age).unwrap_or(wall)
}

/// The name of the option that an event tells of, or its level and number.
fn option(copied: &[u8]) -> Option<String> {
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
    Some(known.map_or_else(|| format!("{level}:{name}"), str::to_owned))
}

/// The name of a transport, or its number.
pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".into(),
        protocol::UDP => "udp".into(),
        protocol::DCCP => "dccp".into(),
        protocol::SCTP => "sctp".into(),
        protocol::UDP_LITE => "udplite".into(),
        other => other.to_string(),
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
    let [a, b, c, d, ..] = address;
    let address = match family {
        Family::Ipv4 => IpAddr::from(Ipv4Addr::new(a, b, c, d)),
        Family::Ipv6 => IpAddr::from(Ipv6Addr::from(address)),
        Family::Unknown => return "unknown".into(),
    };
    if has_ports(protocol) && port != 0 {
        SocketAddr::new(address, port).to_string()
    } else {
        address.to_string()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use leakguard_common::abi::{EVENT_BYTES, Owner};

    use super::*;

    /// A UDP question for `example.com A`, of nobody.
    pub(in crate::event) fn record() -> Record {
        let mut bytes = [0; EVENT_BYTES];
        let question = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
        bytes[8..8 + question.len()].copy_from_slice(question);
        let mut source = [0; 16];
        source[..4].copy_from_slice(&[192, 0, 2, 10]);
        let mut destination = [0; 16];
        destination[..4].copy_from_slice(&[8, 8, 8, 8]);
        Record {
            boot_time: 1,
            netns_cookie: 1,
            socket_cookie: 2,
            cgroup_id: 3,
            ifindex: 2,
            ingress_ifindex: 0,
            length: 57,
            segments: 1,
            pid: 0,
            uid: Record::NO_UID,
            source_port: 40112,
            destination_port: 53,
            bytes_len: u16::try_from(8 + question.len()).unwrap(),
            protocol: protocol::UDP,
            family: Family::Ipv4 as u8,
            verdict: Verdict::Drop as u8,
            reason: Reason::Dns as u8,
            hook: Hook::CgroupSkb as u8,
            role: Role::Uplink as u8,
            carrier: Carrier::None as u8,
            padding: [0; 3],
            comm: [0; 16],
            owner: Owner::NOBODY,
            rate_created: 0,
            suppressed: 0,
            source,
            destination,
            bytes,
        }
    }

    fn bytes_of(record: &Record) -> Vec<u8> {
        // SAFETY: a record has no padding, so all of its bytes are initialised.
        unsafe {
            std::slice::from_raw_parts((&raw const *record).cast::<u8>(), size_of::<Record>())
        }
        .to_vec()
    }

    #[test]
    fn a_record_becomes_an_event() {
        let event = Decoder::default()
            .decode(&bytes_of(&record()), &Interfaces::new())
            .unwrap();
        assert_eq!(event.seq, 1);
        assert_eq!(event.source, "192.0.2.10:40112");
        assert_eq!(event.destination, "8.8.8.8:53");
        assert_eq!(event.query.unwrap().name, "example.com.");
        assert_eq!(event.process, None);
        let whole = Bytes::from(bytes_of(&record()));
        assert_eq!(copied(&whole).len(), usize::from(record().bytes_len));
        assert!(copied(&whole.slice(1..)).is_empty());
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
            let event = Decoder::default().decode(&bytes_of(&option), &Interfaces::new());
            event.unwrap().option.unwrap()
        };
        assert_eq!(told(263, 20), "PACKET_QDISC_BYPASS");
        assert_eq!(told(283, 4), "XDP_UMEM_REG");
        assert_eq!(told(283, 0), "283:0");
        assert_eq!(told(283, 77), "283:77");
        let event = Decoder::default().decode(&bytes_of(&record()), &Interfaces::new());
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
                .decode(&bytes_of(&wrong), &Interfaces::new())
                .is_err()
        );
        let mut long = record();
        long.bytes_len = u16::MAX;
        assert!(
            decoder
                .decode(&bytes_of(&long), &Interfaces::new())
                .is_err()
        );
        let event = decoder
            .decode(&bytes_of(&record()), &Interfaces::new())
            .unwrap();
        assert_eq!(event.seq, 4);
    }
}
