//! The role of each interface: a pure function of what the kernel says and what the user wrote.

use std::collections::BTreeMap;

use leakguard_common::abi::{EndpointKey, Role};
use leakguard_common::packet::LinkLayer;
use nix::libc;

use super::{Link, Pattern, Reach, Snapshot};

/// Which interfaces the user gave a role to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RolePatterns {
    /// Interfaces that may carry DNS.
    pub tunnel: Vec<Pattern>,
    /// Interfaces whose packets stay on the host.
    pub local: Vec<Pattern>,
    /// Interfaces that lead out of the host; wins over the others.
    pub uplink: Vec<Pattern>,
}

/// An interface with its role.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Number within the managed network namespace.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// What it may carry.
    pub role: Role,
    /// Why it has this role, for people.
    pub reason: &'static str,
    /// `IFLA_INFO_KIND`, absent on most physical devices.
    pub kind: Option<String>,
    /// What its frames begin with.
    pub link_layer: LinkLayer,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Where it sends what it packs without encrypting it.
    pub carries: Vec<EndpointKey>,
    /// The tunnel pattern that names it although it is of a kind that the pattern does not take.
    pub passed_over: Option<String>,
}

/// Gives every interface of a snapshot its role.
///
/// What the user wrote comes first (uplink, then tunnel, then local). Otherwise an interface is local
/// only if something positive says so, and an uplink in every other case. A tunnel's pattern has to fit
/// the kind as well as the name: a name alone is anybody's.
pub fn classify(snapshot: &Snapshot, patterns: &RolePatterns) -> BTreeMap<u32, Interface> {
    let classifier = Classifier { snapshot, patterns };
    let RolePatterns {
        tunnel,
        local,
        uplink,
    } = patterns;
    let interface = |link: &Link| {
        let (role, reason) = classifier.role(link);
        Interface {
            ifindex: link.ifindex,
            name: link.name.clone(),
            role,
            reason,
            kind: link.kind.clone(),
            link_layer: link_layer(link.hardware_type),
            up: link.is_up(),
            carries: link.carries.clone(),
            passed_over: (role != Role::Tunnel && !named(uplink, link) && !named(local, link))
                .then(|| tunnel.iter().find(|pattern| pattern.names(link)))
                .flatten()
                .map(Pattern::to_string),
        }
    };
    snapshot
        .links
        .values()
        .map(|link| (link.ifindex, interface(link)))
        .collect()
}

/// Whether a pattern of the local or uplink list selects a link.
fn named(patterns: &[Pattern], link: &Link) -> bool {
    patterns.iter().any(|pattern| pattern.selects(link))
}

struct Classifier<'a> {
    snapshot: &'a Snapshot,
    patterns: &'a RolePatterns,
}

impl Classifier<'_> {
    fn role(&self, link: &Link) -> (Role, &'static str) {
        let RolePatterns {
            tunnel,
            local,
            uplink,
        } = self.patterns;
        // Before what is configured: a pattern that it matches would take away this host's own resolver.
        if link.is_loopback() {
            return (Role::Local, "loopback");
        }
        if named(uplink, link) {
            return (Role::Uplink, "configured as an uplink");
        }
        if tunnel.iter().any(|pattern| pattern.selects_tunnel(link)) {
            return (Role::Tunnel, "configured as a tunnel");
        }
        if named(local, link) {
            return (Role::Local, "configured as local");
        }
        if self.reach(link).gateway {
            return (Role::Uplink, "a route leads beyond it");
        }
        match link.kind.as_deref() {
            Some("veth") => self.veth(link),
            Some("bridge") => self.bridge(link),
            Some("tun") if link.is_tap() => self.tap(link),
            Some("tun" | "wireguard") => (Role::Uplink, "a tunnel that is not configured as one"),
            Some("dummy" | "ifb") => (Role::Local, "packets end in it"),
            Some(_) => (Role::Uplink, "may lead out of the host"),
            None => (Role::Uplink, "physical or unknown"),
        }
    }

    fn veth(&self, link: &Link) -> (Role, &'static str) {
        if let Some(bridge) = self.bridge_of(link) {
            self.bridge_port(bridge)
        } else if self.reach(link).on_link {
            (
                Role::Local,
                "a pair with a network of its own and no gateway",
            )
        } else {
            (Role::Uplink, "a pair of which nothing is known yet")
        }
    }

    fn tap(&self, link: &Link) -> (Role, &'static str) {
        match self.bridge_of(link) {
            Some(bridge) => self.bridge_port(bridge),
            None => (Role::Uplink, "a tap that is not a bridge port"),
        }
    }

    fn bridge(&self, link: &Link) -> (Role, &'static str) {
        if self.leads_out(link) {
            (
                Role::Uplink,
                "a bridge with a port that may lead out of the host",
            )
        } else if self.reach(link).on_link {
            (
                Role::Local,
                "a bridge of pairs and taps with a network of its own",
            )
        } else {
            (Role::Uplink, "a bridge of which nothing is known yet")
        }
    }

    /// The role of a veth or tap that is a port of `bridge`.
    ///
    /// Where the gateway is behind a bridge without a port that leads out, one of the pairs or taps
    /// is the way to it (a router in a virtual machine, an agent inside a container), and nothing
    /// tells which.
    fn bridge_port(&self, bridge: &Link) -> (Role, &'static str) {
        if self.reach(bridge).gateway && !self.leads_out(bridge) {
            (
                Role::Uplink,
                "port of a bridge whose gateway is behind one of its ports",
            )
        } else {
            (Role::Local, "port of a bridge")
        }
    }

    /// Whether a bridge has a port that is not known to end on this host.
    fn leads_out(&self, bridge: &Link) -> bool {
        self.snapshot.ports(bridge.ifindex).any(|port| {
            let ends_here = port.is_kind("veth") || port.is_kind("tun");
            !ends_here || named(&self.patterns.uplink, port)
        })
    }

    fn bridge_of(&self, link: &Link) -> Option<&Link> {
        let master = self.snapshot.links.get(&link.master?)?;
        master.is_kind("bridge").then_some(master)
    }

    /// What the routes over a link say. Without routes nothing is known, so they may lead anywhere.
    fn reach(&self, link: &Link) -> Reach {
        let unknown = Reach {
            gateway: true,
            on_link: false,
        };
        self.snapshot
            .routes
            .as_ref()
            .map_or(unknown, |routes| routes.over(link.ifindex))
    }
}

/// Hardware types that libc has no name for (`linux/if_arp.h`).
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_IP6GRE: u16 = 823;

/// What the frames of a device of this type (`ARPHRD_*`) begin with.
fn link_layer(hardware_type: u16) -> LinkLayer {
    match hardware_type {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkLayer::Ethernet,
        libc::ARPHRD_NONE
        | libc::ARPHRD_PPP
        | ARPHRD_RAWIP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | libc::ARPHRD_IPGRE
        | ARPHRD_IP6GRE => LinkLayer::Ip,
        _ => LinkLayer::Unknown,
    }
}

#[cfg(test)]
#[path = "role_tests.rs"]
mod tests;
