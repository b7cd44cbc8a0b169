//! Packets of every shape, whole or damaged, from a seed.

use leakguard_common::packet::{LinkLayer, MAX_EXTENSIONS, MAX_VLAN_TAGS, ParseError};
use proptest::prelude::{Rng, RngExt};
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::builder::{
    AUTHENTICATION, DESTINATION_OPTIONS, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6,
    ETHERTYPE_QINQ, ETHERTYPE_VLAN, Extension, FRAGMENT, HIP, HOP_BY_HOP, ICMPV6,
    IPV4_MORE_FRAGMENTS, MOBILITY, ROUTING, SHIM6, TCP, UDP, chain, ethernet, ipv4, ipv6, ports,
    tcp, udp,
};

const ICMP: u8 = 1;
const SCTP: u8 = 132;

/// Values that mean something in some field: numbers of headers, ports, lengths, versions.
const TELLING_BYTES: [u8; 22] = [
    0,
    1,
    4,
    5,
    8,
    15,
    0x35,
    0x40,
    0x45,
    0x46,
    0x60,
    0x81,
    0x86,
    0x88,
    0xff,
    HOP_BY_HOP,
    TCP,
    UDP,
    ROUTING,
    FRAGMENT,
    AUTHENTICATION,
    DESTINATION_OPTIONS,
];

/// A generated packet.
#[derive(Debug)]
pub(crate) struct Generated {
    pub(crate) link: LinkLayer,
    pub(crate) bytes: Vec<u8>,
    /// What the parser has to find, by construction; nothing is known of a damaged packet.
    pub(crate) truth: Option<Truth>,
}

/// What a packet is, by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Ports {
        protocol: u8,
        source: u16,
        destination: u16,
    },
    NoPorts {
        protocol: u8,
    },
    Later,
    Error(ParseError),
}

/// The packet of this seed.
pub(crate) fn generate(seed: u64) -> Generated {
    let mut source = Source::new(seed);
    let mut generated = source.packet();
    if source.one_in(3) {
        return generated;
    }
    generated.truth = None;
    for _ in 0..source.up_to(3) {
        source.damage(&mut generated.bytes);
    }
    generated
}

struct Source(TestRng);

impl Source {
    fn new(seed: u64) -> Self {
        // Neighbouring seeds must not start alike (the finaliser of MurmurHash3).
        let mut mixed = seed.wrapping_add(1);
        for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
            mixed = (mixed ^ mixed >> 33).wrapping_mul(factor);
        }
        let mut key = [0x5a; 16];
        key[..8].copy_from_slice(&mixed.to_le_bytes());
        Self(TestRng::from_seed(RngAlgorithm::XorShift, &key))
    }

    fn one_in(&mut self, times: u32) -> bool {
        self.0.random_range(0..times) == 0
    }

    /// A number from 1 to `most`.
    fn up_to(&mut self, most: usize) -> usize {
        self.0.random_range(1..=most)
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.0.random_range(0..values.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    fn port(&mut self) -> u16 {
        if self.one_in(3) {
            self.0.random()
        } else {
            self.pick(&[53, 53, 80, 137, 443, 853, 5353, 5355])
        }
    }

    fn packet(&mut self) -> Generated {
        let (mut truth, version, length_at, mut packet) = if self.0.random() {
            let (truth, packet) = self.ipv4();
            (truth, ETHERTYPE_IPV4, 2, packet)
        } else {
            let (truth, packet) = self.ipv6();
            (truth, ETHERTYPE_IPV6, 4, packet)
        };
        let is_shortened = self.one_in(8);
        if is_shortened {
            // It ends before its bytes do, by its own account.
            let end = self.0.random_range(0..=packet.len());
            let length = u16::try_from(end).unwrap_or(u16::MAX);
            packet[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        }
        let link = self.pick(&[LinkLayer::Ip, LinkLayer::Ethernet, LinkLayer::Unknown]);
        let mut bytes = packet;
        if link == LinkLayer::Ethernet {
            let tags: Vec<u16> = match self.0.random_range(0..8) {
                0..4 => Vec::new(),
                4..7 => self.tags(3),
                _ => self.tags(6),
            };
            let ethertype = match self.0.random_range(0..32) {
                0 => self.pick(&[ETHERTYPE_ARP, 0x0026, 0x88cc]),
                1 => self.pick(&[ETHERTYPE_IPV4, ETHERTYPE_IPV6]),
                _ => version,
            };
            bytes = ethernet(&tags, ethertype, &bytes);
            if tags.len() > MAX_VLAN_TAGS as usize {
                truth = Truth::Error(ParseError::TooDeep);
            } else if ![ETHERTYPE_IPV4, ETHERTYPE_IPV6].contains(&ethertype) {
                truth = Truth::Error(ParseError::NotIp);
            } else if ethertype != version {
                truth = Truth::Error(ParseError::Version);
            }
        }
        if self.one_in(4) {
            // Padding of the frame, which belongs to no datagram.
            let len = self.up_to(40);
            bytes.extend(self.bytes(len));
        }
        Generated {
            link,
            bytes,
            truth: (!is_shortened).then_some(truth),
        }
    }

    fn tags(&mut self, most: usize) -> Vec<u16> {
        (0..self.up_to(most))
            .map(|_| self.pick(&[ETHERTYPE_VLAN, ETHERTYPE_QINQ, 0x9100]))
            .collect()
    }

    fn ipv4(&mut self) -> (Truth, Vec<u8>) {
        let (mut truth, number, upper) = self.upper(ICMP);
        let authentication: &[Extension] = if self.one_in(8) {
            &[Extension::authentication(self.0.random_range(0..5))]
        } else {
            &[]
        };
        let (number, payload) = chain(authentication, number, &upper);
        let fragment = match self.0.random_range(0..8) {
            0 => IPV4_MORE_FRAGMENTS,
            1 => {
                truth = Truth::Later;
                self.0.random_range(1..0x2000) | self.pick(&[0, IPV4_MORE_FRAGMENTS])
            }
            2..5 => 0x4000,
            _ => 0,
        };
        let words = if self.one_in(4) { self.up_to(10) } else { 0 };
        let options = self.bytes(4 * words);
        (truth, ipv4(number, fragment, &options, &payload))
    }

    fn ipv6(&mut self) -> (Truth, Vec<u8>) {
        let (truth, number, upper) = self.upper(ICMPV6);
        let count = match self.0.random_range(0..16) {
            0..6 => 0,
            6..15 => self.up_to(4),
            _ => self.0.random_range(10..20),
        };
        let mut headers = Vec::with_capacity(count);
        let mut later = false;
        for place in 0..count {
            let header = self.extension(place == 0);
            let is_later = header.number == FRAGMENT && header.bytes[2..4] >= [0, 8][..];
            headers.push(header);
            if is_later {
                // What follows is the middle of something.
                later = true;
                break;
            }
        }
        let truth = if headers.len() > MAX_EXTENSIONS as usize + usize::from(later) {
            Truth::Error(ParseError::TooDeep)
        } else if later {
            Truth::Later
        } else {
            truth
        };
        let (first, payload) = chain(&headers, number, &upper);
        (truth, ipv6(first, &payload))
    }

    fn extension(&mut self, is_first: bool) -> Extension {
        match self.0.random_range(0..16) {
            0..3 if is_first => Extension::options(HOP_BY_HOP, self.0.random_range(0..3)),
            0..6 => Extension::options(DESTINATION_OPTIONS, self.0.random_range(0..3)),
            6..9 => Extension::options(ROUTING, self.0.random_range(0..3)),
            9 | 10 => Extension::fragment(0, false),
            11 => Extension::fragment(0, true),
            12 => Extension::fragment(self.0.random_range(1..0x2000), self.0.random()),
            13 | 14 => Extension::authentication(self.0.random_range(0..5)),
            _ => {
                let number = self.pick(&[HOP_BY_HOP, MOBILITY, HIP, SHIM6]);
                Extension::options(number, self.0.random_range(0..2))
            }
        }
    }

    fn upper(&mut self, icmp: u8) -> (Truth, u8, Vec<u8>) {
        let (source, destination) = (self.port(), self.port());
        let len = self.0.random_range(0..24);
        let payload = self.bytes(len);
        let (protocol, bytes) = match self.0.random_range(0..16) {
            0..8 => (UDP, udp(source, destination, &payload)),
            8..14 => (TCP, tcp(source, destination, &payload)),
            14 => (SCTP, [ports(source, destination), payload].concat()),
            _ => {
                let bytes = [vec![128, 0, 0, 0, 0, 1, 0, 1], payload].concat();
                return (Truth::NoPorts { protocol: icmp }, icmp, bytes);
            }
        };
        let truth = Truth::Ports {
            protocol,
            source,
            destination,
        };
        (truth, protocol, bytes)
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        // Headers stand in front, so damage does too.
        let near = bytes.len().min(80);
        let at = self.0.random_range(0..near);
        match self.0.random_range(0..10) {
            0..3 => bytes[at] ^= 1 << self.0.random_range(0..8),
            3..6 => bytes[at] = self.pick(&TELLING_BYTES),
            6 => bytes[at] = self.0.random(),
            7 => {
                let end = self.0.random_range(0..bytes.len());
                bytes.truncate(end);
            }
            8 => {
                // Moves what follows to the left or to the right.
                let (len, insert) = (self.up_to(12), self.0.random());
                if insert {
                    let inserted = self.bytes(len);
                    bytes.splice(at..at, inserted);
                } else {
                    let end = bytes.len().min(at + len);
                    bytes.drain(at..end);
                }
            }
            _ => {
                // The end of another packet instead of this one's.
                let other = self.packet().bytes;
                let from = self.0.random_range(0..other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
}
