//! DNS over HTTPS by address and by name, and questions to other ports.

use leakguard_common::abi::{
    Class, ClassSet, EndpointKey, Hook, NAME_BYTES, NameKey, Reason, Settings, Verdict,
};
use leakguard_common::packet::{LinkLayer, Packet, parse};

use crate::builder::{TCP, UDP, ipv4, ipv6, tcp, udp};
use crate::uplink::Uplink;
use crate::{judged, reason};

/// A client's hello with these extensions, in one record.
fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, body) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend(length(body.len()));
        list.extend(body);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend([9; 32]);
    body.extend([0, 4, 0x13, 1, 0x13, 2]);
    body.extend([1, 0]);
    body.extend(length(list.len()));
    body.extend(list);
    let mut bytes = vec![22, 3, 1];
    bytes.extend(length(body.len() + 4));
    bytes.extend([1, 0]);
    bytes.extend(length(body.len()));
    bytes.extend(body);
    bytes
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap().to_be_bytes()
}

fn server_name(name: &str) -> (u16, Vec<u8>) {
    let mut body = length(name.len() + 3).to_vec();
    body.push(0);
    body.extend(length(name.len()));
    body.extend(name.as_bytes());
    (0, body)
}

/// A name that stands for itself and all below it, as the table has it.
fn knows(name: &str) -> Uplink {
    let key = |end: u8| {
        let mut reversed = [0; NAME_BYTES];
        let bytes = name.bytes().rev().chain([end]);
        let mut length = 0;
        for (place, byte) in reversed.iter_mut().zip(bytes) {
            *place = byte;
            length += 8;
        }
        NameKey { length, reversed }
    };
    Uplink {
        doh_names: [key(0), key(b'.')].into(),
        ..Uplink::default()
    }
}

fn to_https(payload: &[u8]) -> Vec<u8> {
    let mut segment = tcp(40_000, 443, payload);
    segment[13] = 0x18;
    ipv4(TCP, 0, &[], &segment)
}

fn asks(name: &str, known: &str) -> bool {
    let padding = (21, vec![0; 200]);
    let key_share = (51, vec![5; 300]);
    let bytes = to_https(&hello(&[key_share, server_name(name), padding]));
    reason(&bytes, &knows(known)).0 == Some(Reason::Doh)
}

#[test]
fn a_resolver_is_known_by_the_name_that_a_client_asks_for() {
    assert!(asks("dns.example", "dns.example"));
    assert!(asks("DNS.Example", "dns.example"));
    assert!(asks("a1b2c3.dns.example", "dns.example"));
    assert!(asks(
        &format!("{}.dns.example", "a".repeat(60)),
        "dns.example"
    ));
}

#[test]
fn other_names_pass() {
    assert!(!asks("example", "dns.example"));
    assert!(!asks("xdns.example", "dns.example"));
    assert!(!asks("dns.example.com", "dns.example"));
    assert!(!asks("www.example", "dns.example"));
}

#[test]
fn a_name_is_found_wherever_it_stands_among_the_extensions() {
    for before in 0..32 {
        let mut extensions = vec![(0x1a1a, vec![0; 3]); before];
        extensions.push(server_name("dns.example"));
        let bytes = to_https(&hello(&extensions));
        let (found, _) = reason(&bytes, &knows("dns.example"));
        assert_eq!(found, Some(Reason::Doh), "behind {before}");
    }
}

#[test]
fn a_hello_that_is_cut_off_or_names_nobody_passes() {
    let whole = to_https(&hello(&[server_name("dns.example")]));
    for length in 40..whole.len() {
        let (found, _) = reason(&whole[..length], &knows("dns.example"));
        assert_eq!(found, None, "cut at {length}");
    }
    let nobody = to_https(&hello(&[(51, vec![0; 32])]));
    assert_eq!(reason(&nobody, &knows("dns.example")).0, None);
}

#[test]
fn only_the_port_of_https_is_looked_at() {
    let mut bytes = to_https(&hello(&[server_name("dns.example")]));
    bytes[22..24].copy_from_slice(&8443_u16.to_be_bytes());
    assert_eq!(reason(&bytes, &knows("dns.example")).0, None);
}

#[test]
fn a_resolver_is_known_by_its_address_over_tcp_and_quic() {
    for bytes in [
        ipv4(TCP, 0, &[], &tcp(40_000, 443, &[])),
        ipv4(UDP, 0, &[], &udp(40_000, 443, &[0xc0; 32])),
        ipv6(TCP, &tcp(40_000, 443, &[])),
        ipv6(UDP, &udp(40_000, 443, &[0xc0; 32])),
    ] {
        let mut packet = Packet::UNKNOWN;
        assert_eq!(parse(&bytes[..], LinkLayer::Ip, &mut packet), Ok(()));
        let facts = Uplink {
            doh_addresses: [EndpointKey::of(&packet).address].into(),
            ..Uplink::default()
        };
        assert_eq!(reason(&bytes, &facts).0, Some(Reason::Doh));
        assert_eq!(reason(&bytes, &Uplink::default()).0, None);

        let exempt = Settings {
            exempt: ClassSet::default().with(Class::Doh),
            ..Settings::default()
        };
        let (decision, _) = judged(&bytes, Hook::Tc, &exempt, &facts);
        assert_eq!(decision, None);
    }
}

fn question() -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    bytes.extend(b"\x07example\x03com\0\0\x01\0\x01");
    bytes
}

#[test]
fn a_question_to_another_port_is_reported_and_passes() {
    let bytes = ipv4(UDP, 0, &[], &udp(40_000, 5300, &question()));
    let settings = Settings {
        options: Settings::REPORT_SHAPES,
        ..Settings::default()
    };
    let found =
        |bytes: &[u8], settings: &Settings| judged(bytes, Hook::Tc, settings, &Uplink::default()).0;
    let decision = found(&bytes, &settings).unwrap();
    assert_eq!(decision.reason, Reason::DnsShaped);
    assert_eq!(decision.verdict, Verdict::Pass);
    assert!(decision.is_reported());
    assert_eq!(found(&bytes, &Settings::default()), None);
}

#[test]
fn what_is_no_question_is_not_reported() {
    let settings = Settings {
        options: Settings::REPORT_SHAPES,
        ..Settings::default()
    };
    let mut answer = question();
    answer[2] |= 0x80;
    let mut two = question();
    two[5] = 2;
    let mut root = question();
    root[12] = 0;
    for payload in [answer, two, root, question()[..12].to_vec(), vec![0xff; 64]] {
        let bytes = ipv4(UDP, 0, &[], &udp(40_000, 5300, &payload));
        let facts = Uplink::default();
        let (decision, _) = judged(&bytes, Hook::Tc, &settings, &facts);
        assert_eq!(decision, None, "{payload:02x?}");
    }
}
