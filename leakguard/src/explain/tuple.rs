//! A packet that nobody has sent: named by protocol, source and destination.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::PacketBuilder;
use leakguard_common::packet::{has_ports, protocol};

/// What a source that is not named has for its port: the first of the range that Linux takes ports from.
const EPHEMERAL: u16 = 32_768;

/// The hop limit that Linux gives.
const HOPS: u8 = 64;

const ICMP: u8 = 1;

/// Why words do not name a packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TupleError {
    /// The first word.
    #[error(
        "`{word}` is no protocol; write udp, tcp, udplite, sctp, dccp, icmp, icmpv6 or a number up to 255"
    )]
    Protocol {
        /// What was written.
        word: String,
    },
    /// An address that should have a port.
    #[error("`{word}` is no address with a port; write it as in 8.8.8.8:53 or [2001:db8::53]:53")]
    Port {
        /// What was written.
        word: String,
    },
    /// An address that should have none.
    #[error(
        "`{word}` is no address; {protocol} has no ports, so write it as in 8.8.8.8 or 2001:db8::53"
    )]
    Address {
        /// What was written.
        word: String,
        /// The protocol.
        protocol: String,
    },
    /// IPv4 and IPv6 in one packet.
    #[error("source and destination are not of one IP version, or the protocol is of the other")]
    Mixed,
    /// Too few words, or too many.
    #[error("a packet is named by PROTOCOL [SOURCE] DESTINATION, as in: udp 8.8.8.8:53")]
    Words,
}

/// A packet by its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    protocol: u8,
    source: Option<SocketAddr>,
    destination: SocketAddr,
}

impl Tuple {
    /// Reads `PROTOCOL [SOURCE] DESTINATION`.
    pub fn parse(words: &[String]) -> Result<Self, TupleError> {
        let (name, source, destination) = match words {
            [name, destination] => (name, None, destination),
            [name, source, destination] => (name, Some(source), destination),
            _ => return Err(TupleError::Words),
        };
        let protocol = number(name)?;
        let read = |word: &String| endpoint(word, protocol, name);
        let source = source.map(read).transpose()?;
        let destination = read(destination)?;
        let is_v6 = destination.is_ipv6();
        if source.is_some_and(|source| source.is_ipv6() != is_v6)
            || (protocol == ICMP && is_v6)
            || (protocol == protocol::ICMPV6 && !is_v6)
        {
            return Err(TupleError::Mixed);
        }
        Ok(Self {
            protocol,
            source,
            destination,
        })
    }

    /// Where it goes.
    pub fn destination(&self) -> IpAddr {
        self.destination.ip()
    }

    /// The IP packet; `local` is the address of a source that is not named.
    pub fn packet(&self, local: Option<IpAddr>) -> Vec<u8> {
        let Self {
            protocol,
            source,
            destination,
        } = *self;
        let unspecified = match destination {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = local.filter(|local| local.is_ipv6() == destination.is_ipv6());
        let source =
            source.unwrap_or_else(|| SocketAddr::new(local.unwrap_or(unspecified), EPHEMERAL));
        let ip = match (source.ip(), destination.ip()) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                PacketBuilder::ipv6(from.octets(), to.octets(), HOPS)
            }
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                PacketBuilder::ipv4(from.octets(), to.octets(), HOPS)
            }
            // `parse` has seen to it that they are of one version.
            _ => return Vec::new(),
        };
        let (from, to) = (source.port(), destination.port());
        let mut bytes = Vec::new();
        let written = match protocol {
            protocol::UDP => ip.udp(from, to).write(&mut bytes, &[]),
            protocol::TCP => ip.tcp(from, to, 0, u16::MAX).syn().write(&mut bytes, &[]),
            ICMP => ip.icmpv4_echo_request(0, 0).write(&mut bytes, &[]),
            protocol::ICMPV6 => ip.icmpv6_echo_request(0, 0).write(&mut bytes, &[]),
            other => {
                // Ports stand first wherever there are any; the rest is room for a header.
                let mut header = [0; 16];
                if has_ports(other) {
                    header[..2].copy_from_slice(&from.to_be_bytes());
                    header[2..4].copy_from_slice(&to.to_be_bytes());
                }
                ip.write(&mut bytes, other.into(), &header)
            }
        };
        // Memory takes everything, and nothing here is too long.
        written.map_or_else(|_| Vec::new(), |()| bytes)
    }
}

fn number(name: &str) -> Result<u8, TupleError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "udp" => protocol::UDP,
        "tcp" => protocol::TCP,
        "udplite" => protocol::UDP_LITE,
        "sctp" => protocol::SCTP,
        "dccp" => protocol::DCCP,
        "icmp" => ICMP,
        "icmpv6" => protocol::ICMPV6,
        other => other.parse().or(Err(TupleError::Protocol {
            word: name.to_owned(),
        }))?,
    })
}

fn endpoint(word: &str, protocol: u8, name: &str) -> Result<SocketAddr, TupleError> {
    let word_of = || word.to_owned();
    if has_ports(protocol) {
        return word.parse().or(Err(TupleError::Port { word: word_of() }));
    }
    word.parse()
        .map(|address: IpAddr| SocketAddr::new(address, 0))
        .or(Err(TupleError::Address {
            word: word_of(),
            protocol: name.to_owned(),
        }))
}

#[cfg(test)]
mod tests {
    use leakguard_common::packet::{LinkLayer, Packet, parse};

    use super::*;

    fn tuple(line: &str) -> Result<Tuple, TupleError> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Tuple::parse(&words)
    }

    fn parsed(bytes: &[u8]) -> Packet {
        let mut packet = Packet::UNKNOWN;
        parse(bytes, LinkLayer::Ip, &mut packet).unwrap();
        packet
    }

    #[test]
    fn the_packet_is_the_one_that_was_named() {
        for (line, protocol, ports) in [
            ("udp 192.0.2.10:40000 8.8.8.8:53", 17, (40_000, 53)),
            ("udp 8.8.8.8:53", 17, (EPHEMERAL, 53)),
            ("TCP [fd00::1]:1 [2001:db8::53]:853", 6, (1, 853)),
            ("udplite 8.8.8.8:53", 136, (EPHEMERAL, 53)),
            ("sctp 8.8.8.8:53", 132, (EPHEMERAL, 53)),
            ("dccp [2001:db8::1]:53", 33, (EPHEMERAL, 53)),
            ("icmp 8.8.8.8", 1, (0, 0)),
            ("icmpv6 ff02::1", 58, (0, 0)),
            ("50 8.8.8.8", 50, (0, 0)),
        ] {
            let packet = parsed(&tuple(line).unwrap().packet(None));
            assert_eq!(packet.protocol, protocol, "{line}");
            let found = (packet.source_port, packet.destination_port);
            assert_eq!(found, ports, "{line}");
        }
    }

    #[test]
    fn a_source_that_is_not_named_is_the_hosts() {
        let local = "192.0.2.7".parse().ok();
        let packet = parsed(&tuple("udp 8.8.8.8:53").unwrap().packet(local));
        assert_eq!(packet.source[..4], [192, 0, 2, 7]);
        let other_version = parsed(&tuple("udp [::1]:53").unwrap().packet(local));
        assert_eq!(other_version.source, [0; 16]);
    }

    #[test]
    fn what_names_no_packet_is_refused_with_the_remedy() {
        for (line, remedy) in [
            ("udpp 8.8.8.8:53", "write udp"),
            ("256 8.8.8.8", "up to 255"),
            ("udp 8.8.8.8", "8.8.8.8:53"),
            ("udp 2001:db8::53", "[2001:db8::53]:53"),
            ("udp 8.8.8.8:70000", "8.8.8.8:53"),
            ("udp dns.google:53", "8.8.8.8:53"),
            ("icmp 8.8.8.8:53", "no ports"),
            ("icmp ::1", "IP version"),
            ("icmpv6 8.8.8.8", "IP version"),
            ("udp [::1]:1 8.8.8.8:53", "IP version"),
            ("udp", "PROTOCOL"),
            ("udp 1.1.1.1:1 1.1.1.1:2 1.1.1.1:3", "PROTOCOL"),
        ] {
            let message = tuple(line).unwrap_err().to_string();
            assert!(message.contains(remedy), "{line}: {message}");
        }
    }
}
