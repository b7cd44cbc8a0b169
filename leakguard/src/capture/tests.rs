use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use leakguard_common::abi::EVENT_BYTES;
use pcap_parser::pcapng::Block;
use pcap_parser::traits::{PcapNGPacketBlock as _, PcapReaderIterator as _};
use pcap_parser::{PcapBlockOwned, PcapNGReader};

use super::*;
use crate::event::{Container, example, process};

/// A question for `example.com A` in a UDP datagram.
const DATAGRAM: &[u8] =
    b"\x9c\xb0\0\x35\0\x25\0\0\x12\x34\x01\x20\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";

fn event() -> Event {
    Event {
        process: process("di\ng"),
        unit: Some("app.service".into()),
        container: Some(Container {
            id: "0123abcd".into(),
            runtime: Some("podman".into()),
            name: None,
            pod: None,
            pod_name: None,
            pod_namespace: None,
        }),
        suppressed: 3,
        ..example()
    }
}

/// The blocks of a capture, by kind: section comment, interfaces, and packets with time, bytes, length and comment.
#[derive(Debug, Default)]
struct Read {
    sections: Vec<String>,
    interfaces: Vec<(String, String, u8)>,
    packets: Vec<(u32, u64, Vec<u8>, u32, String)>,
}

fn read(bytes: &[u8]) -> Read {
    let text = |options: &[pcap_parser::PcapNGOption<'_>], code: u16| {
        let option = options.iter().find(|option| option.code.0 == code);
        option.map(|option| {
            let value = option.as_bytes().unwrap();
            String::from_utf8(value.to_vec()).unwrap()
        })
    };
    let mut found = Read::default();
    let mut reader = PcapNGReader::new(65536, bytes).unwrap();
    loop {
        let (offset, block) = match reader.next() {
            Ok(next) => next,
            Err(pcap_parser::PcapError::Eof) => return found,
            Err(pcap_parser::PcapError::Incomplete(_)) => {
                reader.refill().unwrap();
                continue;
            }
            Err(error) => panic!("{error:?}"),
        };
        match block {
            PcapBlockOwned::NG(Block::SectionHeader(section)) => {
                found.sections.extend(text(&section.options, 1));
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                found.interfaces.push((
                    text(&interface.options, 2).unwrap(),
                    text(&interface.options, 3).unwrap(),
                    interface.if_tsresol,
                ));
                assert_eq!(interface.linktype.0, 101);
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => found.packets.push((
                packet.if_id,
                u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low),
                packet.packet_data().to_vec(),
                packet.origlen,
                text(&packet.options, 1).unwrap(),
            )),
            _ => panic!("a block of another kind"),
        }
        reader.consume(offset);
    }
}

fn written(events: &[(Event, &[u8])]) -> Read {
    let mut bytes = Vec::new();
    let mut capture = Capture::new(&mut bytes).unwrap();
    for (event, copied) in events {
        capture.add(event, copied).unwrap();
    }
    read(&bytes)
}

#[test]
fn a_packet_is_rebuilt_and_says_who_sent_it() {
    let elsewhere = Event {
        interface: InterfaceRef {
            index: 3,
            name: None,
            role: "local".into(),
        },
        source: "[2001:db8::1]:40112".into(),
        destination: "[2001:db8::53]:53".into(),
        family: "ipv6".into(),
        ..event()
    };
    let found = written(&[
        (event(), DATAGRAM),
        (elsewhere, DATAGRAM),
        (event(), DATAGRAM),
    ]);
    assert!(
        found.sections[0].contains("IP header"),
        "{:?}",
        found.sections
    );
    assert_eq!(
        found.interfaces,
        [
            ("eth0".into(), "role uplink, number 2".into(), 9),
            ("#3".into(), "role local, number 3".into(), 9)
        ]
    );
    let numbers: Vec<u32> = found.packets.iter().map(|packet| packet.0).collect();
    assert_eq!(numbers, [0, 1, 0]);
    for (_, time, bytes, length, comment) in &found.packets {
        assert_eq!(*time, 1_795_428_000_123_456_789);
        assert_eq!(bytes.len(), *length as usize);
        let headers = PacketHeaders::from_ip_slice(bytes).unwrap();
        let Some(TransportHeader::Udp(udp)) = headers.transport else {
            panic!("{headers:?}");
        };
        assert_eq!((udp.source_port, udp.destination_port), (40112, 53));
        for word in [
            "drop dns at cgroup_skb",
            "process di\\ng pid 4242 user alice uid 1000",
            "exe /usr/bin/dig",
            "unit app.service",
            "container podman 0123abcd",
            "query A example.com.",
            "3 more",
            "event 41",
        ] {
            assert!(comment.contains(word), "{word}: {comment}");
        }
    }
    let headers = PacketHeaders::from_ip_slice(&found.packets[1].2).unwrap();
    assert!(matches!(headers.net, Some(NetHeaders::Ipv6(..))));
}

#[test]
fn a_packet_that_was_cut_keeps_its_length() {
    let mut cut = vec![0; EVENT_BYTES];
    cut[4..6].copy_from_slice(&1208_u16.to_be_bytes());
    let segment = Event {
        protocol: "tcp".into(),
        length: 1500,
        ..event()
    };
    let found = written(&[(event(), &cut), (segment, &vec![0; EVENT_BYTES])]);
    assert_eq!(
        [found.packets[0].3, found.packets[1].3],
        [20 + 1208, 1500],
        "UDP says it, and the event says it"
    );
    let total = |packet: &[u8]| u16::from_be_bytes([packet[2], packet[3]]);
    assert_eq!(total(&found.packets[0].2), 1228);
}

#[test]
fn what_is_no_transport_header_is_not_called_one() {
    for reason in ["fragment", "malformed"] {
        let odd = Event {
            reason: reason.into(),
            ..event()
        };
        let found = written(&[(odd, &b"not UDP"[..])]);
        assert_eq!(found.packets[0].2[9], 253);
    }
}

#[test]
fn what_is_no_packet_is_counted() {
    let mut capture = Capture::new(io::sink()).unwrap();
    let option = Event {
        option: Some("PACKET_QDISC_BYPASS".into()),
        ..event()
    };
    let unknown = Event {
        source: "unknown".into(),
        ..event()
    };
    for (event, copied) in [
        (option, DATAGRAM),
        (unknown, DATAGRAM),
        (event(), &[][..]),
        (event(), DATAGRAM),
    ] {
        capture.add(&event, copied).unwrap();
    }
    assert_eq!((capture.packets(), capture.without()), (1, 3));
}

#[test]
fn a_text_without_end_is_cut() {
    let mut long = event();
    long.unit = Some("ü".repeat(60_000));
    let found = written(&[(long, DATAGRAM)]);
    assert!(found.packets[0].4.len() <= 8192);
}
