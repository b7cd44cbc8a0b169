//! What a packet is, for whoever reads of it: by the programs' own word, or else by the parser that they share.

use std::net::IpAddr;

use leakguard_common::abi::{Class, Event as Record, Family, Settings};
use leakguard_common::packet::{LinkLayer, Packet, parse};
use leakguard_common::verdict::class;

use super::Frame;
use crate::event::{Query, endpoint, first_question, protocol_name};

/// A packet as it is told of.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) family: Family,
    pub(super) protocol: String,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) query: Option<Query>,
    /// Its class by its ports, whether or not that is blocked.
    pub(super) class: Option<Class>,
    /// Where a route would be asked for.
    pub(super) towards: Option<IpAddr>,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            family: Family::Unknown,
            protocol: UNKNOWN.into(),
            source: UNKNOWN.into(),
            destination: UNKNOWN.into(),
            query: None,
            class: None,
            towards: None,
        }
    }
}

impl Look {
    /// Looks at a frame.
    pub(super) fn at(frame: &Frame, settings: &Settings) -> Self {
        let bytes = frame.ethernet();
        let mut packet = Packet::UNKNOWN;
        let parsed = parse(bytes, LinkLayer::Ethernet, &mut packet);
        if parsed.is_err() && packet.destination == Packet::UNKNOWN.destination {
            // Not even the IP header is all there.
            return Self {
                family: packet.family,
                ..Self::default()
            };
        }
        let transport = usize::try_from(packet.transport).ok();
        let payload = transport.and_then(|start| bytes.get(start..));
        Self {
            family: packet.family,
            protocol: protocol(packet.family, packet.protocol),
            source: endpoint(
                packet.family,
                packet.source,
                packet.source_port,
                packet.protocol,
            ),
            destination: endpoint(
                packet.family,
                packet.destination,
                packet.destination_port,
                packet.protocol,
            ),
            query: payload
                .filter(|_| parsed.is_ok())
                .and_then(|payload| first_question(packet.protocol, payload)),
            class: parsed.is_ok().then(|| class(&packet, settings)).flatten(),
            towards: address(packet.family, packet.destination),
        }
    }

    /// Tells of it what a program has written.
    pub(super) fn correct(&mut self, record: &Record) {
        let Some(family) = Family::from_wire(record.family) else {
            return;
        };
        let Record {
            source_port,
            destination_port,
            protocol: number,
            source,
            destination,
            ..
        } = *record;
        self.family = family;
        if destination == Packet::UNKNOWN.destination && number == Packet::UNKNOWN.protocol {
            return;
        }
        self.protocol = protocol(family, number);
        self.source = endpoint(family, source, source_port, number);
        self.destination = endpoint(family, destination, destination_port, number);
        let copied = record.bytes.get(..usize::from(record.bytes_len));
        if let Some(query) = copied.and_then(|bytes| first_question(number, bytes)) {
            self.query = Some(query);
        }
    }
}

/// What nothing is known of; [`endpoint`] says so as well.
const UNKNOWN: &str = "unknown";

fn protocol(family: Family, number: u8) -> String {
    match family {
        Family::Unknown => UNKNOWN.into(),
        Family::Ipv4 | Family::Ipv6 => protocol_name(number).into_owned(),
    }
}

fn address(family: Family, bytes: [u8; 16]) -> Option<IpAddr> {
    match family {
        Family::Ipv4 => bytes.first_chunk::<4>().map(|v4| IpAddr::from(*v4)),
        Family::Ipv6 => Some(bytes.into()),
        Family::Unknown => None,
    }
}
