//! When interfaces have to be read again.

use std::io;

use netlink_packet_core::NLMSG_OVERRUN;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;

use super::listener::{Listener, each_message};

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
    fn note(&mut self, datagram: &[u8]) {
        let whole = each_message(datagram, |kind, _| match kind {
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
        });
        self.overrun |= !whole;
    }
}

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// Waits for links and routes to change.
///
/// Create it before the first [`snapshot()`](super::snapshot()).
#[derive(Debug)]
pub struct Watcher {
    listener: Listener,
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
        let listener = Listener::new(NETLINK_ROUTE, &GROUPS, bytes)
            .map_err(|source| WatchError::Subscribe { source })?;
        Ok(Self { listener })
    }

    /// Waits for the next changes and takes all that have happened so far.
    ///
    /// Nothing is lost if the future is dropped: it takes events only when it is about to return.
    pub async fn changed(&mut self) -> Result<Changes, WatchError> {
        loop {
            let mut changes = Changes::default();
            let lost = self
                .listener
                .receive(|datagram| changes.note(datagram))
                .await
                .map_err(|source| WatchError::Receive { source })?;
            changes.overrun |= lost;
            if changes.any() {
                return Ok(changes);
            }
        }
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
    use netlink_packet_core::NetlinkBuffer;

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
