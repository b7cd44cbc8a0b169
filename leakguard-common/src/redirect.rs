//! Whom a call to port 53 reaches: the tunnel's resolver, whomever it was for, or nobody.
//!
//! This is for names to resolve, not what keeps DNS in: a call that is left alone meets the verdict on its packets.

use crate::abi::{Family, LanKey, Settings, Verdict};

/// The port that is redirected.
pub const PORT: u16 = 53;

/// A socket's call that names a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Of the destination; an IPv4 address that is mapped into IPv6 is IPv4.
    pub family: Family,
    /// An IPv4 address stands in the first four bytes.
    pub address: [u8; 16],
    /// In host byte order.
    pub port: u16,
    /// The interface that the socket is bound to; 0 for none.
    pub bound_ifindex: u32,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It goes where it was to go.
    Leave,
    /// It goes to this address, on the same port.
    To([u8; 16]),
    /// It fails at once, because nobody would be reached.
    Refuse,
}

impl Course {
    /// How it is counted, if it is.
    #[inline(always)]
    pub const fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Leave => None,
            Self::To(_) => Some(Verdict::Redirect),
            Self::Refuse => Some(Verdict::Drop),
        }
    }
}

/// What a call is looked up in; asked only as far as it matters.
pub trait Surroundings {
    /// Whether the socket is of the managed namespace.
    fn is_managed(&self) -> bool;
    /// Whether this host answers at an address, or a network that does not leave it.
    fn is_near(&self, address: &LanKey) -> bool;
    /// Whether the calling process is left alone.
    fn is_spared(&self) -> bool;
    /// Whether there is a tunnel that was up when somebody looked last.
    fn tunnel_is_up(&self) -> bool;
}

/// Whether a call can be any other than left alone.
#[inline(always)]
pub fn concerns(port: u16, settings: &Settings) -> bool {
    port == PORT && settings.redirect != 0
}

/// Decides a call that is [concerned](concerns).
#[inline(always)]
pub fn course(call: &Call, settings: &Settings, surroundings: &impl Surroundings) -> Course {
    if settings.mode == Settings::OBSERVE
        // Whoever chooses an interface wants that one; the packet is judged there.
        || call.bound_ifindex != 0
        || stays_here(call)
        || !surroundings.is_managed()
        || surroundings.is_near(&LanKey::new(call.family, &call.address, 128))
        || surroundings.is_spared()
    {
        return Course::Leave;
    }
    let Some(target) = target(call.family, settings) else {
        return Course::Refuse;
    };
    if !surroundings.tunnel_is_up() {
        Course::Refuse
    } else if target == call.address {
        Course::Leave
    } else {
        Course::To(target)
    }
}

/// The tunnel's resolver for a family of addresses.
#[inline(always)]
pub fn target(family: Family, settings: &Settings) -> Option<[u8; 16]> {
    match family {
        Family::Ipv4 if settings.redirect & Settings::REDIRECT_V4 != 0 => {
            Some(widen(settings.redirect_v4))
        }
        Family::Ipv6 if settings.redirect & Settings::REDIRECT_V6 != 0 => {
            Some(settings.redirect_v6)
        }
        _ => None,
    }
}

/// An IPv4 address as the programs keep addresses.
#[inline(always)]
pub const fn widen(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Whether an address is this host's by what it is, or that of no single host: loopback, unspecified, multicast, broadcast.
#[inline(always)]
fn stays_here(call: &Call) -> bool {
    const LOOPBACK: u128 = 1;

    match call.family {
        Family::Ipv4 => matches!(call.address[0], 0 | 127 | 224..),
        Family::Ipv6 => call.address[0] == 0xff || u128::from_be_bytes(call.address) <= LOOPBACK,
        Family::Unknown => true,
    }
}
