//! What etherparse makes of a packet, and whether leakguard's reading is compatible with it.
//!
//! Shared with the fuzzer, which has the packets from elsewhere.

use etherparse::{
    EtherType, IpNumber, LaxIpv6Slice, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket,
    TransportSlice, err,
};
use leakguard_common::abi::{Hook, Role, Settings, Verdict};
use leakguard_common::packet::{
    Fragment, LinkLayer, MAX_EXTENSIONS, Packet, ParseError, parse, protocol,
};
use leakguard_common::verdict::decide;

use crate::facts::known;

const HOOKS: [Hook; 2] = [Hook::CgroupSkb, Hook::Tc];

/// What etherparse found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The destination port of a UDP or TCP packet or of its first fragment.
    Port {
        protocol: u8,
        port: u16,
        leniency: Leniency,
    },
    /// A first fragment that ends before its ports: they come with the next one.
    PortsCutOff,
    /// No port.
    Nothing,
}

/// What etherparse lets pass and leakguard refuses, which is the safe side to err on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leniency {
    /// It ignores an `EtherType` that contradicts the version.
    contradicting_version: bool,
    /// It follows any number of extension headers.
    long_chain: bool,
    /// It takes a length of 0, or one shorter than the header, for a missing one, in a first fragment too.
    fragment_without_length: bool,
}

impl Leniency {
    fn excuses(self, error: ParseError) -> bool {
        match error {
            ParseError::Version => self.contradicting_version,
            ParseError::TooDeep => self.long_chain,
            ParseError::Truncated => self.fragment_without_length,
            ParseError::HeaderLength | ParseError::NotIp => false,
        }
    }
}

/// Parses and decides, and compares both with etherparse's reading, which it returns, or says what is wrong.
///
/// Never may a packet pass an uplink in which etherparse sees DNS, and never may another port be found.
pub(crate) fn check(bytes: &[u8], link: LinkLayer) -> Result<Reading, String> {
    let mut packet = Packet::UNKNOWN;
    let parsed = parse(bytes, link, &mut packet);
    let reading = read(bytes, link);

    let compatible = match (reading, parsed) {
        (Reading::Port { protocol, port, .. }, Ok(())) => {
            packet.fragment != Fragment::Later
                && packet.protocol == protocol
                && packet.destination_port == port
        }
        (Reading::Port { leniency, .. }, Err(error)) => leniency.excuses(error),
        (Reading::PortsCutOff, _) => parsed.is_err(),
        (Reading::Nothing, _) => true,
    };
    if !compatible {
        return Err(format!(
            "etherparse reads {reading:?}, we {parsed:?} of {packet:?}"
        ));
    }

    let must_drop = match reading {
        Reading::Port { protocol, port, .. } => is_dns(protocol, port),
        Reading::PortsCutOff => true,
        Reading::Nothing => false,
    };
    for hook in HOOKS {
        let uplink = known(|| Some(Role::Uplink), false);
        let decision = decide(parsed, &packet, hook, &Settings::default(), &uplink);
        if must_drop && decision.verdict != Verdict::Drop {
            return Err(format!(
                "{reading:?} passes at {hook}: {decision:?} of {packet:?}"
            ));
        }
    }
    Ok(reading)
}

/// The contract's list, written down a second time.
fn is_dns(number: u8, port: u16) -> bool {
    matches!(port, 53 | 137 | 853 | 5355) || port == 5353 && number == protocol::UDP
}

fn read(bytes: &[u8], link: LinkLayer) -> Reading {
    let sliced = match link {
        LinkLayer::Ethernet => LaxSlicedPacket::from_ethernet(bytes).ok(),
        // An unknown device's packet is also judged as a frame, but that is another parse.
        LinkLayer::Ip | LinkLayer::Unknown => LaxSlicedPacket::from_ip(bytes).ok(),
    };
    let Some(sliced) = sliced else {
        return Reading::Nothing;
    };
    // MACsec carries IP as it is if it only signs. It needs a key that both ends share, and the macsec device,
    // through which the packets of a host go, is judged by itself.
    let is_macsec = |ext: &LaxLinkExtSlice<'_>| matches!(ext, LaxLinkExtSlice::Macsec(_));
    if sliced.link_exts.iter().any(is_macsec) {
        return Reading::Nothing;
    }

    let mut leniency = Leniency::default();
    let ethertype = sliced.ether_payload().map(|payload| payload.ether_type);
    match &sliced.net {
        Some(LaxNetSlice::Ipv4(_)) => {
            leniency.contradicting_version = ethertype == Some(EtherType::IPV6);
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            leniency.contradicting_version = ethertype == Some(EtherType::IPV4);
            let count = extension_headers(ip).count();
            leniency.long_chain = count > MAX_EXTENSIONS as usize;
        }
        Some(LaxNetSlice::Arp(_)) | None => return Reading::Nothing,
    }
    match &sliced.transport {
        Some(TransportSlice::Udp(udp)) => Reading::Port {
            protocol: protocol::UDP,
            port: udp.destination_port(),
            leniency,
        },
        Some(TransportSlice::Tcp(tcp)) => Reading::Port {
            protocol: protocol::TCP,
            port: tcp.destination_port(),
            leniency,
        },
        Some(_) => Reading::Nothing,
        None => read_first_fragment(&sliced, leniency),
    }
}

/// Etherparse reads no transport out of a fragment; this does, out of what it says the fragment carries.
fn read_first_fragment(sliced: &LaxSlicedPacket<'_>, mut leniency: Leniency) -> Reading {
    let is_first = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => ip.header().fragments_offset().value() == 0,
        Some(LaxNetSlice::Ipv6(ip)) => extension_headers(ip)
            .filter(|&(number, _)| number == IpNumber::IPV6_FRAGMENTATION_HEADER)
            .all(|(_, header)| u16::from_be_bytes([header[2], header[3]]) >> 3 == 0),
        Some(LaxNetSlice::Arp(_)) | None => false,
    };
    let Some(ip) = sliced.ip_payload().filter(|ip| ip.fragmented && is_first) else {
        return Reading::Nothing;
    };
    // A receiver discards a packet that is shorter than its length.
    let is_cut_off = !ip.incomplete;
    if let Some((error, layer)) = &sliced.stop_err {
        // An AH that counts 0 words is shorter than its fixed part: we follow it as the kernel does
        // (`ipv6_authlen`), and no receiver accepts it.
        let is_impossible = *layer == err::Layer::IpAuthHeader && ip.payload.get(1) == Some(&0);
        return match error {
            err::packet::SliceError::Len(_) if is_cut_off && !is_impossible => Reading::PortsCutOff,
            _ => Reading::Nothing,
        };
    }
    let number = match ip.ip_number {
        IpNumber::UDP => protocol::UDP,
        IpNumber::TCP => protocol::TCP,
        _ => return Reading::Nothing,
    };
    leniency.fragment_without_length =
        ip.len_source == etherparse::LenSource::Slice && !ip.incomplete;
    match ip.payload {
        [_, _, high, low, ..] => Reading::Port {
            protocol: number,
            port: u16::from_be_bytes([*high, *low]),
            leniency,
        },
        _ if is_cut_off => Reading::PortsCutOff,
        _ => Reading::Nothing,
    }
}

/// The extension headers that etherparse followed, with their numbers.
///
/// Its own iterator (0.21) reads beyond the end if the chain is cut off: it expects the header that is missing.
fn extension_headers<'a>(ip: &LaxIpv6Slice<'a>) -> impl Iterator<Item = (IpNumber, &'a [u8])> {
    let mut rest = ip.extensions().slice();
    let mut next = ip.header().next_header();
    std::iter::from_fn(move || {
        let [_, len, ..] = *rest else { return None };
        let len = match next {
            IpNumber::IPV6_FRAGMENTATION_HEADER => 8,
            IpNumber::AUTHENTICATION_HEADER => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        let (header, behind) = rest.split_at_checked(len)?;
        let number = std::mem::replace(&mut next, IpNumber(header[0]));
        rest = behind;
        Some((number, header))
    })
}
