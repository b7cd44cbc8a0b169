//! The shortest way to let an ordinary packet go: its first bytes, when they stand where they nearly always do.
//!
//! Nothing is decided here that [`crate::verdict::decide`] would decide otherwise; a packet for which this says no is
//! only looked at more closely. It spares most packets every helper call.

use crate::abi::{Family, Settings};
use crate::encapsulation::may_carry;
use crate::packet::{Packet, protocol};
use crate::restriction::is_restricted;
use crate::verdict::{class, may_be_doh};

/// An IPv4 header without options, and the ports.
pub const IPV4_HEAD: usize = 24;

/// An IPv6 header without extensions, and the ports.
pub const IPV6_HEAD: usize = 44;

/// Whether these are the first bytes of a whole TCP or UDP packet that belongs to no class, and that may leave by every
/// interface.
#[inline(always)]
pub fn is_other_ipv4(head: &[u8; IPV4_HEAD], settings: &Settings, engaged: bool) -> bool {
    const VERSION_AND_LENGTH: usize = 0;
    const FRAGMENT: usize = 6;
    const PROTOCOL: usize = 9;
    const PORT: usize = 22;
    /// The more-fragments flag and the fragment offset.
    const IS_FRAGMENT: u16 = 0x3fff;

    !is_restricted(Family::Ipv4, settings, engaged)
        && head[VERSION_AND_LENGTH] == 0x45
        && u16::from_be_bytes([head[FRAGMENT], head[FRAGMENT + 1]]) & IS_FRAGMENT == 0
        && is_other(head[PROTOCOL], [head[PORT], head[PORT + 1]], settings)
}

/// Whether these are the first bytes of a whole TCP or UDP packet that belongs to no class, and that may leave by every
/// interface.
#[inline(always)]
pub fn is_other_ipv6(head: &[u8; IPV6_HEAD], settings: &Settings, engaged: bool) -> bool {
    const VERSION: usize = 0;
    const NEXT_HEADER: usize = 6;
    const PORT: usize = 42;

    !is_restricted(Family::Ipv6, settings, engaged)
        && head[VERSION] >> 4 == 6
        && is_other(head[NEXT_HEADER], [head[PORT], head[PORT + 1]], settings)
}

#[inline(always)]
fn is_other(number: u8, port: [u8; 2], settings: &Settings) -> bool {
    let packet = Packet {
        protocol: number,
        destination_port: u16::from_be_bytes(port),
        ..Packet::UNKNOWN
    };
    match number {
        protocol::TCP => {}
        protocol::UDP if settings.options & Settings::REPORT_SHAPES == 0 => {}
        _ => return false,
    }
    class(&packet, settings).is_none() && !may_be_doh(&packet, settings) && !may_carry(&packet)
}
