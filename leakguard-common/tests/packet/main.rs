//! The parser's rules, on hand-made packets and on random bytes.

#[path = "../builder/mod.rs"]
mod builder;
mod ethernet;
#[path = "../facts/mod.rs"]
mod facts;
mod ipv4;
mod ipv6;
mod properties;
mod samples;
mod truncation;

use leakguard_common::packet::{LinkLayer, Packet, ParseError, parse};

pub(crate) const LINK_LAYERS: [LinkLayer; 3] =
    [LinkLayer::Ethernet, LinkLayer::Ip, LinkLayer::Unknown];

/// Parses into a fresh [`Packet`], which comes back also after an error: the verdict sees it then too.
pub(crate) fn parsed(bytes: &[u8], link: LinkLayer) -> (Result<(), ParseError>, Packet) {
    let mut packet = Packet::UNKNOWN;
    let result = parse(bytes, link, &mut packet);
    (result, packet)
}

/// Parses an IP packet that must be parseable.
pub(crate) fn parsed_ip(bytes: &[u8]) -> Packet {
    let (result, packet) = parsed(bytes, LinkLayer::Ip);
    assert_eq!(result, Ok(()), "{packet:?} of {bytes:02x?}");
    packet
}

/// The error for an IP packet that must not be parseable.
pub(crate) fn ip_error(bytes: &[u8]) -> Option<ParseError> {
    parsed(bytes, LinkLayer::Ip).0.err()
}
