//! What the verdict asks for besides the packet: both hooks look it up in the same tables.

use core::marker::PhantomData;
use core::ptr;

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::maps::lpm_trie::Key;
use leakguard_common::abi::{
    EndpointKey, FragmentKey, Hook, LanKey, NAME_BYTES, NameKey, Role, Settings, Verdict,
};
use leakguard_common::restriction;
use leakguard_common::verdict::Facts;

use super::context::Skb;
use super::fragments;
use super::gate::Gate;
use super::maps::{CARRIERS, DOH_ADDRESSES, DOH_NAMES, ENDPOINTS, LAN, LIVENESS, Prefix, TUNNELS};

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
pub(super) struct HookFacts<'settings, G> {
    skb: Skb,
    settings: &'settings Settings,
    gate: PhantomData<G>,
}

impl<'settings, G: Gate> HookFacts<'settings, G> {
    #[inline(always)]
    pub(super) fn new(skb: Skb, settings: &'settings Settings) -> Self {
        Self {
            skb,
            settings,
            gate: PhantomData,
        }
    }
}

impl<G: Gate> Facts for HookFacts<'_, G> {
    #[inline(always)]
    fn role(&self) -> Option<Role> {
        G::role(self.skb, self.settings)
    }

    #[inline(always)]
    fn is_engaged(&self) -> bool {
        is_engaged(self.settings)
    }

    #[inline(always)]
    fn is_forwarded(&self) -> bool {
        matches!(G::HOOK, Hook::Tc) && self.skb.ingress_ifindex() != 0
    }

    #[inline(always)]
    fn is_lan(&self, destination: &LanKey) -> bool {
        LAN.get(prefix(destination)).is_some()
    }

    #[inline(always)]
    fn may_use_endpoint(&self, destination: &EndpointKey) -> bool {
        // SAFETY: an entry that is replaced meanwhile admits whoever the old or the new one admits.
        let Some(endpoint) = (unsafe { ENDPOINTS.get(destination) }) else {
            return false;
        };
        endpoint.admits(self.skb.mark(), |level| self.skb.ancestor_cgroup_id(level))
    }

    #[inline(always)]
    fn is_doh_address(&self, destination: &LanKey) -> bool {
        DOH_ADDRESSES.get(prefix(destination)).is_some()
    }

    #[inline(always)]
    fn is_doh_name(&self, name: &NameKey) -> bool {
        // SAFETY: as in `prefix`.
        let key = unsafe { &*ptr::from_ref(name).cast::<Key<[u8; NAME_BYTES]>>() };
        DOH_NAMES.get(key).is_some()
    }

    #[inline(always)]
    fn is_carrier(&self, mut destination: EndpointKey) -> bool {
        // SAFETY: the value is not read.
        if unsafe { CARRIERS.get(destination) }.is_some() {
            return true;
        }
        // A tunnel without a fixed remote sends anywhere.
        destination.address.address = [0; 16];
        // SAFETY: as above.
        unsafe { CARRIERS.get(destination) }.is_some()
    }

    #[inline(always)]
    fn first_fragment(&self, datagram: &FragmentKey) -> Option<Verdict> {
        fragments::recall(datagram)
    }
}

/// A key as aya's table takes it.
#[inline(always)]
pub(super) fn prefix(key: &LanKey) -> &Key<Prefix> {
    // SAFETY: the same bytes: a length of 32 bits, then the data that it counts (`struct bpf_lpm_trie_key`).
    unsafe { &*ptr::from_ref(key).cast() }
}
