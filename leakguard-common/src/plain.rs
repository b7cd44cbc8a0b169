//! The shortest way to let an ordinary packet go: its first bytes, when they stand where they nearly always do.
//!
//! Nothing is decided here that [`crate::verdict::decide`] would decide otherwise; a packet for which this says no is
//! only looked at more closely. It spares most packets every helper call.

use crate::abi::{Family, Settings};
use crate::encapsulation::{is_carrier_protocol, may_carry};
use crate::packet::{
    IPV6_LEN, PORTS_LEN, Packet, PacketBytes, Truncated, has_ports, is_extension, protocol,
};
use crate::restriction::is_restricted;
use crate::sieve::Place;
use crate::verdict::{class, may_be_doh};

/// An IPv4 header without options, and the ports.
pub const IPV4_HEAD: usize = 24;

/// An IPv6 header without extensions, and the ports.
pub const IPV6_HEAD: usize = 44;

/// What a hook can say of a packet without looking at all of it; offsets count from the network header.
pub trait Rest: PacketBytes {
    /// Whether it may go to a known resolver ([`Sieve::may_hold`](crate::sieve::Sieve::may_hold)).
    fn may_be_resolver(&self, destination: Place) -> bool;

    /// Whether it may be the hello of a TLS client, for TCP right behind the network header.
    fn may_be_hello(&self) -> bool;
}

/// Whether these are the first bytes of a whole packet that belongs to no class, that carries no other, and that may leave by
/// every interface.
#[inline(always)]
pub fn is_other_ipv4(
    head: &[u8; IPV4_HEAD],
    settings: &Settings,
    engaged: bool,
    rest: &impl Rest,
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
            true,
            settings,
            rest,
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

/// As [`is_other_ipv4`]; options may stand between the header and the transport.
#[inline(always)]
pub fn is_other_ipv6(
    head: &[u8; IPV6_HEAD],
    settings: &Settings,
    engaged: bool,
    rest: &impl Rest,
) -> bool {
    const VERSION: usize = 0;
    const NEXT_HEADER: usize = 6;
    const DESTINATION: usize = 24;
    const PORT: usize = 42;

    if is_restricted(Family::Ipv6, settings, engaged) || head[VERSION] >> 4 != 6 {
        return false;
    }
    let mut number = head[NEXT_HEADER];
    let mut port = [head[PORT], head[PORT + 1]];
    let is_next = !is_options(number);
    if !is_next && behind_options(rest, &mut number, &mut port).is_err() {
        return false;
    }
    is_other(Family::Ipv6, number, port, is_next, settings, rest, || {
        let mut first = [0; 8];
        first.copy_from_slice(&head[DESTINATION..DESTINATION + 8]);
        Place::ipv6(first)
    })
}

/// How many headers of options are followed here; senders make one or two.
const MAX_OPTIONS: u32 = 2;

#[inline(always)]
const fn is_options(number: u8) -> bool {
    matches!(number, protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS)
}

/// Finds the transport behind the options of an IPv6 packet: its number, and its destination port if it has one.
#[inline(always)]
fn behind_options(rest: &impl Rest, number: &mut u8, port: &mut [u8; 2]) -> Result<(), Truncated> {
    let mut transport = IPV6_LEN;
    for _ in 0..MAX_OPTIONS {
        if is_options(*number) {
            let mut header = [0; 8];
            rest.read(transport, &mut header)?;
            *number = header[0];
            transport += (u32::from(header[1]) + 1) * 8;
        }
    }
    let mut ports = [0; PORTS_LEN as usize];
    rest.read(transport, &mut ports)?;
    *port = [ports[2], ports[3]];
    Ok(())
}

#[inline(always)]
fn is_other(
    family: Family,
    number: u8,
    port: [u8; 2],
    is_next: bool,
    settings: &Settings,
    rest: &impl Rest,
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
        || is_next
            && !rest.may_be_resolver(destination())
            && (number != protocol::TCP || !rest.may_be_hello())
}
