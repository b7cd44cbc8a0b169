//! Which interfaces the second net lets out by: the sets, and the chain that asks them.

use std::collections::BTreeSet;

use super::Permitted;
use super::ruleset::Family;

/// How long an uplink is left to its TC program, in seconds, unless the agent says so again.
///
/// Without an agent nobody would notice that a device was replaced by one without a program, whose number and name are
/// the same; the chain catches it then.
pub(super) const LEASE_SECONDS: u64 = 15;

/// Name of the set of tunnels and local interfaces.
pub(super) const PERMITTED: &str = "permitted";

/// Name of the set of those whose driver has no kind: hardware and the loopback interface.
pub(super) const PERMITTED_KINDLESS: &str = "permitted_kindless";

/// Name of the set of uplinks with a TC program.
pub(super) const COVERED: &str = "covered";

/// Name of the set of those whose driver has no kind.
pub(super) const COVERED_KINDLESS: &str = "covered_kindless";

/// Name of the chain that lets out what is permitted or left to others; the chains below go through it first.
pub(super) const LET_OUT: &str = "let_out";

/// No driver calls its kind so: what has another kind has one.
pub(super) const NO_KIND: &str = "-";

/// A set of interfaces as nft is told of it.
pub(super) struct InterfaceSet {
    /// How nft calls it.
    pub(super) name: &'static str,
    /// Whether it holds those without a kind, or those with one.
    pub(super) kindless: bool,
    /// Whether elements end by themselves.
    pub(super) leased: bool,
    /// What is in it, in nft's words.
    pub(super) elements: String,
}

impl InterfaceSet {
    /// Those of some interfaces that have a kind, or those that have none.
    pub(super) fn new(
        name: &'static str,
        interfaces: &BTreeSet<Permitted>,
        kindless: bool,
        leased: bool,
    ) -> Self {
        let elements: Vec<_> = interfaces
            .iter()
            .filter(|interface| interface.kind().is_none() == kindless)
            .map(Permitted::element)
            .collect();
        Self {
            name,
            kindless,
            leased,
            elements: elements.join(", "),
        }
    }
}

/// What interfaces are known by.
///
/// An expression that asks for a kind where there is none ends its rule without a match (`nft_meta_get_eval`).
pub(super) fn keys(kindless: bool) -> &'static str {
    if kindless {
        "oif . oifname"
    } else {
        "oif . oifname . meta oifkind"
    }
}

/// The chain of what may leave as far as the second net is concerned.
pub(super) fn write_let_out(text: &mut String, family: Family) {
    push!(text, "\tchain {LET_OUT} {{\n");
    for set in [PERMITTED, COVERED] {
        push!(text, "\t\t{} @{set} accept\n", keys(false));
    }
    if family == Family::Inet {
        // An IPsec policy without a device will encrypt it: netfilter sees it before that.
        text.push_str("\t\trt ipsec exists accept\n");
    }
    // What anybody can create has a kind: it is not the hardware whose number and name it took.
    push!(text, "\t\tmeta oifkind != \"{NO_KIND}\" return\n");
    for set in [PERMITTED_KINDLESS, COVERED_KINDLESS] {
        push!(text, "\t\t{} @{set} accept\n", keys(true));
    }
    text.push_str("\t}\n");
}
