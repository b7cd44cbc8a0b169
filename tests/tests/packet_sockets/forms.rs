//! The ways in which a packet can be laid out, and what the sender says that it is.

use leakguard::lab::address;

pub(crate) const UDP: u8 = 17;
pub(crate) const TCP: u8 = 6;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// Link-layer discovery: nothing that anybody judges.
const ETHERTYPE_LLDP: u16 = 0x88cc;

/// A transport header and what follows it.
fn transport(protocol: u8, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [40_053_u16.to_be_bytes(), port.to_be_bytes()].concat();
    if protocol == TCP {
        // SYN, and five words of header.
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        let length = u16::try_from(8 + payload.len()).unwrap();
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
    }
    bytes.extend(payload);
    bytes
}

/// An IPv4 packet with that many words of options.
fn ipv4(options: u8, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let header = 20 + 4 * usize::from(options);
    let length = u16::try_from(header + rest.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45 + options, 0, length[0], length[1], 0, 0, 0, 0, 64];
    packet.extend([protocol, 0, 0]);
    packet.extend(address::HOST_V4.octets());
    packet.extend(address::ISP_RESOLVER_V4.octets());
    // No-operation.
    packet.resize(header, 1);
    packet.extend(rest);
    packet
}

/// An IPv6 packet whose first header behind its own is of this number.
fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    packet.extend(address::HOST_V6.octets());
    packet.extend(address::ISP_RESOLVER_V6.octets());
    packet.extend(rest);
    packet
}

/// An extension header of that many units of 8 bytes, and what follows it.
fn extension(next: u8, units: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, units - 1];
    // One option of padding for each unit less the first four bytes.
    bytes.extend([1, 4, 0, 0, 0, 0]);
    for _ in 1..units {
        bytes.extend([1, 6, 0, 0, 0, 0, 0, 0]);
    }
    bytes.extend(rest);
    bytes
}

/// A packet with its Ethernet header, and tags before it.
fn ethernet(tags: &[u16], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

/// How a packet is laid out and sent.
pub(crate) struct Form {
    pub(crate) name: &'static str,
    /// What the sender says that it is; 0 lets the kernel look.
    pub(crate) said: u16,
    pub(crate) frame: fn(u8, u16, &[u8]) -> Vec<u8>,
}

/// Each as a function of transport, port and payload.
pub(crate) const FORMS: [Form; 16] = [
    Form {
        name: "IPv4",
        said: ETHERTYPE_IPV4,
        frame: |p, port, load| {
            ethernet(&[], ETHERTYPE_IPV4, &ipv4(0, p, &transport(p, port, load)))
        },
    },
    Form {
        name: "IPv4, nothing said",
        said: 0,
        frame: |p, port, load| {
            ethernet(&[], ETHERTYPE_IPV4, &ipv4(0, p, &transport(p, port, load)))
        },
    },
    Form {
        name: "IPv4, said to be LLDP",
        said: ETHERTYPE_LLDP,
        frame: |p, port, load| {
            ethernet(&[], ETHERTYPE_IPV4, &ipv4(0, p, &transport(p, port, load)))
        },
    },
    Form {
        name: "IPv4 behind a tag",
        said: ETHERTYPE_VLAN,
        frame: |p, port, load| {
            ethernet(
                &[ETHERTYPE_VLAN],
                ETHERTYPE_IPV4,
                &ipv4(0, p, &transport(p, port, load)),
            )
        },
    },
    Form {
        name: "IPv4 behind a tag, said to be LLDP",
        said: ETHERTYPE_LLDP,
        frame: |p, port, load| {
            ethernet(
                &[ETHERTYPE_VLAN],
                ETHERTYPE_IPV4,
                &ipv4(0, p, &transport(p, port, load)),
            )
        },
    },
    Form {
        name: "IPv4 behind two tags, said to be LLDP",
        said: ETHERTYPE_LLDP,
        frame: |p, port, load| {
            let tags = [ETHERTYPE_QINQ, ETHERTYPE_VLAN];
            ethernet(
                &tags,
                ETHERTYPE_IPV4,
                &ipv4(0, p, &transport(p, port, load)),
            )
        },
    },
    Form {
        name: "IPv4 with an option",
        said: ETHERTYPE_IPV4,
        frame: |p, port, load| {
            ethernet(&[], ETHERTYPE_IPV4, &ipv4(1, p, &transport(p, port, load)))
        },
    },
    Form {
        name: "IPv4 with all options, said to be LLDP",
        said: ETHERTYPE_LLDP,
        frame: |p, port, load| {
            ethernet(&[], ETHERTYPE_IPV4, &ipv4(10, p, &transport(p, port, load)))
        },
    },
    Form {
        name: "IPv6",
        said: ETHERTYPE_IPV6,
        frame: |p, port, load| ethernet(&[], ETHERTYPE_IPV6, &ipv6(p, &transport(p, port, load))),
    },
    Form {
        name: "IPv6, said to be LLDP",
        said: ETHERTYPE_LLDP,
        frame: |p, port, load| ethernet(&[], ETHERTYPE_IPV6, &ipv6(p, &transport(p, port, load))),
    },
    Form {
        name: "IPv6 behind a tag, said to be LLDP",
        said: ETHERTYPE_LLDP,
        frame: |p, port, load| {
            ethernet(
                &[ETHERTYPE_VLAN],
                ETHERTYPE_IPV6,
                &ipv6(p, &transport(p, port, load)),
            )
        },
    },
    Form {
        name: "IPv6 with hop-by-hop options",
        said: ETHERTYPE_IPV6,
        frame: |p, port, load| {
            let rest = extension(p, 1, &transport(p, port, load));
            ethernet(&[], ETHERTYPE_IPV6, &ipv6(0, &rest))
        },
    },
    Form {
        name: "IPv6 with long destination options, said to be LLDP",
        said: ETHERTYPE_LLDP,
        frame: |p, port, load| {
            let rest = extension(p, 8, &transport(p, port, load));
            ethernet(&[], ETHERTYPE_IPV6, &ipv6(60, &rest))
        },
    },
    Form {
        name: "IPv6, a first fragment",
        said: ETHERTYPE_IPV6,
        frame: |p, port, load| {
            // More are to come; the numbers of packet and next header.
            let rest = [&[p, 0, 0, 1, 0, 0, 0, 7], &*transport(p, port, load)].concat();
            ethernet(&[], ETHERTYPE_IPV6, &ipv6(44, &rest))
        },
    },
    Form {
        name: "IPv4, a first fragment, said to be LLDP",
        said: ETHERTYPE_LLDP,
        frame: |p, port, load| {
            let mut packet = ipv4(0, p, &transport(p, port, load));
            packet[6] = 0x20;
            ethernet(&[], ETHERTYPE_IPV4, &packet)
        },
    },
    Form {
        name: "IPv4, said to be ARP",
        said: 0x0806,
        frame: |p, port, load| {
            ethernet(&[], ETHERTYPE_IPV4, &ipv4(0, p, &transport(p, port, load)))
        },
    },
];

/// Forms that nothing is known of behind them, which is why strict drops them whatever the port.
pub(crate) const UNREADABLE: [Form; 3] = [
    Form {
        name: "IPv6 with two extension headers",
        said: ETHERTYPE_IPV6,
        frame: |p, port, load| {
            let rest = extension(60, 1, &extension(p, 1, &transport(p, port, load)));
            ethernet(&[], ETHERTYPE_IPV6, &ipv6(0, &rest))
        },
    },
    Form {
        name: "IPv6 with a very long extension header",
        said: ETHERTYPE_LLDP,
        frame: |p, port, load| {
            let rest = extension(p, 9, &transport(p, port, load));
            ethernet(&[], ETHERTYPE_IPV6, &ipv6(60, &rest))
        },
    },
    Form {
        name: "IPv4 behind three tags, said to be LLDP",
        said: ETHERTYPE_LLDP,
        frame: |p, port, load| {
            let tags = [ETHERTYPE_VLAN; 3];
            ethernet(
                &tags,
                ETHERTYPE_IPV4,
                &ipv4(0, p, &transport(p, port, load)),
            )
        },
    },
];

/// What is blocked.
pub(crate) const BLOCKED: [(u8, u16); 6] = [
    (UDP, 53),
    (TCP, 53),
    (TCP, 853),
    (UDP, 853),
    (UDP, 5353),
    (UDP, 137),
];
/// What is nobody's DNS.
pub(crate) const OTHERS: [(u8, u16); 3] = [(UDP, 443), (TCP, 443), (UDP, 54)];
