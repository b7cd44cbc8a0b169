//! IPv6: extension chains and fragments.

use leakguard_common::abi::Family;
use leakguard_common::packet::{Fragment, MAX_EXTENSIONS, ParseError};

use crate::builder::{
    DESTINATION_OPTIONS, DESTINATION_V6, Extension, HIP, HOP_BY_HOP, ICMPV6, MOBILITY, ROUTING,
    SHIM6, SOURCE_V6, TCP, UDP, chain, ipv6, tcp, udp,
};
use crate::{ip_error, parsed_ip};

const WITH_8_BYTE_UNITS: [u8; 6] = [
    HOP_BY_HOP,
    ROUTING,
    DESTINATION_OPTIONS,
    MOBILITY,
    HIP,
    SHIM6,
];

fn with_chain(headers: &[Extension], upper_number: u8, upper: &[u8]) -> Vec<u8> {
    let (first, payload) = chain(headers, upper_number, upper);
    ipv6(first, &payload)
}

/// Lets the packet's own length end `end` bytes behind the IPv6 header.
fn ending_at(mut bytes: Vec<u8>, end: u8) -> Vec<u8> {
    bytes[4..6].copy_from_slice(&[0, end]);
    bytes
}

#[test]
fn ports_and_addresses_are_found() {
    let packet = parsed_ip(&ipv6(TCP, &tcp(40_000, 853, b"question")));
    assert_eq!(packet.family, Family::Ipv6);
    assert_eq!(packet.protocol, TCP);
    assert_eq!(packet.fragment, Fragment::Whole);
    assert_eq!((packet.source_port, packet.destination_port), (40_000, 853));
    assert_eq!(packet.transport, 40);
    assert_eq!(packet.source, SOURCE_V6);
    assert_eq!(packet.destination, DESTINATION_V6);
}

#[test]
fn every_extension_header_is_passed_over() {
    let mut headers: Vec<Extension> = WITH_8_BYTE_UNITS
        .into_iter()
        .flat_map(|number| [0, 1, 255].map(|more| Extension::options(number, more)))
        .collect();
    headers.extend([0, 1, 3, 254].map(Extension::authentication));
    headers.push(Extension::fragment(0, false));
    for header in headers {
        let bytes = with_chain(std::slice::from_ref(&header), UDP, &udp(7, 53, b"question"));
        let packet = parsed_ip(&bytes);
        assert_eq!(packet.protocol, UDP, "{header:?}");
        assert_eq!((packet.source_port, packet.destination_port), (7, 53));
        assert_eq!(packet.transport as usize, 40 + header.bytes.len());
    }
}

#[test]
fn extension_headers_come_in_any_order() {
    let headers = [
        Extension::options(DESTINATION_OPTIONS, 2),
        Extension::authentication(3),
        Extension::options(HOP_BY_HOP, 0),
        Extension::fragment(0, false),
        Extension::options(ROUTING, 1),
        Extension::options(HOP_BY_HOP, 0),
    ];
    let packet = parsed_ip(&with_chain(&headers, TCP, &tcp(7, 53, &[])));
    assert_eq!((packet.protocol, packet.destination_port), (TCP, 53));
}

#[test]
fn a_chain_is_followed_up_to_the_bound_and_refused_beyond() {
    for count in 0..=MAX_EXTENSIONS + 2 {
        let headers: Vec<Extension> = (0..count)
            .map(|_| Extension::options(DESTINATION_OPTIONS, 0))
            .collect();
        let bytes = with_chain(&headers, UDP, &udp(7, 53, &[]));
        if count <= MAX_EXTENSIONS {
            assert_eq!(parsed_ip(&bytes).destination_port, 53, "{count}");
        } else {
            assert_eq!(ip_error(&bytes), Some(ParseError::TooDeep), "{count}");
        }
    }
}

#[test]
fn an_extension_header_that_is_cut_off_is_refused() {
    for number in WITH_8_BYTE_UNITS {
        // It counts 2048 bytes and has 8.
        let mut bytes = with_chain(&[Extension::options(number, 0)], UDP, &[]);
        bytes[41] = 255;
        assert_eq!(ip_error(&bytes), Some(ParseError::Truncated), "{number}");
        // It is announced and missing.
        assert_eq!(
            ip_error(&ipv6(number, &[])),
            Some(ParseError::Truncated),
            "{number}"
        );
    }
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let bytes = with_chain(&[Extension::fragment(0, false)], UDP, &udp(7, 53, &[]));
    let packet = parsed_ip(&bytes);
    assert_eq!(packet.fragment, Fragment::Whole);
    assert_eq!(packet.destination_port, 53);
}

#[test]
fn a_first_fragment_has_its_ports() {
    let headers = [
        Extension::fragment(0, true),
        Extension::options(DESTINATION_OPTIONS, 0),
    ];
    let packet = parsed_ip(&with_chain(&headers, UDP, &udp(7, 53, &[])));
    assert_eq!(packet.fragment, Fragment::First);
    assert_eq!(packet.destination_port, 53);
}

#[test]
fn a_later_fragment_has_no_ports() {
    for offset in [1, 2, 0x1fff] {
        for more in [false, true] {
            let headers = [
                Extension::options(HOP_BY_HOP, 0),
                Extension::fragment(offset, more),
            ];
            let packet = parsed_ip(&with_chain(&headers, UDP, &udp(7, 53, &[])));
            assert_eq!(packet.fragment, Fragment::Later);
            assert_eq!(packet.protocol, UDP);
            assert_eq!((packet.source_port, packet.destination_port), (0, 0));
        }
    }
}

#[test]
fn the_reserved_bits_of_a_fragment_header_mean_nothing() {
    let mut bytes = with_chain(&[Extension::fragment(0, false)], UDP, &udp(7, 53, &[]));
    bytes[43] |= 0b110;
    assert_eq!(parsed_ip(&bytes).destination_port, 53);
}

#[test]
fn a_first_fragment_without_its_upper_header_is_refused() {
    let headers = [
        Extension::fragment(0, true),
        Extension::options(DESTINATION_OPTIONS, 1),
    ];
    let whole = with_chain(&headers, UDP, &udp(7, 53, &[]));
    for kept in 40..64 + 4 {
        let bytes = &whole[..kept];
        assert_eq!(ip_error(bytes), Some(ParseError::Truncated), "{kept}");
    }
}

/// A receiver cuts a fragment off where its length says, and puts the next one there.
#[test]
fn what_stands_behind_the_end_of_a_first_fragment_is_refused() {
    let first = Extension::fragment(0, true);
    let options = Extension::options(DESTINATION_OPTIONS, 1);

    let headers = [first.clone(), options.clone()];
    let harmless_ports = with_chain(&headers, UDP, &udp(7, 80, &[]));
    for end in 0..28 {
        let bytes = ending_at(harmless_ports.clone(), end);
        assert_eq!(ip_error(&bytes), Some(ParseError::Truncated), "{end}");
    }
    assert_eq!(
        parsed_ip(&ending_at(harmless_ports, 28)).destination_port,
        80
    );

    let no_ports = with_chain(&headers, ICMPV6, &[128, 0, 0, 0]);
    assert_eq!(
        ip_error(&ending_at(no_ports.clone(), 16)),
        Some(ParseError::Truncated)
    );
    assert_eq!(parsed_ip(&ending_at(no_ports, 24)).protocol, ICMPV6);

    // The last piece of an inner datagram, within the first piece of the outer one.
    let headers = [first.clone(), Extension::fragment(0, false)];
    let nested = with_chain(&headers, UDP, &udp(7, 80, &[]));
    assert_eq!(
        ip_error(&ending_at(nested.clone(), 16)),
        Some(ParseError::Truncated)
    );
    assert_eq!(parsed_ip(&ending_at(nested, 24)).destination_port, 80);

    let headers = [first, options, Extension::fragment(1, false)];
    let fragment_of_a_fragment = with_chain(&headers, UDP, &udp(7, 80, &[]));
    let bytes = ending_at(fragment_of_a_fragment.clone(), 24);
    assert_eq!(ip_error(&bytes), Some(ParseError::Truncated));
    let packet = parsed_ip(&ending_at(fragment_of_a_fragment, 32));
    assert_eq!(packet.fragment, Fragment::Later);
}

/// Super-packets on their way to segmentation may have a length of 0.
#[test]
fn the_length_does_not_bind_a_whole_packet() {
    let packet = parsed_ip(&ending_at(ipv6(TCP, &tcp(1, 53, &[])), 0));
    assert_eq!(packet.destination_port, 53);
}
