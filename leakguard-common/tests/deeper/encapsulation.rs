//! Packets in packets.

use leakguard_common::abi::{Carrier, EndpointKey, Hook, Reason, Settings};
use leakguard_common::packet::{LinkLayer, Packet, parse};

use crate::builder::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Extension, IPV4_MORE_FRAGMENTS,
    UDP, chain, ethernet, ipv4, ipv6, udp,
};
use crate::uplink::Uplink;
use crate::{judged, reason};

const IPIP: u8 = 4;
const SIT: u8 = 41;
const GRE: u8 = 47;
const TRANSPARENT_ETHERNET: u16 = 0x6558;
const VXLAN: [u8; 8] = [8, 0, 0, 0, 0, 0, 42, 0];

/// Questions over both families, and packets that are none.
fn inner(port: u16) -> [Vec<u8>; 2] {
    let datagram = udp(40_000, port, &[0; 24]);
    [ipv4(UDP, 0, &[], &datagram), ipv6(UDP, &datagram)]
}

fn ethertype(packet: &[u8]) -> u16 {
    if packet[0] >> 4 == 4 {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    }
}

fn gre(flags: u8, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flags, 0];
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(vec![0; 4 * (flags & 0xb0).count_ones() as usize]);
    bytes.extend(payload);
    bytes
}

fn vxlan(frame: &[u8]) -> Vec<u8> {
    [&VXLAN[..], frame].concat()
}

fn geneve(options: u8, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![options, 0];
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(vec![0; 4 + 4 * usize::from(options)]);
    bytes.extend(payload);
    bytes
}

/// Every way to put a packet in another that is unpacked without a key.
fn carried(packet: &[u8]) -> Vec<(Carrier, Vec<u8>)> {
    let kind = ethertype(packet);
    let frame = ethernet(&[], kind, packet);
    let tagged = ethernet(&[ETHERTYPE_VLAN], kind, packet);
    let number = if kind == ETHERTYPE_IPV4 { IPIP } else { SIT };
    let mut all = vec![(Carrier::Ip, number, packet.to_vec())];
    for flags in [0, 0x80, 0x20, 0x10, 0xb0] {
        all.push((Carrier::Gre, GRE, gre(flags, kind, packet)));
        all.push((Carrier::Gre, GRE, gre(flags, TRANSPARENT_ETHERNET, &frame)));
    }
    for port in [4789, 8472] {
        all.push((Carrier::Vxlan, UDP, udp(1, port, &vxlan(&frame))));
        all.push((Carrier::Vxlan, UDP, udp(1, port, &vxlan(&tagged))));
    }
    for options in [0, 1, 63] {
        let frame = geneve(options, TRANSPARENT_ETHERNET, &frame);
        all.push((Carrier::Geneve, UDP, udp(1, 6081, &frame)));
        all.push((
            Carrier::Geneve,
            UDP,
            udp(1, 6081, &geneve(options, kind, packet)),
        ));
    }
    let outer = |(carrier, number, payload): (Carrier, u8, Vec<u8>)| {
        let hops = [Extension::options(60, 0)];
        let (first, chained) = chain(&hops, number, &payload);
        [
            (carrier, ipv4(number, 0, &[], &payload)),
            (carrier, ipv4(number, 0, &[1; 8], &payload)),
            (carrier, ipv6(number, &payload)),
            (carrier, ipv6(first, &chained)),
        ]
    };
    all.into_iter().flat_map(outer).collect()
}

#[test]
fn dns_in_another_packet_is_dns() {
    for packet in inner(53) {
        for (carrier, bytes) in carried(&packet) {
            let (found, judged) = reason(&bytes, &Uplink::default());
            assert_eq!(found, Some(Reason::Dns), "{carrier}: {bytes:02x?}");
            assert_eq!((judged.carrier, judged.destination_port), (carrier, 53));
        }
    }
}

#[test]
fn what_is_not_dns_passes_in_another_packet() {
    for packet in inner(443) {
        for (carrier, bytes) in carried(&packet) {
            assert_eq!(
                reason(&bytes, &Uplink::default()).0,
                None,
                "{carrier}: {bytes:02x?}"
            );
        }
    }
}

#[test]
fn both_hooks_look_inside() {
    let [packet, _] = inner(53);
    for hook in [Hook::CgroupSkb, Hook::Tc] {
        let bytes = ipv4(GRE, 0, &[], &gre(0, ETHERTYPE_IPV4, &packet));
        let settings = Settings::default();
        let (decision, _) = judged(&bytes, hook, &settings, &Uplink::default());
        assert!(decision.is_some(), "{hook}");
    }
}

#[test]
fn a_packet_that_cannot_be_read_is_malformed() {
    let [packet, _] = inner(443);
    for length in [1, 19, 21] {
        let bytes = ipv4(IPIP, 0, &[], &packet[..length]);
        assert_eq!(
            reason(&bytes, &Uplink::default()).0,
            Some(Reason::Malformed),
            "{length}"
        );
    }
    let bytes = ipv4(GRE, 0, &[], &gre(0, ETHERTYPE_IPV4, &[0x60; 40]));
    assert_eq!(reason(&bytes, &Uplink::default()).0, None, "IPv6 in it");
    let bytes = ipv4(GRE, 0, &[], &gre(0, ETHERTYPE_IPV4, &[0x10; 40]));
    assert_eq!(
        reason(&bytes, &Uplink::default()).0,
        Some(Reason::Malformed)
    );
}

#[test]
fn what_no_receiver_takes_for_a_carrier_passes() {
    let [packet, _] = inner(53);
    let frame = ethernet(&[], ETHERTYPE_IPV4, &packet);
    let mut no_network = vxlan(&frame);
    no_network[0] = 0;
    let arp = ethernet(&[], ETHERTYPE_ARP, &[0; 28]);
    let mut version = geneve(0, TRANSPARENT_ETHERNET, &frame);
    version[0] = 0x40;
    let mut pptp = gre(0, ETHERTYPE_IPV4, &packet);
    pptp[1] = 1;
    for bytes in [
        ipv4(UDP, 0, &[], &udp(1, 4789, &no_network)),
        ipv4(UDP, 0, &[], &udp(1, 4789, &vxlan(&arp))),
        ipv4(UDP, 0, &[], &udp(1, 6081, &version)),
        ipv4(GRE, 0, &[], &pptp),
        // WireGuard's, OpenVPN's and ESP's packets.
        ipv4(UDP, 0, &[], &udp(1, 51820, &vxlan(&frame))),
        ipv4(UDP, 0, &[], &udp(1, 1194, &vxlan(&frame))),
        ipv4(50, 0, &[], &packet),
    ] {
        assert_eq!(reason(&bytes, &Uplink::default()).0, None, "{bytes:02x?}");
    }
}

#[test]
fn a_first_fragment_shows_what_it_carries_or_is_malformed() {
    let [packet, _] = inner(53);
    let mut payload = packet;
    payload.extend([0; 600]);
    let whole = ipv4(IPIP, IPV4_MORE_FRAGMENTS, &[], &payload);
    assert_eq!(reason(&whole, &Uplink::default()).0, Some(Reason::Dns));
    let tiny = ipv4(IPIP, IPV4_MORE_FRAGMENTS, &[], &payload[..24]);
    assert_eq!(reason(&tiny, &Uplink::default()).0, Some(Reason::Malformed));
    // Its own account is shorter than what is there, and a receiver goes by that.
    let mut short = whole;
    short[2..4].copy_from_slice(&44_u16.to_be_bytes());
    assert_eq!(
        reason(&short, &Uplink::default()).0,
        Some(Reason::Malformed)
    );
}

#[test]
fn a_permitted_tunnels_packets_pass_on_the_wire_and_nobody_elses() {
    let [packet, _] = inner(53);
    let bytes = ipv4(GRE, 0, &[], &gre(0, ETHERTYPE_IPV4, &packet));
    let mut outer = Packet::UNKNOWN;
    assert_eq!(parse(&bytes[..], LinkLayer::Ip, &mut outer), Ok(()));
    let tunnel = Uplink {
        carriers: [EndpointKey::of(&outer)].into(),
        ..Uplink::default()
    };
    assert_eq!(reason(&bytes, &tunnel).0, None);
    // A socket's packet is never the kernel device's.
    let settings = Settings::default();
    let (decision, _) = judged(&bytes, Hook::CgroupSkb, &settings, &tunnel);
    assert!(decision.is_some());
    let elsewhere = ipv4(IPIP, 0, &[], &packet);
    assert_eq!(reason(&elsewhere, &tunnel).0, Some(Reason::Dns));
}
