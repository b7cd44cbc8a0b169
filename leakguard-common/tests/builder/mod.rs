//! Builds packets byte by byte, wrong ones included; checksums are 0, which no parser here looks at.

/// `IP_MF`: more fragments follow.
pub(crate) const IPV4_MORE_FRAGMENTS: u16 = 0x2000;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const ETHERTYPE_QINQ: u16 = 0x88a8;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;
pub(crate) const MOBILITY: u8 = 135;
pub(crate) const HIP: u8 = 139;
pub(crate) const SHIM6: u8 = 140;

pub(crate) const SOURCE_V4: [u8; 4] = [192, 0, 2, 10];
pub(crate) const DESTINATION_V4: [u8; 4] = [198, 51, 100, 53];
pub(crate) const SOURCE_V6: [u8; 16] = [0xfd; 16];
pub(crate) const DESTINATION_V6: [u8; 16] =
    [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x35];

/// An IPv4 packet; `options` are a multiple of four bytes, at most 40.
pub(crate) fn ipv4(protocol: u8, flags_and_offset: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut bytes = vec![0x40 | low_byte(header_len / 4), 0];
    bytes.extend(length(header_len + payload.len()));
    bytes.extend([0x12, 0x34]);
    bytes.extend(flags_and_offset.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(SOURCE_V4);
    bytes.extend(DESTINATION_V4);
    bytes.extend(options);
    bytes.extend(payload);
    bytes
}

/// An IPv6 packet; `payload` starts with the extension headers.
pub(crate) fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length(payload.len()));
    bytes.extend([next_header, 64]);
    bytes.extend(SOURCE_V6);
    bytes.extend(DESTINATION_V6);
    bytes.extend(payload);
    bytes
}

/// An extension header whose first byte, the number of the next one, is still to be filled in.
#[derive(Clone, Debug)]
pub(crate) struct Extension {
    pub(crate) number: u8,
    pub(crate) bytes: Vec<u8>,
}

impl Extension {
    /// A header that counts its length in units of 8 bytes and does not count the first; filled with padding.
    pub(crate) fn options(number: u8, more_units: u8) -> Self {
        let mut bytes = vec![0; 8 * (usize::from(more_units) + 1)];
        bytes[1] = more_units;
        Self { number, bytes }
    }

    /// An AH with a check value of `words` times 4 bytes.
    pub(crate) fn authentication(words: u8) -> Self {
        let mut bytes = vec![0xaa; 12 + 4 * usize::from(words)];
        bytes[1] = words + 1;
        Self {
            number: AUTHENTICATION,
            bytes,
        }
    }

    /// A fragment header; `offset` is in units of 8 bytes.
    pub(crate) fn fragment(offset: u16, more_fragments: bool) -> Self {
        let [high, low] = (offset << 3 | u16::from(more_fragments)).to_be_bytes();
        Self {
            number: FRAGMENT,
            bytes: vec![0, 0, high, low, 0, 0, 0, 7],
        }
    }
}

/// Puts headers in front of `upper`; returns the number of the first and all bytes.
pub(crate) fn chain(headers: &[Extension], upper_number: u8, upper: &[u8]) -> (u8, Vec<u8>) {
    let mut next = upper_number;
    let mut bytes = upper.to_vec();
    for header in headers.iter().rev() {
        let mut with_header = header.bytes.clone();
        with_header[0] = next;
        with_header.extend(bytes);
        bytes = with_header;
        next = header.number;
    }
    (next, bytes)
}

/// A UDP header and its payload.
pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ports(source, destination);
    bytes.extend(length(8 + payload.len()));
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

/// A TCP SYN without options.
pub(crate) fn tcp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ports(source, destination);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 4, 0, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

/// What every transport with ports starts with.
pub(crate) fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

/// An Ethernet frame with the VLAN tags of these types, the outer one first.
pub(crate) fn ethernet(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for tag in tags {
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0, 42]);
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn low_byte(value: usize) -> u8 {
    value.to_le_bytes()[0]
}
