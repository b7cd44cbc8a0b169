//! The verdict: one pure function for every hook.

use crate::abi::{Class, EndpointKey, Hook, LanKey, Reason, Role, Settings, Verdict};
use crate::packet::{Fragment, Packet, ParseError, has_ports, protocol};
use crate::restriction::{is_restricted, objection};

const PORT_DNS: u16 = 53;
const PORT_NETBIOS: u16 = 137;
const PORT_DOT: u16 = 853;
const PORT_MDNS: u16 = 5353;
const PORT_LLMNR: u16 = 5355;

/// What is done with a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens to it.
    pub verdict: Verdict,
    /// What it was judged as.
    pub reason: Reason,
    /// The exit interface's role; [`Role::Uplink`] where it did not matter and was not looked up.
    pub role: Role,
}

impl Decision {
    /// The packet is none of leakguard's business; nothing is counted.
    pub(crate) const IGNORE: Self = Self {
        verdict: Verdict::Pass,
        reason: Reason::Other,
        role: Role::Uplink,
    };

    /// Whether the packet was judged at all, which is what counters count.
    #[inline(always)]
    pub fn is_judged(&self) -> bool {
        !matches!(self.reason, Reason::Other)
    }
}

/// What a hook has to look up; each is asked only for packets that it matters for, because for most it does not.
pub trait Facts {
    /// The role of the exit interface. `None` for a packet that the table of this namespace does not cover, because
    /// its socket lives in another one: such a packet is judged where it leaves the host.
    fn role(&self) -> Option<Role>;

    /// Whether the kill switch is engaged ([`crate::restriction::is_engaged`]).
    fn is_engaged(&self) -> bool;

    /// Whether the packet came in by an interface and is on its way through.
    fn is_forwarded(&self) -> bool;

    /// Whether it goes to a prefix of the LAN that is exempt.
    fn is_lan(&self, destination: &LanKey) -> bool;

    /// Whether it goes to an endpoint of a tunnel and is the tunnel's own.
    fn may_use_endpoint(&self, destination: &EndpointKey) -> bool;
}

/// Decides about one packet.
///
/// `parsed` is what [`crate::packet::parse`] said of `packet`.
#[inline(always)]
pub fn decide(
    parsed: Result<(), ParseError>,
    packet: &Packet,
    hook: Hook,
    settings: &Settings,
    facts: &impl Facts,
) -> Decision {
    if matches!(parsed, Err(ParseError::NotIp)) {
        return Decision::IGNORE;
    }
    let mut reason = suspicion(parsed, packet, hook, settings);
    if matches!(reason, Reason::Other)
        && !is_restricted(packet.family, settings, facts.is_engaged())
    {
        return Decision::IGNORE;
    }
    let Some(role) = facts.role() else {
        return Decision::IGNORE;
    };
    if matches!(reason, Reason::Other) {
        if !matches!(role, Role::Uplink) {
            return Decision::IGNORE;
        }
        reason = objection(packet, settings, facts);
        if matches!(reason, Reason::Other) {
            return Decision::IGNORE;
        }
    }
    let verdict = match role {
        Role::Tunnel | Role::Local => Verdict::Pass,
        Role::Uplink if settings.mode == Settings::OBSERVE => Verdict::WouldDrop,
        Role::Uplink => Verdict::Drop,
    };
    Decision {
        verdict,
        reason,
        role,
    }
}

/// What speaks against a packet, whatever interface it leaves by.
#[inline(always)]
fn suspicion(
    parsed: Result<(), ParseError>,
    packet: &Packet,
    hook: Hook,
    settings: &Settings,
) -> Reason {
    if parsed.is_err() {
        return Reason::Malformed;
    }
    if matches!(packet.fragment, Fragment::Later) {
        // The stack fragments after the cgroup hook, so there a fragment comes from a raw socket. On a wire it
        // is ordinary, and useless to a receiver whose first fragment was dropped; a first fragment has its ports,
        // or the parser refuses it.
        return match hook {
            Hook::CgroupSkb if has_ports(packet.protocol) => Reason::Fragment,
            Hook::CgroupSkb | Hook::Tc | Hook::Setsockopt => Reason::Other,
        };
    }
    match class(packet, settings) {
        Some(class) if !settings.exempt.contains(class) => Reason::from(class),
        _ => Reason::Other,
    }
}

/// The class of a packet, by protocol and destination port.
#[inline(always)]
pub fn class(packet: &Packet, settings: &Settings) -> Option<Class> {
    if !has_ports(packet.protocol) {
        return None;
    }
    let udp = matches!(packet.protocol, protocol::UDP | protocol::UDP_LITE);
    match packet.destination_port {
        PORT_DNS => Some(Class::Dns),
        PORT_DOT if udp => Some(Class::Doq),
        PORT_DOT => Some(Class::Dot),
        PORT_MDNS if udp => Some(Class::Mdns),
        PORT_LLMNR => Some(Class::Llmnr),
        PORT_NETBIOS => Some(Class::Netbios),
        port if is_extra(port, settings) => Some(Class::Dns),
        _ => None,
    }
}

#[inline(always)]
fn is_extra(port: u16, settings: &Settings) -> bool {
    if settings.extra_port_count == 0 {
        return false;
    }
    // Unused places are 0, a port that no packet is judged by.
    port != 0 && settings.extra_ports.contains(&port)
}

/// The destination ports of a class, for the nftables rules that stand behind the programs.
pub const fn ports(class: Class) -> ClassPorts {
    match class {
        Class::Dns => ClassPorts {
            port: PORT_DNS,
            tcp: true,
            udp: true,
        },
        Class::Dot => ClassPorts {
            port: PORT_DOT,
            tcp: true,
            udp: false,
        },
        Class::Doq => ClassPorts {
            port: PORT_DOT,
            tcp: false,
            udp: true,
        },
        Class::Mdns => ClassPorts {
            port: PORT_MDNS,
            tcp: false,
            udp: true,
        },
        Class::Llmnr => ClassPorts {
            port: PORT_LLMNR,
            tcp: true,
            udp: true,
        },
        Class::Netbios => ClassPorts {
            port: PORT_NETBIOS,
            tcp: true,
            udp: true,
        },
    }
}

/// A class as ports of the two transports that netfilter is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassPorts {
    /// The destination port.
    pub port: u16,
    /// Whether it counts over TCP.
    pub tcp: bool,
    /// Whether it counts over UDP.
    pub udp: bool,
}
