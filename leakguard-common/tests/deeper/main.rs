//! What headers alone do not show: packets in packets, names in hellos, questions by their shape, orphaned fragments.

#![expect(clippy::unwrap_used, reason = "lengths are right by construction")]

#[path = "../builder/mod.rs"]
#[expect(dead_code, reason = "shared with the parser's tests, which build more")]
mod builder;
mod encapsulation;
mod fragments;
mod judge;
mod payload;

use leakguard_common::abi::{Hook, Reason, Settings};
use leakguard_common::packet::{LinkLayer, Packet};

use self::judge::{Uplink, judge};

/// The reason against an IP packet on the wire, and the packet that it is about.
pub(crate) fn reason(bytes: &[u8], facts: &Uplink) -> (Option<Reason>, Packet) {
    let settings = Settings::default();
    let (decision, packet) = judge(bytes, LinkLayer::Ip, Hook::Tc, &settings, facts);
    (decision.map(|decision| decision.reason), packet)
}
