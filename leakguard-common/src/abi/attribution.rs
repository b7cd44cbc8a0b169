//! Who sends, and how often that is told.

use super::{Event, Family};

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
    /// Its command name, NUL-padded.
    pub comm: [u8; 16],
}

impl Owner {
    /// Nobody: the socket is older than the programs, or of no family that they see.
    pub const NOBODY: Self = Self {
        boot_time: 0,
        cgroup_id: 0,
        pid: 0,
        uid: 0,
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
    /// The key of a packet by its sender and addresses; the last are reason, verdict, hook and family.
    #[inline(always)]
    pub fn new(
        pid: u32,
        source: &[u8; 16],
        destination: &[u8; 16],
        ingress_ifindex: u32,
        [reason, verdict, hook, family]: [u8; 4],
    ) -> Self {
        Self {
            source: if pid == 0 { *source } else { [0; 16] },
            destination: *destination,
            pid,
            ingress_ifindex,
            reason,
            verdict,
            hook,
            family,
            padding: 0,
        }
    }

    /// The key of what an event tells of, as the program had it.
    pub fn of(event: &Event) -> Self {
        Self::new(
            event.sender(),
            &event.source,
            &event.destination,
            event.ingress_ifindex,
            [event.reason, event.verdict, event.hook, event.family],
        )
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
    assert!(size_of::<Owner>() == 40);
    assert!(size_of::<RateKey>() == 48);
    assert!(size_of::<Rate>() == 32);
};

// SAFETY: repr(C), fixed-width integers and arrays of them, and no padding (the sizes are asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for RateKey {}

// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Rate {}
