//! One packet of each shape; also what the fuzzer starts from.

use std::path::{Path, PathBuf};
use std::{env, fs};

use leakguard_common::packet::LinkLayer;

use crate::builder::{
    DESTINATION_OPTIONS, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ,
    ETHERTYPE_VLAN, Extension, HIP, HOP_BY_HOP, ICMPV6, IPV4_MORE_FRAGMENTS, MOBILITY, ROUTING,
    SHIM6, TCP, UDP, chain, ethernet, ipv4, ipv6, tcp, udp,
};

/// Set to write the fuzzer's seeds anew instead of comparing them.
const WRITE_SEEDS: &str = "LEAKGUARD_WRITE_SEEDS";

/// A packet and what its first byte belongs to.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) link: LinkLayer,
    pub(crate) bytes: Vec<u8>,
}

/// One packet of each shape that the parser tells apart.
pub(crate) fn samples() -> Vec<Sample> {
    let question_v4 = ipv4(UDP, 0, &[], &udp(40_000, 53, b"question"));
    let question_v6 = ipv6(TCP, &tcp(40_000, 853, &[]));
    let with_chain = |headers: &[Extension]| {
        let (first, payload) = chain(headers, UDP, &udp(40_000, 53, b"question"));
        ipv6(first, &payload)
    };
    let (first, payload) = chain(&[Extension::authentication(3)], TCP, &tcp(40_000, 53, &[]));
    let authenticated_v4 = ipv4(first, 0, &[], &payload);

    let ip = [
        ("ipv4-udp", question_v4.clone()),
        (
            "ipv4-options-tcp",
            ipv4(TCP, 0, &[1; 40], &tcp(40_000, 853, b"hello")),
        ),
        ("ipv4-authenticated", authenticated_v4),
        (
            "ipv4-first-fragment",
            ipv4(UDP, IPV4_MORE_FRAGMENTS, &[], &udp(40_000, 5353, &[])),
        ),
        (
            "ipv4-later-fragment",
            ipv4(UDP, 185, &[], b"the rest of it"),
        ),
        ("ipv4-icmp", ipv4(1, 0, &[], &[8, 0, 0, 0, 0, 1, 0, 1])),
        ("ipv6-tcp", question_v6.clone()),
        ("ipv6-icmp", ipv6(ICMPV6, &[135, 0, 0, 0, 0, 0, 0, 0])),
        (
            "ipv6-hop-by-hop",
            with_chain(&[Extension::options(HOP_BY_HOP, 0)]),
        ),
        (
            "ipv6-every-extension",
            with_chain(&[
                Extension::options(HOP_BY_HOP, 0),
                Extension::options(DESTINATION_OPTIONS, 1),
                Extension::options(ROUTING, 2),
                Extension::fragment(0, false),
                Extension::authentication(3),
                Extension::options(MOBILITY, 0),
                Extension::options(HIP, 0),
                Extension::options(SHIM6, 0),
            ]),
        ),
        (
            "ipv6-first-fragment",
            with_chain(&[Extension::fragment(0, true)]),
        ),
        (
            "ipv6-later-fragment",
            with_chain(&[Extension::fragment(1, true)]),
        ),
    ];
    let frames = [
        ("frame-ipv4", ethernet(&[], ETHERTYPE_IPV4, &question_v4)),
        ("frame-ipv6", ethernet(&[], ETHERTYPE_IPV6, &question_v6)),
        (
            "frame-vlan",
            ethernet(&[ETHERTYPE_VLAN], ETHERTYPE_IPV6, &question_v6),
        ),
        (
            "frame-four-vlans",
            ethernet(
                &[
                    ETHERTYPE_QINQ,
                    ETHERTYPE_VLAN,
                    ETHERTYPE_VLAN,
                    ETHERTYPE_VLAN,
                ],
                ETHERTYPE_IPV4,
                &question_v4,
            ),
        ),
        ("frame-arp", ethernet(&[], ETHERTYPE_ARP, &[0; 28])),
    ];
    let sample = |link| move |(name, bytes)| Sample { name, link, bytes };
    ip.into_iter()
        .map(sample(LinkLayer::Ip))
        .chain(frames.into_iter().map(sample(LinkLayer::Ethernet)))
        .collect()
}

fn seed_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/packet")
}

#[test]
fn the_fuzzer_starts_from_these_samples() {
    let dir = seed_dir();
    for sample in samples() {
        let path = dir.join(sample.name);
        if env::var_os(WRITE_SEEDS).is_some() {
            fs::create_dir_all(&dir).unwrap();
            fs::write(&path, &sample.bytes).unwrap();
        }
        let seed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            seed,
            sample.bytes,
            "set {WRITE_SEEDS}=1 to write {} anew",
            path.display()
        );
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), samples().len());
}
