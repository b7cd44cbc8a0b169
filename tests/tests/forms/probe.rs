//! A probe, and the bytes it is made of.

use std::net::IpAddr;

use leakguard_tests::{Mark, serial};

/// The transports that have ports, and some that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upper {
    Udp,
    Tcp,
    Sctp,
    Dccp,
    UdpLite,
    Echo,
    Esp,
}

/// What is sent: a class, by its transport and destination port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) class: &'static str,
    pub(crate) upper: Upper,
    pub(crate) port: u16,
}

impl Flow {
    const fn new(class: &'static str, upper: Upper, port: u16) -> Self {
        Self { class, upper, port }
    }
}

/// The port that the configuration adds.
pub(crate) const EXTRA_PORT: u16 = 5300;

/// What leaves by no uplink.
pub(crate) const DNS: [Flow; 13] = [
    Flow::new("dns/udp", Upper::Udp, 53),
    Flow::new("dns/tcp", Upper::Tcp, 53),
    Flow::new("dns/sctp", Upper::Sctp, 53),
    Flow::new("dns/dccp", Upper::Dccp, 53),
    Flow::new("dns/udplite", Upper::UdpLite, 53),
    Flow::new("dns (extra)/udp", Upper::Udp, EXTRA_PORT),
    Flow::new("dns (extra)/tcp", Upper::Tcp, EXTRA_PORT),
    Flow::new("dot/tcp", Upper::Tcp, 853),
    Flow::new("doq/udp", Upper::Udp, 853),
    Flow::new("mdns/udp", Upper::Udp, 5353),
    Flow::new("llmnr/udp", Upper::Udp, 5355),
    Flow::new("llmnr/tcp", Upper::Tcp, 5355),
    Flow::new("netbios/udp", Upper::Udp, 137),
];

/// What must leave unharmed.
pub(crate) const OTHER: [Flow; 14] = [
    Flow::new("quic/udp", Upper::Udp, 443),
    Flow::new("ntp/udp", Upper::Udp, 123),
    Flow::new("nfs/udp", Upper::Udp, 2049),
    Flow::new("http/tcp", Upper::Tcp, 80),
    Flow::new("https/tcp", Upper::Tcp, 443),
    Flow::new("echo/icmp", Upper::Echo, 0),
    Flow::new("diameter/sctp", Upper::Sctp, 3868),
    Flow::new("rtp/dccp", Upper::Dccp, 5004),
    Flow::new("rtp/udplite", Upper::UdpLite, 5004),
    // What carries tunnels.
    Flow::new("wireguard/udp", Upper::Udp, 51820),
    Flow::new("openvpn/udp", Upper::Udp, 1194),
    Flow::new("openvpn/tcp", Upper::Tcp, 1194),
    Flow::new("ipsec/udp", Upper::Udp, 4500),
    Flow::new("ipsec/esp", Upper::Esp, 0),
];

pub(crate) const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// A packet that is still to be given its form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) source: IpAddr,
    pub(crate) target: IpAddr,
    pub(crate) flow: Flow,
    /// What tells the fragments of one IPv4 datagram from another's: those of DNS have numbers of their own, for
    /// there are only 65,536.
    id: u16,
    serial: u32,
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const UDP_HEADER: usize = 8;
/// How a QUIC packet begins whose connection is established (RFC 9000, 17.3).
const QUIC_SHORT: u8 = 0x4c;

impl Probe {
    /// A probe with a number of its own.
    pub(crate) fn new(source: IpAddr, target: IpAddr, flow: Flow) -> Self {
        let serial = serial();
        let is_dns = DNS.iter().any(|dns| dns.port == flow.port);
        Self {
            source,
            target,
            flow,
            id: u16::try_from(serial & 0x7fff).unwrap() | u16::from(is_dns) << 15,
            serial,
        }
    }

    /// Its number, as bytes.
    pub(crate) fn number(&self) -> [u8; 4] {
        self.serial.to_be_bytes()
    }

    /// The IP protocol number of its transport.
    pub(crate) fn protocol(&self) -> u8 {
        match self.flow.upper {
            Upper::Udp => 17,
            Upper::Tcp => 6,
            Upper::Sctp => 132,
            Upper::Dccp => 33,
            Upper::UdpLite => 136,
            Upper::Echo if self.source.is_ipv6() => ICMPV6,
            Upper::Echo => ICMP,
            Upper::Esp => 50,
        }
    }

    /// Transport header and payload. The first eight bytes are a mark; nobody on the way looks at checksums.
    pub(crate) fn transport(&self) -> Vec<u8> {
        let mut payload = vec![QUIC_SHORT; 24];
        payload.extend(self.tail_mark());
        let low = u16::try_from(self.serial & 0x3fff).unwrap();
        let high = u16::try_from(self.serial >> 14).unwrap() | 0x8000;
        let ports = [(0x4000 | low).to_be_bytes(), self.flow.port.to_be_bytes()].concat();
        let length = u16::try_from(UDP_HEADER + payload.len()).unwrap();
        let serial = self.number();
        let high = high.to_be_bytes();
        let header = match self.flow.upper {
            Upper::Udp | Upper::UdpLite => [&ports[..], &length.to_be_bytes(), &high].concat(),
            // A SYN without options.
            Upper::Tcp => [
                &ports[..],
                &serial,
                &[0; 4],
                &[0x50, 2, 0xff, 0xff, 0, 0, 0, 0],
            ]
            .concat(),
            // A chunk of data.
            Upper::Sctp => [&ports[..], &serial, &[0; 4], &[0, 3, 0, 32]].concat(),
            // A request, with a sequence number of 48 bits.
            Upper::Dccp => [&ports[..], &[4, 0], &high, &[1, 0, 0, 0, 0, 0, 0, 1]].concat(),
            Upper::Echo => {
                let kind = if self.source.is_ipv6() { 128 } else { 8 };
                [&[kind, 0, 0, 0], &serial[..]].concat()
            }
            // The number of a security association, and the packet's.
            Upper::Esp => [b"lgSP", &serial[..]].concat(),
        };
        [&header[..], &payload].concat()
    }

    /// The mark at the end of its payload, for fragments.
    pub(crate) fn tail_mark(&self) -> Mark {
        let [a, b, c, d] = self.number();
        [QUIC_SHORT, 0x54, 0x41, 0x4c, a, b, c, d]
    }

    /// An IP packet that carries `payload` as what `protocol` says.
    pub(crate) fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match self.source {
            IpAddr::V4(_) => self.ipv4(&[], 0, protocol, payload),
            IpAddr::V6(_) => self.ipv6(protocol, payload),
        }
    }

    /// An IPv4 packet with options, flags and offset of a fragment.
    pub(crate) fn ipv4(
        &self,
        options: &[u8],
        fragment: u16,
        protocol: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let (IpAddr::V4(source), IpAddr::V4(target)) = (self.source, self.target) else {
            unreachable!("addresses of IPv4");
        };
        let header = 20 + options.len();
        let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
        packet.extend(u16::try_from(header + payload.len()).unwrap().to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
        packet.extend(source.octets());
        packet.extend(target.octets());
        packet.extend(options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    /// An IPv6 packet.
    pub(crate) fn ipv6(&self, next: u8, payload: &[u8]) -> Vec<u8> {
        let (IpAddr::V6(source), IpAddr::V6(target)) = (self.source, self.target) else {
            unreachable!("addresses of IPv6");
        };
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        packet.extend([next, 64]);
        packet.extend(source.octets());
        packet.extend(target.octets());
        packet.extend(payload);
        packet
    }

    /// The header of an IPv6 fragment; `offset` in bytes.
    pub(crate) fn fragment_header(&self, next: u8, offset: usize, more: bool) -> [u8; 8] {
        let place = u16::try_from(offset).unwrap() | u16::from(more);
        let place = [&[next, 0], &place.to_be_bytes()[..]].concat();
        [place, self.number().to_vec()].concat().try_into().unwrap()
    }

    /// The same from a source address that nobody else has, which is a mark where no transport header can be.
    pub(crate) fn spoofed(mut self) -> Self {
        let serial = self.serial;
        self.source = match self.source {
            IpAddr::V4(_) => IpAddr::from((0x6440_0000 | serial & 0x3f_ffff).to_be_bytes()),
            IpAddr::V6(_) => {
                let source = 0xfd77_u128 << 112 | 0x77 << 32 | u128::from(serial);
                IpAddr::from(source.to_be_bytes())
            }
        };
        self
    }

    /// The mark of a [`spoofed`](Self::spoofed) source: its last bytes, and what follows them.
    pub(crate) fn source_mark(&self) -> Mark {
        let mark = match (self.source, self.target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => [source.octets(), target.octets()].concat(),
            (IpAddr::V6(source), _) => source.octets()[8..].to_vec(),
            _ => unreachable!("one family"),
        };
        mark.try_into().unwrap()
    }
}

/// The mark at an offset of some bytes.
pub(crate) fn mark_at(bytes: &[u8], offset: usize) -> Mark {
    *bytes[offset..].first_chunk().unwrap()
}

/// The Internet checksum (RFC 1071).
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
