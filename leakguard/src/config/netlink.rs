//! How much room the kernel has for interface events that the agent has not read yet.

use std::ops::RangeInclusive;

use super::RuleError;
use crate::interfaces::Watcher;

/// The receive buffer of the socket that interface events come by, in bytes; within its bounds.
///
/// What does not fit is lost. The agent notices, and reads everything again, which costs time but lets nothing through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetlinkBuffer(usize);

impl NetlinkBuffer {
    /// From a few dozen events, below which ordinary changes of one interface are lost, to half of what the kernel
    /// takes (`INT_MAX / 2`, `sock_setsockopt` in `net/core/sock.c`).
    pub(super) const BOUNDS: RangeInclusive<i64> = 64 << 10..=512 << 20;

    /// Checks a number of bytes.
    pub(super) fn new(bytes: i64) -> Result<Self, RuleError> {
        let refused = RuleError::NetlinkBuffer { bytes };
        if !Self::BOUNDS.contains(&bytes) {
            return Err(refused);
        }
        usize::try_from(bytes).map(Self).ok().ok_or(refused)
    }

    /// The number of bytes.
    pub fn bytes(self) -> usize {
        self.0
    }
}

impl Default for NetlinkBuffer {
    fn default() -> Self {
        Self(Watcher::RECEIVE_BUFFER)
    }
}
