//! What every hook does with a packet: look at its headers, look once more where they do not say, count, report.
//!
//! Each step is a global function of the program, in which the verifier starts anew: it walks each once, for arguments of
//! which it knows nothing, and not for every way through the step before. Each has a stack frame of its own, of which a
//! program has 512 bytes for all that are open. The packet lies in the caller's frame (pointers as arguments: 5.12).

use aya_ebpf::bindings::__sk_buff;
use leakguard_common::abi::{Carrier, Hook, Reason, Role, Settings, Verdict};
use leakguard_common::counter::Series;
use leakguard_common::encapsulation::{Inner, find_inner, parse_inner};
use leakguard_common::packet::{LinkLayer, Packet, ParseError, parse};
use leakguard_common::verdict::{
    Decision, Deeper, decide, decide_alone, decide_inner, decide_payload, deeper, is_elsewhere,
};

use super::context::Skb;
use super::counters::count_packets;
use super::events::Report;
use super::facts::{HookFacts, is_engaged};
use super::fragments::remember;
use super::maps::SETTINGS;
use super::owners::owner;
use super::sender::Sender;

/// A hook, and what it knows of a packet besides its bytes.
pub(super) trait Gate {
    /// Its name.
    const HOOK: Hook;
    /// What a packet starts with.
    const LINK: LinkLayer;
    /// What lets a packet go on.
    const PASS: i32;
    /// What drops it.
    const DROP: i32;

    /// The role of the exit interface ([`leakguard_common::verdict::Facts::role`]).
    fn role(skb: Skb, settings: &Settings) -> Option<Role>;

    /// Whether the current task is the one that sends the packet.
    fn is_current(skb: Skb, packet: &Packet) -> bool;

    /// The cookie of the sender's namespace; 0 if it is not known.
    fn netns_cookie(skb: Skb) -> u64;
}

/// The steps of a gate.
pub(super) trait Steps: Gate {
    /// [`headers`] as a global function.
    fn headers(skb: *mut __sk_buff, packet: *mut Packet) -> u64;

    /// [`inside`] as a global function.
    fn inside(skb: *mut __sk_buff, packet: *mut Packet, found: u64) -> u64;

    /// [`payload`] as a global function.
    fn payload(skb: *mut __sk_buff, packet: *const Packet) -> u64;

    /// [`conclude`] as a global function.
    fn conclude(skb: *mut __sk_buff, packet: *const Packet, found: u64) -> u64;
}

/// The steps of a gate where global functions take no pointers but to their context (5.6).
pub(super) trait Alone: Gate {
    /// [`headers_alone`] as a global function.
    fn headers_alone(skb: *mut __sk_buff) -> u64;

    /// [`conclude_alone`] as a global function.
    fn conclude_alone(skb: *mut __sk_buff, found: u64) -> u64;
}

/// Those steps, which call global functions of these names.
macro_rules! alone {
    ($gate:ty, $headers:ident, $conclude:ident) => {
        impl Alone for $gate {
            #[inline(always)]
            fn headers_alone(skb: *mut __sk_buff) -> u64 {
                #[unsafe(no_mangle)]
                #[inline(never)]
                extern "C" fn $headers(skb: *mut __sk_buff) -> u64 {
                    gate::headers_alone::<$gate>(Skb::new(skb))
                }
                $headers(skb)
            }

            #[inline(always)]
            fn conclude_alone(skb: *mut __sk_buff, found: u64) -> u64 {
                #[unsafe(no_mangle)]
                #[inline(never)]
                extern "C" fn $conclude(skb: *mut __sk_buff, found: u64) -> u64 {
                    gate::conclude_alone::<$gate>(Skb::new(skb), found)
                }
                $conclude(skb, found)
            }
        }
    };
}
pub(super) use alone;

/// The steps of a gate, which call global functions of these names.
macro_rules! steps {
    ($gate:ty, $headers:ident, $inside:ident, $payload:ident, $conclude:ident) => {
        impl Steps for $gate {
            #[inline(always)]
            fn headers(skb: *mut __sk_buff, packet: *mut Packet) -> u64 {
                #[unsafe(no_mangle)]
                #[inline(never)]
                extern "C" fn $headers(skb: *mut __sk_buff, packet: *mut Packet) -> u64 {
                    gate::headers::<$gate>(Skb::new(skb), packet)
                }
                $headers(skb, packet)
            }

            #[inline(always)]
            fn inside(skb: *mut __sk_buff, packet: *mut Packet, found: u64) -> u64 {
                #[unsafe(no_mangle)]
                #[inline(never)]
                extern "C" fn $inside(skb: *mut __sk_buff, packet: *mut Packet, found: u64) -> u64 {
                    gate::inside::<$gate>(Skb::new(skb), packet, found)
                }
                $inside(skb, packet, found)
            }

            #[inline(always)]
            fn payload(skb: *mut __sk_buff, packet: *const Packet) -> u64 {
                #[unsafe(no_mangle)]
                #[inline(never)]
                extern "C" fn $payload(skb: *mut __sk_buff, packet: *const Packet) -> u64 {
                    gate::payload::<$gate>(Skb::new(skb), packet)
                }
                $payload(skb, packet)
            }

            #[inline(always)]
            fn conclude(skb: *mut __sk_buff, packet: *const Packet, found: u64) -> u64 {
                #[unsafe(no_mangle)]
                #[inline(never)]
                extern "C" fn $conclude(
                    skb: *mut __sk_buff,
                    packet: *const Packet,
                    found: u64,
                ) -> u64 {
                    gate::conclude::<$gate>(Skb::new(skb), packet, found)
                }
                $conclude(skb, packet, found)
            }
        }
    };
}
pub(super) use steps;

// What a step returns: the low byte says what it is about.
const PASS: u64 = 1;
const DROP: u64 = 2;
/// Look at the payload.
const PAYLOAD: u64 = 3;
/// Look at the packet in it: [`pack_inner`].
const INSIDE: u64 = 4;
/// It is judged: [`pack_decision`].
const JUDGED: u64 = 5;
/// It is a question in another namespace, which is none of leakguard's business here.
const ELSEWHERE: u64 = 6;
const KIND: u64 = 0xff;

/// Judges a packet.
#[inline(always)]
pub(super) fn judge<G: Steps>(skb: Skb) -> i32 {
    let Some(settings) = SETTINGS.get(0) else {
        return G::DROP;
    };
    if skb.is_plainly_other(G::LINK, settings, is_engaged(settings)) {
        return G::PASS;
    }
    let mut packet = Packet::UNKNOWN;
    let mut found = G::headers(skb.as_ptr(), &raw mut packet);
    match found & KIND {
        INSIDE => found = G::inside(skb.as_ptr(), &raw mut packet, found),
        PAYLOAD => found = G::payload(skb.as_ptr(), &raw const packet),
        _ => {}
    }
    if matches!(found & KIND, JUDGED | ELSEWHERE) {
        found = G::conclude(skb.as_ptr(), &raw const packet, found);
    }
    if found == PASS { G::PASS } else { G::DROP }
}

/// Judges a packet by its headers alone, for kernels that refuse the steps.
#[inline(always)]
pub(super) fn judge_alone<G: Alone>(skb: Skb) -> i32 {
    let Some(settings) = SETTINGS.get(0) else {
        return G::DROP;
    };
    if skb.is_plainly_other(G::LINK, settings, is_engaged(settings)) {
        return G::PASS;
    }
    judge_closely::<G>(skb)
}

/// As [`judge_alone`], without a short way.
#[inline(always)]
pub(super) fn judge_closely<G: Alone>(skb: Skb) -> i32 {
    let mut found = G::headers_alone(skb.as_ptr());
    if found & KIND == JUDGED {
        found = G::conclude_alone(skb.as_ptr(), found);
    }
    if found == PASS { G::PASS } else { G::DROP }
}

/// Decides by the headers.
#[inline(always)]
pub(super) fn headers_alone<G: Gate>(skb: Skb) -> u64 {
    let Some(settings) = SETTINGS.get(0) else {
        return DROP;
    };
    let mut packet = Packet::UNKNOWN;
    let parsed = parse(&skb, G::LINK, &mut packet);
    let facts = HookFacts::<G>::new(skb, settings);
    pack_decision(&decide_alone(parsed, &packet, G::HOOK, settings, &facts))
}

/// Counts and reports a judged packet, which is parsed once more for that, and says what becomes of it.
#[inline(always)]
pub(super) fn conclude_alone<G: Gate>(skb: Skb, found: u64) -> u64 {
    let Some(decision) = unpack_decision(found) else {
        return DROP;
    };
    let mut packet = Packet::UNKNOWN;
    let _judged = parse(&skb, G::LINK, &mut packet);
    count_packets(
        &Series::new(G::HOOK, &decision, &packet),
        u64::from(skb.segments()),
    );
    if decision.is_reported() {
        report_of::<G>(skb, &decision, &packet).tell_anyway();
    }
    outcome(&decision)
}

/// Parses the packet, and decides by its headers.
#[inline(always)]
pub(super) fn headers<G: Gate>(skb: Skb, packet: *mut Packet) -> u64 {
    // SAFETY: null, which the verifier wants asked, or the caller's packet, which nobody else has.
    let Some(packet) = (unsafe { packet.as_mut() }) else {
        return DROP;
    };
    let Some(settings) = SETTINGS.get(0) else {
        return DROP;
    };
    let facts = HookFacts::<G>::new(skb, settings);
    let parsed = parse(&skb, G::LINK, packet);
    let decision = decide(parsed, packet, G::HOOK, settings, &facts);
    // At a cgroup, only raw sockets send fragments, and of theirs no later one leaves.
    if matches!(G::HOOK, Hook::Tc) {
        remember(packet, &decision, settings);
    }
    if decision.is_judged() {
        return pack_decision(&decision);
    }
    if is_elsewhere(packet, G::HOOK, settings, &facts) {
        return ELSEWHERE;
    }
    match deeper(&skb, parsed, packet, G::HOOK, settings, &facts) {
        Deeper::No => PASS,
        Deeper::Inner => pack_inner(&skb, packet),
        Deeper::Payload => PAYLOAD,
    }
}

/// Parses the packet in a packet, and decides by its headers.
#[inline(always)]
pub(super) fn inside<G: Gate>(skb: Skb, packet: *mut Packet, found: u64) -> u64 {
    // SAFETY: as in `headers`.
    let Some(packet) = (unsafe { packet.as_mut() }) else {
        return DROP;
    };
    let Some(settings) = SETTINGS.get(0) else {
        return DROP;
    };
    let facts = HookFacts::<G>::new(skb, settings);
    *packet = Packet::UNKNOWN;
    let parsed = parse_inner(&skb, &unpack_inner(found), packet);
    pack_decision(&decide_inner(parsed, packet, settings, &facts))
}

/// Decides by the payload.
#[inline(always)]
pub(super) fn payload<G: Gate>(skb: Skb, packet: *const Packet) -> u64 {
    // SAFETY: as in `headers`.
    let Some(packet) = (unsafe { packet.as_ref() }) else {
        return DROP;
    };
    let Some(settings) = SETTINGS.get(0) else {
        return DROP;
    };
    let facts = HookFacts::<G>::new(skb, settings);
    pack_decision(&decide_payload(&skb, packet, settings, &facts))
}

/// Counts and reports a packet, and says what becomes of it.
#[inline(always)]
pub(super) fn conclude<G: Gate>(skb: Skb, packet: *const Packet, found: u64) -> u64 {
    // SAFETY: as in `headers`.
    let Some(packet) = (unsafe { packet.as_ref() }) else {
        return DROP;
    };
    let Some(settings) = SETTINGS.get(0) else {
        return DROP;
    };
    let decision = if found == ELSEWHERE {
        Decision::ELSEWHERE
    } else {
        let Some(decision) = unpack_decision(found) else {
            return DROP;
        };
        count_packets(
            &Series::new(G::HOOK, &decision, packet),
            u64::from(skb.segments()),
        );
        decision
    };
    if decision.is_reported() || decision.is_asked(G::HOOK) {
        let report = report_of::<G>(skb, &decision, packet);
        if decision.is_reported() {
            report.tell(settings);
        } else {
            report.note();
        }
    }
    outcome(&decision)
}

/// What there is to tell of a packet.
#[inline(always)]
fn report_of<'packet, G: Gate>(
    skb: Skb,
    decision: &'packet Decision,
    packet: &'packet Packet,
) -> Report<'packet> {
    Report {
        skb,
        hook: G::HOOK,
        decision,
        packet,
        sender: Sender::new(G::is_current(skb, packet), owner(skb)),
        netns_cookie: G::netns_cookie(skb),
    }
}

/// What becomes of a judged packet.
#[inline(always)]
fn outcome(decision: &Decision) -> u64 {
    if matches!(decision.verdict, Verdict::Drop) {
        DROP
    } else {
        PASS
    }
}

/// A decision in a register; [`PASS`] if there is none.
#[inline(always)]
fn pack_decision(decision: &Decision) -> u64 {
    if !decision.is_judged() {
        return PASS;
    }
    let Decision {
        verdict,
        reason,
        role,
    } = *decision;
    JUDGED | (verdict as u64) << 8 | (reason as u64) << 16 | (role as u64) << 24
}

#[inline(always)]
fn unpack_decision(found: u64) -> Option<Decision> {
    let [_, verdict, reason, role, ..] = found.to_le_bytes();
    Some(Decision {
        verdict: Verdict::from_wire(verdict)?,
        reason: Reason::from_wire(reason)?,
        role: Role::from_wire(role)?,
    })
}

/// Offsets have 24 bits in a register; the greatest one stands for none.
const NONE: u32 = 0xff_ffff;
const FRAME: u64 = 1 << 15;

/// Where a packet in a packet is, in a register; [`PASS`] if there is none.
#[inline(always)]
fn pack_inner(skb: &Skb, packet: &Packet) -> u64 {
    let mut inner = Inner::UNKNOWN;
    match find_inner(skb, packet, &mut inner) {
        Ok(()) => {}
        Err(ParseError::NotIp) => return PASS,
        // Nothing can be read there, so that it is found malformed.
        Err(_) => inner.start = NONE,
    }
    let Inner {
        start,
        end,
        link,
        carrier,
    } = inner;
    let mut found = INSIDE
        | (carrier as u64) << 8
        | u64::from(end & NONE) << 16
        | u64::from(start & NONE) << 40;
    if matches!(link, LinkLayer::Ethernet) {
        found |= FRAME;
    }
    found
}

#[inline(always)]
fn unpack_inner(found: u64) -> Inner {
    Inner {
        start: (found >> 40) as u32,
        end: match (found >> 16) as u32 & NONE {
            NONE => u32::MAX,
            end => end,
        },
        link: if found & FRAME == 0 {
            LinkLayer::Ip
        } else {
            LinkLayer::Ethernet
        },
        carrier: Carrier::from_wire((found >> 8) as u8 & 0x7f).unwrap_or(Carrier::None),
    }
}
