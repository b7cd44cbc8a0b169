//! Addresses, routes and policy rules one by one, for people to read; roles are told from [`Routes`](super::Routes).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, parse_u32};
use nix::libc;

use super::netlink::{self, AF_INET, AF_INET6, Dumper, NetlinkError, Request};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's number.
    pub ifindex: u32,
    /// The address, with the length of its prefix.
    pub net: IpNet,
}

/// A route for packets to other machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// Where to.
    pub net: IpNet,
    /// By which interface; absent where there are several ways.
    pub ifindex: Option<u32>,
    /// Through whom.
    pub gateway: Option<IpAddr>,
    /// The table it is in.
    pub table: u32,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
}

/// A rule that says which table is looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Whether it is about IPv6.
    pub v6: bool,
    /// The lowest comes first.
    pub priority: u32,
    /// The table.
    pub table: u32,
    /// The mark that it is about, if it is about one.
    pub mark: Option<u32>,
}

impl PolicyRule {
    /// Whether every kernel has it from the start.
    pub fn is_usual(&self) -> bool {
        /// `local`, `main` and `default` (`RT_TABLE_*`).
        const USUAL: [(u32, u32); 3] = [(0, 255), (32766, 254), (32767, 253)];
        self.mark.is_none() && USUAL.contains(&(self.priority, self.table))
    }
}

/// Everything of the calling thread's network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Every address.
    pub addresses: Vec<Address>,
    /// Every unicast route.
    pub routes: Vec<RouteEntry>,
    /// Every policy rule.
    pub rules: Vec<PolicyRule>,
}

/// How often a dump that the kernel calls inconsistent is repeated.
const ATTEMPTS: usize = 8;

/// `struct ifaddrmsg`, `struct rtmsg` and `struct fib_rule_hdr` in bytes.
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const RULE_HEADER: usize = 12;

/// `FRA_*` attributes that libc has no name for (`linux/fib_rules.h`).
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;

/// Reads them.
pub async fn tables() -> Result<Tables, NetlinkError> {
    let mut tables = Tables::default();
    let mut dumper = Dumper::open()?;
    let Tables {
        addresses,
        routes,
        rules,
    } = &mut tables;
    *addresses = read_addresses(&mut dumper).await?;
    for family in [AF_INET, AF_INET6] {
        let mut body = [0; ROUTE_HEADER];
        body[0] = family;
        dumper
            .dump(Request::Routes, &body, |payload| {
                routes.extend(route(payload)?);
                Ok(())
            })
            .await?;
        let mut body = [0; RULE_HEADER];
        body[0] = family;
        let asked = dumper
            .dump(Request::Rules, &body, |payload| {
                rules.push(rule(payload)?);
                Ok(())
            })
            .await;
        match asked {
            // A kernel without policy routing.
            Err(error) if error.is_unsupported() => dumper = Dumper::open()?,
            result => result?,
        }
    }
    Ok(tables)
}

/// Reads the addresses alone.
pub async fn addresses() -> Result<Vec<Address>, NetlinkError> {
    for _ in 1..ATTEMPTS {
        match read_addresses(&mut Dumper::open()?).await {
            Err(error) if error.is_interrupted() => {}
            result => return result,
        }
    }
    read_addresses(&mut Dumper::open()?).await
}

async fn read_addresses(dumper: &mut Dumper) -> Result<Vec<Address>, NetlinkError> {
    let mut addresses = Vec::new();
    dumper
        .dump(Request::Addresses, &[0; ADDRESS_HEADER], |payload| {
            addresses.extend(address(payload)?);
            Ok(())
        })
        .await?;
    Ok(addresses)
}

fn address(payload: &[u8]) -> Result<Option<Address>, DecodeError> {
    // family, prefix length, flags, scope: u8; index: u32.
    let (header, attributes) = netlink::split_fixed(payload, ADDRESS_HEADER)?;
    let ifindex = netlink::u32_at(header, 4)?;
    let (mut local, mut other) = (None, None);
    netlink::attributes(attributes, |kind, value| {
        match kind {
            libc::IFA_LOCAL => local = netlink::address(value),
            // The peer's on a point-to-point link of IPv4.
            libc::IFA_ADDRESS => other = netlink::address(value),
            _ => {}
        }
        Ok(())
    })?;
    let net = local
        .or(other)
        .and_then(|address| IpNet::new(address, header[1]).ok());
    Ok(net.map(|net| Address { ifindex, net }))
}

fn route(payload: &[u8]) -> Result<Option<RouteEntry>, DecodeError> {
    // family, dst_len, src_len, tos, table, protocol, scope, type: u8; flags: u32.
    let (header, attributes) = netlink::split_fixed(payload, ROUTE_HEADER)?;
    let cloned = netlink::u32_at(header, 8)? & libc::RTM_F_CLONED != 0;
    if header[7] != libc::RTN_UNICAST || cloned {
        return Ok(None);
    }
    let mut destination = if header[0] == AF_INET {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let (mut ifindex, mut gateway, mut table) = (None, None, u32::from(header[4]));
    netlink::attributes(attributes, |kind, value| {
        match kind {
            libc::RTA_DST => destination = netlink::address(value).unwrap_or(destination),
            libc::RTA_OIF => ifindex = Some(parse_u32(value)?),
            libc::RTA_GATEWAY => gateway = netlink::address(value),
            libc::RTA_TABLE => table = parse_u32(value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(IpNet::new(destination, header[1])
        .ok()
        .map(|net| RouteEntry {
            net,
            ifindex,
            gateway,
            table,
            protocol: header[5],
        }))
}

fn rule(payload: &[u8]) -> Result<PolicyRule, DecodeError> {
    // family, dst_len, src_len, tos, table, two unused, action: u8; flags: u32.
    let (header, attributes) = netlink::split_fixed(payload, RULE_HEADER)?;
    let mut rule = PolicyRule {
        v6: header[0] == AF_INET6,
        // The kernel leaves it out where it is 0.
        priority: 0,
        table: u32::from(header[4]),
        mark: None,
    };
    netlink::attributes(attributes, |kind, value| {
        match kind {
            FRA_PRIORITY => rule.priority = parse_u32(value)?,
            FRA_TABLE => rule.table = parse_u32(value)?,
            FRA_FWMARK => rule.mark = Some(parse_u32(value)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_loopback_address_and_the_usual_rules_are_there() {
        let Tables {
            addresses, rules, ..
        } = tables().await.unwrap();
        let loopback: IpNet = "127.0.0.1/8".parse().unwrap();
        assert!(
            addresses.iter().any(|address| address.net == loopback),
            "{addresses:?}"
        );
        assert!(rules.iter().any(PolicyRule::is_usual), "{rules:?}");
    }

    #[test]
    fn a_message_that_is_cut_is_an_error() {
        assert!(address(&[0; ADDRESS_HEADER - 1]).is_err());
        assert!(route(&[0; ROUTE_HEADER - 1]).is_err());
        assert!(rule(&[0; RULE_HEADER - 1]).is_err());
    }

    #[test]
    fn a_route_is_read_with_what_it_says() {
        let mut message = vec![AF_INET, 8, 0, 0, 254, 4, 0, libc::RTN_UNICAST, 0, 0, 0, 0];
        message.extend(netlink::attribute(libc::RTA_DST, &[10, 0, 0, 0]));
        message.extend(netlink::attribute_u32(libc::RTA_OIF, 7));
        message.extend(netlink::attribute(libc::RTA_GATEWAY, &[192, 0, 2, 1]));
        message.extend(netlink::attribute_u32(libc::RTA_TABLE, 51820));
        assert_eq!(
            route(&message).unwrap(),
            Some(RouteEntry {
                net: "10.0.0.0/8".parse().unwrap(),
                ifindex: Some(7),
                gateway: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
                table: 51820,
                protocol: 4,
            })
        );
        message[7] = libc::RTN_LOCAL;
        assert_eq!(route(&message).unwrap(), None);
    }
}
