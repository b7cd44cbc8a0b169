//! Where routes lead, folded per output interface.

use std::collections::BTreeMap;

use netlink_packet_core::{DecodeError, parse_u32};
use nix::libc;

use super::netlink::{self, Dumper, NetlinkError, Request};

/// What the routes over one interface say about it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reach {
    /// Some route leads beyond the link: by a gateway, by an encapsulation, or because its
    /// destination is so wide that it can only mean "everything else".
    pub gateway: bool,
    /// Some unicast prefix is directly on the link.
    pub on_link: bool,
}

/// The routes of all tables and both families.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Routes {
    by_interface: BTreeMap<u32, Reach>,
    /// Some route's output interface is not known, so it may be any.
    unresolved: bool,
}

impl Routes {
    /// What the routes over an interface say.
    ///
    /// A route whose next hop could not be resolved counts as a gateway route over every interface.
    pub fn over(&self, ifindex: u32) -> Reach {
        let mut reach = self.by_interface.get(&ifindex).copied().unwrap_or_default();
        reach.gateway |= self.unresolved;
        reach
    }

    fn add(&mut self, ifindex: u32, reach: Reach) {
        let Reach { gateway, on_link } = reach;
        let entry = self.by_interface.entry(ifindex).or_default();
        entry.gateway |= gateway;
        entry.on_link |= on_link;
    }
}

/// Dumps the routes, and the next-hop objects if a route refers to one.
pub(super) async fn read(dumper: &mut Dumper) -> Result<Routes, NetlinkError> {
    let mut fold = Fold::default();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut body = [0; ROUTE_HEADER];
        body[0] = u8::try_from(family).unwrap_or_default();
        dumper
            .dump(Request::Routes, &body, |payload| fold.route(payload))
            .await?;
    }
    if !fold.by_object.is_empty() {
        let body = [0; NEXT_HOP_OBJECT_HEADER];
        let mut objects = Objects::default();
        match dumper
            .dump(Request::NextHops, &body, |payload| objects.add(payload))
            .await
        {
            // The references then stay unresolved.
            Err(error) if error.is_unsupported() => {}
            result => result?,
        }
        fold.resolve(&objects);
    }
    Ok(fold.routes)
}

/// Length of `struct rtmsg`, `struct rtnexthop` and `struct nhmsg` in bytes.
const ROUTE_HEADER: usize = 12;
const NEXT_HOP_HEADER: usize = 8;
const NEXT_HOP_OBJECT_HEADER: usize = 8;
/// Length of `struct nexthop_grp` in bytes.
const GROUP_ENTRY: usize = 8;

/// Attributes that libc has no name for (`linux/rtnetlink.h`, `linux/nexthop.h`).
const RTA_VIA: u16 = 18;
const RTA_ENCAP: u16 = 22;
const RTA_NH_ID: u16 = 30;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP: u16 = 8;

/// Unicast prefixes shorter than this are not one link's: `0.0.0.0/1` is half of a default route.
const SHORTEST_ON_LINK_V4: u8 = 8;
const SHORTEST_ON_LINK_V6: u8 = 16;

/// The routes read so far, and what waits for the next-hop objects.
#[derive(Default)]
struct Fold {
    routes: Routes,
    /// Reach of the routes that name a next-hop object, by its id.
    by_object: BTreeMap<u32, Reach>,
}

impl Fold {
    fn route(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        let route = Route::parse(payload)?;
        if route.cloned {
            return Ok(());
        }
        for hop in &route.hops {
            self.routes.add(hop.interface, route.reach(hop.beyond));
        }
        match route.interface {
            Some(interface) => self.routes.add(interface, route.reach(route.beyond)),
            None if !route.hops.is_empty() => {}
            None => match route.object {
                Some(id) => {
                    let waiting = self.by_object.entry(id).or_default();
                    let reach = route.reach(route.beyond);
                    waiting.gateway |= reach.gateway;
                    waiting.on_link |= reach.on_link;
                }
                None => self.routes.unresolved |= route.unicast || route.beyond,
            },
        }
        Ok(())
    }

    fn resolve(&mut self, objects: &Objects) {
        let Self { routes, by_object } = self;
        for (id, reach) in by_object {
            let Some(hops) = objects.hops(*id) else {
                routes.unresolved = true;
                continue;
            };
            for hop in hops {
                let gateway = reach.gateway || hop.beyond;
                routes.add(
                    hop.interface,
                    Reach {
                        gateway,
                        on_link: reach.on_link && !gateway,
                    },
                );
            }
        }
    }
}

/// One way out of a route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Hop {
    interface: u32,
    /// Through a gateway or an encapsulation.
    beyond: bool,
}

#[derive(Debug, Default)]
struct Route {
    interface: Option<u32>,
    beyond: bool,
    hops: Vec<Hop>,
    object: Option<u32>,
    unicast: bool,
    /// An IPv6 exception (path MTU, redirect), not a route somebody configured.
    cloned: bool,
    prefix: Prefix,
}

/// What a destination says about its route.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Prefix {
    /// A default route or a part of one.
    #[default]
    Wide,
    /// Link-local or multicast: every link has it.
    EveryLink,
    /// A network or a host.
    Network,
}

impl Route {
    fn parse(payload: &[u8]) -> Result<Self, DecodeError> {
        // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type: u8; flags: u32.
        let (header, attributes) = netlink::split_fixed(payload, ROUTE_HEADER)?;
        let (family, length, kind) = (header[0], header[1], header[7]);
        let mut route = Self {
            unicast: kind == libc::RTN_UNICAST,
            cloned: netlink::u32_at(header, 8)? & libc::RTM_F_CLONED != 0,
            prefix: Prefix::of(family, length, &[]),
            ..Self::default()
        };
        netlink::attributes(attributes, |kind, value| {
            match kind {
                libc::RTA_DST => route.prefix = Prefix::of(family, length, value),
                libc::RTA_OIF => route.interface = Some(parse_u32(value)?),
                libc::RTA_GATEWAY | RTA_VIA | RTA_ENCAP => route.beyond = true,
                libc::RTA_MULTIPATH => route.hops = parse_hops(value)?,
                RTA_NH_ID => route.object = Some(parse_u32(value)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(route)
    }

    fn reach(&self, beyond: bool) -> Reach {
        let gateway = beyond || self.unicast && self.prefix == Prefix::Wide;
        let on_link = self.unicast && !gateway && self.prefix == Prefix::Network;
        Reach { gateway, on_link }
    }
}

impl Prefix {
    fn of(family: u8, length: u8, destination: &[u8]) -> Self {
        let v4 = libc::c_int::from(family) == libc::AF_INET;
        match destination {
            [169, 254, ..] if v4 => Self::EveryLink,
            [first, ..] if v4 && *first >= 224 => Self::EveryLink,
            [0xfe, second, ..] if !v4 && *second & 0xc0 == 0x80 => Self::EveryLink,
            [0xff, ..] if !v4 => Self::EveryLink,
            _ if v4 && length < SHORTEST_ON_LINK_V4 => Self::Wide,
            _ if !v4 && length < SHORTEST_ON_LINK_V6 => Self::Wide,
            _ => Self::Network,
        }
    }
}

/// Reads the `struct rtnexthop` list of a multipath route.
fn parse_hops(mut bytes: &[u8]) -> Result<Vec<Hop>, DecodeError> {
    let mut hops = Vec::new();
    while !bytes.is_empty() {
        // length: u16, flags: u8, hops: u8, ifindex: i32, attributes.
        let (header, _) = netlink::split_fixed(bytes, NEXT_HOP_HEADER)?;
        let length = usize::from(netlink::u16_at(header, 0)?);
        if length < NEXT_HOP_HEADER || length > bytes.len() {
            return Err(DecodeError::nla_invalid_length(bytes.len(), length));
        }
        let (hop, rest) = netlink::split_aligned(bytes, length);
        let mut beyond = false;
        netlink::attributes(&hop[NEXT_HOP_HEADER..], |kind, _| {
            beyond |= [libc::RTA_GATEWAY, RTA_VIA, RTA_ENCAP].contains(&kind);
            Ok(())
        })?;
        hops.push(Hop {
            interface: netlink::u32_at(header, 4)?,
            beyond,
        });
        bytes = rest;
    }
    Ok(hops)
}

/// Next-hop objects (`ip nexthop`).
#[derive(Default)]
struct Objects {
    hops: BTreeMap<u32, Vec<Hop>>,
    groups: BTreeMap<u32, Vec<u32>>,
}

impl Objects {
    fn add(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        let (_, attributes) = netlink::split_fixed(payload, NEXT_HOP_OBJECT_HEADER)?;
        let (mut id, mut interface, mut beyond, mut blackhole) = (None, None, false, false);
        let mut members = None;
        netlink::attributes(attributes, |kind, value| {
            match kind {
                NHA_ID => id = Some(parse_u32(value)?),
                NHA_OIF => interface = Some(parse_u32(value)?),
                NHA_GATEWAY | NHA_ENCAP => beyond = true,
                NHA_BLACKHOLE => blackhole = true,
                NHA_GROUP => {
                    let entries = value.chunks(GROUP_ENTRY);
                    members = Some(
                        entries
                            .map(|entry| netlink::u32_at(entry, 0))
                            .collect::<Result<Vec<_>, _>>()?,
                    );
                }
                _ => {}
            }
            Ok(())
        })?;
        let Some(id) = id else {
            return Err(DecodeError::from("next hop without an id"));
        };
        if let Some(members) = members {
            self.groups.insert(id, members);
        } else if blackhole {
            self.hops.insert(id, Vec::new());
        } else if let Some(interface) = interface {
            self.hops.insert(id, vec![Hop { interface, beyond }]);
        }
        Ok(())
    }

    /// The ways out behind an id; `None` if any of them is not known.
    fn hops(&self, id: u32) -> Option<Vec<Hop>> {
        let Some(members) = self.groups.get(&id) else {
            return self.hops.get(&id).cloned();
        };
        // The kernel does not nest groups.
        let hops = members.iter().map(|member| self.hops.get(member));
        Some(
            hops.collect::<Option<Vec<_>>>()?
                .into_iter()
                .flatten()
                .copied()
                .collect(),
        )
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;

#[cfg(test)]
pub(super) mod testing {
    use super::{Reach, Routes};

    /// Routes from pairs of interface and reach.
    pub(in crate::interfaces) fn routes(entries: &[(u32, Reach)]) -> Routes {
        Routes {
            by_interface: entries.iter().copied().collect(),
            unresolved: false,
        }
    }
}
