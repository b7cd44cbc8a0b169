//! What really leaves by an interface, seen behind every hook of leakguard's.
//!
//! A packet socket gets its copy of an outgoing packet in `dev_hard_start_xmit` (`dev_queue_xmit_nit` in `net/core/dev.c`),
//! when the device is about to be given the packet: netfilter's egress hook, TC and the queueing discipline have had their
//! say by then, and what they dropped is not seen. What bypasses the queueing layer (`__dev_direct_xmit`) is shown to no
//! packet socket at all.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{LinkAddr, recvfrom};

use crate::lab::{LabError, cooked, dropped_since};

/// Enough of each packet: labels stand near its start.
const SNAP: usize = 2048;

/// A capture of what leaves by one interface.
#[derive(Debug)]
pub(super) struct Tap {
    socket: OwnedFd,
    buffer: Box<[u8]>,
}

impl Tap {
    /// Starts one on an interface of the calling thread's namespace.
    pub(super) fn open(index: u32) -> Result<Self, LabError> {
        Ok(Self {
            socket: cooked(index)?,
            buffer: vec![0; SNAP].into_boxed_slice(),
        })
    }

    /// Hands out what has left since the last call, from the network header on.
    pub(super) fn each(&mut self, mut packet: impl FnMut(&[u8])) -> Result<(), LabError> {
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut self.buffer) {
                Ok((length, from)) => {
                    // What comes in can quote what was sent.
                    let outgoing = from.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
                    if let (true, Some(bytes)) = (outgoing, self.buffer.get(..length)) {
                        packet(bytes);
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(source) => return Err(LabError::syscall("recv", "packet socket")(source)),
            }
        }
    }

    /// How many packets it has missed since the last call.
    pub(super) fn missed(&self) -> Result<u64, LabError> {
        dropped_since(&self.socket)
    }
}

/// How many packets an interface of the calling thread's namespace has sent, by its own count.
pub(super) fn sent_by(interface: &str) -> Option<u64> {
    /// Where the packets sent stand behind the name, in `/proc/net/dev`.
    const SENT: usize = 9;

    let table = std::fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    table.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        (name.trim() == interface)
            .then(|| counters.split_whitespace().nth(SENT)?.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_an_interface_is_found_by_its_name() {
        assert!(sent_by("lo").is_some());
        assert_eq!(sent_by("no such one"), None);
    }
}
