//! Addresses and prefixes in the form of the kernel's tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use leakguard_common::abi::{Family, LanKey};

/// A prefix as a key.
pub fn key(net: &IpNet) -> LanKey {
    let (family, address) = bytes(net.addr());
    LanKey::new(family, &address, net.prefix_len().into())
}

/// The prefix of a key that [`key`] made.
pub fn net(key: LanKey) -> Option<IpNet> {
    let LanKey {
        length,
        family: [.., family],
        address,
    } = key;
    let length = u8::try_from(length.checked_sub(LanKey::FAMILY_BITS)?).ok()?;
    let address = match Family::from_wire(family)? {
        Family::Ipv4 => IpAddr::from(Ipv4Addr::from(*address.first_chunk()?)),
        Family::Ipv6 => IpAddr::from(Ipv6Addr::from(address)),
        Family::Unknown => return None,
    };
    IpNet::new(address, length).ok()
}

/// An address as it stands in packets and keys: IPv4 in the first four bytes.
pub fn bytes(address: IpAddr) -> (Family, [u8; 16]) {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            (Family::Ipv4, bytes)
        }
        IpAddr::V6(address) => (Family::Ipv6, address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_reads_back_as_itself() {
        for text in [
            "10.0.0.0/8",
            "192.168.1.7/32",
            "fd00::/8",
            "2001:db8::1/128",
        ] {
            let prefix: IpNet = text.parse().unwrap();
            assert_eq!(net(key(&prefix)), Some(prefix));
        }
        assert_eq!(
            net(LanKey {
                length: 0,
                family: [0; 4],
                address: [0; 16]
            }),
            None
        );
    }
}
