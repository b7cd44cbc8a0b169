//! What the verdict asks for besides the packet: both hooks look it up in the same tables.

use core::ptr;

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::maps::lpm_trie::Key;
use leakguard_common::abi::{EndpointKey, LanKey, Role, Settings};
use leakguard_common::restriction;
use leakguard_common::verdict::Facts;

use super::context::Skb;
use super::maps::{ENDPOINTS, LAN, LIVENESS, Prefix, TUNNELS};

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
    fn is_lan(&self, destination: &LanKey) -> bool {
        // SAFETY: the same bytes: a length of 32 bits, then the data that it counts (`struct bpf_lpm_trie_key`).
        let key = unsafe { &*ptr::from_ref(destination).cast::<Key<Prefix>>() };
        LAN.get(key).is_some()
    }

    #[inline(always)]
    fn may_use_endpoint(&self, destination: &EndpointKey) -> bool {
        // SAFETY: an entry that is replaced meanwhile admits whoever the old or the new one admits.
        let Some(endpoint) = (unsafe { ENDPOINTS.get(destination) }) else {
            return false;
        };
        endpoint.admits(self.skb.mark(), |level| self.skb.ancestor_cgroup_id(level))
    }
}
