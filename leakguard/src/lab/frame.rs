use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ETHERNET_HEADER: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV6_HEADER: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The addresses and ports of a captured Ethernet frame.
///
/// It shares no code with the kernel side on purpose: a witness must not err in the same way as
/// what it judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The transport's protocol number; 17 is UDP, 6 is TCP.
    pub protocol: u8,
    /// Port 0 where the packet has none.
    pub source: SocketAddr,
    /// Port 0 where the packet has none.
    pub destination: SocketAddr,
    /// The frame's length in bytes.
    pub length: usize,
}

impl Frame {
    /// Reads an Ethernet frame; `None` for anything but IPv4 and IPv6.
    ///
    /// IPv6 extension headers are not followed: such a packet has its first header's number and no
    /// ports.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let packet = bytes.get(ETHERNET_HEADER..)?;
        let (protocol, source, destination, payload) = match be16(bytes, 12)? {
            ETHERTYPE_IPV4 => {
                let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
                let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
                let header = usize::from(packet.first()? & 0x0f) * 4;
                // Only the first fragment has a transport header.
                let offset = be16(packet, 6)? & 0x1fff;
                let payload = packet
                    .get(header..)
                    .filter(|_| offset == 0)
                    .unwrap_or_default();
                (
                    *packet.get(9)?,
                    IpAddr::from(Ipv4Addr::from(source)),
                    IpAddr::from(Ipv4Addr::from(destination)),
                    payload,
                )
            }
            ETHERTYPE_IPV6 => {
                let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
                let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
                (
                    *packet.get(6)?,
                    IpAddr::from(Ipv6Addr::from(source)),
                    IpAddr::from(Ipv6Addr::from(destination)),
                    packet.get(IPV6_HEADER..)?,
                )
            }
            _ => return None,
        };
        let port = |offset| {
            matches!(protocol, TCP | UDP)
                .then(|| be16(payload, offset))
                .flatten()
                .unwrap_or_default()
        };
        Some(Self {
            protocol,
            source: SocketAddr::new(source, port(0)),
            destination: SocketAddr::new(destination, port(2)),
            length: bytes.len(),
        })
    }

    /// Whether it is UDP.
    pub fn is_udp(&self) -> bool {
        self.protocol == UDP
    }

    /// Whether it is TCP.
    pub fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// Whether either end has this port.
    pub fn has_port(&self, port: u16) -> bool {
        self.source.port() == port || self.destination.port() == port
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            source,
            destination,
            length,
        } = self;
        write!(f, "{source} > {destination} ")?;
        match *protocol {
            TCP => f.write_str("tcp")?,
            UDP => f.write_str("udp")?,
            other => write!(f, "protocol {other}")?,
        }
        write!(f, ", {length} bytes")
    }
}

/// Whether the bytes contain a domain name in the form DNS sends it, upper or lower case.
///
/// It finds the name behind any header, in a fragment or in a stream, but not in what is encrypted.
pub fn carries_name(bytes: &[u8], name: &str) -> bool {
    let mut wire = Vec::with_capacity(name.len() + 1);
    for label in name.trim_end_matches('.').split('.') {
        wire.extend(u8::try_from(label.len()));
        wire.extend_from_slice(label.as_bytes());
    }
    bytes
        .windows(wire.len())
        .any(|window| window.eq_ignore_ascii_case(&wire))
}

fn be16(bytes: &[u8], offset: usize) -> Option<u16> {
    let pair = bytes.get(offset..offset + 2)?;
    Some(u16::from_be_bytes(pair.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[0; 12], ethertype.to_be_bytes().as_slice(), packet].concat()
    }

    fn ipv4_udp() -> Vec<u8> {
        let header = [
            0x46, 0, 0, 36, 0, 0, 0, 0, 64, UDP, 0, 0, 192, 0, 2, 1, 198, 51, 100, 53, 1, 1, 1, 1,
        ];
        let udp = [0x9c, 0x40, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
        ethernet(ETHERTYPE_IPV4, &[&header[..], &udp].concat())
    }

    #[test]
    fn reads_ipv4_behind_options() {
        let frame = Frame::parse(&ipv4_udp()).unwrap();
        assert!(frame.is_udp() && frame.has_port(53));
        assert_eq!(
            frame.to_string(),
            "192.0.2.1:40000 > 198.51.100.53:53 udp, 50 bytes"
        );
    }

    #[test]
    fn later_fragments_have_no_ports() {
        let mut bytes = ipv4_udp();
        bytes[ETHERNET_HEADER + 7] = 1;
        let frame = Frame::parse(&bytes).unwrap();
        assert_eq!((frame.source.port(), frame.destination.port()), (0, 0));
    }

    #[test]
    fn reads_ipv6_tcp() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 4, TCP, 64];
        packet.extend(Ipv6Addr::LOCALHOST.octets());
        packet.extend("2001:db8::53".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend([0x9c, 0x40, 0, 53]);
        let frame = Frame::parse(&ethernet(ETHERTYPE_IPV6, &packet)).unwrap();
        assert!(frame.is_tcp());
        assert_eq!(frame.destination, "[2001:db8::53]:53".parse().unwrap());
    }

    #[test]
    fn truncation_never_panics() {
        let bytes = ipv4_udp();
        for end in 0..bytes.len() {
            assert!(Frame::parse(&bytes[..end]).is_none_or(|frame| frame.length == end));
        }
    }

    #[test]
    fn finds_names_in_wire_form() {
        let bytes = b"..\x03WHO\x03lab\x04test\0";
        assert!(carries_name(bytes, "who.lab.test."));
        assert!(!carries_name(bytes, "www.lab.test"));
        assert!(!carries_name(b"", "who.lab.test"));
    }
}
