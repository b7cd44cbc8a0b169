//! What headers alone do not show: packets in packets, names in hellos, questions by their shape, orphaned fragments.

#![expect(clippy::unwrap_used, reason = "lengths are right by construction")]

#[path = "../builder/mod.rs"]
#[expect(dead_code, reason = "shared with the parser's tests, which build more")]
mod builder;
mod encapsulation;
mod fragments;
#[path = "../looks/mod.rs"]
mod looks;
mod payload;
mod uplink;

use leakguard_common::abi::{Hook, Reason, Settings};
use leakguard_common::packet::{LinkLayer, Packet};
use leakguard_common::verdict::Decision;

use self::uplink::Uplink;

/// What the programs make of an IP packet, if they judge it.
pub(crate) fn judged(
    bytes: &[u8],
    hook: Hook,
    settings: &Settings,
    facts: &Uplink,
) -> (Option<Decision>, Packet) {
    let (decision, packet) = looks::judge(bytes, LinkLayer::Ip, hook, settings, facts);
    (decision.is_judged().then_some(decision), packet)
}

/// The reason against an IP packet on the wire, and the packet that it is about.
pub(crate) fn reason(bytes: &[u8], facts: &Uplink) -> (Option<Reason>, Packet) {
    let (decision, packet) = judged(bytes, Hook::Tc, &Settings::default(), facts);
    (decision.map(|decision| decision.reason), packet)
}
