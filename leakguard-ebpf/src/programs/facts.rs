//! What the verdict asks for besides the packet: both hooks look it up in the same tables.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::maps::lpm_trie::Key;
use leakguard_common::abi::{EndpointKey, PREFIX_FAMILY_BITS, Role, Settings, prefix};
use leakguard_common::packet::Packet;
use leakguard_common::restriction;
use leakguard_common::verdict::Facts;

use super::context::Skb;
use super::maps::{ENDPOINTS, LAN, LIVENESS, TUNNELS};

/// Whether the kill switch is engaged now.
#[inline(always)]
pub(super) fn is_engaged(settings: &Settings) -> bool {
    restriction::is_engaged(settings, || {
        LIVENESS.get(0).is_some_and(|liveness| {
            // SAFETY: no arguments.
            let now = || unsafe { bpf_ktime_get_boot_ns() };
            liveness.holds(now, |ifindex| TUNNELS.get(ifindex).is_some())
        })
    })
}

/// What a hook knows of a packet.
pub(super) struct HookFacts<R> {
    pub(super) skb: Skb,
    pub(super) engaged: bool,
    /// Whether the packet may have come in by an interface.
    pub(super) forwards: bool,
    pub(super) role: R,
}

impl<R: Fn() -> Option<Role>> Facts for HookFacts<R> {
    #[inline(always)]
    fn role(&self) -> Option<Role> {
        (self.role)()
    }

    #[inline(always)]
    fn is_engaged(&self) -> bool {
        self.engaged
    }

    #[inline(always)]
    fn is_forwarded(&self) -> bool {
        self.forwards && self.skb.ingress_ifindex() != 0
    }

    #[inline(always)]
    fn is_lan(&self, packet: &Packet) -> bool {
        is_lan(packet)
    }

    #[inline(always)]
    fn may_use_endpoint(&self, packet: &Packet) -> bool {
        may_use_endpoint(self.skb, packet)
    }
}

// These two are calls of their own: inlined, their keys would stand on the program's stack beside all the rest, and
// that is 512 bytes.

#[inline(never)]
fn is_lan(packet: &Packet) -> bool {
    const WHOLE: u32 = PREFIX_FAMILY_BITS + 128;

    let address = prefix(packet.family, &packet.destination);
    LAN.get(Key::new(WHOLE, address)).is_some()
}

#[inline(never)]
fn may_use_endpoint(skb: Skb, packet: &Packet) -> bool {
    // SAFETY: an entry that is replaced meanwhile admits whoever the old or the new one admits.
    let Some(endpoint) = (unsafe { ENDPOINTS.get(EndpointKey::of(packet)) }) else {
        return false;
    };
    endpoint.admits(skb.mark(), |level| skb.ancestor_cgroup_id(level))
}
