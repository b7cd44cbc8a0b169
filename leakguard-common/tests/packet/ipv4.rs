//! IPv4: options, lengths, fragments, AH, transports.

use leakguard_common::abi::Family;
use leakguard_common::packet::{Fragment, ParseError, has_ports, protocol};

use crate::builder::{
    AUTHENTICATION, DESTINATION_OPTIONS, DESTINATION_V4, Extension, HOP_BY_HOP,
    IPV4_MORE_FRAGMENTS, ROUTING, SOURCE_V4, TCP, UDP, chain, ipv4, ports, tcp, udp,
};
use crate::{ip_error, parsed_ip};

/// `IP_DF`: do not fragment.
const DONT_FRAGMENT: u16 = 0x4000;
/// The bit that no sender sets.
const RESERVED: u16 = 0x8000;

#[test]
fn ports_and_addresses_are_found() {
    let packet = parsed_ip(&ipv4(UDP, 0, &[], &udp(40_000, 53, b"question")));
    assert_eq!(packet.family, Family::Ipv4);
    assert_eq!(packet.protocol, protocol::UDP);
    assert_eq!(packet.fragment, Fragment::Whole);
    assert_eq!((packet.source_port, packet.destination_port), (40_000, 53));
    assert_eq!(packet.transport, 20);
    assert_eq!(packet.source[..4], SOURCE_V4);
    assert_eq!(packet.destination[..4], DESTINATION_V4);
    assert_eq!(packet.source[4..], [0; 12]);
    assert_eq!(packet.destination[4..], [0; 12]);
}

#[test]
fn options_move_the_transport() {
    for words in 0..=10_u8 {
        let options = vec![1; 4 * usize::from(words)];
        let packet = parsed_ip(&ipv4(TCP, 0, &options, &tcp(1, 853, &[])));
        assert_eq!(packet.transport, 20 + 4 * u32::from(words));
        assert_eq!(packet.destination_port, 853);
    }
}

#[test]
fn a_header_shorter_than_itself_is_refused() {
    for ihl in 0..5 {
        let mut bytes = ipv4(UDP, 0, &[], &udp(1, 53, &[]));
        bytes[0] = 0x40 | ihl;
        assert_eq!(ip_error(&bytes), Some(ParseError::HeaderLength), "{ihl}");
    }
}

#[test]
fn options_that_are_cut_off_are_refused() {
    let mut bytes = ipv4(UDP, 0, &[], &udp(1, 53, &[]));
    bytes[0] = 0x4f;
    assert_eq!(ip_error(&bytes), Some(ParseError::Truncated));
}

#[test]
fn every_transport_with_ports_is_read() {
    for number in 0..=u8::MAX {
        let packet = parsed_ip(&ipv4(
            number,
            0,
            &[],
            &[1, 2, 0, 53, 0, 0, 0, 0, 0, 0, 0, 0],
        ));
        match number {
            protocol::TCP
            | protocol::UDP
            | protocol::DCCP
            | protocol::SCTP
            | protocol::UDP_LITE => {
                assert!(has_ports(number));
                assert_eq!((packet.source_port, packet.destination_port), (0x0102, 53));
            }
            // The header that follows starts with the number 1, ICMP.
            AUTHENTICATION => assert_eq!((packet.protocol, packet.destination_port), (1, 0)),
            _ => {
                assert!(!has_ports(number));
                assert_eq!((packet.source_port, packet.destination_port), (0, 0));
                assert_eq!(packet.protocol, number);
            }
        }
    }
}

#[test]
fn flags_alone_make_no_fragment() {
    for flags in [0, DONT_FRAGMENT, RESERVED, DONT_FRAGMENT | RESERVED] {
        let packet = parsed_ip(&ipv4(UDP, flags, &[], &udp(1, 53, &[])));
        assert_eq!(packet.fragment, Fragment::Whole);
        assert_eq!(packet.destination_port, 53);
    }
}

#[test]
fn a_first_fragment_has_its_ports() {
    let packet = parsed_ip(&ipv4(UDP, IPV4_MORE_FRAGMENTS, &[], &udp(1, 53, &[])));
    assert_eq!(packet.fragment, Fragment::First);
    assert_eq!(packet.destination_port, 53);
}

#[test]
fn a_later_fragment_has_no_ports() {
    for offset in [1, 2, 0x1000, 0x1fff] {
        for flags in [0, IPV4_MORE_FRAGMENTS, DONT_FRAGMENT] {
            let packet = parsed_ip(&ipv4(UDP, flags | offset, &[], &udp(1, 53, &[])));
            assert_eq!(packet.fragment, Fragment::Later);
            assert_eq!((packet.source_port, packet.destination_port), (0, 0));
            assert_eq!(packet.protocol, UDP);
        }
    }
}

#[test]
fn an_authentication_header_is_passed_over() {
    for words in [0, 1, 3, 16, 254] {
        let (first, payload) = chain(
            &[Extension::authentication(words)],
            UDP,
            &udp(7, 53, b"question"),
        );
        let packet = parsed_ip(&ipv4(first, 0, &[], &payload));
        assert_eq!(packet.protocol, UDP);
        assert_eq!((packet.source_port, packet.destination_port), (7, 53));
        assert_eq!(packet.transport, 20 + 12 + 4 * u32::from(words));
    }
}

#[test]
fn the_extension_headers_of_ipv6_mean_nothing() {
    for number in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS] {
        let (first, payload) = chain(&[Extension::options(number, 0)], UDP, &udp(7, 53, &[]));
        let packet = parsed_ip(&ipv4(first, 0, &[], &payload));
        assert_eq!(packet.protocol, number);
        assert_eq!(packet.destination_port, 0);
    }
}

/// A receiver cuts a fragment off where its length says, and puts the next one there.
#[test]
fn ports_behind_the_end_of_a_first_fragment_are_refused() {
    let authentication = [Extension::authentication(3)];
    let (first, payload) = chain(&authentication, UDP, &udp(7, 80, b"harmless"));
    let mut bytes = ipv4(first, IPV4_MORE_FRAGMENTS, &[], &payload);
    assert_eq!(parsed_ip(&bytes).destination_port, 80);

    // The datagram ends in the check value, before its ports, or between them and right behind them.
    for (end, fits) in [
        (20, false),
        (36, false),
        (44, false),
        (46, false),
        (48, true),
    ] {
        bytes[3] = end;
        let expected = (!fits).then_some(ParseError::Truncated);
        assert_eq!(ip_error(&bytes), expected, "{end}");
    }
}

/// Super-packets on their way to segmentation may have a length of 0.
#[test]
fn the_length_does_not_bind_a_whole_packet() {
    let mut bytes = ipv4(TCP, 0, &[], &ports(1, 53));
    bytes[2..4].fill(0);
    assert_eq!(parsed_ip(&bytes).destination_port, 53);
}
