//! What an uplink may carry besides DNS: everything, unless the kill switch is engaged or IPv6 is kept off it.
//!
//! Exemptions are about packets that were not found to be DNS; none of them lets DNS out.

use crate::abi::{EndpointKey, Family, Reason, Settings};
use crate::packet::{Fragment, Packet, protocol};
use crate::verdict::Facts;

/// Whether the kill switch is engaged; an unknown mode is the strictest.
///
/// `tunnel_is_up` is what an agent vouches for ([`crate::abi::Liveness`]): without one, a tunnel counts as down.
#[inline(always)]
pub fn is_engaged(settings: &Settings, tunnel_is_up: impl FnOnce() -> bool) -> bool {
    match settings.kill_switch {
        Settings::KILL_SWITCH_OFF => false,
        Settings::TUNNEL_DOWN => !tunnel_is_up(),
        _ => true,
    }
}

/// Whether packets of a family may be kept off uplinks for another reason than being DNS.
#[inline(always)]
pub fn is_restricted(family: Family, settings: &Settings, engaged: bool) -> bool {
    engaged || (settings.ipv6 != Settings::DNS_ONLY && matches!(family, Family::Ipv6))
}

/// What speaks against a packet on an uplink that is not DNS.
#[inline(always)]
pub(crate) fn objection(packet: &Packet, settings: &Settings, facts: &impl Facts) -> Reason {
    let engaged = facts.is_engaged();
    if !is_restricted(packet.family, settings, engaged) || is_exempt(packet, settings, facts) {
        Reason::Other
    } else if engaged {
        Reason::KillSwitch
    } else {
        Reason::Ipv6
    }
}

#[inline(always)]
fn is_exempt(packet: &Packet, settings: &Settings, facts: &impl Facts) -> bool {
    if settings.exemptions & Settings::NDP != 0 && is_neighbour_discovery(packet) {
        return true;
    }
    if settings.exemptions & Settings::DHCP != 0 && is_dhcp(packet) && !facts.is_forwarded() {
        return true;
    }
    facts.is_lan(packet) || facts.may_use_endpoint(&endpoint(packet))
}

/// The endpoint that a packet goes to.
#[inline(always)]
fn endpoint(packet: &Packet) -> EndpointKey {
    EndpointKey {
        address: packet.destination,
        port: packet.destination_port,
        protocol: packet.protocol,
        family: packet.family as u8,
    }
}

/// Neighbour and router discovery (RFC 4861), and the membership reports without which a switch may withhold it
/// (RFC 2710, RFC 3810).
///
/// The hop limit keeps both on the link: receivers refuse discovery with less than 255, which a router has always
/// taken one of, and no router forwards a hop limit of 1.
#[inline(always)]
fn is_neighbour_discovery(packet: &Packet) -> bool {
    const ROUTER_SOLICITATION: u8 = 133;
    const NEIGHBOUR_SOLICITATION: u8 = 135;
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    const LISTENER_REPORT: u8 = 131;
    const LISTENER_DONE: u8 = 132;
    const LISTENER_REPORT_V2: u8 = 143;

    if !matches!(packet.family, Family::Ipv6) || packet.protocol != protocol::ICMPV6 {
        return false;
    }
    match packet.icmpv6_type {
        ROUTER_SOLICITATION | NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => {
            packet.hop_limit == 255
        }
        LISTENER_REPORT | LISTENER_DONE | LISTENER_REPORT_V2 => packet.hop_limit == 1,
        _ => false,
    }
}

/// A client's DHCP: its source port takes `CAP_NET_BIND_SERVICE`, and over IPv6 it goes no further than the site.
#[inline(always)]
fn is_dhcp(packet: &Packet) -> bool {
    const CLIENT: u16 = 68;
    const SERVER: u16 = 67;
    const CLIENT_V6: u16 = 546;
    const SERVER_V6: u16 = 547;

    if packet.protocol != protocol::UDP || matches!(packet.fragment, Fragment::Later) {
        return false;
    }
    match packet.family {
        Family::Ipv4 => packet.source_port == CLIENT && packet.destination_port == SERVER,
        Family::Ipv6 => {
            packet.source_port == CLIENT_V6
                && packet.destination_port == SERVER_V6
                && is_dhcpv6_server(&packet.destination)
        }
        Family::Unknown => false,
    }
}

/// `ff02::1:2` (relays and servers of the link), `ff05::1:3` (servers of the site), or a link-local address.
#[inline(always)]
fn is_dhcpv6_server(address: &[u8; 16]) -> bool {
    let link_local = address[0] == 0xfe && address[1] & 0xc0 == 0x80;
    let link = address[0] == 0xff && address[1] == 0x02 && address[15] == 2;
    let site = address[0] == 0xff && address[1] == 0x05 && address[15] == 3;
    let group = address[12] == 0 && address[13] == 1 && address[14] == 0;
    let mut between = 0;
    let mut index = 2;
    while index < 12 {
        between |= address[index];
        index += 1;
    }
    link_local || ((link || site) && group && between == 0)
}
