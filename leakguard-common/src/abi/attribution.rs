//! Who sends, and how often that is told.

use super::{Event, Family};

wire_enum! {
    /// Where the owner of a socket was recorded last.
    Origin {
        /// Nowhere: the socket is older than the programs, or of no family that they see.
        Unknown = 0 => "unknown",
        /// At `cgroup/sock_create`.
        Create = 1 => "create",
        /// At `cgroup/connect4` or `connect6`.
        Connect = 2 => "connect",
    }
}

/// The task that created a socket, or connected it; a value of [`super::map::OWNERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Owner {
    /// When that was: `CLOCK_BOOTTIME` in nanoseconds. A process that is younger is another one.
    pub boot_time: u64,
    /// The task's cgroup2 id.
    pub cgroup_id: u64,
    /// Its process id.
    pub pid: u32,
    /// Its user id.
    pub uid: u32,
    /// An [`Origin`].
    pub origin: u8,
    /// 0; keeps the size a multiple of the alignment.
    pub padding: [u8; 7],
    /// Its command name, NUL-padded.
    pub comm: [u8; 16],
}

impl Owner {
    /// Nobody.
    pub const NOBODY: Self = Self {
        boot_time: 0,
        cgroup_id: 0,
        pid: 0,
        uid: 0,
        origin: Origin::Unknown as u8,
        padding: [0; 7],
        comm: [0; 16],
    };
}

/// What has a rate of its own: a sender, a destination and a reason; a key of [`super::map::RATES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct RateKey {
    /// The source address of a packet whose sender is not known; else zeroes.
    pub source: [u8; 16],
    /// The destination address.
    pub destination: [u8; 16],
    /// The sending process; 0 if it is not known.
    pub pid: u32,
    /// The interface that the packet came in by.
    pub ingress_ifindex: u32,
    /// A [`super::Reason`].
    pub reason: u8,
    /// A [`super::Verdict`].
    pub verdict: u8,
    /// A [`super::Hook`].
    pub hook: u8,
    /// A [`Family`].
    pub family: u8,
    /// 0; keeps the size a multiple of the alignment.
    pub padding: u32,
}

impl RateKey {
    /// The key of what an event tells of, as the program had it.
    pub fn of(event: &Event) -> Self {
        let pid = event.sender();
        Self {
            source: if pid == 0 { event.source } else { [0; 16] },
            destination: event.destination,
            pid,
            ingress_ifindex: event.ingress_ifindex,
            reason: event.reason,
            verdict: event.verdict,
            hook: event.hook,
            family: event.family,
            padding: 0,
        }
    }

    /// The IP version, if it is one.
    pub fn family(&self) -> Option<Family> {
        Family::from_wire(self.family)
    }
}

/// How often something has been told; a value of [`super::map::RATES`].
///
/// Nothing is ever taken back, so that programs on several processors need only add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rate {
    /// When it was seen first: `CLOCK_BOOTTIME` in nanoseconds. With another value, all counts start anew.
    pub created: u64,
    /// When the current second began.
    pub window: u64,
    /// Events in the current second; several processors may begin it at once, so that there are a few more.
    pub told: u64,
    /// Packets without an event, ever.
    pub suppressed: u64,
}

impl Rate {
    /// How long a window is, in nanoseconds.
    pub const WINDOW: u64 = 1_000_000_000;

    /// Whether the window has ended.
    #[inline(always)]
    pub fn is_over(&self, now: u64) -> bool {
        now.wrapping_sub(self.window) >= Self::WINDOW
    }
}

/// How many keys have a rate at once; of more, those that were seen least lately start anew.
pub const MAX_RATES: u32 = 8192;

const _: () = {
    assert!(size_of::<Owner>() == 48);
    assert!(size_of::<RateKey>() == 48);
    assert!(size_of::<Rate>() == 32);
};

// SAFETY: repr(C), fixed-width integers and arrays of them, and no padding (the sizes are asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for RateKey {}

// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Rate {}
