//! What packets are looked up by, and what is found.

use super::Family;
use crate::packet::Packet;

/// Where a packet goes, as a key of [`super::map::ENDPOINTS`] and, from its [`LanKey`] on, of [`super::map::LAN`].
///
/// One key for both: a program has 512 bytes of stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct EndpointKey {
    /// In host byte order; 0 for later fragments, which have no ports.
    pub port: u16,
    /// The IP protocol number.
    pub protocol: u8,
    /// 0; keeps the rest aligned.
    pub padding: u8,
    /// The address.
    pub address: LanKey,
}

impl EndpointKey {
    /// The key of a port at an address.
    #[inline(always)]
    pub fn new(family: Family, address: &[u8; 16], protocol: u8, port: u16) -> Self {
        Self {
            port,
            protocol,
            padding: 0,
            address: LanKey::new(family, address, 128),
        }
    }

    /// Where a packet goes.
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        Self::new(
            packet.family,
            &packet.destination,
            packet.protocol,
            packet.destination_port,
        )
    }
}

/// A prefix, or an address, as a key of [`super::map::LAN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct LanKey {
    /// How many bits count, from the family's on.
    pub length: u32,
    /// A [`Family`] in the last byte; all of its bits are part of every prefix.
    pub family: [u8; 4],
    /// An IPv4 address stands in the first four bytes.
    pub address: [u8; 16],
}

impl LanKey {
    /// How many bits come before the address.
    pub const FAMILY_BITS: u32 = 32;

    /// The key of the first `length` bits of an address.
    #[inline(always)]
    pub fn new(family: Family, address: &[u8; 16], length: u32) -> Self {
        Self {
            length: Self::FAMILY_BITS + length,
            family: [0, 0, 0, family as u8],
            address: *address,
        }
    }
}

/// How many bytes of a server name are compared, from its end on.
pub const NAME_BYTES: usize = 48;

/// The same number, as keys and offsets have it.
pub const NAME_LEN: u32 = 48;

/// A server name, or a suffix of one, as a key of [`super::map::DOH_NAMES`]: its bytes from the last to the first, in lower case,
/// then zeroes.
///
/// A name is known if the table has a prefix of it. One that ends in a zero stands for the name alone, one that ends in a dot
/// for all the names below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct NameKey {
    /// How many bits count.
    pub length: u32,
    /// The name, backwards.
    pub reversed: [u8; NAME_BYTES],
}

/// What the fragments of a datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// As in [`Packet`].
    pub source: [u8; 16],
    /// As in [`Packet`].
    pub destination: [u8; 16],
    /// As in [`Packet`].
    pub identification: u32,
    /// For IPv4 the IP protocol number; 0 for IPv6, whose fragments need not agree about what follows.
    pub protocol: u8,
    /// A [`Family`].
    pub family: u8,
    /// 0; keeps the size a multiple of the alignment.
    pub padding: [u8; 2],
}

impl FragmentKey {
    /// The datagram that a packet is a fragment of.
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        Self {
            source: packet.source,
            destination: packet.destination,
            identification: packet.identification,
            protocol: match packet.family {
                Family::Ipv4 => packet.protocol,
                Family::Ipv6 | Family::Unknown => 0,
            },
            family: packet.family as u8,
            padding: [0; 2],
        }
    }
}

/// What became of a first fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FirstFragment {
    /// Until when it says something: `CLOCK_BOOTTIME` in nanoseconds.
    pub until: u64,
    /// A [`super::Verdict`].
    pub verdict: u32,
    /// 0; keeps the size a multiple of the alignment.
    pub padding: u32,
}

impl FirstFragment {
    /// How long receivers keep fragments (60 s for IPv6, RFC 8200; Linux keeps those of IPv4 for 30).
    pub const LIFETIME: u64 = 60_000_000_000;
}

/// Who may send to an endpoint: whoever meets each condition that is not 0. All zeroes: nobody.
///
/// An address and a port alone would be open to every process; a mark takes `CAP_NET_ADMIN` or `CAP_NET_RAW`
/// (`sk_setsockopt`, `SO_MARK`, 6.18), and a cgroup takes being put into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// The id of a cgroup that the sending socket is in or below; 0 for any.
    pub cgroup_id: u64,
    /// That cgroup's depth below the root of the hierarchy.
    pub cgroup_level: u32,
    /// The packet's mark; 0 for any.
    pub mark: u32,
}

impl Endpoint {
    /// Whether a packet with this mark, of a socket with this ancestor at a level, may go to the endpoint.
    #[inline(always)]
    pub fn admits(&self, mark: u32, ancestor: impl FnOnce(u32) -> u64) -> bool {
        if self.mark == 0 && self.cgroup_id == 0 {
            return false;
        }
        (self.mark == 0 || self.mark == mark)
            && (self.cgroup_id == 0 || self.cgroup_id == ancestor(self.cgroup_level))
    }
}
