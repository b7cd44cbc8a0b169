//! When interfaces have to be read again.

use std::{fmt, io, os::fd::AsRawFd};

use super::netlink::split_aligned;
use bytes::BytesMut;
use netlink_packet_core::{NLMSG_OVERRUN, NetlinkBuffer};
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_ROUTE};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt::RcvBufForce},
};

/// Events are not read but looked at, so what does not fit here may be cut.
const DATAGRAM: usize = 32 * 1024;

/// Datagrams to read before the caller gets its turn, so that a storm cannot hold it up.
const BATCH: usize = 4096;

/// The multicast groups to join.
///
/// Addresses are not among them: no role depends on one, and the route that an address brings has an
/// event of its own. IPv4 routes that go down with their link have none; the link's event stands for
/// them.
const GROUPS: [u32; 4] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_NEXTHOP,
];

/// What has to be read again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four things that happen each on its own"
)]
pub struct Changes {
    /// A link came, went or changed. The routes over it may have changed without an event.
    pub links: bool,
    /// A link went. It may be back already, with the same number and name: what reads the same is not the same then,
    /// and what the kernel held for it is gone.
    pub gone: bool,
    /// A route or next hop came, went or changed. Under a routing daemon this is true most of the
    /// time: limit the rate of what it leads to.
    pub routes: bool,
    /// Events were lost: anything may have changed.
    pub overrun: bool,
}

impl Changes {
    /// Whether anything has to be read again.
    pub fn any(self) -> bool {
        let Self {
            links,
            gone,
            routes,
            overrun,
        } = self;
        links || gone || routes || overrun
    }

    /// Notes what the messages of one datagram are about.
    fn note(&mut self, mut datagram: &[u8]) {
        while !datagram.is_empty() {
            let Ok(message) = NetlinkBuffer::new_checked(datagram) else {
                // Cut or unknown: what it said is lost.
                self.overrun = true;
                return;
            };
            match message.message_type() {
                libc::RTM_NEWLINK => self.links = true,
                libc::RTM_DELLINK => {
                    self.links = true;
                    self.gone = true;
                }
                libc::RTM_NEWROUTE | libc::RTM_DELROUTE | RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
                    self.routes = true;
                }
                NLMSG_OVERRUN => self.overrun = true,
                _ => {}
            }
            let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
            datagram = split_aligned(datagram, length).1;
        }
    }
}

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// Waits for links and routes to change.
///
/// Create it before the first [`snapshot()`](super::snapshot()).
pub struct Watcher {
    socket: TokioSocket,
    buffer: BytesMut,
    /// Events were lost and the queue was not empty since: more may be lost without a new error.
    congested: bool,
}

impl Watcher {
    /// What the socket holds by default before the kernel drops events, in bytes.
    pub const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;

    /// Subscribes in the network namespace of the calling thread, with the default room for events.
    pub fn new() -> Result<Self, WatchError> {
        Self::with_receive_buffer(Self::RECEIVE_BUFFER)
    }

    /// Subscribes with room for `bytes` of unread events.
    pub fn with_receive_buffer(bytes: usize) -> Result<Self, WatchError> {
        let subscribe = |source| WatchError::Subscribe { source };
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(subscribe)?;
        let inner = socket.socket_mut();
        // Beyond net.core.rmem_max, which CAP_NET_ADMIN of the initial user namespace allows;
        // elsewhere the system's limit applies and a loss is likelier, but no less visible.
        if setsockopt(inner, RcvBufForce, &bytes).is_err() {
            let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
            inner.set_rx_buf_sz(bytes).map_err(subscribe)?;
        }
        inner.bind_auto().map_err(subscribe)?;
        for group in GROUPS {
            inner.add_membership(group).map_err(subscribe)?;
        }
        Ok(Self {
            socket,
            buffer: BytesMut::with_capacity(DATAGRAM),
            congested: false,
        })
    }

    /// Waits for the next changes and takes all that have happened so far.
    ///
    /// Nothing is lost if the future is dropped: it takes events only when it is about to return.
    pub async fn changed(&mut self) -> Result<Changes, WatchError> {
        loop {
            let mut changes = Changes::default();
            self.clear_buffer();
            let mut received = self.socket.recv(&mut self.buffer).await;
            for _ in 0..BATCH {
                match received {
                    Ok(()) => changes.note(&self.buffer),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // The kernel reports a loss once and not again until the queue is empty,
                        // which it is now.
                        changes.overrun |= self.congested;
                        self.congested = false;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        self.congested = true;
                    }
                    Err(source) => return Err(WatchError::Receive { source }),
                }
                self.clear_buffer();
                received = self.socket.socket_ref().recv(&mut self.buffer, 0).map(drop);
            }
            changes.overrun |= self.congested;
            if changes.any() {
                return Ok(changes);
            }
        }
    }

    fn clear_buffer(&mut self) {
        self.buffer.clear();
        self.buffer.reserve(DATAGRAM);
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            socket,
            buffer: _,
            congested,
        } = self;
        f.debug_struct("Watcher")
            .field("socket", &socket.as_raw_fd())
            .field("congested", congested)
            .finish_non_exhaustive()
    }
}

/// Why changes cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No socket, or not all of its groups.
    #[error("cannot subscribe to interface changes")]
    Subscribe {
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The socket failed for another reason than a full queue.
    #[error("cannot receive interface changes")]
    Receive {
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS: Changes = Changes {
        links: true,
        gone: false,
        routes: false,
        overrun: false,
    };
    const ROUTES: Changes = Changes {
        links: false,
        gone: false,
        routes: true,
        overrun: false,
    };
    const OVERRUN: Changes = Changes {
        links: false,
        gone: false,
        routes: false,
        overrun: true,
    };

    fn message(kind: u16, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0; 16 + payload];
        let length = u32::try_from(bytes.len()).unwrap();
        let mut header = NetlinkBuffer::new(&mut bytes);
        header.set_length(length);
        header.set_message_type(kind);
        bytes
    }

    fn noted(datagram: &[u8]) -> Changes {
        let mut changes = Changes::default();
        changes.note(datagram);
        changes
    }

    #[test]
    fn links_and_routes_are_told_apart() {
        assert_eq!(noted(&message(libc::RTM_NEWLINK, 16)), LINKS);
        let gone = Changes {
            gone: true,
            ..LINKS
        };
        assert_eq!(noted(&message(libc::RTM_DELLINK, 16)), gone);
        for kind in [
            libc::RTM_NEWROUTE,
            libc::RTM_DELROUTE,
            RTM_NEWNEXTHOP,
            RTM_DELNEXTHOP,
        ] {
            assert_eq!(noted(&message(kind, 12)), ROUTES);
        }
        assert!(!noted(&message(libc::RTM_NEWADDR, 8)).any());
        let both = [
            message(libc::RTM_NEWROUTE, 12),
            message(libc::RTM_NEWLINK, 16),
        ]
        .concat();
        assert_eq!(
            noted(&both),
            Changes {
                links: true,
                ..ROUTES
            }
        );
    }

    #[test]
    fn what_is_cut_or_lost_is_an_overrun() {
        let whole = message(libc::RTM_NEWLINK, 16);
        for length in 1..whole.len() {
            assert_eq!(noted(&whole[..length]), OVERRUN, "cut at {length}");
        }
        assert_eq!(noted(&message(NLMSG_OVERRUN, 0)), OVERRUN);
    }
}
