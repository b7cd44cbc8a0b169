//! Socket options that lead packets past the queueing layer, and with it past TC.

use crate::abi::{Reason, Role, Settings};
use crate::verdict::Decision;

/// The level of the options of packet sockets (`include/linux/socket.h`).
pub const SOL_PACKET: i32 = 263;

/// The level of the options of `AF_XDP` sockets (`include/linux/socket.h`).
pub const SOL_XDP: i32 = 283;

/// Sends straight to the driver (`include/uapi/linux/if_packet.h`).
pub const PACKET_QDISC_BYPASS: i32 = 20;

/// An option that somebody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOption {
    /// Whose option it is, such as [`SOL_PACKET`].
    pub level: i32,
    /// Its number within the level.
    pub name: i32,
}

impl SocketOption {
    /// How many bytes of an event it takes.
    pub const BYTES: usize = 8;

    /// As it stands in an event: the level, then the number.
    #[inline(always)]
    pub const fn to_bytes(self) -> [[u8; 4]; 2] {
        [self.level.to_ne_bytes(), self.name.to_ne_bytes()]
    }

    /// As it is read from an event.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (level, rest) = bytes.split_first_chunk()?;
        Some(Self {
            level: i32::from_ne_bytes(*level),
            name: i32::from_ne_bytes(*rest.first_chunk()?),
        })
    }

    /// Whether packets of the socket would pass no TC program any more.
    ///
    /// `is_on` says whether the value switches the option on. An `AF_XDP` socket cannot send before several options
    /// are set, so that refusing all of them at the first is enough, and leaves nothing half made.
    #[inline(always)]
    pub fn leads_past_tc(self, is_on: bool) -> bool {
        match self.level {
            SOL_PACKET => self.name == PACKET_QDISC_BYPASS && is_on,
            SOL_XDP => true,
            _ => false,
        }
    }
}

/// Decides about an option that a process sets on a socket.
///
/// `is_managed` says whether the socket lives in the managed namespace. What another one sends past its own devices is
/// still judged where it leaves this host: the bypass skips only the device that the socket is bound to
/// (`packet_direct_xmit` in `net/packet/af_packet.c`, 6.18).
#[inline(always)]
pub fn decide(
    option: SocketOption,
    is_on: impl FnOnce() -> bool,
    settings: &Settings,
    is_managed: impl FnOnce() -> bool,
) -> Decision {
    if settings.packet_sockets == Settings::LEAVE_ALONE
        || !matches!(option.level, SOL_PACKET | SOL_XDP)
        || !option.leads_past_tc(is_on())
        || !is_managed()
    {
        return Decision::IGNORE;
    }
    // It could be bound to any.
    Decision::of(Reason::RawBypass, Role::Uplink, settings)
}
