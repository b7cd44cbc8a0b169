//! Which way the kernel would send a packet to one destination.

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, parse_u32};
use nix::libc;

use super::netlink::{self, Dumper, NetlinkError, Request};

/// Where packets to a destination go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// To this host itself.
    Here,
    /// Out by the interface of this number.
    By(u32),
    /// Nowhere: there is no route.
    Nowhere,
}

/// Length of `struct rtmsg` in bytes.
const ROUTE_HEADER: usize = 12;

/// Asks the kernel for the route to an address, with its rules and without a mark, as for a packet of a local process.
///
/// `interface` narrows it to one interface, which a link-local address needs.
pub async fn exit_towards(address: IpAddr, interface: Option<u32>) -> Result<Exit, NetlinkError> {
    let mut exit = Exit::Nowhere;
    let asked = Dumper::open()?
        .dump(Request::RouteTo, &question(address, interface), |payload| {
            exit = parse(payload)?;
            Ok(())
        })
        .await;
    match asked {
        Ok(()) => Ok(exit),
        Err(error) if error.is_no_route() => Ok(Exit::Nowhere),
        Err(error) => Err(error),
    }
}

fn question(address: IpAddr, interface: Option<u32>) -> Vec<u8> {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type: u8; flags: u32.
    let mut body = vec![0; ROUTE_HEADER];
    match address {
        IpAddr::V4(address) => {
            body[..2].copy_from_slice(&[AF_INET, 32]);
            body.extend(netlink::attribute(libc::RTA_DST, &address.octets()));
        }
        IpAddr::V6(address) => {
            body[..2].copy_from_slice(&[AF_INET6, 128]);
            body.extend(netlink::attribute(libc::RTA_DST, &address.octets()));
        }
    }
    if let Some(interface) = interface {
        body.extend(netlink::attribute_u32(libc::RTA_OIF, interface));
    }
    body
}

fn parse(payload: &[u8]) -> Result<Exit, DecodeError> {
    let (header, attributes) = netlink::split_fixed(payload, ROUTE_HEADER)?;
    let mut interface = None;
    netlink::attributes(attributes, |kind, value| {
        if kind == libc::RTA_OIF {
            interface = Some(parse_u32(value)?);
        }
        Ok(())
    })?;
    Ok(match (header[7], interface) {
        (libc::RTN_LOCAL, _) => Exit::Here,
        (libc::RTN_UNICAST, Some(interface)) => Exit::By(interface),
        // IPv6 answers with the route that refuses.
        _ => Exit::Nowhere,
    })
}

/// `AF_INET` and `AF_INET6` as they stand in a route message.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[tokio::test]
    async fn what_is_sent_to_this_host_stays_here() {
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv4Addr::new(127, 0, 0, 53).into(),
        ] {
            assert_eq!(exit_towards(address, None).await.unwrap(), Exit::Here);
        }
    }

    #[test]
    fn an_answer_is_read_by_its_kind() {
        let answer = |kind: u8, interface: Option<u32>| {
            let mut message = vec![0; ROUTE_HEADER];
            message[7] = kind;
            if let Some(interface) = interface {
                message.extend(netlink::attribute_u32(libc::RTA_OIF, interface));
            }
            parse(&message).unwrap()
        };
        assert_eq!(answer(libc::RTN_UNICAST, Some(3)), Exit::By(3));
        assert_eq!(answer(libc::RTN_LOCAL, Some(1)), Exit::Here);
        assert_eq!(answer(libc::RTN_UNREACHABLE, Some(1)), Exit::Nowhere);
        assert_eq!(answer(libc::RTN_UNICAST, None), Exit::Nowhere);
        assert!(parse(&[0; ROUTE_HEADER - 1]).is_err());
    }

    #[test]
    fn a_question_names_its_destination_and_the_interface() {
        let v4 = question(Ipv4Addr::new(10, 8, 0, 1).into(), None);
        assert_eq!((v4[0], v4[1], v4.len()), (AF_INET, 32, ROUTE_HEADER + 8));
        assert!(v4.ends_with(&[10, 8, 0, 1]));
        let v6 = question(Ipv6Addr::LOCALHOST.into(), Some(7));
        assert_eq!((v6[0], v6[1], v6.len()), (AF_INET6, 128, ROUTE_HEADER + 28));
        assert!(v6.ends_with(&7_u32.to_ne_bytes()));
    }
}
