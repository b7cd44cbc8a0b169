//! Later fragments, by what became of the first one.

use leakguard_common::abi::{FragmentKey, Hook, Reason, Settings, Verdict};
use leakguard_common::packet::{LinkLayer, Packet, parse};

use crate::builder::{Extension, IPV4_MORE_FRAGMENTS, UDP, chain, ipv4, ipv6, udp};
use crate::judged;
use crate::uplink::Uplink;

fn later() -> [Vec<u8>; 2] {
    let (first, chained) = chain(&[Extension::fragment(1, false)], UDP, &[0; 64]);
    [ipv4(UDP, 1, &[], &[0; 64]), ipv6(first, &chained)]
}

fn found(bytes: &[u8], options: u32, first: Option<Verdict>) -> Option<Reason> {
    let settings = Settings {
        options,
        ..Settings::default()
    };
    let facts = Uplink {
        first_fragment: first,
        ..Uplink::default()
    };
    let (decision, _) = judged(bytes, Hook::Tc, &settings, &facts);
    decision.map(|decision| decision.reason)
}

#[test]
fn the_rest_follows_its_first_fragment() {
    for bytes in later() {
        for options in [0, Settings::STRICT_FRAGMENTS] {
            let dropped = found(&bytes, options, Some(Verdict::Drop));
            assert_eq!(dropped, Some(Reason::Fragment));
            assert_eq!(found(&bytes, options, Some(Verdict::Pass)), None);
        }
    }
}

#[test]
fn one_whose_first_is_not_known_passes_unless_that_is_strict() {
    for bytes in later() {
        assert_eq!(found(&bytes, 0, None), None);
        let strict = found(&bytes, Settings::STRICT_FRAGMENTS, None);
        assert_eq!(strict, Some(Reason::Fragment));
    }
}

/// Their ports may come behind an extension header, or in the packet that they carry.
#[test]
fn a_raw_sockets_later_fragments_are_refused_whatever_may_hide_ports() {
    const AH: u8 = 51;
    let at_cgroup = |bytes: &[u8]| {
        let (decision, _) = judged(
            bytes,
            Hook::CgroupSkb,
            &Settings::default(),
            &Uplink::default(),
        );
        decision.map(|decision| decision.reason)
    };
    let fragment = |number| ipv4(number, 1, &[], &[0; 64]);
    for number in [6, UDP, 33, 132, 136, 4, 41, 47, AH] {
        assert_eq!(
            at_cgroup(&fragment(number)),
            Some(Reason::Fragment),
            "{number}"
        );
    }
    for number in [1, 2, 50] {
        assert_eq!(at_cgroup(&fragment(number)), None, "{number}");
    }
    for number in [UDP, 0, 43, AH, 60, 135, 139, 140] {
        let (first, chained) = chain(&[Extension::fragment(1, false)], number, &[0; 64]);
        assert_eq!(
            at_cgroup(&ipv6(first, &chained)),
            Some(Reason::Fragment),
            "{number}"
        );
    }
}

#[test]
fn fragments_of_a_datagram_have_the_same_key_and_others_have_not() {
    let key = |bytes: &[u8]| {
        let mut packet = Packet::UNKNOWN;
        assert_eq!(parse(bytes, LinkLayer::Ip, &mut packet), Ok(()));
        FragmentKey::of(&packet)
    };
    let datagram = udp(1, 53, &[0; 24]);
    let first = ipv4(UDP, IPV4_MORE_FRAGMENTS, &[], &datagram);
    let [later_v4, later_v6] = later();
    assert_eq!(key(&first), key(&later_v4));
    let mut other = later_v4;
    other[5] ^= 1;
    assert_ne!(key(&first), key(&other));

    // What follows the fragment header need not be the same in each.
    let headers = [Extension::fragment(0, true), Extension::options(60, 0)];
    let (number, chained) = chain(&headers, UDP, &datagram);
    assert_eq!(key(&ipv6(number, &chained)), key(&later_v6));
}
