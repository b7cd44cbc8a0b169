//! When the kernel says that an interface has gone.

use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context as _, Result};
use leakguard::lab::Netns;
use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc::{IFF_UP, RTM_DELLINK, RTM_NEWLINK};
use nix::net::if_::if_nametoindex;

/// What multicast group 1 says: `RTMGRP_LINK` of rtnetlink(7).
const LINKS: u32 = 1;

/// Where `struct ifinfomsg` has the interface's number, and its flags.
const INDEX: usize = 4;
const FLAGS: usize = 8;

/// Somebody who waits for the word about one interface, in a thread of its own.
pub(super) struct Announcement(JoinHandle<Result<Instant>>);

impl Announcement {
    /// Listens from now on.
    pub(super) fn of(netns: &Netns, interface: &str) -> Result<Self> {
        let (socket, ifindex) = netns.run_in(|| -> Result<_> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, LINKS))?;
            Ok((socket, if_nametoindex(interface)?))
        })??;
        Ok(Self(thread::spawn(move || await_gone(&socket, ifindex))))
    }

    /// When it came.
    pub(super) fn heard(self) -> Result<Instant> {
        self.0.join().ok().context("the listener panicked")?
    }
}

/// Waits until the interface is said to be down, or deleted.
fn await_gone(socket: &Socket, ifindex: u32) -> Result<Instant> {
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let heard = Instant::now();
        let message = NetlinkBuffer::new_checked(&datagram)?;
        let payload = message.payload();
        if word(payload, INDEX)? != ifindex {
            continue;
        }
        let up = word(payload, FLAGS)? & IFF_UP.cast_unsigned() != 0;
        match message.message_type() {
            RTM_DELLINK => return Ok(heard),
            RTM_NEWLINK if !up => return Ok(heard),
            _ => {}
        }
    }
}

fn word(payload: &[u8], offset: usize) -> Result<u32> {
    let bytes = payload.get(offset..).and_then(<[u8]>::first_chunk);
    let bytes = bytes.context("the kernel has sent half a message")?;
    Ok(u32::from_ne_bytes(*bytes))
}
