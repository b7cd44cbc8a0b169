//! The event ring as an asynchronous source.

use std::io;

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::KernelError;

/// The most records that one wake-up hands over, so that a flood does not starve the rest of the agent.
const BATCH: usize = 512;

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

/// Records that were taken out of a ring, in their order; used again and again.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Records {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of each.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let parts = starts.zip(&self.ends);
        parts.map(|(start, &end)| self.bytes.get(start..end).unwrap_or_default())
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
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
    pub async fn next(&mut self, records: &mut Records) -> io::Result<()> {
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
    pub fn drain(&mut self, records: &mut Records) {
        take(&mut self.ring.get_mut().0, records);
    }
}

/// Takes records until the ring is empty, or until there is a batch of them.
fn take(ring: &mut RingBuf<MapData>, records: &mut Records) -> bool {
    while records.len() < BATCH {
        match ring.next() {
            Some(record) => records.push(&record),
            None => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_as_they_went_in() {
        let mut records = Records::default();
        assert_eq!(records.iter().count(), 0);
        for _ in 0..2 {
            for record in [&b"one"[..], b"", b"three"] {
                records.push(record);
            }
            assert_eq!(records.len(), 3);
            let all: Vec<&[u8]> = records.iter().collect();
            assert_eq!(all, [&b"one"[..], b"", b"three"]);
            records.clear();
            assert!(records.is_empty());
        }
    }
}
