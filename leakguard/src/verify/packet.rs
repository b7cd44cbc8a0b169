//! Whole packets, for sockets that want them.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;

use super::canary::{Canary, Transport};

/// Where a TCP segment in the middle of a connection stands.
const SEQUENCE: u32 = 0x6c67_0001;
const WINDOW: u16 = 64_240;

/// Bytes of the first fragment behind the IP header: the UDP header and the question's name.
const FIRST_FRAGMENT: usize = 64;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// `IPPROTO_FRAGMENT`.
const IPV6_FRAGMENT: u8 = 44;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// The packet of a canary from an address; `None` if the families differ.
pub(super) fn whole(canary: &Canary, source: IpAddr, port: u16, hops: u8) -> Option<Vec<u8>> {
    let destination = canary.destination;
    let builder = match (source, destination) {
        (IpAddr::V4(source), SocketAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.ip().octets(), hops)
        }
        (IpAddr::V6(source), SocketAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.ip().octets(), hops)
        }
        _ => return None,
    };
    let payload = canary.payload();
    let mut packet = Vec::new();
    let written = match canary.transport {
        Transport::Udp => builder
            .udp(port, destination.port())
            .write(&mut packet, &payload),
        Transport::Tcp => {
            let segment = builder.tcp(port, destination.port(), SEQUENCE, WINDOW);
            if canary.hello.is_some() {
                segment.ack(1).psh().write(&mut packet, &payload)
            } else {
                segment.syn().write(&mut packet, &payload)
            }
        }
    };
    written.is_ok().then_some(packet)
}

/// The packet in two fragments.
pub(super) fn fragments(packet: &[u8], id: u16) -> Option<[Vec<u8>; 2]> {
    let header = if packet.first()? >> 4 == 4 {
        IPV4_HEADER
    } else {
        IPV6_HEADER
    };
    let (head, body) = packet.split_at_checked(header)?;
    let (first, second) = body.split_at_checked(FIRST_FRAGMENT)?;
    let fragment = |offset: usize, more: bool, part: &[u8]| {
        let offset = u16::try_from(offset / 8).ok()?;
        let mut head = head.to_vec();
        if header == IPV4_HEADER {
            // The kernel fills in the length and the checksum of what a raw socket sends.
            head.get_mut(4..6)?.copy_from_slice(&id.to_be_bytes());
            let field = offset | if more { 0x2000 } else { 0 };
            head.get_mut(6..8)?.copy_from_slice(&field.to_be_bytes());
        } else {
            let next = std::mem::replace(head.get_mut(6)?, IPV6_FRAGMENT);
            let length = u16::try_from(part.len() + 8).ok()?;
            head.get_mut(4..6)?.copy_from_slice(&length.to_be_bytes());
            let field = offset << 3 | u16::from(more);
            head.extend([next, 0]);
            head.extend(field.to_be_bytes());
            head.extend([0, 0]);
            head.extend(id.to_be_bytes());
        }
        head.extend_from_slice(part);
        Some(head)
    };
    Some([
        fragment(0, true, first)?,
        fragment(FIRST_FRAGMENT, false, second)?,
    ])
}

/// The ports of a TCP segment behind an IP header without extensions, and where it goes.
pub(super) fn tcp_ports(packet: &[u8]) -> Option<(u16, SocketAddr)> {
    let (ip, header, protocol) = match packet.first()? >> 4 {
        4 => {
            let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            let header = usize::from(packet.first()? & 0xf) * 4;
            (IpAddr::from(address), header, *packet.get(9)?)
        }
        6 => {
            let address: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (IpAddr::from(address), IPV6_HEADER, *packet.get(6)?)
        }
        _ => return None,
    };
    if protocol != TCP {
        return None;
    }
    let port = |offset: usize| {
        let bytes: [u8; 2] = packet
            .get(header + offset..header + offset + 2)?
            .try_into()
            .ok()?;
        Some(u16::from_be_bytes(bytes))
    };
    Some((port(0)?, SocketAddr::new(ip, port(2)?)))
}

#[cfg(test)]
mod tests {
    use leakguard_common::abi::Class;

    use super::*;
    use crate::verify::canary::{Known, Labels, Way};

    #[test]
    fn fragments_of_either_family_each_carry_the_label_and_make_up_the_packet() {
        let mut labels = Labels::new("lgv-00");
        let canaries = labels.canaries(&[Way::Fragments], &[Class::Dns], &[], &Known::default());
        assert_eq!(canaries.len(), 2);
        for canary in canaries {
            let source: IpAddr = match canary.destination.ip() {
                IpAddr::V4(_) => [192, 0, 2, 1].into(),
                IpAddr::V6(_) => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
            };
            let packet = whole(&canary, source, 4711, 1).unwrap();
            let parts = fragments(&packet, 7).unwrap();
            let (header, extra) = if source.is_ipv4() { (20, 0) } else { (40, 8) };
            let body: Vec<u8> = parts
                .iter()
                .flat_map(|part| &part[header + extra..])
                .copied()
                .collect();
            assert_eq!(body, packet[header..]);
            for part in &parts {
                let label = canary.label.as_bytes();
                assert!(part.windows(label.len()).any(|window| window == label));
            }
        }
    }

    #[test]
    fn the_ports_of_a_segment_are_read_back() {
        let mut labels = Labels::new("lgv-00");
        for canary in labels.canaries(&[Way::Raw], &[Class::Dot], &[], &Known::default()) {
            let source: IpAddr = match canary.destination.ip() {
                IpAddr::V4(_) => [192, 0, 2, 1].into(),
                IpAddr::V6(_) => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
            };
            let packet = whole(&canary, source, 4711, 1).unwrap();
            assert_eq!(tcp_ports(&packet), Some((4711, canary.destination)));
            for end in 0..packet.len() {
                tcp_ports(&packet[..end]);
            }
        }
    }
}
