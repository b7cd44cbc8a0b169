//! Which way the kernel would send a packet to one destination.

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, parse_u32};
use nix::libc;

use super::netlink::{self, AF_INET, AF_INET6, Dumper, NetlinkError, Request};

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

/// The way that the kernel would send a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Path {
    /// Where it goes.
    pub exit: Exit,
    /// The address that a local sender would have, unless it chooses another.
    pub source: Option<IpAddr>,
}

/// Asks the kernel for the route to an address, with its rules and without a mark, as for a packet of a local process.
///
/// `interface` narrows it to one interface, which a link-local address needs.
pub async fn exit_towards(address: IpAddr, interface: Option<u32>) -> Result<Exit, NetlinkError> {
    Ok(path_towards(address, interface, 0).await?.exit)
}

/// Asks the same for a packet with a mark; 0 for none.
pub async fn path_towards(
    address: IpAddr,
    interface: Option<u32>,
    mark: u32,
) -> Result<Path, NetlinkError> {
    let mut path = Path {
        exit: Exit::Nowhere,
        source: None,
    };
    let question = question(address, interface, mark);
    let asked = Dumper::open()?
        .dump(Request::RouteTo, &question, |payload| {
            path = parse(payload)?;
            Ok(())
        })
        .await;
    match asked {
        Err(error) if !error.is_no_route() => Err(error),
        _ => Ok(path),
    }
}

fn question(address: IpAddr, interface: Option<u32>, mark: u32) -> Vec<u8> {
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
    if mark != 0 {
        body.extend(netlink::attribute_u32(libc::RTA_MARK, mark));
    }
    body
}

fn parse(payload: &[u8]) -> Result<Path, DecodeError> {
    let (header, attributes) = netlink::split_fixed(payload, ROUTE_HEADER)?;
    let (mut interface, mut source) = (None, None);
    netlink::attributes(attributes, |kind, value| {
        match kind {
            libc::RTA_OIF => interface = Some(parse_u32(value)?),
            libc::RTA_PREFSRC => source = netlink::address(value),
            _ => {}
        }
        Ok(())
    })?;
    let exit = match (header[7], interface) {
        (libc::RTN_LOCAL, _) => Exit::Here,
        (libc::RTN_UNICAST | libc::RTN_BROADCAST | libc::RTN_MULTICAST, Some(interface)) => {
            Exit::By(interface)
        }
        // IPv6 answers with the route that refuses.
        _ => Exit::Nowhere,
    };
    Ok(Path { exit, source })
}

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
            message.extend(netlink::attribute(libc::RTA_PREFSRC, &[192, 0, 2, 10]));
            let Path { exit, source } = parse(&message).unwrap();
            assert_eq!(source, Some(Ipv4Addr::new(192, 0, 2, 10).into()));
            exit
        };
        assert_eq!(answer(libc::RTN_UNICAST, Some(3)), Exit::By(3));
        assert_eq!(answer(libc::RTN_MULTICAST, Some(3)), Exit::By(3));
        assert_eq!(answer(libc::RTN_BROADCAST, Some(3)), Exit::By(3));
        assert_eq!(answer(libc::RTN_LOCAL, Some(1)), Exit::Here);
        assert_eq!(answer(libc::RTN_UNREACHABLE, Some(1)), Exit::Nowhere);
        assert_eq!(answer(libc::RTN_UNICAST, None), Exit::Nowhere);
        assert!(parse(&[0; ROUTE_HEADER - 1]).is_err());
    }

    #[test]
    fn a_question_names_its_destination_and_the_interface() {
        let v4 = question(Ipv4Addr::new(10, 8, 0, 1).into(), None, 0);
        assert_eq!((v4[0], v4[1], v4.len()), (AF_INET, 32, ROUTE_HEADER + 8));
        assert!(v4.ends_with(&[10, 8, 0, 1]));
        let v6 = question(Ipv6Addr::LOCALHOST.into(), Some(7), 0);
        assert_eq!((v6[0], v6[1], v6.len()), (AF_INET6, 128, ROUTE_HEADER + 28));
        assert!(v6.ends_with(&7_u32.to_ne_bytes()));
        let marked = question(Ipv4Addr::LOCALHOST.into(), None, 0xca6c);
        assert!(marked.ends_with(&0xca6c_u32.to_ne_bytes()));
    }
}
