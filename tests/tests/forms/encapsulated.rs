//! DNS inside of another packet, one level deep, that a program has made and no tunnel of the kernel; and what must pass
//! inside of one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use leakguard_tests::Bench;

use crate::form::Form;
use crate::path::Path;
use crate::probe::{DNS, Flow, OTHER, Probe, mark_at};
use crate::round::{Arms, Expected, Round, Stage, Witness, conclude};
use crate::shape::{DESTINATION, HOP_BY_HOP, ROUTING, Shape, Shot, chain, fragment, frame};
use crate::stage::{Layer3, Uplink};

const IPIP: u8 = 4;
const IPV6: u8 = 41;
const UDP: u8 = 17;
const GRE: u8 = 47;

const INNER_SOURCES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 200, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 2)),
];
const INNER_TARGETS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 200, 0, 53)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x53)),
];

const VXLAN_PORT: u16 = 4789;
const GENEVE_PORT: u16 = 6081;
/// Transparent Ethernet bridging.
const ETHERNET: u16 = 0x6558;
const VLAN: u16 = 0x8100;

/// What an inner packet is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Vxlan,
    /// With a VLAN tag in the inner frame.
    VxlanTagged,
    /// With an Ethernet frame inside.
    Geneve,
    /// With so many bytes of options.
    GeneveOptions(u8),
    /// With an IP packet inside.
    GeneveIp,
    Gre,
    /// With checksum, key and sequence number.
    GreFull,
    /// With an Ethernet frame inside.
    GreEthernet,
    /// An IP packet in an IP packet.
    Ip,
    /// The same behind a header of destination options; IPv6 only.
    IpOptions,
}

/// What an inner packet looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    Plain,
    /// With 40 bytes of IPv4 options.
    Options,
    /// With extension headers.
    Headers,
    /// The first fragment of it, with nothing but the ports.
    TinyFragment,
    /// Cut before the ports by fragments of the outer packet.
    Cut,
}

/// A packet in another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inside {
    pub(crate) carrier: Carrier,
    pub(crate) inner: Inner,
    /// That of the inner packet.
    family: usize,
}

const fn inside(name: &'static str, carrier: Carrier, family: usize) -> Form {
    shaped(name, carrier, family, Inner::Plain)
}

const fn shaped(name: &'static str, carrier: Carrier, family: usize, inner: Inner) -> Form {
    let shape = Shape::Inside(Inside {
        carrier,
        inner,
        family,
    });
    Form { name, shape }
}

/// Every encapsulation, of either family.
const FORMS: [Form; 31] = [
    inside("ipv4 in VXLAN", Carrier::Vxlan, 0),
    inside("ipv6 in VXLAN", Carrier::Vxlan, 1),
    inside("tagged ipv4 in VXLAN", Carrier::VxlanTagged, 0),
    inside("tagged ipv6 in VXLAN", Carrier::VxlanTagged, 1),
    inside("ipv4 in Geneve", Carrier::Geneve, 0),
    inside("ipv6 in Geneve", Carrier::Geneve, 1),
    inside("ipv4 in Geneve with options", Carrier::GeneveOptions(8), 0),
    inside(
        "ipv6 in Geneve with 252 bytes of options",
        Carrier::GeneveOptions(252),
        1,
    ),
    inside("ipv4 in Geneve, no Ethernet", Carrier::GeneveIp, 0),
    inside("ipv6 in Geneve, no Ethernet", Carrier::GeneveIp, 1),
    inside("ipv4 in GRE", Carrier::Gre, 0),
    inside("ipv6 in GRE", Carrier::Gre, 1),
    inside(
        "ipv4 in GRE with checksum, key, number",
        Carrier::GreFull,
        0,
    ),
    inside(
        "ipv6 in GRE with checksum, key, number",
        Carrier::GreFull,
        1,
    ),
    inside("ipv4 in Ethernet in GRE", Carrier::GreEthernet, 0),
    inside("ipv6 in Ethernet in GRE", Carrier::GreEthernet, 1),
    inside("ipv4 in IP", Carrier::Ip, 0),
    inside("ipv6 in IP", Carrier::Ip, 1),
    inside("ipv4 in IP behind options", Carrier::IpOptions, 0),
    inside("ipv6 in IP behind options", Carrier::IpOptions, 1),
    shaped(
        "ipv4 with options in VXLAN",
        Carrier::Vxlan,
        0,
        Inner::Options,
    ),
    shaped(
        "ipv6 with headers in VXLAN",
        Carrier::Vxlan,
        1,
        Inner::Headers,
    ),
    shaped(
        "tiny ipv4 fragment in VXLAN",
        Carrier::Vxlan,
        0,
        Inner::TinyFragment,
    ),
    shaped(
        "tiny ipv6 fragment in VXLAN",
        Carrier::Vxlan,
        1,
        Inner::TinyFragment,
    ),
    shaped("ipv4 with options in GRE", Carrier::Gre, 0, Inner::Options),
    shaped("ipv6 with headers in GRE", Carrier::Gre, 1, Inner::Headers),
    shaped("ipv4 with options in IP", Carrier::Ip, 0, Inner::Options),
    shaped("ipv6 with headers in IP", Carrier::Ip, 1, Inner::Headers),
    shaped(
        "tiny ipv4 fragment in IP",
        Carrier::Ip,
        0,
        Inner::TinyFragment,
    ),
    shaped(
        "tiny ipv6 fragment in IP",
        Carrier::Ip,
        1,
        Inner::TinyFragment,
    ),
    shaped(
        "ipv4 in IP, cut before its ports",
        Carrier::Ip,
        0,
        Inner::Cut,
    ),
];

impl Carrier {
    /// Whether an ordinary UDP socket can send it.
    pub(crate) fn is_udp(self) -> bool {
        self.port().is_some()
    }

    /// Whether an outer family has it.
    pub(crate) fn is_of(self, family: &str) -> bool {
        self != Self::IpOptions || family == "ipv6"
    }

    fn port(self) -> Option<u16> {
        match self {
            Self::Vxlan | Self::VxlanTagged => Some(VXLAN_PORT),
            Self::Geneve | Self::GeneveOptions(_) | Self::GeneveIp => Some(GENEVE_PORT),
            _ => None,
        }
    }

    /// Wraps an inner packet of a family; gives the outer protocol, and what it carries.
    fn wrap(self, packet: Vec<u8>, family: usize) -> (u8, Vec<u8>) {
        let ethertype: u16 = [0x0800, 0x86dd][family];
        let typed = ethertype.to_be_bytes();
        let frame = |tags: &[u8]| [&[2; 12], tags, &typed, &packet].concat();
        let bytes = match self {
            Self::Vxlan => [&[8, 0, 0, 0, 0, 0, 42, 0], &frame(&[])[..]].concat(),
            Self::VxlanTagged => {
                let [high, low] = VLAN.to_be_bytes();
                [&[8, 0, 0, 0, 0, 0, 42, 0], &frame(&[high, low, 0, 10])[..]].concat()
            }
            Self::Geneve => geneve(0, ETHERNET, &frame(&[])),
            Self::GeneveOptions(size) => geneve(size, ETHERNET, &frame(&[])),
            Self::GeneveIp => geneve(0, ethertype, &packet),
            Self::Gre => [&[0, 0], &typed[..], &packet].concat(),
            Self::GreFull => [&[0xb0, 0], &typed[..], &[0; 12], &packet].concat(),
            Self::GreEthernet => [&[0, 0], &ETHERNET.to_be_bytes()[..], &frame(&[])].concat(),
            Self::Ip => packet,
            Self::IpOptions => [&[[IPIP, IPV6][family], 0, 1, 4, 0, 0, 0, 0], &packet[..]].concat(),
        };
        match (self, self.port()) {
            (_, Some(port)) => (UDP, datagram(port, &bytes)),
            (Self::Ip, None) => ([IPIP, IPV6][family], bytes),
            (Self::IpOptions, None) => (DESTINATION, bytes),
            (_, None) => (GRE, bytes),
        }
    }
}

impl Inside {
    /// Puts a probe into another packet.
    pub(crate) fn shoot(self, probe: &Probe) -> Shot {
        let Self {
            carrier,
            family,
            inner: form,
        } = self;
        let mut inner = *probe;
        inner.source = INNER_SOURCES[family];
        inner.target = INNER_TARGETS[family];
        let is_cut = form == Inner::Cut;
        if is_cut {
            inner = inner.spoofed();
        }
        let (transport, protocol) = (inner.transport(), inner.protocol());
        let packet = match form {
            Inner::Plain | Inner::Cut => inner.packet(protocol, &transport),
            Inner::Options => inner.ipv4(&[1; 40], 0, protocol, &transport),
            Inner::Headers => {
                let (first, headers) = chain(&inner, &[HOP_BY_HOP, ROUTING, DESTINATION], protocol);
                inner.ipv6(first, &[headers, transport.clone()].concat())
            }
            Inner::TinyFragment => fragment(&inner, protocol, &transport, 0..8).packet,
        };
        // Behind its length: its source and the checksum of that.
        let source = mark_at(&packet, 8);
        let (outer, bytes) = carrier.wrap(packet, family);
        if is_cut {
            let cut = |part| fragment(probe, outer, &bytes, part);
            let frames = vec![cut(0..16), cut(16..bytes.len())];
            return Shot {
                frames,
                marks: vec![source],
            };
        }
        Shot {
            frames: vec![frame(probe, probe.packet(outer, &bytes))],
            marks: vec![mark_at(&transport, 0)],
        }
    }
}

/// The payload of a Geneve packet (RFC 8926), with one option of so many bytes if there is one.
fn geneve(options: u8, protocol: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![options / 4, 0];
    bytes.extend(protocol.to_be_bytes());
    bytes.extend([0, 0, 42, 0]);
    let mut left = options;
    while left > 0 {
        // A class for experiments; an option has at most 124 bytes behind its own four.
        let data = (left - 4).min(124);
        bytes.extend([0xff, 0xff, 1, data / 4]);
        bytes.resize(bytes.len() + usize::from(data), 0);
        left -= 4 + data;
    }
    bytes.extend(payload);
    bytes
}

fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let ports = [40_000_u16.to_be_bytes(), port.to_be_bytes()].concat();
    [&ports[..], &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// Sends flows in encapsulations by these paths.
fn send(
    (paths, flows): (Vec<Path>, &[Flow]),
    forms: &[Form],
    stage: &dyn Stage,
    witness: &mut dyn Witness,
    expected: Expected,
) -> Round {
    let mut arms = Arms::of_paths(stage, paths, flows);
    Round::send(&mut arms, stage, witness, expected, forms)
}

/// Sends DNS and everything else in encapsulations, without leakguard and with it, and compares.
fn compare(part: &str, stage: &mut dyn Stage, witness: &mut dyn Witness) {
    let well_formed = FORMS.into_iter().filter(|form| form.shape.is_well_formed());
    let kinds = [
        (&DNS[..], FORMS.to_vec(), Expected::Blocked),
        (&OTHER[..], well_formed.collect(), Expected::Passed),
    ];
    let [without, with] = [false, true].map(|protected| {
        if protected {
            stage.protect();
        }
        kinds.each_ref().map(|(flows, forms, expected)| {
            let paths = stage.paths().into_iter().chain(stage.datagrams());
            let armed = (paths.collect(), *flows);
            send(armed, forms, stage, witness, *expected)
        })
    });
    conclude(part, &without, &with);
}

#[test]
fn no_dns_leaves_an_ethernet_uplink_inside_of_another_packet_and_everything_else_does() {
    let (mut stage, mut wire) = Uplink::new();
    compare("encapsulated-ethernet", &mut stage, &mut wire);
}

#[test]
fn no_dns_leaves_a_tun_uplink_inside_of_another_packet_and_everything_else_does() {
    let (mut stage, mut far_end) = Layer3::new("up0");
    compare("encapsulated-tun", &mut stage, &mut far_end);
}

#[test]
fn every_encapsulation_goes_through_the_tunnel() {
    let (mut stage, mut far_end) = Layer3::new(Bench::TUNNEL);
    let flows = [&DNS[..], &OTHER].concat();
    let [without, with] = [false, true].map(|protected| {
        if protected {
            stage.protect();
        }
        let armed = (stage.paths(), &flows[..]);
        send(armed, &FORMS, &stage, &mut far_end, Expected::Passed)
    });
    conclude("encapsulated-tunnel", &[without], &[with]);
}
