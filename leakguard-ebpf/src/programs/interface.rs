//! TC egress of an uplink: forwarded and bridged packets, and packet sockets.
//!
//! Attached means uplink: the program looks up no interface number, so that a device which was moved to another
//! namespace with the program still on it is not mistaken for whoever has its number here.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use leakguard_common::abi::{Hook, Role, Verdict};
use leakguard_common::counter::Series;
use leakguard_common::packet::{LinkLayer, Packet, parse};
use leakguard_common::verdict::decide;

use super::context::Skb;
use super::counters::count_packets;
use super::events::report;
use super::facts::{HookFacts, is_engaged};
use super::maps::SETTINGS;

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: the next program decides; anything else would end the chain for others.
const NEXT: i32 = -1;
/// `TCX_DROP` and `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// For devices whose frames start with an Ethernet header.
#[classifier]
pub(super) fn tc_ethernet(context: TcContext) -> i32 {
    judge(Skb::new(context.skb.skb), LinkLayer::Ethernet)
}

/// For devices whose packets start with an IP header.
#[classifier]
pub(super) fn tc_ip(context: TcContext) -> i32 {
    judge(Skb::new(context.skb.skb), LinkLayer::Ip)
}

/// For devices of a type that leakguard does not know: dropped if it is DNS either way.
#[classifier]
pub(super) fn tc_any(context: TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match judge_as_ethernet(skb) {
        NEXT => judge_as_unknown(skb),
        verdict => verdict,
    }
}

// Calls of their own: inlined one behind the other, the verifier would walk the second for every way through the first.

#[inline(never)]
fn judge_as_ethernet(skb: Skb) -> i32 {
    judge(skb, LinkLayer::Ethernet)
}

#[inline(never)]
fn judge_as_unknown(skb: Skb) -> i32 {
    judge(skb, LinkLayer::Unknown)
}

#[inline(always)]
fn judge(skb: Skb, link: LinkLayer) -> i32 {
    let Some(settings) = SETTINGS.get(0) else {
        return DROP;
    };
    let engaged = is_engaged(settings);
    if skb.is_plainly_other(link, settings, engaged) {
        return NEXT;
    }
    let mut packet = Packet::UNKNOWN;
    let parsed = parse(&skb, link, &mut packet);
    let facts = HookFacts {
        skb,
        engaged,
        forwards: true,
        role: || Some(Role::Uplink),
    };
    let decision = decide(parsed, &packet, Hook::Tc, settings, &facts);
    if !decision.is_judged() {
        return NEXT;
    }
    count_packets(
        &Series::new(Hook::Tc, &decision, &packet),
        u64::from(skb.segments()),
    );
    report(skb, Hook::Tc, &decision, &packet, |_| {});
    if matches!(decision.verdict, Verdict::Drop) {
        DROP
    } else {
        NEXT
    }
}
