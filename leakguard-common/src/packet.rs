//! A packet parser that reads by named offset through [`PacketBytes`], in the kernel and on the host alike.
//!
//! It finds the ports and says honestly when it cannot; what that means is the verdict's business. Results go
//! into an out-parameter: a `Result` that carries a struct, inlined into a BPF program, made LLVM read a
//! half-initialised register, which the verifier refuses (`R9 !read_ok`, LLVM 22).

use crate::abi::{Carrier, Family};

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// TCP.
    pub const TCP: u8 = 6;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP, ports as in UDP.
    pub const DCCP: u8 = 33;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// Generic routing encapsulation.
    pub const GRE: u8 = 47;
    /// SCTP, ports as in UDP.
    pub const SCTP: u8 = 132;
    /// ICMPv6, which neighbour discovery is a part of.
    pub const ICMPV6: u8 = 58;
    /// UDP-Lite, ports as in UDP.
    pub const UDP_LITE: u8 = 136;

    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HIP: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
}

/// The longest chain of extension headers that is followed; Linux senders make at most a handful.
pub const MAX_EXTENSIONS: u32 = 16;

/// The most VLAN tags in the frame that are followed; further tags in metadata do not count.
pub const MAX_VLAN_TAGS: u32 = 4;

const ETHERNET_LEN: u32 = 14;
const ETHERTYPE: usize = 12;
const VLAN_TAG_LEN: u32 = 4;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

const IPV4_LEN: u32 = 20;
pub(crate) const IPV6_LEN: u32 = 40;
const FRAGMENT_LEN: u32 = 8;
pub(crate) const PORTS_LEN: u32 = 4;

/// Read access to the bytes of one packet.
pub trait PacketBytes {
    /// Copies `N` bytes from `offset` on, or says that they are not all there.
    fn read<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> Result<(), Truncated>;
}

/// Fewer bytes than a header needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

impl PacketBytes for [u8] {
    fn read<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> Result<(), Truncated> {
        let start = usize::try_from(offset).map_err(|_too_far| Truncated)?;
        let bytes = self
            .get(start..)
            .and_then(<[u8]>::first_chunk::<N>)
            .ok_or(Truncated)?;
        *into = *bytes;
        Ok(())
    }
}

/// What the first byte of a packet belongs to; by the device's type, never by `skb->protocol`, which a packet
/// socket's owner chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// An Ethernet frame.
    Ethernet,
    /// An IP header.
    Ip,
    /// Perhaps an IP header: a device type that leakguard does not know.
    Unknown,
}

/// Where a packet stands among the fragments of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// It is the datagram.
    Whole,
    /// It has the ports, and others follow.
    First,
    /// It has no ports.
    Later,
}

/// What the parser found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IPv4 addresses stand in the first four bytes.
    pub source: [u8; 16],
    /// IPv4 addresses stand in the first four bytes.
    pub destination: [u8; 16],
    /// The offset of the transport header.
    pub transport: u32,
    /// Where a first fragment ends by its own account, which is what a receiver goes by; `u32::MAX` of anything else.
    pub end: u32,
    /// What the fragments of a datagram have in common; 0 of what is none.
    pub identification: u32,
    /// In host byte order; 0 without ports.
    pub source_port: u16,
    /// In host byte order; 0 without ports.
    pub destination_port: u16,
    /// The IP protocol number of the transport.
    pub protocol: u8,
    /// The type of an ICMPv6 message; 0, which none has, of anything else.
    pub icmpv6_type: u8,
    /// How many routers it may still pass; only known for IPv6.
    pub hop_limit: u8,
    /// The IP version.
    pub family: Family,
    /// Its place in a fragmented datagram.
    pub fragment: Fragment,
    /// What it was found in ([`crate::encapsulation`]).
    pub carrier: Carrier,
}

impl Packet {
    /// A packet of which nothing is known yet.
    pub const UNKNOWN: Self = Self {
        source: [0; 16],
        destination: [0; 16],
        transport: 0,
        end: u32::MAX,
        identification: 0,
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        icmpv6_type: 0,
        hop_limit: 0,
        family: Family::Unknown,
        fragment: Fragment::Whole,
        carrier: Carrier::None,
    };
}

/// Why a packet could not be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ParseError {
    /// A frame that carries neither IPv4 nor IPv6.
    NotIp,
    /// A header is cut off.
    Truncated,
    /// The version field contradicts the link layer.
    Version,
    /// A header gives itself an impossible length.
    HeaderLength,
    /// More extension headers or VLAN tags than are followed.
    TooDeep,
}

impl From<Truncated> for ParseError {
    #[inline(always)]
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// Finds the transport header and the ports of a packet whose first byte belongs to `link`.
///
/// With [`LinkLayer::Unknown`] the packet is taken for IP if its first bits say so, and is else
/// [`ParseError::NotIp`]; whoever does not know the device asks for [`LinkLayer::Ethernet`] as well.
#[inline(always)]
pub fn parse<B: PacketBytes + ?Sized>(
    bytes: &B,
    link: LinkLayer,
    packet: &mut Packet,
) -> Result<(), ParseError> {
    parse_from(bytes, 0, link, packet)
}

/// As [`parse`], of a packet that starts at an offset.
#[inline(always)]
pub(crate) fn parse_from<B: PacketBytes + ?Sized>(
    bytes: &B,
    start: u32,
    link: LinkLayer,
    packet: &mut Packet,
) -> Result<(), ParseError> {
    let mut network = start;
    let mut expected = Family::Unknown;
    if matches!(link, LinkLayer::Ethernet) {
        parse_ethernet(bytes, &mut network, &mut expected)?;
    }

    let mut first = [0; 1];
    bytes.read(network, &mut first)?;
    match first[0] >> 4 {
        4 if !matches!(expected, Family::Ipv6) => parse_ipv4(bytes, network, packet),
        6 if !matches!(expected, Family::Ipv4) => parse_ipv6(bytes, network, packet),
        _ if matches!(link, LinkLayer::Unknown) => Err(ParseError::NotIp),
        _ => Err(ParseError::Version),
    }
}

#[inline(always)]
fn parse_ethernet<B: PacketBytes + ?Sized>(
    bytes: &B,
    network: &mut u32,
    family: &mut Family,
) -> Result<(), ParseError> {
    let mut header = [0; ETHERNET_LEN as usize];
    bytes.read(*network, &mut header)?;
    let mut ethertype = u16::from_be_bytes([header[ETHERTYPE], header[ETHERTYPE + 1]]);
    let mut offset = *network + ETHERNET_LEN;
    for _ in 0..=MAX_VLAN_TAGS {
        match ethertype {
            ETHERTYPE_IPV4 => *family = Family::Ipv4,
            ETHERTYPE_IPV6 => *family = Family::Ipv6,
            _ if !is_vlan(ethertype) => return Err(ParseError::NotIp),
            _ => {
                let mut tag = [0; VLAN_TAG_LEN as usize];
                bytes.read(offset, &mut tag)?;
                ethertype = u16::from_be_bytes([tag[2], tag[3]]);
                offset += VLAN_TAG_LEN;
                continue;
            }
        }
        *network = offset;
        return Ok(());
    }
    Err(ParseError::TooDeep)
}

#[inline(always)]
fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETHERTYPES_VLAN[0]
        || ethertype == ETHERTYPES_VLAN[1]
        || ethertype == ETHERTYPES_VLAN[2]
}

#[inline(always)]
fn parse_ipv4<B: PacketBytes + ?Sized>(
    bytes: &B,
    network: u32,
    packet: &mut Packet,
) -> Result<(), ParseError> {
    const TOTAL_LENGTH: usize = 2;
    const IDENTIFICATION: usize = 4;
    const FLAGS: usize = 6;
    const PROTOCOL: usize = 9;
    const SOURCE: usize = 12;
    const DESTINATION: usize = 16;

    packet.family = Family::Ipv4;
    let mut header = [0; IPV4_LEN as usize];
    bytes.read(network, &mut header)?;
    packet.source = padded([
        header[SOURCE],
        header[SOURCE + 1],
        header[SOURCE + 2],
        header[SOURCE + 3],
    ]);
    packet.destination = padded([
        header[DESTINATION],
        header[DESTINATION + 1],
        header[DESTINATION + 2],
        header[DESTINATION + 3],
    ]);

    let header_len = u32::from(header[0] & 0x0f) * 4;
    if header_len < IPV4_LEN {
        return Err(ParseError::HeaderLength);
    }
    packet.protocol = header[PROTOCOL];
    packet.transport = network + header_len;
    let flags_and_offset = u16::from_be_bytes([header[FLAGS], header[FLAGS + 1]]);
    if flags_and_offset & 0x3fff != 0 {
        let identification = [header[IDENTIFICATION], header[IDENTIFICATION + 1]];
        packet.identification = u16::from_be_bytes(identification).into();
        packet.fragment = Fragment::First;
    }
    if flags_and_offset & 0x1fff != 0 {
        packet.fragment = Fragment::Later;
        return Ok(());
    }
    let total_length = u16::from_be_bytes([header[TOTAL_LENGTH], header[TOTAL_LENGTH + 1]]);
    parse_upper(bytes, network + u32::from(total_length), packet)
}

#[inline(always)]
fn parse_ipv6<B: PacketBytes + ?Sized>(
    bytes: &B,
    network: u32,
    packet: &mut Packet,
) -> Result<(), ParseError> {
    const PAYLOAD_LENGTH: usize = 4;
    const NEXT_HEADER: usize = 6;
    const HOP_LIMIT: usize = 7;

    packet.family = Family::Ipv6;
    let mut header = [0; IPV6_LEN as usize];
    bytes.read(network, &mut header)?;
    let [_, _, _, _, _, _, _, _, source_and_destination @ ..] = header;
    let mut index = 0;
    while index < 16 {
        packet.source[index] = source_and_destination[index];
        packet.destination[index] = source_and_destination[index + 16];
        index += 1;
    }
    packet.protocol = header[NEXT_HEADER];
    packet.hop_limit = header[HOP_LIMIT];
    packet.transport = network + IPV6_LEN;
    let payload_length = u16::from_be_bytes([header[PAYLOAD_LENGTH], header[PAYLOAD_LENGTH + 1]]);
    let end = packet.transport + u32::from(payload_length);
    parse_upper(bytes, end, packet)
}

/// Follows extension headers from `packet.transport` on, then reads the ports.
///
/// `end` is where the packet ends by its own account. That binds a first fragment alone: a receiver cuts off
/// what lies behind and puts the next fragment there, so what stands behind the end is not what arrives. Whole
/// packets are not held to it, because super-packets of more than 65,535 bytes give their length as 0.
#[inline(always)]
fn parse_upper<B: PacketBytes + ?Sized>(
    bytes: &B,
    end: u32,
    packet: &mut Packet,
) -> Result<(), ParseError> {
    for _ in 0..=MAX_EXTENSIONS {
        if is_extension(packet.protocol, packet.family) {
            let mut header = [0; 8];
            bytes.read(packet.transport, &mut header)?;
            let [next, len, offset_high, offset_low, identification @ ..] = header;
            let header_len = match packet.protocol {
                protocol::FRAGMENT => FRAGMENT_LEN,
                protocol::AUTHENTICATION => (u32::from(len) + 2) * 4,
                _ => (u32::from(len) + 1) * 8,
            };
            let offset_and_flags = u16::from_be_bytes([offset_high, offset_low]);
            let is_fragment =
                packet.protocol == protocol::FRAGMENT && offset_and_flags & 0xfff9 != 0;
            packet.protocol = next;
            packet.transport += header_len;
            if matches!(packet.fragment, Fragment::First) && packet.transport > end {
                return Err(ParseError::Truncated);
            }
            if is_fragment {
                packet.identification = u32::from_be_bytes(identification);
                packet.fragment = Fragment::First;
                if offset_and_flags & 0xfff8 != 0 {
                    packet.fragment = Fragment::Later;
                    return Ok(());
                }
            }
            continue;
        }
        if matches!(packet.fragment, Fragment::First) {
            packet.end = end;
        }
        if has_ports(packet.protocol) {
            if matches!(packet.fragment, Fragment::First) && packet.transport + PORTS_LEN > end {
                return Err(ParseError::Truncated);
            }
            let mut ports = [0; PORTS_LEN as usize];
            bytes.read(packet.transport, &mut ports)?;
            packet.source_port = u16::from_be_bytes([ports[0], ports[1]]);
            packet.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
        } else if packet.protocol == protocol::ICMPV6 {
            let mut first = [0; 1];
            bytes.read(packet.transport, &mut first)?;
            packet.icmpv6_type = first[0];
        }
        return Ok(());
    }
    Err(ParseError::TooDeep)
}

/// Whether a header of this number is followed by another; IPv4 knows only AH of these.
#[inline(always)]
pub(crate) fn is_extension(number: u8, family: Family) -> bool {
    match number {
        protocol::AUTHENTICATION => true,
        protocol::HOP_BY_HOP
        | protocol::ROUTING
        | protocol::FRAGMENT
        | protocol::DESTINATION_OPTIONS
        | protocol::MOBILITY
        | protocol::HIP
        | protocol::SHIM6 => matches!(family, Family::Ipv6),
        _ => false,
    }
}

/// Whether a transport starts with a source and a destination port of 16 bits each.
#[inline(always)]
pub const fn has_ports(number: u8) -> bool {
    matches!(
        number,
        protocol::TCP | protocol::UDP | protocol::DCCP | protocol::SCTP | protocol::UDP_LITE
    )
}

#[inline(always)]
const fn padded(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}
