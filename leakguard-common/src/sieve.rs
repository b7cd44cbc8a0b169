//! Which destinations may be known resolvers: one bit in place of a walk through a table of prefixes.
//!
//! Nearly everything that a host sends goes to port 443, and nearly nothing of it to a resolver of DNS over HTTPS. A bit that
//! is not set says so for certain; one that is set sends the packet the long way.

use crate::abi::{Family, LanKey};

const BITS: u32 = 18;
const WORDS: usize = 1 << (BITS - 6);

/// As many bits, all of them alike.
#[expect(
    clippy::large_stack_arrays,
    reason = "32 KiB, in user space alone: programs look at the one in their map"
)]
const fn all(word: u64) -> Sieve {
    Sieve {
        words: [word; WORDS],
    }
}

/// How many leading bits of an IPv4 address choose its bit.
const IPV4_BITS: u32 = 24;

/// How many leading bits of an IPv6 address choose its bit.
const IPV6_BITS: u32 = 48;

/// The value of [`crate::abi::map::DOH_SIEVE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sieve {
    words: [u64; WORDS],
}

#[inline(always)]
const fn leading_ipv4(address: [u8; 4]) -> u64 {
    (u32::from_be_bytes(address) >> (u32::BITS - IPV4_BITS)) as u64
}

/// One more bit keeps them apart from those of IPv4.
#[inline(always)]
const fn leading_ipv6(first: [u8; 8]) -> u64 {
    u64::from_be_bytes(first) >> (u64::BITS - IPV6_BITS) | 1 << IPV6_BITS
}

/// The number of a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// Where an IPv4 address has its bit.
    #[inline(always)]
    pub const fn ipv4(address: [u8; 4]) -> Self {
        Self::of(leading_ipv4(address))
    }

    /// Where an IPv6 address that starts with these bytes has its bit.
    #[inline(always)]
    pub const fn ipv6(first: [u8; 8]) -> Self {
        Self::of(leading_ipv6(first))
    }

    /// Multiplicative hashing (Knuth, The Art of Computer Programming 3, section 6.4).
    #[inline(always)]
    const fn of(leading: u64) -> Self {
        /// 2^64 divided by the golden ratio.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

        Self((leading.wrapping_mul(FACTOR) >> (u64::BITS - BITS)) as u32)
    }
}

impl Sieve {
    /// Nothing is known.
    pub const EMPTY: Self = all(0);

    /// Anything may be known.
    const FULL: Self = all(u64::MAX);

    /// Whether an address with this bit may be within one of the prefixes.
    #[inline(always)]
    pub fn may_hold(&self, Place(place): Place) -> bool {
        // The mask says nothing new; the verifier asks for it.
        let word = (place >> 6) as usize & (WORDS - 1);
        self.words[word] >> (place & 63) & 1 != 0
    }

    /// Sets the bits of all addresses within a prefix.
    #[expect(clippy::many_single_char_names, reason = "the bytes of an address")]
    pub fn admit(&mut self, prefix: &LanKey) {
        let [a, b, c, d, e, f, g, h, ..] = prefix.address;
        let (bits, leading) = if prefix.family[3] == Family::Ipv6 as u8 {
            (IPV6_BITS, leading_ipv6([a, b, c, d, e, f, g, h]))
        } else {
            (IPV4_BITS, leading_ipv4([a, b, c, d]))
        };
        let free = bits.saturating_sub(prefix.length.saturating_sub(LanKey::FAMILY_BITS));
        if free >= BITS {
            *self = Self::FULL;
            return;
        }
        let first = leading >> free << free;
        for rest in 0..1 << free {
            self.set(Place::of(first | rest));
        }
    }

    /// Sets every bit that another has set.
    pub fn add(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    fn set(&mut self, Place(place): Place) {
        self.words[(place >> 6) as usize] |= 1 << (place & 63);
    }
}

#[cfg(feature = "user")]
// SAFETY: an array of numbers: every bit pattern is a value, and there is no padding.
unsafe impl aya::Pod for Sieve {}
