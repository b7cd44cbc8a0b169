//! What an uplink may carry besides DNS: everything, unless the kill switch is engaged or IPv6 is kept off it.
//!
//! Exemptions are about packets that were not found to be DNS; none of them lets DNS out.

use crate::abi::{EndpointKey, Family, Reason, Settings};
use crate::packet::{Packet, protocol};
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

/// What speaks against a packet on an uplink that is not DNS, and of a family that is restricted there.
#[inline(always)]
pub(crate) fn objection(
    packet: &Packet,
    settings: &Settings,
    engaged: bool,
    facts: &impl Facts,
) -> Reason {
    if is_exempt(packet, settings, facts) {
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
    let key = EndpointKey::of(packet);
    facts.is_lan(&key.address) || facts.may_use_endpoint(&key)
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
    // Sets rather than comparisons: the verifier walks each branch for every way through the parser.
    let types = match packet.hop_limit {
        255 => {
            bit(ROUTER_SOLICITATION) | bit(NEIGHBOUR_SOLICITATION) | bit(NEIGHBOUR_ADVERTISEMENT)
        }
        1 => bit(LISTENER_REPORT) | bit(LISTENER_DONE) | bit(LISTENER_REPORT_V2),
        _ => 0,
    };
    packet.icmpv6_type >> 6 == 2 && types & bit(packet.icmpv6_type) != 0
}

/// The place of an ICMPv6 type from 128 to 191 in a set.
#[inline(always)]
const fn bit(icmpv6_type: u8) -> u64 {
    1 << (icmpv6_type & 63)
}

/// A client's DHCP: its source port takes `CAP_NET_BIND_SERVICE`, and over IPv6 it goes no further than the site.
#[inline(always)]
fn is_dhcp(packet: &Packet) -> bool {
    const CLIENT_AND_SERVER: (u16, u16) = (68, 67);
    const CLIENT_AND_SERVER_V6: (u16, u16) = (546, 547);

    if packet.protocol != protocol::UDP {
        return false;
    }
    // Later fragments have no ports.
    let ports = (packet.source_port, packet.destination_port);
    match packet.family {
        Family::Ipv4 => ports == CLIENT_AND_SERVER,
        Family::Ipv6 => ports == CLIENT_AND_SERVER_V6 && is_dhcpv6_server(&packet.destination),
        Family::Unknown => false,
    }
}

/// `ff02::1:2` (relays and servers of the link), `ff05::1:3` (servers of the site), or a link-local address.
#[inline(always)]
fn is_dhcpv6_server(address: &[u8; 16]) -> bool {
    const LINK: u128 = 0xff02 << 112 | 0x0001_0002;
    const SITE: u128 = 0xff05 << 112 | 0x0001_0003;
    /// `fe80::/10`
    const LINK_LOCAL: u128 = 0xfe80 >> 6;

    let address = u128::from_be_bytes(*address);
    address == LINK || address == SITE || address >> 118 == LINK_LOCAL
}
