//! DNS questions that all are events.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use leakguard_tests::{Bench, Place, isp};
use nix::time::{ClockId, clock_gettime};

/// Where in a question its number stands.
const DIGITS: std::ops::Range<usize> = 14..21;

/// A question for `q0000000.flood.lab.test`, AAAA.
const QUESTION: &[u8] =
    b"\x4c\x47\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x08q0000000\x05flood\x03lab\x04test\x00\x00\x1c\x00\x01";

/// One who asks, each time for another name.
pub(super) struct Sender {
    socket: UdpSocket,
    target: SocketAddr,
}

/// What asking took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Of the sender's processor.
    pub(super) cpu: Duration,
    pub(super) elapsed: Duration,
}

impl Sender {
    /// A process in the guarded cgroup.
    pub(super) fn new(bench: &Bench) -> Self {
        let target = isp(0, 53);
        Self {
            socket: bench.origin(Place::Host).udp(target.ip()),
            target,
        }
    }

    /// Asks so many questions as fast as it can; all of them, or none, are `refused`.
    pub(super) fn flood(&self, count: u32, refused: bool) -> Result<Sent> {
        let mut question = QUESTION.to_vec();
        let mut failed = 0;
        let before = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
        let started = Instant::now();
        for number in 0..count {
            count_up(&mut question[DIGITS]);
            // The number of the message too: nobody takes it for the same again.
            question[..2].copy_from_slice(&number.to_le_bytes()[..2]);
            failed += u32::from(self.socket.send_to(&question, self.target).is_err());
        }
        let elapsed = started.elapsed();
        let after = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
        ensure!(
            failed == if refused { count } else { 0 },
            "{failed} of {count} questions were refused"
        );
        Ok(Sent {
            cpu: after.saturating_sub(before),
            elapsed,
        })
    }
}

/// The next number in decimal digits.
fn count_up(digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
}
