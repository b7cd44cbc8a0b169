//! Link layers: VLAN tags, frames that are not IP, versions that contradict the frame.

use leakguard_common::abi::Family;
use leakguard_common::packet::{LinkLayer, MAX_VLAN_TAGS, ParseError};

use crate::builder::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, TCP, UDP,
    ethernet, ipv4, ipv6, tcp, udp,
};
use crate::{LINK_LAYERS, parsed};

/// An older type for the outer tag of two.
const ETHERTYPE_QINQ_OLD: u16 = 0x9100;

fn question_v4() -> Vec<u8> {
    ipv4(UDP, 0, &[], &udp(7, 53, &[]))
}

fn question_v6() -> Vec<u8> {
    ipv6(TCP, &tcp(7, 53, &[]))
}

#[test]
fn both_versions_are_found_in_a_frame() {
    for (ethertype, packet, family) in [
        (ETHERTYPE_IPV4, question_v4(), Family::Ipv4),
        (ETHERTYPE_IPV6, question_v6(), Family::Ipv6),
    ] {
        let frame = ethernet(&[], ethertype, &packet);
        let (result, packet) = parsed(&frame, LinkLayer::Ethernet);
        assert_eq!(result, Ok(()));
        assert_eq!((packet.family, packet.destination_port), (family, 53));
    }
}

#[test]
fn vlan_tags_are_followed_up_to_the_bound_and_refused_beyond() {
    for tag in [ETHERTYPE_VLAN, ETHERTYPE_QINQ, ETHERTYPE_QINQ_OLD] {
        for count in 0..=MAX_VLAN_TAGS + 2 {
            let tags = vec![tag; count as usize];
            let frame = ethernet(&tags, ETHERTYPE_IPV4, &question_v4());
            let (result, packet) = parsed(&frame, LinkLayer::Ethernet);
            if count <= MAX_VLAN_TAGS {
                assert_eq!(result, Ok(()), "{count} of {tag:#x}");
                assert_eq!(packet.destination_port, 53);
                assert_eq!(packet.transport, 14 + 4 * count + 20);
            } else {
                assert_eq!(result, Err(ParseError::TooDeep), "{count} of {tag:#x}");
            }
        }
    }
}

#[test]
fn a_tag_that_is_cut_off_is_refused() {
    let frame = ethernet(&[ETHERTYPE_VLAN], ETHERTYPE_IPV4, &question_v4());
    for kept in 14..18 {
        let (result, _) = parsed(&frame[..kept], LinkLayer::Ethernet);
        assert_eq!(result, Err(ParseError::Truncated), "{kept}");
    }
}

#[test]
fn frames_without_ip_are_not_ip() {
    // LLC (a length instead of a type) and its greatest, ARP, LLDP, PPPoE.
    for ethertype in [0, 0x0026, 0x05dc, ETHERTYPE_ARP, 0x88cc, 0x8864] {
        for tags in [
            &[][..],
            &[ETHERTYPE_VLAN],
            &[ETHERTYPE_QINQ, ETHERTYPE_VLAN],
        ] {
            let frame = ethernet(tags, ethertype, &question_v4());
            let (result, _) = parsed(&frame, LinkLayer::Ethernet);
            assert_eq!(
                result,
                Err(ParseError::NotIp),
                "{ethertype:#x} behind {tags:x?}"
            );
        }
    }
}

#[test]
fn a_version_that_contradicts_the_frame_is_refused() {
    for (ethertype, packet) in [
        (ETHERTYPE_IPV4, question_v6()),
        (ETHERTYPE_IPV6, question_v4()),
        (ETHERTYPE_IPV4, vec![0x00; 40]),
        (ETHERTYPE_IPV6, vec![0xf0; 40]),
    ] {
        let frame = ethernet(&[], ethertype, &packet);
        let (result, _) = parsed(&frame, LinkLayer::Ethernet);
        assert_eq!(result, Err(ParseError::Version));
    }
}

#[test]
fn an_unknown_version_is_refused_where_ip_is_certain() {
    for version in (0..16).filter(|version| ![4, 6].contains(version)) {
        let mut bytes = question_v4();
        bytes[0] = version << 4 | 5;
        assert_eq!(parsed(&bytes, LinkLayer::Ip).0, Err(ParseError::Version));
        assert_eq!(parsed(&bytes, LinkLayer::Unknown).0, Err(ParseError::NotIp));
    }
}

#[test]
fn an_unknown_link_layer_is_taken_for_ip() {
    for packet in [question_v4(), question_v6()] {
        assert_eq!(
            parsed(&packet, LinkLayer::Unknown),
            parsed(&packet, LinkLayer::Ip)
        );
    }
}

#[test]
fn no_bytes_are_too_few() {
    for link in LINK_LAYERS {
        assert_eq!(parsed(&[], link).0, Err(ParseError::Truncated));
    }
}
