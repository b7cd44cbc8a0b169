//! How a packet is given its form: what stands around its ports, and how it is cut.

use std::iter;

use leakguard_tests::Mark;

use crate::encapsulated::{Inner, Inside};
use crate::probe::{Probe, mark_at};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AH: u8 = 51;
pub(crate) const DESTINATION: u8 = 60;
pub(crate) const MOBILITY: u8 = 135;
pub(crate) const HIP: u8 = 139;
pub(crate) const SHIM6: u8 = 140;

/// Stands for the version of the family that the frame does not announce.
pub(crate) const OTHER_VERSION: u8 = 0xff;

/// Where an IPv4 packet says that more fragments follow.
const MORE: u16 = 0x2000;

/// What goes to a link: tags, a type and an IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) tags: &'static [u16],
    pub(crate) ethertype: u16,
    pub(crate) packet: Vec<u8>,
}

/// A probe in its form.
#[derive(Debug)]
pub(crate) struct Shot {
    pub(crate) frames: Vec<Frame>,
    /// First that of the packet which has the ports, or is malformed; then those of the fragments behind it.
    pub(crate) marks: Vec<Mark>,
}

/// In which order fragments are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Forward,
    Reversed,
    /// The second fragment covers the end of the first once more.
    Overlapping,
    /// In front comes a first fragment with other ports.
    AfterAnother,
    /// Behind comes a first fragment with other ports.
    BeforeAnother,
}

/// How a packet is formed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    Plain,
    /// IPv4 options.
    Options(&'static [u8]),
    /// Headers between the IP header and the transport's.
    Chain(&'static [u8]),
    /// Fragments, the first of them with so much of what follows the headers before it.
    Fragments(usize, Order, &'static [u8]),
    /// What stands behind such a first fragment, without it.
    Rest(usize),
    /// A first fragment which ends before the ports.
    NoPorts(&'static [u8]),
    /// A first fragment of so many bytes.
    Short(usize),
    /// VLAN tags in the frame, by their types. On the way over a bridge, the first one is moved into metadata.
    Tags(&'static [u16]),
    /// An IP packet of which only so many bytes are there.
    Cut(usize),
    /// The first byte of the IP header, whatever it should be.
    FirstByte(u8),
    /// Inside of another packet.
    Inside(Inside),
}

/// What a way out takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// Any frame.
    Ethernet,
    /// Any bytes, which are taken for an IP packet.
    Ip,
    /// IP packets that the host's IP layer has taken.
    Routed,
    /// The payload of a UDP socket.
    Payload,
}

impl Shape {
    /// Whether a family has it.
    pub(crate) fn is_of(self, family: &str) -> bool {
        match self {
            Self::Inside(inside) => inside.carrier.is_of(family),
            Self::Options(_) | Self::FirstByte(0x40..=0x44) => family == "ipv4",
            Self::Chain(headers) | Self::NoPorts(headers) | Self::Fragments(_, _, headers) => {
                family == "ipv6" || headers.iter().all(|header| *header == AH)
            }
            _ => true,
        }
    }

    /// Whether it can be sent that way. An IP layer refuses broken headers, and without frames there are no tags; nor
    /// is there anything that a version can contradict.
    pub(crate) fn fits(self, layer: Layer) -> bool {
        match self {
            Self::Inside(inside) => layer != Layer::Payload || inside.carrier.is_udp(),
            Self::Tags(_) | Self::FirstByte(OTHER_VERSION) => layer == Layer::Ethernet,
            Self::Cut(_) | Self::FirstByte(_) => layer != Layer::Routed,
            _ => layer != Layer::Payload,
        }
    }

    /// Whether the ports are in it, or should be.
    pub(crate) fn has_ports(self) -> bool {
        !matches!(self, Self::Rest(_))
    }

    /// Whether it can be judged; what cannot is dropped whatever its ports are.
    pub(crate) fn is_well_formed(self) -> bool {
        match self {
            Self::Chain(headers) => headers.len() <= 16,
            Self::Tags(tags) => tags.len() <= 4,
            Self::Inside(inside) => inside.inner != Inner::Cut,
            Self::NoPorts(_) | Self::Short(_) | Self::Cut(_) | Self::FirstByte(_) => false,
            _ => true,
        }
    }

    /// Gives a probe this form.
    pub(crate) fn shoot(self, probe: &Probe) -> Shot {
        let transport = probe.transport();
        let protocol = probe.protocol();
        let ports = mark_at(&transport, 0);
        match self {
            Self::Plain => one(probe, probe.packet(protocol, &transport), ports),
            Self::Options(options) => {
                one(probe, probe.ipv4(options, 0, protocol, &transport), ports)
            }
            Self::Chain(headers) => {
                let (first, bytes) = chain(probe, headers, protocol);
                one(
                    probe,
                    probe.packet(first, &[bytes, transport].concat()),
                    ports,
                )
            }
            Self::Fragments(size, order, headers) => fragments(probe, size, order, headers),
            Self::Rest(size) => {
                let rest = fragment(probe, protocol, &transport, size..transport.len());
                shot(vec![rest], vec![probe.tail_mark()])
            }
            Self::NoPorts(headers) => {
                let (first, bytes) = chain(probe, headers, protocol);
                let whole = [&bytes[..], &transport].concat();
                let frames = vec![
                    fragment(probe, first, &whole, 0..bytes.len()),
                    fragment(probe, first, &whole, bytes.len()..whole.len()),
                ];
                shot(
                    frames,
                    vec![mark_at(&bytes, bytes.len() - size_of::<Mark>())],
                )
            }
            Self::Short(size) => {
                let probe = probe.spoofed();
                let frames = vec![fragment(&probe, protocol, &transport, 0..size)];
                shot(frames, vec![probe.source_mark()])
            }
            Self::Inside(inside) => inside.shoot(probe),
            Self::Tags(tags) => {
                let mut shot = one(probe, probe.packet(protocol, &transport), ports);
                shot.frames[0].tags = tags;
                shot
            }
            Self::Cut(size) => {
                let probe = probe.spoofed();
                let mut packet = probe.packet(protocol, &transport);
                packet.truncate(packet.len() - transport.len() + size);
                one(&probe, packet, probe.source_mark())
            }
            Self::FirstByte(byte) => {
                let mut packet = probe.packet(protocol, &transport);
                packet[0] = match byte {
                    OTHER_VERSION => packet[0] ^ 0x20,
                    byte => byte,
                };
                one(probe, packet, ports)
            }
        }
    }
}

fn shot(frames: Vec<Frame>, marks: Vec<Mark>) -> Shot {
    Shot { frames, marks }
}

fn one(probe: &Probe, packet: Vec<u8>, mark: Mark) -> Shot {
    shot(vec![frame(probe, packet)], vec![mark])
}

/// An IP packet in a frame of its family.
pub(crate) fn frame(probe: &Probe, packet: Vec<u8>) -> Frame {
    Frame {
        tags: &[],
        ethertype: if probe.source.is_ipv6() {
            ETHERTYPE_IPV6
        } else {
            ETHERTYPE_IPV4
        },
        packet,
    }
}

fn fragments(probe: &Probe, size: usize, order: Order, headers: &[u8]) -> Shot {
    let (first, bytes) = chain(probe, headers, probe.protocol());
    let transport = probe.transport();
    let cut = bytes.len() + size;
    let whole = [bytes, transport.clone()].concat();
    let head = fragment(probe, first, &whole, 0..cut);
    let overlap = if order == Order::Overlapping { 8 } else { 0 };
    let rest = fragment(probe, first, &whole, cut - overlap..whole.len());
    let mut marks = vec![mark_at(&transport, 0), probe.tail_mark()];

    let mut other = *probe;
    // Discard: nobody's DNS.
    other.flow.port = 9;
    let (_, mut other_bytes) = chain(&other, headers, probe.protocol());
    other_bytes.extend(other.transport());
    let other_head = fragment(&other, first, &other_bytes, 0..cut);
    // Without ports, the other one is the same.
    let other_mark = mark_at(&other.transport(), 0);
    if matches!(order, Order::AfterAnother | Order::BeforeAnother) && other_mark != marks[0] {
        marks.push(other_mark);
    }
    let frames = match order {
        Order::Forward | Order::Overlapping => vec![head, rest],
        Order::Reversed => vec![rest, head],
        Order::AfterAnother => vec![other_head, head, rest],
        Order::BeforeAnother => vec![head, other_head, rest],
    };
    shot(frames, marks)
}

/// A part of what follows the IP header; the last part ends where the whole does.
pub(crate) fn fragment(
    probe: &Probe,
    first: u8,
    whole: &[u8],
    part: std::ops::Range<usize>,
) -> Frame {
    let more = part.end < whole.len();
    let offset = part.start;
    let packet = if probe.source.is_ipv6() {
        let header = probe.fragment_header(first, offset, more);
        probe.ipv6(FRAGMENT, &[&header, &whole[part]].concat())
    } else {
        let flags = if more { MORE } else { 0 };
        let fragment = flags | u16::try_from(offset / 8).unwrap();
        probe.ipv4(&[], fragment, first, &whole[part])
    };
    frame(probe, packet)
}

/// Headers in a row, and the number of the first.
pub(crate) fn chain(probe: &Probe, headers: &[u8], last: u8) -> (u8, Vec<u8>) {
    let numbers: Vec<u8> = headers.iter().copied().chain(iter::once(last)).collect();
    let bytes = numbers
        .windows(2)
        .flat_map(|pair| header(probe, pair[0], pair[1]))
        .collect();
    (numbers[0], bytes)
}

/// A header of the least form that its specification has. Those of AH and of destination options end with a mark.
fn header(probe: &Probe, number: u8, next: u8) -> Vec<u8> {
    let (length, size) = match number {
        // A segment list with one entry.
        ROUTING => (2, 24),
        // A check value of 96 bits.
        AH => (4, 24),
        HIP => (4, 40),
        _ => (0, 8),
    };
    let mut bytes = vec![0; size];
    bytes[0] = next;
    bytes[1] = length;
    match number {
        // One option, which pads. Every router looks into the first of these headers, nobody into the second.
        HOP_BY_HOP => bytes[2..4].copy_from_slice(&[1, 4]),
        DESTINATION => {
            bytes[2..4].copy_from_slice(&[1, 4]);
            bytes[4..].copy_from_slice(&probe.number());
        }
        AH => {
            bytes[16..20].copy_from_slice(b"lgAH");
            bytes[20..].copy_from_slice(&probe.number());
        }
        // Segment routing, none left.
        ROUTING => bytes[2] = 4,
        FRAGMENT => return probe.fragment_header(next, 0, false).to_vec(),
        MOBILITY | HIP | SHIM6 => {}
        other => unreachable!("no extension header {other}"),
    }
    bytes
}
