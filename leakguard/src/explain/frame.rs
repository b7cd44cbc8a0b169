//! A packet, whatever it was captured behind, in the forms that the hooks see.

use leakguard_common::packet::MAX_VLAN_TAGS;

/// The length of an Ethernet header.
const ETHERNET: usize = 14;
/// The length of a VLAN tag.
const TAG: usize = 4;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Locally administered addresses, which no device has.
const MADE_ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

/// What the packets of a capture start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// An Ethernet header.
    Ethernet,
    /// An IP header.
    Ip,
    /// The header that libpcap makes up (`LINKTYPE_LINUX_SLL`).
    Cooked,
    /// Its second version (`LINKTYPE_LINUX_SLL2`).
    Cooked2,
    /// A PPP header, perhaps behind an address and a control field, or pppd's direction in place of the address.
    Ppp,
    /// The same behind a byte that says which way the packet went.
    PppDirected,
    /// The same behind a `PPPoE` session header.
    Pppoe,
}

impl LinkType {
    /// By its number in <https://www.tcpdump.org/linktypes.html>; `None` for one that is not known.
    pub fn of(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Ethernet,
            // 12 and 14 are what BSDs call LINKTYPE_RAW.
            12 | 14 | 101 | 228 | 229 => Self::Ip,
            113 => Self::Cooked,
            276 => Self::Cooked2,
            // LINKTYPE_PPP, _PPP_HDLC, _PPP_PPPD.
            9 | 50 | 166 => Self::Ppp,
            // LINKTYPE_PPP_WITH_DIR.
            204 => Self::PppDirected,
            51 => Self::Pppoe,
            _ => return None,
        })
    }
}

/// An Ethernet frame: as it was captured, or made for a packet that came without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Vec<u8>,
    /// Where the IP packet starts.
    network: Option<usize>,
}

/// Why there is nothing that a hook could see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoFrame {
    /// What was captured ends before the packet begins.
    Short,
    /// Something that a link layer sends for itself, past the hooks.
    NotIp,
}

impl Frame {
    /// Makes one of a captured packet.
    pub fn of(link: LinkType, bytes: &[u8]) -> Result<Self, NoFrame> {
        match link {
            LinkType::Ethernet if bytes.len() < ETHERNET => Err(NoFrame::Short),
            LinkType::Ethernet => Ok(Self::captured(bytes.to_vec())),
            LinkType::Ip => Self::around(bytes),
            LinkType::Cooked => Self::cooked(bytes, 14, 16),
            LinkType::Cooked2 => Self::cooked(bytes, 0, 20),
            LinkType::Ppp => Self::ppp(bytes),
            LinkType::PppDirected => Self::ppp(bytes.get(1..).ok_or(NoFrame::Short)?),
            LinkType::Pppoe => Self::ppp(bytes.get(6..).ok_or(NoFrame::Short)?),
        }
    }

    /// Makes one around an IP packet.
    pub fn around(packet: &[u8]) -> Result<Self, NoFrame> {
        let ethertype = match packet.first().ok_or(NoFrame::Short)? >> 4 {
            6 => ETHERTYPE_IPV6,
            // The version that it claims is for the program to judge.
            _ => ETHERTYPE_IPV4,
        };
        Ok(Self::made(ethertype, packet))
    }

    /// The frame.
    pub fn ethernet(&self) -> &[u8] {
        &self.bytes
    }

    /// The IP packet in it, if there is one.
    pub fn ip(&self) -> Option<&[u8]> {
        self.network.and_then(|start| self.bytes.get(start..))
    }

    fn made(ethertype: u16, payload: &[u8]) -> Self {
        let ethertype = ethertype.to_be_bytes();
        Self::captured([&MADE_ADDRESSES, &ethertype[..], payload].concat())
    }

    fn captured(bytes: Vec<u8>) -> Self {
        let mut kind = ETHERNET - 2;
        for _ in 0..=MAX_VLAN_TAGS {
            match be16(&bytes, kind) {
                Some(found) if ETHERTYPES_VLAN.contains(&found) => kind += TAG,
                Some(ETHERTYPE_IPV4 | ETHERTYPE_IPV6) => {
                    let network = (kind + 2 < bytes.len()).then_some(kind + 2);
                    return Self { bytes, network };
                }
                _ => break,
            }
        }
        Self {
            bytes,
            network: None,
        }
    }

    /// `protocol` and `payload` are where these stand.
    fn cooked(bytes: &[u8], protocol: usize, payload: usize) -> Result<Self, NoFrame> {
        let ethertype = be16(bytes, protocol).ok_or(NoFrame::Short)?;
        let payload = bytes.get(payload..).ok_or(NoFrame::Short)?;
        Ok(Self::made(ethertype, payload))
    }

    /// RFC 1661 and 1662: the address and control field may be absent, and a protocol below 256 may be one byte.
    fn ppp(bytes: &[u8]) -> Result<Self, NoFrame> {
        const UNCOMPRESSED: [u8; 2] = [0xff, 0x03];
        const IPV4: u16 = 0x0021;
        const IPV6: u16 = 0x0057;

        let bytes = match bytes {
            // pppd writes the direction in place of the address.
            [0 | 1, 0x03, rest @ ..] => rest,
            _ => bytes.strip_prefix(&UNCOMPRESSED).unwrap_or(bytes),
        };
        let first = *bytes.first().ok_or(NoFrame::Short)?;
        // The last byte of a protocol is odd, the first one even.
        let (protocol, start) = if first & 1 == 1 {
            (u16::from(first), 1)
        } else {
            (be16(bytes, 0).ok_or(NoFrame::Short)?, 2)
        };
        let payload = bytes.get(start..).unwrap_or_default();
        match protocol {
            IPV4 => Ok(Self::made(ETHERTYPE_IPV4, payload)),
            IPV6 => Ok(Self::made(ETHERTYPE_IPV6, payload)),
            _ => Err(NoFrame::NotIp),
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: &[u8] = &[0x45, 0, 0, 20, 1, 2, 3, 4];

    fn ip(link: LinkType, header: &[u8]) -> Option<Vec<u8>> {
        let frame = Frame::of(link, &[header, PACKET].concat()).unwrap();
        frame.ip().map(<[u8]>::to_vec)
    }

    #[test]
    fn every_link_layer_is_taken_off() {
        let cooked = [&[0, 4, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0][..], &[8, 0]].concat();
        let cooked2 = [&[8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 4, 6][..], &[0; 8]].concat();
        let ethernet = [&[0; 12][..], &[8, 0]].concat();
        let tagged = [&[0; 12][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 7, 8, 0]].concat();
        for (link, header) in [
            (LinkType::Ethernet, &ethernet[..]),
            (LinkType::Ethernet, &tagged),
            (LinkType::Ip, &[]),
            (LinkType::Cooked, &cooked),
            (LinkType::Cooked2, &cooked2),
            (LinkType::Ppp, &[0xff, 3, 0, 0x21]),
            (LinkType::Ppp, &[0, 0x21]),
            (LinkType::Ppp, &[0x21]),
            (LinkType::Ppp, &[1, 3, 0, 0x21]),
            (LinkType::PppDirected, &[1, 0xff, 3, 0, 0x21]),
            (LinkType::PppDirected, &[0, 0xff, 3, 0x21]),
            (LinkType::Pppoe, &[0x11, 0, 0, 1, 0, 10, 0, 0x21]),
        ] {
            assert_eq!(
                ip(link, header),
                Some(PACKET.to_vec()),
                "{link:?} {header:x?}"
            );
        }
    }

    #[test]
    fn a_frame_stays_as_it_was_captured() {
        let tagged = [&[9; 12][..], &[0x81, 0, 0, 7, 8, 0], PACKET].concat();
        let frame = Frame::of(LinkType::Ethernet, &tagged).unwrap();
        assert_eq!(frame.ethernet(), tagged);
        let made = Frame::of(LinkType::Ip, PACKET).unwrap();
        assert_eq!(made.ethernet()[12..14], [8, 0]);
    }

    #[test]
    fn what_is_not_ip_has_no_ip_packet() {
        let arp = [&[0; 12][..], &[8, 6], PACKET].concat();
        assert_eq!(Frame::of(LinkType::Ethernet, &arp).unwrap().ip(), None);
        assert_eq!(
            Frame::of(LinkType::Ppp, &[0xff, 3, 0xc0, 0x21, 1]),
            Err(NoFrame::NotIp)
        );
    }

    #[test]
    fn every_truncation_is_survived() {
        for link in [
            LinkType::Ethernet,
            LinkType::Ip,
            LinkType::Cooked,
            LinkType::Cooked2,
            LinkType::Ppp,
            LinkType::PppDirected,
            LinkType::Pppoe,
        ] {
            for first in [0, 0x45, 0x81, 0xff] {
                for length in 0..30 {
                    // Whatever becomes of it, it is no panic.
                    drop(Frame::of(link, &vec![first; length]));
                }
            }
        }
    }
}
