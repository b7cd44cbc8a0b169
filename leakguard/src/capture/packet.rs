//! The IP header that an event's packet had, made anew from what the event says.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6Header};
use leakguard_common::abi::{EVENT_BYTES, Reason};
use leakguard_common::packet::protocol;

use crate::event::{Event, protocol_number};

/// Length of a UDP header.
const UDP_HEADER: usize = 8;
/// Where a UDP header says how long the datagram is.
const UDP_LENGTH: std::ops::Range<usize> = 4..6;
/// "For experimentation and testing" (RFC 3692): nobody takes the bytes for something they are not.
const OPAQUE: u8 = 253;
const HOP_LIMIT: u8 = 64;

/// A packet with an IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rebuilt {
    /// What there is of it.
    pub(super) bytes: Vec<u8>,
    /// How long it was, as far as can be told.
    pub(super) original_length: u32,
}

/// Puts the header before what was copied; `None` for what is no packet of a known family.
pub(super) fn rebuild(event: &Event, copied: &[u8]) -> Option<Rebuilt> {
    if copied.is_empty() || event.option.is_some() || event.is_call() {
        return None;
    }
    let (source, destination) = (address(&event.source)?, address(&event.destination)?);
    let header = match source {
        IpAddr::V4(_) => Ipv4Header::MIN_LEN,
        IpAddr::V6(_) => Ipv6Header::LEN,
    };
    let number = protocol_number(&event.protocol)?;
    let payload = original(event, number, header, copied);
    // What follows a header that could not be read, or is in the middle of a packet, is no transport header.
    let odd = [Reason::Fragment, Reason::Malformed].map(Reason::name);
    let number = IpNumber(if odd.contains(&&*event.reason) {
        OPAQUE
    } else {
        number
    });
    let in_header = u16::try_from(payload).unwrap_or(u16::MAX - Ipv4Header::MIN_LEN_U16);
    let mut bytes = Vec::with_capacity(header + copied.len());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4Header::new(
                in_header.min(u16::MAX - Ipv4Header::MIN_LEN_U16),
                HOP_LIMIT,
                number,
                source.octets(),
                destination.octets(),
            )
            .ok()?;
            header.fragment_offset = IpFragOffset::ZERO;
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut bytes).ok()?;
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => Ipv6Header {
            payload_length: in_header,
            next_header: number,
            hop_limit: HOP_LIMIT,
            source: source.octets(),
            destination: destination.octets(),
            ..Ipv6Header::default()
        }
        .write(&mut bytes)
        .ok()?,
        _ => return None,
    }
    bytes.extend_from_slice(copied);
    Some(Rebuilt {
        bytes,
        original_length: u32::try_from(header + payload).unwrap_or(u32::MAX),
    })
}

/// How long the packet was from its transport header on: never less than what was copied.
fn original(event: &Event, number: u8, header: usize, copied: &[u8]) -> usize {
    let at_least = copied.len();
    if number == protocol::UDP {
        let said = copied.get(UDP_LENGTH).map(|bytes| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        });
        if let Some(said) = said.filter(|said| *said >= UDP_HEADER) {
            return said.max(at_least);
        }
    }
    if at_least < EVENT_BYTES || event.encapsulation.is_some() {
        // It was copied whole; or the length is that of what it was found in.
        return at_least;
    }
    let whole = usize::try_from(event.length).unwrap_or(usize::MAX);
    at_least.max(whole.saturating_sub(header))
}

fn address(endpoint: &str) -> Option<IpAddr> {
    endpoint
        .parse::<SocketAddr>()
        .map(|address| address.ip())
        .or_else(|_| endpoint.parse())
        .ok()
}
