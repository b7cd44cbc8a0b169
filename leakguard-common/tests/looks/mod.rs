//! All looks at a packet, as the programs take them.

use leakguard_common::abi::{Hook, Settings};
use leakguard_common::encapsulation::{Inner, find_inner, parse_inner};
use leakguard_common::packet::{LinkLayer, Packet, parse};
use leakguard_common::verdict::{
    Decision, Deeper, Facts, decide, decide_inner, decide_payload, deeper,
};

/// What the programs do with a packet, and which they judge: of one in another the inner one.
pub(crate) fn judge(
    bytes: &[u8],
    link: LinkLayer,
    hook: Hook,
    settings: &Settings,
    facts: &impl Facts,
) -> (Decision, Packet) {
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
                    Err(error) => Err(error),
                    Ok(()) => parse_inner(bytes, &inner, &mut packet),
                };
                decision = decide_inner(parsed, &packet, settings, facts);
            }
        }
    }
    (decision, packet)
}
