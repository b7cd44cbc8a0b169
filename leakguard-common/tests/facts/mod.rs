//! A hook that knows beforehand what a real one looks up.

use leakguard_common::abi::{EndpointKey, FragmentKey, LanKey, NameKey, Role, Verdict};
use leakguard_common::verdict::Facts;

/// Nothing is forwarded, nothing is exempt, no resolver is known, and no fragment either.
pub(crate) struct Known<R> {
    role: R,
    engaged: bool,
}

/// A hook that says this of the role when it is asked, and this of the kill switch.
pub(crate) fn known<R: Fn() -> Option<Role>>(role: R, engaged: bool) -> Known<R> {
    Known { role, engaged }
}

impl<R: Fn() -> Option<Role>> Facts for Known<R> {
    fn role(&self) -> Option<Role> {
        (self.role)()
    }

    fn is_engaged(&self) -> bool {
        self.engaged
    }

    fn is_forwarded(&self) -> bool {
        false
    }

    fn is_lan(&self, _destination: &LanKey) -> bool {
        false
    }

    fn may_use_endpoint(&self, _destination: &EndpointKey) -> bool {
        false
    }

    fn is_doh_address(&self, _destination: &LanKey) -> bool {
        false
    }

    fn is_doh_name(&self, _name: &NameKey) -> bool {
        false
    }

    fn is_carrier(&self, _destination: EndpointKey) -> bool {
        false
    }

    fn first_fragment(&self, _datagram: &FragmentKey) -> Option<Verdict> {
        None
    }
}
