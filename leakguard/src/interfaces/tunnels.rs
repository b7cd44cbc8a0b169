//! Which kinds of interface can be a tunnel.
//!
//! A name says nothing: whoever creates an interface chooses it. The kind is what the kernel's driver says.

use nix::libc;

use super::{Link, Snapshot};

/// The kinds (`IFLA_INFO_KIND`) whose packets are put into others, to a peer that was configured.
///
/// Not among them: what only changes the frame or the port by which a packet leaves (veth, bridge, macvlan, VLAN, bond,
/// ifb, dummy, `MACsec`), overlays between many hosts (VXLAN, GENEVE), and everything without a kind, which is most
/// hardware and also L2TP's Ethernet devices. Such an interface is a tunnel only by a pattern that names its kind.
const TUNNEL_KINDS: [&str; 16] = [
    "wireguard",
    // Layer 3 and 2: every VPN in user space.
    "tun",
    // OpenVPN's data channel in the kernel: of 6.16, and the modules before it.
    "ovpn",
    "ovpn-dco",
    "ovpn-dco-v2",
    // IPsec.
    "xfrm",
    "vti",
    "vti6",
    // Between two addresses, mostly inside IPsec.
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
    "ipip",
    "ip6tnl",
    "sit",
    // L2TP, PPTP, SSTP.
    "ppp",
];

impl Link {
    /// Whether it is of a kind that can be a tunnel.
    pub(super) fn can_be_tunnel(&self) -> bool {
        TUNNEL_KINDS.iter().any(|kind| self.is_kind(kind))
    }

    /// Whether `auto` takes it for a tunnel: WireGuard, or tun at layer 3.
    pub(super) fn is_detected_tunnel(&self) -> bool {
        self.is_kind("wireguard") || self.is_kind("tun") && self.hardware_type == libc::ARPHRD_NONE
    }
}

/// The interfaces that look like tunnels and are up, to suggest one to a user who named none.
pub fn visible_tunnels(snapshot: &Snapshot) -> Vec<&Link> {
    // A tap in a bridge is a virtual machine.
    let is_machine = |link: &Link| link.is_tap() && link.master.is_some();
    snapshot
        .links
        .values()
        .filter(|link| link.is_admin_up() && link.can_be_tunnel() && !is_machine(link))
        .collect()
}
