//! All looks at a packet, as the programs take them, in a hook that knows a few resolvers.

use std::collections::BTreeSet;

use leakguard_common::abi::{
    EndpointKey, FragmentKey, Hook, LanKey, NameKey, Role, Settings, Verdict,
};
use leakguard_common::encapsulation::{Inner, find_inner, parse_inner};
use leakguard_common::packet::{LinkLayer, Packet, ParseError, parse};
use leakguard_common::verdict::{
    Decision, Deeper, Facts, decide, decide_inner, decide_payload, deeper,
};

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

/// What the programs do with a packet.
pub(crate) fn judge(
    bytes: &[u8],
    link: LinkLayer,
    hook: Hook,
    settings: &Settings,
    facts: &impl Facts,
) -> (Option<Decision>, Packet) {
    let mut packet = Packet::UNKNOWN;
    let parsed = parse(bytes, link, &mut packet);
    let mut decision = decide(parsed, &packet, hook, settings, facts);
    if !decision.is_judged() {
        match deeper(bytes, parsed, &packet, hook, settings, facts) {
            Deeper::No => {}
            Deeper::Payload => decision = decide_payload(bytes, &packet, settings, facts),
            Deeper::Inner => {
                let mut inner = Inner::UNKNOWN;
                let found = find_inner(bytes, &packet, &mut inner);
                packet = Packet::UNKNOWN;
                let parsed = match found {
                    Err(ParseError::NotIp) => return (None, packet),
                    Err(error) => Err(error),
                    Ok(()) => parse_inner(bytes, &inner, &mut packet),
                };
                decision = decide_inner(parsed, &packet, settings, facts);
            }
        }
    }
    (decision.is_judged().then_some(decision), packet)
}
