//! A hook that knows a few resolvers and tunnels.

use std::collections::BTreeSet;

use leakguard_common::abi::{EndpointKey, FragmentKey, LanKey, NameKey, Role, Verdict};
use leakguard_common::verdict::Facts;

/// An uplink with tables.
#[derive(Default)]
pub(crate) struct Uplink {
    pub(crate) doh_addresses: BTreeSet<LanKey>,
    pub(crate) doh_names: BTreeSet<NameKey>,
    pub(crate) carriers: BTreeSet<EndpointKey>,
    pub(crate) first_fragment: Option<Verdict>,
}

impl Facts for Uplink {
    fn role(&self) -> Option<Role> {
        Some(Role::Uplink)
    }

    fn is_engaged(&self) -> bool {
        false
    }

    fn is_forwarded(&self) -> bool {
        true
    }

    fn is_lan(&self, _destination: &LanKey) -> bool {
        false
    }

    fn may_use_endpoint(&self, _destination: &EndpointKey) -> bool {
        false
    }

    fn is_doh_address(&self, destination: &LanKey) -> bool {
        self.doh_addresses.contains(destination)
    }

    /// As the kernel looks it up: whether the table has a prefix of it.
    fn is_doh_name(&self, name: &NameKey) -> bool {
        self.doh_names.iter().any(|known| {
            let bytes = usize::try_from(known.length / 8).unwrap();
            known.reversed[..bytes] == name.reversed[..bytes]
        })
    }

    fn is_carrier(&self, destination: EndpointKey) -> bool {
        self.carriers.contains(&destination)
    }

    fn first_fragment(&self, _datagram: &FragmentKey) -> Option<Verdict> {
        self.first_fragment
    }
}
