//! The event ring as an asynchronous source.

use std::io;

use aya::maps::{MapData, RingBuf};
use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::KernelError;

/// The most records that one wake-up hands over, so that a flood does not starve the rest of the agent.
const BATCH: usize = 256;

/// The consumer end of the event ring.
pub struct EventRing {
    ring: AsyncFd<Ring>,
}

/// aya's ring, named so that it can stand in an [`AsyncFd`].
struct Ring(RingBuf<MapData>);

impl std::os::fd::AsRawFd for Ring {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl EventRing {
    pub(super) fn of(ring: RingBuf<MapData>) -> Result<Self, KernelError> {
        // SAFETY: `Ring` always returns the descriptor of the map it owns, which stays open as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(Ring(ring), Interest::READABLE) }
            .map_err(io::Error::from)
            .map_err(KernelError::call("epoll_ctl", "an event ring"))?;
        Ok(Self { ring })
    }

    /// Waits for records and takes at most a batch of them, each the bytes of one `leakguard_common::abi::Event`.
    ///
    /// Cancel safe: nothing is taken before it is returned.
    pub async fn next(&mut self, records: &mut Vec<Bytes>) -> io::Result<()> {
        loop {
            let mut guard = self.ring.readable_mut().await?;
            let drained = take(&mut guard.get_inner_mut().0, records);
            if drained {
                guard.clear_ready();
            }
            if !records.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes a batch of records at most, of those that are there.
    pub fn drain(&mut self, records: &mut Vec<Bytes>) {
        take(&mut self.ring.get_mut().0, records);
    }
}

/// Takes records until the ring is empty, or until there is a batch of them.
fn take(ring: &mut RingBuf<MapData>, records: &mut Vec<Bytes>) -> bool {
    while records.len() < BATCH {
        match ring.next() {
            Some(record) => records.push(Bytes::copy_from_slice(&record)),
            None => return true,
        }
    }
    false
}
