//! The index of a packet counter: one series per combination of labels.

use crate::abi::{Family, Hook, Protocol, Reason, Role, Verdict};
use crate::packet::Packet;
use crate::verdict::Decision;

/// The labels of one `leakguard_packets_total` series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// The hook that judged.
    pub hook: Hook,
    /// The exit interface's role.
    pub role: Role,
    /// What the packet was judged as.
    pub reason: Reason,
    /// What became of it.
    pub verdict: Verdict,
    /// Its IP version.
    pub family: Family,
    /// Its transport.
    pub protocol: Protocol,
}

const HOOKS: u32 = 4;
const ROLES: u32 = 3;
const REASONS: u32 = 14;
const VERDICTS: u32 = 4;
const FAMILIES: u32 = 3;
const PROTOCOLS: u32 = 3;

/// How many series there are: the size of [`crate::abi::map::PACKETS`].
pub const SERIES: u32 = HOOKS * ROLES * REASONS * VERDICTS * FAMILIES * PROTOCOLS;

const _: () = {
    assert!(Hook::ALL.len() == HOOKS as usize);
    assert!(Role::ALL.len() == ROLES as usize);
    assert!(Reason::ALL.len() == REASONS as usize);
    assert!(Verdict::ALL.len() == VERDICTS as usize);
    assert!(Family::ALL.len() == FAMILIES as usize);
    assert!(Protocol::ALL.len() == PROTOCOLS as usize);
};

impl Series {
    /// The series that a judged packet is counted in.
    #[inline(always)]
    pub fn new(hook: Hook, decision: &Decision, packet: &Packet) -> Self {
        let Decision {
            verdict,
            reason,
            role,
        } = *decision;
        let protocol = Protocol::of(packet.protocol);
        Self {
            hook,
            role,
            reason,
            verdict,
            family: packet.family,
            protocol,
        }
    }

    /// The series' place in the map, below [`SERIES`].
    pub const fn index(&self) -> u32 {
        let Self {
            hook,
            role,
            reason,
            verdict,
            family,
            protocol,
        } = *self;
        let mut index = hook as u32;
        index = index * ROLES + role as u32;
        index = index * REASONS + reason as u32;
        index = index * VERDICTS + verdict as u32;
        index = index * FAMILIES + family as u32;
        index * PROTOCOLS + protocol as u32
    }

    /// Every series, in the order of their indexes.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SERIES).filter_map(Self::from_index)
    }

    fn from_index(index: u32) -> Option<Self> {
        let mut rest = index;
        let mut digit = |radix: u32| {
            let digit = rest % radix;
            rest /= radix;
            u8::try_from(digit).ok()
        };
        let protocol = Protocol::from_wire(digit(PROTOCOLS)?)?;
        let family = Family::from_wire(digit(FAMILIES)?)?;
        let verdict = Verdict::from_wire(digit(VERDICTS)?)?;
        let reason = Reason::from_wire(digit(REASONS)?)?;
        let role = Role::from_wire(digit(ROLES)?)?;
        let hook = Hook::from_wire(digit(HOOKS)?)?;
        Some(Self {
            hook,
            role,
            reason,
            verdict,
            family,
            protocol,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_dense_and_unique() {
        let mut next = 0;
        for series in Series::all() {
            assert_eq!(series.index(), next);
            next += 1;
        }
        assert_eq!(next, SERIES);
    }

    #[test]
    fn a_judged_packet_is_counted_under_its_own_labels() {
        let decision = Decision {
            verdict: Verdict::WouldDrop,
            reason: Reason::Doq,
            role: Role::Tunnel,
        };
        let packet = Packet {
            family: Family::Ipv6,
            protocol: 17,
            ..Packet::UNKNOWN
        };
        let series = Series::new(Hook::Tc, &decision, &packet);
        let expected = Series {
            hook: Hook::Tc,
            role: Role::Tunnel,
            reason: Reason::Doq,
            verdict: Verdict::WouldDrop,
            family: Family::Ipv6,
            protocol: Protocol::Udp,
        };
        assert_eq!(series, expected);
        assert_eq!(Series::from_index(series.index()), Some(series));
    }
}
