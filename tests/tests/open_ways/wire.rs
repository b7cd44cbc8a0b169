//! Packets by the byte. Checksums of transports are left out: nobody on the way looks at them.

use leakguard::lab::address;

pub(crate) const UDP: u8 = 17;
pub(crate) const TCP: u8 = 6;
pub(crate) const GRE: u8 = 47;
pub(crate) const IPIP: u8 = 4;
pub(crate) const IPV6: u8 = 41;
pub(crate) const AH: u8 = 51;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;

/// A UDP header and its payload.
pub(crate) fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let words = [40_053, port, length, 0].map(u16::to_be_bytes);
    [words.as_flattened(), payload].concat()
}

/// A TCP segment with data.
pub(crate) fn tcp(port: u16, payload: &[u8]) -> Vec<u8> {
    let ports = [40_053, port].map(u16::to_be_bytes);
    let rest = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0];
    [ports.as_flattened(), &rest, payload].concat()
}

/// An IPv4 packet from the host to the ISP's resolver.
pub(crate) fn ipv4(protocol: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + rest.len()).unwrap().to_be_bytes();
    let mut packet = vec![
        0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0,
    ];
    packet.extend(address::HOST_V4.octets());
    packet.extend(address::ISP_RESOLVER_V4.octets());
    // A bridge whose packets netfilter sees drops what has none.
    let sum: u32 = packet
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = u16::try_from(sum % 0xffff).unwrap();
    packet[10..12].copy_from_slice(&(!folded).to_be_bytes());
    packet.extend(rest);
    packet
}

/// An IPv6 packet between the same.
pub(crate) fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    packet.extend(address::HOST_V6.octets());
    packet.extend(address::ISP_RESOLVER_V6.octets());
    packet.extend(rest);
    packet
}

/// A packet that every hook takes for DNS.
pub(crate) fn question(payload: &[u8]) -> Vec<u8> {
    ipv4(UDP, &udp(53, payload))
}

/// A frame to everybody.
pub(crate) fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let head = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1];
    [&head[..], &ethertype.to_be_bytes(), packet].concat()
}

/// VXLAN with a frame in it.
pub(crate) fn vxlan(port: u16, packet: &[u8]) -> Vec<u8> {
    let frame = ethernet(ETHERTYPE_IPV4, packet);
    ipv4(
        UDP,
        &udp(port, &[&[8, 0, 0, 0, 0, 0, 42, 0], &frame[..]].concat()),
    )
}

/// Geneve with an IPv4 packet in it.
pub(crate) fn geneve(port: u16, packet: &[u8]) -> Vec<u8> {
    ipv4(
        UDP,
        &udp(port, &[&[0, 0, 8, 0, 0, 0, 42, 0], packet].concat()),
    )
}

/// GRE with an IPv4 packet in it.
pub(crate) fn gre(packet: &[u8]) -> Vec<u8> {
    ipv4(GRE, &[&[0, 0, 8, 0], packet].concat())
}

/// An authentication header with what it stands before.
pub(crate) fn ah(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = [0; 24];
    header[..2].copy_from_slice(&[next, 4]);
    ipv4(AH, &[&header, rest].concat())
}

/// A client's hello that asks for a name behind so many bytes of padding; or for none.
pub(crate) fn hello(name: Option<&str>, padding: usize) -> Vec<u8> {
    const PADDING: u16 = 21;
    let mut list = extension(PADDING, &vec![0; padding]);
    if let Some(name) = name {
        let host = [&[0][..], &sized(name.as_bytes())].concat();
        list.extend(extension(0, &sized(&host)));
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session, one cipher suite, no compression.
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(sized(&list));
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized(body)].concat()
}

/// Bytes behind their number.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length, bytes].concat()
}
