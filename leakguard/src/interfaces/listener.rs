//! A netlink socket that says when something has happened.

use std::{fmt, io, os::fd::AsRawFd};

use bytes::BytesMut;
use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt::RcvBufForce},
};

use super::netlink::split_aligned;

/// Events are not read but looked at, so what does not fit here may be cut.
const DATAGRAM: usize = 32 * 1024;

/// Datagrams to read before the caller gets its turn, so that a storm cannot hold it up.
const BATCH: usize = 4096;

/// Listens to multicast groups of one netlink protocol.
pub(crate) struct Listener {
    socket: TokioSocket,
    buffer: BytesMut,
    /// Events were lost and the queue was not empty since: more may be lost without a new error.
    congested: bool,
}

impl Listener {
    /// Subscribes in the network namespace of the calling thread, with room for `bytes` of unread events.
    pub(crate) fn new(protocol: isize, groups: &[u32], bytes: usize) -> io::Result<Self> {
        let mut socket = TokioSocket::new(protocol)?;
        let inner = socket.socket_mut();
        // Beyond net.core.rmem_max, which CAP_NET_ADMIN of the initial user namespace allows;
        // elsewhere the system's limit applies and a loss is likelier, but no less visible.
        if setsockopt(inner, RcvBufForce, &bytes).is_err() {
            let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
            inner.set_rx_buf_sz(bytes)?;
        }
        inner.bind_auto()?;
        for group in groups {
            inner.add_membership(*group)?;
        }
        Ok(Self {
            socket,
            buffer: BytesMut::with_capacity(DATAGRAM),
            congested: false,
        })
    }

    /// Waits for events, hands all datagrams that have come so far to `note`, and says whether some were lost.
    ///
    /// Nothing is lost if the future is dropped: it takes events only when it is about to return.
    pub(crate) async fn receive(&mut self, mut note: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut lost = false;
        self.clear_buffer();
        let mut received = self.socket.recv(&mut self.buffer).await;
        for _ in 0..BATCH {
            match received {
                Ok(()) => note(&self.buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The kernel reports a loss once and not again until the queue is empty,
                    // which it is now.
                    lost |= self.congested;
                    self.congested = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.congested = true;
                }
                Err(error) => return Err(error),
            }
            self.clear_buffer();
            received = self.socket.socket_ref().recv(&mut self.buffer, 0).map(drop);
        }
        Ok(lost | self.congested)
    }

    fn clear_buffer(&mut self) {
        self.buffer.clear();
        self.buffer.reserve(DATAGRAM);
    }
}

/// Hands each message of a datagram to `note`, by its type and what follows its header; says whether it was whole.
pub(crate) fn each_message(mut datagram: &[u8], mut note: impl FnMut(u16, &[u8])) -> bool {
    while !datagram.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(datagram) else {
            // Cut or unknown: what it said is lost.
            return false;
        };
        note(message.message_type(), message.payload());
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        datagram = split_aligned(datagram, length).1;
    }
    true
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            socket,
            buffer: _,
            congested,
        } = self;
        f.debug_struct("Listener")
            .field("socket", &socket.as_raw_fd())
            .field("congested", congested)
            .finish_non_exhaustive()
    }
}
