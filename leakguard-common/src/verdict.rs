//! The verdict: one pure function for every hook.

use crate::abi::{
    Carrier, Class, EndpointKey, FragmentKey, Hook, LanKey, NAME_BYTES, NameKey, Reason, Role,
    Settings, Verdict,
};
use crate::encapsulation::{is_carrier_protocol, may_carry};
use crate::packet::{Fragment, Packet, PacketBytes, ParseError, has_ports, is_extension, protocol};
use crate::restriction::{is_restricted, objection};
use crate::server_name::{is_hello, server_name};
use crate::shape::is_question;

const PORT_DNS: u16 = 53;
const PORT_NETBIOS: u16 = 137;
const PORT_HTTPS: u16 = 443;
const PORT_DOT: u16 = 853;
const PORT_MDNS: u16 = 5353;
const PORT_LLMNR: u16 = 5355;

const UDP_LEN: u32 = 8;

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

    /// The packet is a question in another namespace: it is judged where it leaves the host, where its sender is not known.
    pub const ELSEWHERE: Self = Self {
        verdict: Verdict::Pass,
        reason: Reason::Dns,
        role: Role::Local,
    };

    /// What follows from a reason at an interface.
    #[inline(always)]
    pub(crate) fn of(reason: Reason, role: Role, settings: &Settings) -> Self {
        let verdict = match role {
            Role::Tunnel | Role::Local => Verdict::Pass,
            Role::Uplink if matches!(reason, Reason::DnsShaped) => Verdict::Pass,
            Role::Uplink if settings.mode == Settings::OBSERVE => Verdict::WouldDrop,
            Role::Uplink => Verdict::Drop,
        };
        Self {
            verdict,
            reason,
            role,
        }
    }

    /// Whether the packet was judged at all, which is what counters count.
    #[inline(always)]
    pub fn is_judged(&self) -> bool {
        !matches!(self.reason, Reason::Other)
    }

    /// Whether it is worth an event besides being counted.
    #[inline(always)]
    pub fn is_reported(&self) -> bool {
        !matches!(self.verdict, Verdict::Pass)
            || matches!(self.reason, Reason::DnsShaped) && matches!(self.role, Role::Uplink)
    }

    /// Whether it is a question that stays on this host, whose answer somebody else may have to ask for.
    #[inline(always)]
    pub fn is_asked(&self, hook: Hook) -> bool {
        matches!(hook, Hook::CgroupSkb)
            && matches!(self.reason, Reason::Dns)
            && matches!(self.role, Role::Local)
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

    /// Whether it goes to a known resolver of DNS over HTTPS.
    fn is_doh_address(&self, destination: &LanKey) -> bool;

    /// Whether it asks for a known resolver of DNS over HTTPS by name.
    fn is_doh_name(&self, name: &NameKey) -> bool;

    /// Whether it carries what a permitted tunnel that does not encrypt has packed.
    fn is_carrier(&self, destination: EndpointKey) -> bool;

    /// What became of the first fragment of its datagram, if that is known.
    fn first_fragment(&self, datagram: &FragmentKey) -> Option<Verdict>;
}

/// Decides about one packet by its headers.
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
    let mut reason = suspicion(parsed, packet, hook, settings, facts);
    let engaged = matches!(reason, Reason::Other) && facts.is_engaged();
    if matches!(reason, Reason::Other) && !is_restricted(packet.family, settings, engaged) {
        return Decision::IGNORE;
    }
    let Some(role) = facts.role() else {
        return Decision::IGNORE;
    };
    if matches!(reason, Reason::Other) {
        if !matches!(role, Role::Uplink) {
            return Decision::IGNORE;
        }
        reason = objection(packet, settings, engaged, facts);
        if matches!(reason, Reason::Other) {
            return Decision::IGNORE;
        }
    }
    Decision::of(reason, role, settings)
}

/// What speaks against a packet, whatever interface it leaves by.
#[inline(always)]
fn suspicion(
    parsed: Result<(), ParseError>,
    packet: &Packet,
    hook: Hook,
    settings: &Settings,
    facts: &impl Facts,
) -> Reason {
    if parsed.is_err() {
        return Reason::Malformed;
    }
    if matches!(packet.fragment, Fragment::Later) {
        // The stack fragments after the cgroup hook, so there a fragment comes from a raw socket. On a wire it
        // is ordinary; a first fragment has its ports, or the parser refuses it.
        let is_refused = match hook {
            Hook::CgroupSkb => may_hold_ports(packet),
            Hook::Tc => is_orphan(packet, settings, facts),
            Hook::Setsockopt | Hook::SockAddr => false,
        };
        return if is_refused {
            Reason::Fragment
        } else {
            Reason::Other
        };
    }
    match class(packet, settings) {
        Some(class) if !settings.exempt.contains(class) => Reason::from(class),
        None if may_be_doh(packet, settings)
            && facts.is_doh_address(&EndpointKey::of(packet).address) =>
        {
            Reason::Doh
        }
        _ => Reason::Other,
    }
}

/// Whether what a later fragment is a part of may have ports somewhere.
#[inline(always)]
fn may_hold_ports(packet: &Packet) -> bool {
    has_ports(packet.protocol)
        || is_carrier_protocol(packet.protocol)
        || is_extension(packet.protocol, packet.family)
}

/// Whether a later fragment has no first one that it could be put together with.
#[inline(always)]
fn is_orphan(packet: &Packet, settings: &Settings, facts: &impl Facts) -> bool {
    if matches!(packet.carrier, Carrier::None) {
        match facts.first_fragment(&FragmentKey::of(packet)) {
            Some(verdict) => matches!(verdict, Verdict::Drop),
            None => settings.options & Settings::STRICT_FRAGMENTS != 0,
        }
    } else {
        false
    }
}

/// Where else to look, if the headers of a packet do not speak against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deeper {
    /// Nowhere.
    No,
    /// At the packet that it carries: [`find_inner`](crate::encapsulation::find_inner), [`decide_inner`].
    Inner,
    /// At its payload: [`decide_payload`].
    Payload,
}

/// Where else to look at a packet that [`decide`] has let go.
#[inline(always)]
pub fn deeper<B: PacketBytes + ?Sized>(
    bytes: &B,
    parsed: Result<(), ParseError>,
    packet: &Packet,
    hook: Hook,
    settings: &Settings,
    facts: &impl Facts,
) -> Deeper {
    if parsed.is_err() || matches!(packet.fragment, Fragment::Later) {
        return Deeper::No;
    }
    if may_carry(packet) {
        // What a kernel device has packed has no socket of its own, and passes no cgroup's hook.
        return if matches!(hook, Hook::Tc) && facts.is_carrier(EndpointKey::of(packet)) {
            Deeper::No
        } else {
            Deeper::Inner
        };
    }
    let shows = match packet.protocol {
        protocol::TCP => may_be_doh(packet, settings) && is_hello(bytes, packet),
        protocol::UDP => {
            settings.options & Settings::REPORT_SHAPES != 0
                && class(packet, settings).is_none()
                && is_question(bytes, packet.transport + UDP_LEN)
        }
        _ => false,
    };
    if shows { Deeper::Payload } else { Deeper::No }
}

/// Decides about one packet by its headers alone, where nobody looks at the packet in it: what may carry one counts as
/// malformed.
#[inline(always)]
pub fn decide_alone(
    parsed: Result<(), ParseError>,
    packet: &Packet,
    hook: Hook,
    settings: &Settings,
    facts: &impl Facts,
) -> Decision {
    let decision = decide(parsed, packet, hook, settings, facts);
    let may_hide = parsed.is_ok()
        && !matches!(packet.fragment, Fragment::Later)
        && may_carry(packet)
        && !(matches!(hook, Hook::Tc) && facts.is_carrier(EndpointKey::of(packet)));
    if decision.is_judged() || !may_hide {
        return decision;
    }
    sentence(Reason::Malformed, settings, facts)
}

/// Decides about the packet in a packet, of which [`parse_inner`](crate::encapsulation::parse_inner) said `parsed`.
#[inline(always)]
pub fn decide_inner(
    parsed: Result<(), ParseError>,
    packet: &Packet,
    settings: &Settings,
    facts: &impl Facts,
) -> Decision {
    if matches!(parsed, Err(ParseError::NotIp)) {
        return Decision::IGNORE;
    }
    // Whoever unpacks it puts fragments together, whoever made them: as on a wire.
    let reason = suspicion(parsed, packet, Hook::Tc, settings, facts);
    sentence(reason, settings, facts)
}

/// Decides about the payload of a packet for which [`deeper`] says so.
#[inline(always)]
pub fn decide_payload<B: PacketBytes + ?Sized>(
    bytes: &B,
    packet: &Packet,
    settings: &Settings,
    facts: &impl Facts,
) -> Decision {
    let reason = if packet.protocol == protocol::TCP {
        let mut name = NameKey {
            length: 0,
            reversed: [0; NAME_BYTES],
        };
        if server_name(bytes, packet, &mut name) && facts.is_doh_name(&name) {
            Reason::Doh
        } else {
            Reason::Other
        }
    } else {
        Reason::DnsShaped
    };
    sentence(reason, settings, facts)
}

/// What follows from a reason.
#[inline(always)]
fn sentence(reason: Reason, settings: &Settings, facts: &impl Facts) -> Decision {
    if matches!(reason, Reason::Other) {
        return Decision::IGNORE;
    }
    match facts.role() {
        Some(role) => Decision::of(reason, role, settings),
        None => Decision::IGNORE,
    }
}

/// Whether a packet is DNS over HTTPS, if it goes to a resolver.
#[inline(always)]
pub fn may_be_doh(packet: &Packet, settings: &Settings) -> bool {
    packet.destination_port == PORT_HTTPS
        && matches!(packet.protocol, protocol::TCP | protocol::UDP)
        && !settings.exempt.contains(Class::Doh)
}

/// Whether a packet that [`decide`] has let go is a question of a socket in another namespace.
#[inline(always)]
pub fn is_elsewhere(packet: &Packet, hook: Hook, settings: &Settings, facts: &impl Facts) -> bool {
    matches!(hook, Hook::CgroupSkb)
        && !matches!(packet.fragment, Fragment::Later)
        && class(packet, settings).is_some()
        && facts.role().is_none()
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

/// The destination ports of a class, for the nftables rules that stand behind the programs; `None` if the port alone does
/// not say.
pub const fn ports(class: Class) -> Option<ClassPorts> {
    let (port, tcp, udp) = match class {
        Class::Dns => (PORT_DNS, true, true),
        Class::Dot => (PORT_DOT, true, false),
        Class::Doq => (PORT_DOT, false, true),
        Class::Mdns => (PORT_MDNS, false, true),
        Class::Llmnr => (PORT_LLMNR, true, true),
        Class::Netbios => (PORT_NETBIOS, true, true),
        Class::Doh => return None,
    };
    Some(ClassPorts { port, tcp, udp })
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
