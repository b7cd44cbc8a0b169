//! Interfaces, addresses and routes, and where packets to each address of interest go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use leakguard_common::abi::Role;

use crate::config::{Config, Redirect};
use crate::error::shell_word;
use crate::interfaces::{
    Interface, NetlinkError, RouteEntry, Snapshot, Tables, classify, snapshot, tables,
    visible_tunnels,
};
use crate::preflight::{Nameserver, Seen, Sources, Way, interface_towards, resolvers};
use crate::status::Status;

/// Addresses far away, one of each half of the Internet: nothing is sent to them.
pub(super) const FAR_V4: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)),
];
/// The same, of the part that is in use.
pub(super) const FAR_V6: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
    IpAddr::V6(Ipv6Addr::new(0x2801, 0x1b8, 0x10, 0, 0, 0, 0, 0xb)),
];

/// A full table of the Internet's routes is not worth so many questions.
const NARROW_MOST: usize = 64;

/// The network as this host sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    /// By number, with roles.
    pub(super) interfaces: BTreeMap<u32, Interface>,
    /// Sizes of packets, by interface number.
    pub(super) mtus: BTreeMap<u32, u32>,
    pub(super) tables: Tables,
    /// The patterns of tunnels, as words of a command.
    pub(super) wanted: Vec<String>,
    /// Those of them that no interface has.
    pub(super) unmet: Vec<String>,
    /// Interfaces that look like tunnels, as words of a command.
    pub(super) visible: Vec<String>,
    /// Whom the kernel lets calls reach, in place of whom they name.
    pub(super) redirect: Redirect,
    /// Whom programs ask.
    pub(super) resolvers: Vec<Seen>,
    pub(super) ways: BTreeMap<IpAddr, Way>,
}

impl Network {
    /// Interfaces of a role.
    pub(super) fn of_role(&self, role: Role) -> impl Iterator<Item = &Interface> {
        let of_role = move |interface: &&Interface| interface.role == role;
        self.interfaces.values().filter(of_role)
    }

    /// An interface's name.
    pub(super) fn name(&self, ifindex: u32) -> &str {
        let interface = self.interfaces.get(&ifindex);
        interface.map_or("?", |interface| &interface.name)
    }

    /// An interface's role; what is unknown is an uplink.
    pub(super) fn role(&self, ifindex: u32) -> Role {
        let interface = self.interfaces.get(&ifindex);
        interface.map_or(Role::Uplink, |interface| interface.role)
    }

    /// Whether a tunnel is there and up.
    pub(super) fn has_tunnel(&self) -> bool {
        self.of_role(Role::Tunnel).any(|tunnel| tunnel.up)
    }

    /// The uplink that packets to an address leave by.
    pub(super) fn uplink_towards(&self, address: IpAddr) -> Option<&str> {
        match self.ways.get(&address)? {
            Way::Over {
                name,
                role: Role::Uplink,
            } => Some(name),
            _ => None,
        }
    }

    /// The same, as evidence.
    pub(super) fn leaves(&self, address: IpAddr) -> Option<String> {
        let uplink = self.uplink_towards(address)?;
        Some(format!("{address} leaves by {uplink}, which is an uplink"))
    }

    /// Whether packets to an address leave by a tunnel.
    pub(super) fn by_tunnel(&self, address: IpAddr) -> bool {
        matches!(
            self.ways.get(&address),
            Some(Way::Over {
                role: Role::Tunnel,
                ..
            })
        )
    }

    /// The resolver that answers through a tunnel, to be named in a remedy.
    pub(super) fn resolver_in_tunnel(&self) -> Option<IpAddr> {
        let mut behind = self.resolvers.iter().filter(|seen| {
            matches!(
                seen.way,
                Way::Over {
                    role: Role::Tunnel,
                    ..
                }
            )
        });
        let redirected = self.redirect.addresses().next();
        redirected.or_else(|| behind.next().map(|seen| seen.server.address))
    }

    /// Whether calls to an address reach the tunnel's resolver.
    pub(super) fn is_redirected(&self, address: IpAddr) -> bool {
        self.redirect.instead_of(address).is_some()
    }

    /// The same in words for a command.
    pub(super) fn resolver_to_use(&self) -> String {
        self.resolver_in_tunnel().map_or_else(
            || "ADDRESS-IN-THE-TUNNEL".to_owned(),
            |address| address.to_string(),
        )
    }

    /// Networks that are directly at an interface of this role, with its number.
    pub(super) fn on_link(&self, role: Role) -> impl Iterator<Item = (u32, IpNet)> {
        let addresses = self.tables.addresses.iter();
        let addresses = addresses.map(|address| (address.ifindex, address.net.trunc()));
        let routes = self.tables.routes.iter().filter_map(|route| {
            let direct = route.gateway.is_none() && route.net.prefix_len() > 0;
            Some((route.ifindex?, route.net)).filter(|_| direct)
        });
        addresses
            .chain(routes)
            .filter(move |(ifindex, net)| self.role(*ifindex) == role && !is_everywhere(net))
    }
}

/// Whether a route goes through a gateway, and to more than one machine and less than half of everything: a route to one
/// machine is the VPN server's.
pub(super) fn is_narrow(route: &RouteEntry) -> bool {
    let length = route.net.prefix_len();
    route.gateway.is_some() && length > 1 && length < route.net.max_prefix_len()
}

/// The first machine of a network.
pub(super) fn first_of(net: IpNet) -> IpAddr {
    net.hosts().next().unwrap_or(net.network())
}

/// Link-local and multicast networks, which every link has.
fn is_everywhere(net: &IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(address) => address.is_link_local() || address.is_multicast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

/// The interfaces with their roles. Where no tunnel is named, what is enforced knows better; where nothing is, what looks
/// like a tunnel counts as one.
fn interfaces(
    snapshot: &Snapshot,
    config: &Config,
    status: Option<&Status>,
) -> BTreeMap<u32, Interface> {
    let mut interfaces = classify(snapshot, &config.role_patterns());
    if config.tunnels_named() {
        return interfaces;
    }
    let enforced = status.filter(|status| status.mode.is_some());
    let tunnels: BTreeSet<u32> = match enforced {
        Some(status) => {
            let known = status.interfaces.iter();
            let known = known.filter(|known| known.role == Role::Tunnel.name());
            known.map(|known| known.index).collect()
        }
        None => visible_tunnels(snapshot)
            .into_iter()
            .map(|link| link.ifindex)
            .collect(),
    };
    for interface in interfaces.values_mut() {
        if tunnels.contains(&interface.ifindex) {
            interface.role = Role::Tunnel;
        }
    }
    interfaces
}

/// Looks, and asks the kernel for the way to each of these addresses.
pub(super) async fn collect(
    config: &Config,
    status: Option<&Status>,
    sources: &Sources,
    of_interest: BTreeSet<IpAddr>,
) -> Result<Network, NetlinkError> {
    let snapshot = snapshot().await?;
    let mut interfaces = interfaces(&snapshot, config, status);
    let unmet = config.tunnel().iter().filter(|pattern| {
        let mut links = snapshot.links.values();
        !links.any(|link| pattern.names(link))
    });
    let tables = tables().await?;
    let narrow = tables.routes.iter().filter(|route| is_narrow(route));
    let narrow = narrow.take(NARROW_MOST).map(|route| first_of(route.net));
    // Names stand in commands that people copy, and whoever makes an interface chooses them.
    let mut resolvers = resolvers(&interfaces, sources, Redirect::default()).await?;
    for interface in interfaces.values_mut() {
        interface.name = shell_word(&interface.name);
    }
    for seen in &mut resolvers {
        if let Way::Over { name, .. } = &mut seen.way {
            *name = shell_word(name);
        }
    }
    let mut ways = BTreeMap::new();
    let of_interest = of_interest.into_iter().chain(FAR_V4).chain(FAR_V6);
    for address in of_interest.chain(narrow) {
        let way = interface_towards(&interfaces, address, None).await?;
        ways.insert(address, way);
    }
    for Seen {
        server: Nameserver { address, .. },
        way,
        ..
    } in &resolvers
    {
        ways.insert(*address, way.clone());
    }
    Ok(Network {
        redirect: config.redirect(),
        mtus: snapshot
            .links
            .values()
            .map(|link| (link.ifindex, link.mtu))
            .collect(),
        tables,
        wanted: config
            .tunnel()
            .iter()
            .map(|pattern| shell_word(&pattern.to_string()))
            .collect(),
        unmet: unmet.map(ToString::to_string).collect(),
        visible: visible_tunnels(&snapshot)
            .into_iter()
            .map(|link| shell_word(&link.name))
            .collect(),
        interfaces,
        resolvers,
        ways,
    })
}
