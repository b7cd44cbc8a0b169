//! The short way never lets a packet go that the long way would judge.

#![expect(clippy::unwrap_used, reason = "the length is right by construction")]

mod facts;

use leakguard_common::abi::{Class, ClassSet, Hook, MAX_EXTRA_PORTS, Role, Settings};
use leakguard_common::packet::{LinkLayer, Packet, PacketBytes, Truncated, parse, protocol};
use leakguard_common::plain::{IPV4_HEAD, IPV6_HEAD, Rest, is_other_ipv4, is_other_ipv6};
use leakguard_common::sieve::Place;
use leakguard_common::verdict::{Deeper, decide, deeper, may_be_doh};
use proptest::prelude::*;

use self::facts::known;

/// Where everything may be a resolver's, or nothing is, and where every segment may be a hello, or none is.
struct Known<'packet> {
    resolver: bool,
    hello: bool,
    bytes: &'packet [u8],
}

impl PacketBytes for Known<'_> {
    fn read<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> Result<(), Truncated> {
        self.bytes.read(offset, into)
    }
}

impl Rest for Known<'_> {
    fn may_be_resolver(&self, _destination: Place) -> bool {
        self.resolver
    }

    fn may_be_hello(&self) -> bool {
        self.hello
    }
}

const ANYTHING: Known<'_> = Known {
    resolver: true,
    hello: true,
    bytes: &[],
};

const NOTHING: Known<'_> = Known {
    resolver: false,
    hello: false,
    bytes: &[],
};

/// What the long way says of a packet on an uplink.
fn is_judged(bytes: &[u8], settings: &Settings, engaged: bool) -> bool {
    [Hook::CgroupSkb, Hook::Tc].into_iter().any(|hook| {
        let mut packet = Packet::UNKNOWN;
        let parsed = parse(bytes, LinkLayer::Ip, &mut packet);
        let facts = known(|| Some(Role::Uplink), engaged);
        // Whatever goes there may be a resolver's, and whatever has the options may be a question.
        may_be_doh(&packet, settings)
            || packet.protocol == protocol::UDP && settings.options & Settings::REPORT_SHAPES != 0
            || decide(parsed, &packet, hook, settings, &facts).is_judged()
            || deeper(bytes, parsed, &packet, hook, settings, &facts) != Deeper::No
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let ports = proptest::collection::vec(1_u16.., 0..MAX_EXTRA_PORTS);
    (ports, 0_u32..3, 0_u32..4, any::<bool>()).prop_map(|(ports, ipv6, options, doh)| {
        let exempt = ClassSet::default();
        let mut settings = Settings {
            ipv6,
            options,
            exempt: if doh { exempt } else { exempt.with(Class::Doh) },
            ..Settings::default()
        };
        for (place, port) in settings.extra_ports.iter_mut().zip(ports) {
            *place = port;
            settings.extra_port_count += 1;
        }
        settings
    })
}

/// Ports around those that count.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        any::<u16>(),
        proptest::sample::select(vec![
            0, 52, 53, 54, 137, 443, 853, 4789, 5353, 5355, 6081, 8472, 0x3500
        ])
    ]
}

/// Bytes that mostly look like a packet of the version.
fn head<const N: usize>(
    first: u8,
    protocol_at: usize,
    port_at: usize,
) -> impl Strategy<Value = [u8; N]> {
    let number = prop_oneof![Just(6_u8), Just(17), any::<u8>()];
    let bytes = proptest::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], N);
    (
        bytes,
        prop_oneof![8 => Just(first), 1 => any::<u8>()],
        number,
        port(),
    )
        .prop_map(move |(bytes, first, number, port)| {
            let mut head: [u8; N] = bytes.try_into().unwrap();
            head[0] = first;
            head[protocol_at] = number;
            head[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
            head
        })
}

/// An IPv6 packet with up to four extension headers, which may be cut off.
fn extended() -> impl Strategy<Value = Vec<u8>> {
    let number = || {
        let options = proptest::sample::select(vec![0_u8, 60, 43, 44, 51]);
        prop_oneof![3 => Just(60_u8), 2 => options, 1 => any::<u8>()]
    };
    let header = (number(), 0_u8..3);
    (
        number(),
        proptest::collection::vec(header, 0..5),
        prop_oneof![Just(6_u8), Just(17), any::<u8>()],
        port(),
        0_usize..20,
    )
        .prop_map(|(first, headers, last, port, cut)| {
            let mut packet = vec![0; 40];
            packet[0] = 0x60;
            packet[6] = if headers.is_empty() { last } else { first };
            let count = headers.len();
            for (place, (next, length)) in headers.into_iter().enumerate() {
                let next = if place + 1 == count { last } else { next };
                packet.extend([next, length]);
                packet.extend(vec![0; usize::from(length) * 8 + 6]);
            }
            packet.extend([0x9c, 0x40]);
            packet.extend(port.to_be_bytes());
            packet.extend([0; 16]);
            // The head is always there.
            packet.truncate((packet.len() - cut).max(IPV6_HEAD));
            packet
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_the_short_way_lets_go_is_never_judged(
        ipv4 in head::<IPV4_HEAD>(0x45, 9, 22),
        ipv6 in head::<IPV6_HEAD>(0x60, 6, 42),
        extended in extended(),
        settings in settings(),
        engaged in any::<bool>(),
    ) {
        let plain = is_other_ipv4(&ipv4, &settings, engaged, &ANYTHING);
        prop_assert!(!(plain && is_judged(&ipv4, &settings, engaged)), "{ipv4:02x?}");
        let plain = is_other_ipv6(&ipv6, &settings, engaged, &ANYTHING);
        prop_assert!(!(plain && is_judged(&ipv6, &settings, engaged)), "{ipv6:02x?}");
        let known = Known { bytes: &extended, ..ANYTHING };
        let head = extended.first_chunk().unwrap();
        let plain = is_other_ipv6(head, &settings, engaged, &known);
        prop_assert!(!(plain && is_judged(&extended, &settings, engaged)), "{extended:02x?}");
    }
}

#[test]
fn ordinary_packets_take_the_short_way() {
    let mut ipv4 = [0; IPV4_HEAD];
    ipv4[0] = 0x45;
    ipv4[6] = 0x40;
    ipv4[9] = 6;
    ipv4[22..24].copy_from_slice(&80_u16.to_be_bytes());
    assert!(is_other_ipv4(&ipv4, &Settings::default(), false, &ANYTHING));
    ipv4[22..24].copy_from_slice(&443_u16.to_be_bytes());
    assert!(!is_other_ipv4(
        &ipv4,
        &Settings::default(),
        false,
        &ANYTHING
    ));
    let no_doh = Settings {
        exempt: ClassSet::default().with(Class::Doh),
        ..Settings::default()
    };
    assert!(is_other_ipv4(&ipv4, &no_doh, false, &ANYTHING));
    ipv4[22..24].copy_from_slice(&53_u16.to_be_bytes());
    assert!(!is_other_ipv4(
        &ipv4,
        &Settings::default(),
        false,
        &ANYTHING
    ));

    let mut ipv6 = [0; IPV6_HEAD];
    ipv6[0] = 0x6f;
    ipv6[6] = 17;
    ipv6[42..44].copy_from_slice(&80_u16.to_be_bytes());
    assert!(is_other_ipv6(&ipv6, &Settings::default(), false, &ANYTHING));
    ipv6[42..44].copy_from_slice(&853_u16.to_be_bytes());
    assert!(!is_other_ipv6(
        &ipv6,
        &Settings::default(),
        false,
        &ANYTHING
    ));
}

#[test]
fn https_takes_the_short_way_if_it_is_no_resolvers_and_no_hello() {
    let [resolver, hello] = [(true, false), (false, true)].map(|(resolver, hello)| Known {
        resolver,
        hello,
        ..NOTHING
    });
    let mut ipv4 = [0; IPV4_HEAD];
    ipv4[0] = 0x45;
    ipv4[22..24].copy_from_slice(&443_u16.to_be_bytes());
    let mut ipv6 = [0; IPV6_HEAD];
    ipv6[0] = 0x60;
    ipv6[42..44].copy_from_slice(&443_u16.to_be_bytes());
    for (number, https, plain) in [
        (protocol::TCP, &NOTHING, true),
        (protocol::TCP, &resolver, false),
        (protocol::TCP, &hello, false),
        (protocol::UDP, &NOTHING, true),
        (protocol::UDP, &resolver, false),
        // QUIC has no hello that could be read.
        (protocol::UDP, &hello, true),
    ] {
        ipv4[9] = number;
        ipv6[6] = number;
        let settings = Settings::default();
        assert_eq!(is_other_ipv4(&ipv4, &settings, false, https), plain);
        assert_eq!(is_other_ipv6(&ipv6, &settings, false, https), plain);
    }
}

#[test]
fn what_has_no_ports_takes_the_short_way_unless_something_follows() {
    /// ICMP, ESP, ICMPv6, and what comes after an IPv6 header that nothing follows.
    const ENDS: [u8; 4] = [1, 50, protocol::ICMPV6, 59];
    /// Packets in packets, hop-by-hop options, AH, transports with ports that are judged the long way.
    const GOES_ON: [u8; 6] = [4, 41, 47, 51, protocol::SCTP, protocol::UDP_LITE];

    let mut ipv4 = [0; IPV4_HEAD];
    ipv4[0] = 0x45;
    let mut ipv6 = [0; IPV6_HEAD];
    ipv6[0] = 0x60;
    let settings = Settings::default();
    let mut is_plain = |number| {
        ipv4[9] = number;
        ipv6[6] = number;
        [
            is_other_ipv4(&ipv4, &settings, false, &NOTHING),
            is_other_ipv6(&ipv6, &settings, false, &NOTHING),
        ]
    };
    for number in ENDS {
        assert_eq!(is_plain(number), [true; 2], "{number}");
    }
    for number in GOES_ON {
        assert_eq!(is_plain(number), [false; 2], "{number}");
    }
    // Extensions of IPv6, after which nothing is left; in IPv4 the numbers mean nothing.
    for number in [0, 43, 44, 60, 135, 139, 140] {
        assert_eq!(is_plain(number), [true, false], "{number}");
    }
    // A restriction asks for every packet.
    ipv4[9] = 1;
    assert!(!is_other_ipv4(&ipv4, &settings, true, &NOTHING));
}

#[test]
fn options_of_ipv6_take_the_short_way_and_hide_nothing() {
    let packet = |port: u16, headers: usize| {
        let mut packet = vec![0_u8; 40];
        packet[0] = 0x60;
        packet[6] = if headers == 0 { 17 } else { 60 };
        for left in (0..headers).rev() {
            let next = if left == 0 { 17 } else { 60 };
            packet.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        packet.extend([0x9c, 0x40]);
        packet.extend(port.to_be_bytes());
        packet.extend([0; 4]);
        packet
    };
    let is_plain = |packet: &[u8]| {
        let known = Known {
            bytes: packet,
            ..NOTHING
        };
        let head = packet.first_chunk().unwrap();
        is_other_ipv6(head, &Settings::default(), false, &known)
    };
    for headers in 0..=2 {
        assert!(is_plain(&packet(4_000, headers)), "{headers}");
        assert!(!is_plain(&packet(53, headers)), "{headers}");
    }
    // What is behind more of them, and what may be DNS over HTTPS, is looked at closely.
    assert!(!is_plain(&packet(4_000, 3)));
    assert!(is_plain(&packet(443, 0)));
    assert!(!is_plain(&packet(443, 1)));
    // A header that is cut off.
    assert!(!is_plain(&packet(4_000, 1)[..44]));
}
