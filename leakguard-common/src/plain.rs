//! The shortest way to let an ordinary packet go: its first bytes, when they stand where they nearly always do.
//!
//! Nothing is decided here that [`crate::verdict::decide`] would decide otherwise; a packet for which this says no is
//! only looked at more closely. It spares most packets every helper call.

use crate::abi::{Family, Settings};
use crate::encapsulation::{is_carrier_protocol, may_carry};
use crate::packet::{Packet, has_ports, is_extension, protocol};
use crate::restriction::is_restricted;
use crate::sieve::Place;
use crate::verdict::{class, may_be_doh};

/// An IPv4 header without options, and the ports.
pub const IPV4_HEAD: usize = 24;

/// An IPv6 header without extensions, and the ports.
pub const IPV6_HEAD: usize = 44;

/// What a hook can say of a packet to port 443 without looking at all of it.
pub trait Https {
    /// Whether it may go to a known resolver ([`Sieve::may_hold`](crate::sieve::Sieve::may_hold)).
    fn may_be_resolver(&self, destination: Place) -> bool;

    /// Whether it may be the hello of a TLS client, for TCP.
    fn may_be_hello(&self) -> bool;
}

/// Whether these are the first bytes of a whole packet that belongs to no class, that carries no other, and that may leave by
/// every interface.
#[inline(always)]
pub fn is_other_ipv4(
    head: &[u8; IPV4_HEAD],
    settings: &Settings,
    engaged: bool,
    https: &impl Https,
) -> bool {
    const VERSION_AND_LENGTH: usize = 0;
    const FRAGMENT: usize = 6;
    const PROTOCOL: usize = 9;
    const DESTINATION: usize = 16;
    const PORT: usize = 22;
    /// The more-fragments flag and the fragment offset.
    const IS_FRAGMENT: u16 = 0x3fff;

    !is_restricted(Family::Ipv4, settings, engaged)
        && head[VERSION_AND_LENGTH] == 0x45
        && u16::from_be_bytes([head[FRAGMENT], head[FRAGMENT + 1]]) & IS_FRAGMENT == 0
        && is_other(
            Family::Ipv4,
            head[PROTOCOL],
            [head[PORT], head[PORT + 1]],
            settings,
            https,
            || {
                Place::ipv4([
                    head[DESTINATION],
                    head[DESTINATION + 1],
                    head[DESTINATION + 2],
                    head[DESTINATION + 3],
                ])
            },
        )
}

/// Whether these are the first bytes of a whole packet that belongs to no class, that carries no other, and that may leave by
/// every interface.
#[inline(always)]
pub fn is_other_ipv6(
    head: &[u8; IPV6_HEAD],
    settings: &Settings,
    engaged: bool,
    https: &impl Https,
) -> bool {
    const VERSION: usize = 0;
    const NEXT_HEADER: usize = 6;
    const DESTINATION: usize = 24;
    const PORT: usize = 42;

    !is_restricted(Family::Ipv6, settings, engaged)
        && head[VERSION] >> 4 == 6
        && is_other(
            Family::Ipv6,
            head[NEXT_HEADER],
            [head[PORT], head[PORT + 1]],
            settings,
            https,
            || {
                let mut first = [0; 8];
                first.copy_from_slice(&head[DESTINATION..DESTINATION + 8]);
                Place::ipv6(first)
            },
        )
}

#[inline(always)]
fn is_other(
    family: Family,
    number: u8,
    port: [u8; 2],
    settings: &Settings,
    https: &impl Https,
    destination: impl FnOnce() -> Place,
) -> bool {
    let packet = Packet {
        protocol: number,
        destination_port: u16::from_be_bytes(port),
        ..Packet::UNKNOWN
    };
    match number {
        protocol::TCP => {}
        protocol::UDP if settings.options & Settings::REPORT_SHAPES == 0 => {}
        _ => {
            return !has_ports(number)
                && !is_carrier_protocol(number)
                && !is_extension(number, family);
        }
    }
    if class(&packet, settings).is_some() || may_carry(&packet) {
        return false;
    }
    !may_be_doh(&packet, settings)
        || !https.may_be_resolver(destination())
            && (number != protocol::TCP || !https.may_be_hello())
}
