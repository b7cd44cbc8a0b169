//! Where tunnels that do not encrypt send what they pack: protocol, port and address of the outer packets.
//!
//! What such a tunnel carries can be read on the uplink; if the tunnel is permitted, that is no leak.

use std::net::IpAddr;

use leakguard_common::abi::{EndpointKey, Family};
use leakguard_common::packet::protocol;
use netlink_packet_core::DecodeError;

use super::netlink::attributes;
use crate::prefix;

/// Attributes of `IFLA_INFO_DATA` (`linux/if_tunnel.h`, `linux/if_link.h`).
const IFLA_GRE_REMOTE: u16 = 7;
const IFLA_IPTUN_REMOTE: u16 = 3;
const IFLA_VXLAN_GROUP: u16 = 2;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GROUP6: u16 = 16;
const IFLA_GENEVE_REMOTE: u16 = 2;
const IFLA_GENEVE_PORT: u16 = 5;
const IFLA_GENEVE_REMOTE6: u16 = 7;

/// The destinations of the outer packets of a link of a kind; one without a fixed remote sends to any address, which is
/// the address of zeroes.
pub(super) fn carriers(kind: &str, data: &[u8]) -> Result<Vec<EndpointKey>, DecodeError> {
    let (protocols, families, remotes, port_kind): (&[u8], &[Family], &[u16], Option<u16>) =
        match kind {
            "gre" | "gretap" => (&[protocol::GRE], &[Family::Ipv4], &[IFLA_GRE_REMOTE], None),
            "ip6gre" | "ip6gretap" => (&[protocol::GRE], &[Family::Ipv6], &[IFLA_GRE_REMOTE], None),
            "ipip" | "sit" => (
                &[protocol::IPV4, protocol::IPV6],
                &[Family::Ipv4],
                &[IFLA_IPTUN_REMOTE],
                None,
            ),
            "ip6tnl" => (
                &[protocol::IPV4, protocol::IPV6],
                &[Family::Ipv6],
                &[IFLA_IPTUN_REMOTE],
                None,
            ),
            "vxlan" => (
                &[protocol::UDP],
                &[Family::Ipv4, Family::Ipv6],
                &[IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6],
                Some(IFLA_VXLAN_PORT),
            ),
            "geneve" => (
                &[protocol::UDP],
                &[Family::Ipv4, Family::Ipv6],
                &[IFLA_GENEVE_REMOTE, IFLA_GENEVE_REMOTE6],
                Some(IFLA_GENEVE_PORT),
            ),
            _ => return Ok(Vec::new()),
        };
    let (mut remote, mut port) = (None, 0);
    attributes(data, |kind, value| {
        if remotes.contains(&kind) {
            remote = address(value).or(remote);
        } else if Some(kind) == port_kind
            && let Some(bytes) = value.first_chunk()
        {
            port = u16::from_be_bytes(*bytes);
        }
        Ok(())
    })?;
    let anywhere = families.iter().map(|family| (*family, [0; 16]));
    let to: Vec<_> = match remote {
        Some(remote) => vec![remote],
        None => anywhere.collect(),
    };
    Ok(to
        .iter()
        .flat_map(|(family, address)| {
            protocols
                .iter()
                .map(move |number| EndpointKey::new(*family, address, *number, port))
        })
        .collect())
}

/// An address that is not unspecified, as keys have it.
fn address(value: &[u8]) -> Option<(Family, [u8; 16])> {
    let address = <[u8; 4]>::try_from(value)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()?;
    (!address.is_unspecified()).then(|| prefix::bytes(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interfaces::netlink::attribute;

    const REMOTE: [u8; 4] = [203, 0, 113, 5];

    #[test]
    fn a_tunnel_sends_to_its_remote() {
        let data = attribute(IFLA_GRE_REMOTE, &REMOTE);
        let found = carriers("gre", &data).unwrap();
        let (family, address) = address(&REMOTE).unwrap();
        assert_eq!(
            found,
            [EndpointKey::new(family, &address, protocol::GRE, 0)]
        );
        let data = attribute(IFLA_IPTUN_REMOTE, &REMOTE);
        let protocols: Vec<_> = carriers("sit", &data)
            .unwrap()
            .iter()
            .map(|key| key.protocol)
            .collect();
        assert_eq!(protocols, [protocol::IPV4, protocol::IPV6]);
    }

    #[test]
    fn a_tunnel_without_a_remote_sends_anywhere() {
        let data = [
            attribute(IFLA_GENEVE_PORT, &6081_u16.to_be_bytes()),
            attribute(IFLA_GENEVE_REMOTE, &[0; 4]),
        ]
        .concat();
        let found = carriers("geneve", &data).unwrap();
        let anywhere = |family| EndpointKey::new(family, &[0; 16], protocol::UDP, 6081);
        assert_eq!(found, [anywhere(Family::Ipv4), anywhere(Family::Ipv6)]);
    }

    #[test]
    fn what_encrypts_is_none() {
        for kind in ["wireguard", "xfrm", "tun", "veth"] {
            assert_eq!(carriers(kind, &[]).unwrap(), []);
        }
    }
}
