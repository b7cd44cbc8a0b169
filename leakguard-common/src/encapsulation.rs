//! Packets in packets: what the next hop, or whoever it passes them on to, unpacks without a key.
//!
//! One level deep. What a kernel device of this host makes is also judged at that device, before it is packed.

use crate::abi::Carrier;
use crate::packet::{Fragment, LinkLayer, Packet, PacketBytes, ParseError, parse_from, protocol};

/// Where VXLAN receivers listen (IANA), and where Linux's did before there was a number.
const PORT_VXLAN: u16 = 4789;
const PORT_VXLAN_LINUX: u16 = 8472;
const PORT_GENEVE: u16 = 6081;

const UDP_LEN: u32 = 8;
const PORTS_LEN: u32 = 4;

/// How much of a carrier a first fragment has to hold: UDP's header, the longest of Geneve, a frame with tags. Real ones hold
/// more than 500 bytes.
const SHORTEST: u32 = 8 + 260 + 34;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// An Ethernet frame, in GRE and in Geneve.
const ETHERTYPE_FRAME: u16 = 0x6558;

/// Whether a protocol carries IP packets as they are.
#[inline(always)]
pub const fn is_carrier_protocol(number: u8) -> bool {
    matches!(number, protocol::IPV4 | protocol::IPV6 | protocol::GRE)
}

/// Whether packets to a UDP port may carry Ethernet frames.
#[inline(always)]
pub const fn is_carrier_port(port: u16) -> bool {
    matches!(port, PORT_VXLAN | PORT_VXLAN_LINUX | PORT_GENEVE)
}

/// Whether a packet may carry another.
#[inline(always)]
pub fn may_carry(packet: &Packet) -> bool {
    is_carrier_protocol(packet.protocol)
        || packet.protocol == protocol::UDP && is_carrier_port(packet.destination_port)
}

/// Where a packet in a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// The offset of its first byte.
    pub start: u32,
    /// The offset of the first byte that is not part of it: `u32::MAX` unless the outer one is a first fragment.
    pub end: u32,
    /// What it starts with.
    pub link: LinkLayer,
    /// What it is in.
    pub carrier: Carrier,
}

impl Inner {
    /// Not known yet.
    pub const UNKNOWN: Self = Self {
        start: 0,
        end: u32::MAX,
        link: LinkLayer::Ip,
        carrier: Carrier::None,
    };
}

/// Finds the packet in a packet for which [`may_carry`] says yes; [`ParseError::NotIp`] if there is none.
#[inline(always)]
pub fn find_inner<B: PacketBytes + ?Sized>(
    bytes: &B,
    outer: &Packet,
    inner: &mut Inner,
) -> Result<(), ParseError> {
    inner.start = outer.transport;
    inner.end = outer.end;
    if matches!(outer.fragment, Fragment::First) && inner.start + SHORTEST > inner.end {
        return Err(ParseError::Truncated);
    }
    match outer.protocol {
        protocol::GRE => {
            inner.carrier = Carrier::Gre;
            skip_gre(bytes, inner)
        }
        protocol::UDP if outer.destination_port == PORT_GENEVE => {
            inner.carrier = Carrier::Geneve;
            inner.start += UDP_LEN;
            skip_geneve(bytes, inner)
        }
        protocol::UDP => {
            inner.carrier = Carrier::Vxlan;
            inner.start += UDP_LEN;
            skip_vxlan(bytes, inner)
        }
        _ => {
            inner.carrier = Carrier::Ip;
            Ok(())
        }
    }
}

/// Parses the packet in a packet.
#[inline(always)]
pub fn parse_inner<B: PacketBytes + ?Sized>(
    bytes: &B,
    inner: &Inner,
    packet: &mut Packet,
) -> Result<(), ParseError> {
    packet.carrier = inner.carrier;
    parse_from(bytes, inner.start, inner.link, packet)?;
    // Of a first fragment, what lies behind its end is not what arrives. Compared only then: the verifier would tell each
    // way through the parser apart by what it has found.
    if inner.end != u32::MAX && packet.transport + PORTS_LEN > inner.end {
        return Err(ParseError::Truncated);
    }
    Ok(())
}

/// RFC 2784 and 2890; PPTP's version 1 carries PPP, which is left alone.
#[inline(always)]
fn skip_gre<B: PacketBytes + ?Sized>(bytes: &B, inner: &mut Inner) -> Result<(), ParseError> {
    const CHECKSUM: u8 = 0x80;
    const KEY: u8 = 0x20;
    const SEQUENCE: u8 = 0x10;
    const VERSION: u8 = 0x07;

    let mut header = [0; 4];
    bytes.read(inner.start, &mut header)?;
    let [flags, version, high, low] = header;
    if version & VERSION != 0 {
        return Err(ParseError::NotIp);
    }
    let options = (flags & (CHECKSUM | KEY | SEQUENCE)).count_ones();
    inner.start += 4 + 4 * options;
    inner.link = link_of(u16::from_be_bytes([high, low]))?;
    Ok(())
}

/// RFC 8926.
#[inline(always)]
fn skip_geneve<B: PacketBytes + ?Sized>(bytes: &B, inner: &mut Inner) -> Result<(), ParseError> {
    let mut header = [0; 4];
    bytes.read(inner.start, &mut header)?;
    let [version_and_length, _, high, low] = header;
    if version_and_length >> 6 != 0 {
        return Err(ParseError::NotIp);
    }
    inner.start += 8 + u32::from(version_and_length & 0x3f) * 4;
    inner.link = link_of(u16::from_be_bytes([high, low]))?;
    Ok(())
}

/// RFC 7348.
#[inline(always)]
fn skip_vxlan<B: PacketBytes + ?Sized>(bytes: &B, inner: &mut Inner) -> Result<(), ParseError> {
    /// Without it a receiver drops the packet (`vxlan_rcv`, 6.18).
    const HAS_NETWORK: u8 = 0x08;

    let mut flags = [0; 1];
    bytes.read(inner.start, &mut flags)?;
    if flags[0] & HAS_NETWORK == 0 {
        return Err(ParseError::NotIp);
    }
    inner.start += 8;
    inner.link = LinkLayer::Ethernet;
    Ok(())
}

#[inline(always)]
fn link_of(ethertype: u16) -> Result<LinkLayer, ParseError> {
    match ethertype {
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Ok(LinkLayer::Ip),
        ETHERTYPE_FRAME => Ok(LinkLayer::Ethernet),
        _ => Err(ParseError::NotIp),
    }
}
