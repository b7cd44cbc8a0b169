//! Packets as programs see them.

use anyhow::Result;
use etherparse::{Ethernet2Header, IpNumber, PacketBuilder, PacketBuilderStep};

/// One kind of packet, as an Ethernet frame.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) frame: Vec<u8>,
    /// Whether leakguard drops it on an uplink.
    pub(super) dropped: bool,
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST_V4: [u8; 4] = [192, 168, 77, 10];
const FAR_V4: [u8; 4] = [198, 51, 100, 7];
const HOST_V6: [u8; 16] = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const FAR_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

/// A question for `example.com`.
const QUESTION: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";

fn v4() -> PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(MAC, MAC).ipv4(HOST_V4, FAR_V4, 64)
}

fn v6() -> PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(MAC, MAC).ipv6(HOST_V6, FAR_V6, 64)
}

fn udp(
    step: PacketBuilderStep<etherparse::IpHeaders>,
    port: u16,
    payload: &[u8],
) -> Result<Vec<u8>> {
    let step = step.udp(40_000, port);
    let mut frame = Vec::with_capacity(step.size(payload.len()));
    step.write(&mut frame, payload)?;
    Ok(frame)
}

fn tcp(
    step: PacketBuilderStep<etherparse::IpHeaders>,
    port: u16,
    payload: &[u8],
) -> Result<Vec<u8>> {
    let step = step.tcp(40_000, port, 1, 65_000).ack(1);
    let mut frame = Vec::with_capacity(step.size(payload.len()));
    step.write(&mut frame, payload)?;
    Ok(frame)
}

/// A frame whose IPv6 header is followed by hop-by-hop and destination options, and then UDP.
fn extended(port: u16) -> Result<Vec<u8>> {
    const DESTINATION_OPTIONS: u8 = 60;

    let plain = udp(v6(), port, &[0; 64])?;
    let (link, rest) = plain.split_at(Ethernet2Header::LEN);
    let (head, transport) = rest.split_at(40);
    let mut frame = [link, head].concat();
    let padding = [1, 4, 0, 0, 0, 0];
    frame.extend([DESTINATION_OPTIONS, 0]);
    frame.extend(padding);
    frame.extend([IpNumber::UDP.0, 0]);
    frame.extend(padding);
    frame.extend(transport);
    let next_header = link.len() + 6;
    frame[next_header] = IpNumber::IPV6_HEADER_HOP_BY_HOP.0;
    let length = u16::try_from(frame.len() - link.len() - 40)?;
    frame[next_header - 2..next_header].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// A later fragment of UDP.
fn fragment() -> Result<Vec<u8>> {
    let mut frame = udp(v4(), 4_000, &[0; 64])?;
    let offset = Ethernet2Header::LEN + 6;
    frame[offset..offset + 2].copy_from_slice(&185_u16.to_be_bytes());
    Ok(frame)
}

/// The kinds that every program is measured with.
pub(super) fn kinds() -> Result<Vec<Kind>> {
    let kind = |name, frame, dropped| Kind {
        name,
        frame,
        dropped,
    };
    Ok(vec![
        kind("UDP, IPv4", udp(v4(), 4_000, &[0; 64])?, false),
        kind("UDP, IPv6", udp(v6(), 4_000, &[0; 64])?, false),
        kind("TCP ack, IPv4", tcp(v4(), 8_080, &[])?, false),
        kind("TCP ack to port 443, IPv4", tcp(v4(), 443, &[])?, false),
        kind(
            "TCP data to port 443, IPv4",
            tcp(v4(), 443, &[0x17; 1_400])?,
            false,
        ),
        kind("TCP ack to port 443, IPv6", tcp(v6(), 443, &[])?, false),
        kind("QUIC, IPv4", udp(v4(), 443, &[0x40; 1_200])?, false),
        kind("ICMP echo, IPv4", echo()?, false),
        kind(
            "UDP, IPv6 with two extension headers",
            extended(4_000)?,
            false,
        ),
        kind("DNS dropped, IPv4", udp(v4(), 53, QUESTION)?, true),
        kind("DNS dropped, IPv6", udp(v6(), 53, QUESTION)?, true),
    ])
}

/// What is judged at a device only: a later fragment, which local sockets do not send.
pub(super) fn on_a_wire() -> Result<Kind> {
    Ok(Kind {
        name: "later fragment, IPv4",
        frame: fragment()?,
        dropped: false,
    })
}

fn echo() -> Result<Vec<u8>> {
    let step = PacketBuilder::ethernet2(MAC, MAC)
        .ipv4(HOST_V4, FAR_V4, 64)
        .icmpv4_echo_request(1, 1);
    let mut frame = Vec::with_capacity(step.size(56));
    step.write(&mut frame, &[0; 56])?;
    Ok(frame)
}
