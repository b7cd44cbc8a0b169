//! Sending one canary, in the calling thread's namespace.

use std::ffi::{OsString, c_int};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use leakguard_common::hardening::{PACKET_QDISC_BYPASS, SOL_PACKET};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::{BindToDevice, Ipv4Ttl, Ipv6Ttl};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, SockaddrStorage,
    bind, connect, getsockname, sendto, setsockopt, socket,
};

use super::canary::{Canary, Transport, Way};
use super::packet;

/// A packet that leaves is thrown away by the first router: whoever is addressed never sees it.
pub(super) const HOPS: u8 = 1;

/// The port that crafted packets come from; no program of this host listens for their answers.
const CRAFTED_PORT: u16 = 39_853;

/// A destination that no device has: a switch may pass the frame on, but nobody takes it for its own.
const NO_DEVICE: [u8; 6] = [2, 0x6c, 0x67, 0, 0, 1];

/// Where packets are to leave.
#[derive(Clone, Debug)]
pub(super) struct Egress {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
    /// Whether its frames begin with an Ethernet header.
    pub(super) ethernet: bool,
}

impl Egress {
    /// Its address of the same family.
    fn source(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.v4.map(IpAddr::from),
            IpAddr::V6(_) => self.v6.map(IpAddr::from),
        }
    }
}

/// What became of the attempt, as the sender was told.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) result: Result<(), Errno>,
    /// Where a connection's packets come from.
    pub(super) port: u16,
    /// Open until its packets have been counted: closing a connection would send more.
    _socket: Option<OwnedFd>,
}

/// Sends canaries by one interface, or by the routes if there is none.
#[derive(Debug)]
pub(super) struct Sender<'egress> {
    egress: Option<&'egress Egress>,
    /// One packet socket for all: closing one waits for an RCU grace period, some milliseconds
    /// (`packet_release` in `net/packet/af_packet.c`).
    packet: Option<OwnedFd>,
    /// The same for those that bypass the queueing layer.
    bypass: Option<OwnedFd>,
}

impl<'egress> Sender<'egress> {
    pub(super) fn new(egress: Option<&'egress Egress>) -> Self {
        Self {
            egress,
            packet: None,
            bypass: None,
        }
    }

    /// Sends a canary.
    pub(super) fn send(&mut self, canary: &Canary) -> Sent {
        let mut port = 0;
        let (result, socket) = match self.attempt(canary, &mut port) {
            Ok(socket) => (Ok(()), socket),
            Err(error) => (Err(error), None),
        };
        Sent {
            result,
            port,
            _socket: socket,
        }
    }

    fn attempt(&mut self, canary: &Canary, port: &mut u16) -> Result<Option<OwnedFd>, Errno> {
        let egress = self.egress;
        match canary.way {
            Way::Udp | Way::Connected | Way::Address | Way::Tcp | Way::Device => {
                by_socket(canary, egress, port).map(Some)
            }
            Way::Raw | Way::Forwarded | Way::Fragments => {
                *port = CRAFTED_PORT;
                by_raw_socket(canary, egress).map(Some)
            }
            Way::Packet | Way::Bypass | Way::LateFragment => {
                *port = CRAFTED_PORT;
                let bypasses = canary.way == Way::Bypass;
                let kept = if bypasses {
                    &mut self.bypass
                } else {
                    &mut self.packet
                };
                let socket = match kept {
                    Some(socket) => socket,
                    None => kept.insert(packet_socket()?),
                };
                if bypasses {
                    set_option(socket, SOL_PACKET, PACKET_QDISC_BYPASS, 1)?;
                }
                by_packet_socket(canary, egress.ok_or(Errno::ENODEV)?, socket).map(|()| None)
            }
        }
    }
}

fn open(
    destination: SocketAddr,
    kind: SockType,
    protocol: Option<SockProtocol>,
) -> Result<OwnedFd, Errno> {
    let family = match destination {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, kind, flags, protocol)?;
    let hops = c_int::from(HOPS);
    match destination {
        SocketAddr::V4(_) => setsockopt(&socket, Ipv4Ttl, &hops)?,
        SocketAddr::V6(_) => setsockopt(&socket, Ipv6Ttl, &hops)?,
    }
    Ok(socket)
}

fn bind_to(socket: &OwnedFd, egress: &Egress) -> Result<(), Errno> {
    setsockopt(socket, BindToDevice, &OsString::from(&egress.name))
}

fn by_socket(canary: &Canary, egress: Option<&Egress>, port: &mut u16) -> Result<OwnedFd, Errno> {
    let destination = canary.destination;
    let kind = match canary.transport {
        Transport::Udp => SockType::Datagram,
        Transport::Tcp => SockType::Stream,
    };
    let socket = open(destination, kind, None)?;
    if let (Way::Device, Some(egress)) = (canary.way, egress) {
        bind_to(&socket, egress)?;
    }
    if canary.way == Way::Address {
        let source = egress
            .and_then(|egress| egress.source(destination.ip()))
            .ok_or(Errno::EADDRNOTAVAIL)?;
        let source = SockaddrStorage::from(SocketAddr::new(source, 0));
        bind(socket.as_raw_fd(), &source)?;
    }
    let to = SockaddrStorage::from(destination);
    let fd = socket.as_raw_fd();
    let local = |socket: &OwnedFd| -> u16 {
        getsockname::<SockaddrStorage>(socket.as_raw_fd())
            .ok()
            .and_then(|address| {
                let v4 = address
                    .as_sockaddr_in()
                    .map(nix::sys::socket::SockaddrIn::port);
                v4.or_else(|| {
                    address
                        .as_sockaddr_in6()
                        .map(nix::sys::socket::SockaddrIn6::port)
                })
            })
            .unwrap_or_default()
    };
    match (canary.transport, canary.way) {
        (Transport::Tcp, _) => {
            let connected = connect(fd, &to);
            *port = local(&socket);
            match connected {
                Ok(()) | Err(Errno::EINPROGRESS) => {}
                Err(error) => return Err(error),
            }
        }
        (Transport::Udp, Way::Connected) => {
            connect(fd, &to)?;
            nix::sys::socket::send(fd, &canary.payload(), MsgFlags::empty())?;
            *port = local(&socket);
        }
        (Transport::Udp, _) => {
            sendto(fd, &canary.payload(), &to, MsgFlags::empty())?;
            *port = local(&socket);
        }
    }
    Ok(socket)
}

fn by_raw_socket(canary: &Canary, egress: Option<&Egress>) -> Result<OwnedFd, Errno> {
    let destination = canary.destination;
    let socket = open(destination, SockType::Raw, Some(SockProtocol::Raw))?;
    if let Some(egress) = egress {
        bind_to(&socket, egress)?;
    }
    let source = egress
        .and_then(|egress| egress.source(destination.ip()))
        .ok_or(Errno::EADDRNOTAVAIL)?;
    // One router more on the way: this host.
    let hops = HOPS + u8::from(canary.way == Way::Forwarded);
    let whole = packet::whole(canary, source, CRAFTED_PORT, hops).ok_or(Errno::EINVAL)?;
    // A raw socket takes no port.
    let to = SockaddrStorage::from(SocketAddr::new(destination.ip(), 0));
    let put = |bytes: &[u8]| sendto(socket.as_raw_fd(), bytes, &to, MsgFlags::empty()).map(drop);
    if canary.way != Way::Fragments {
        put(&whole)?;
        return Ok(socket);
    }
    if destination.is_ipv4() {
        // Where connections are tracked, the kernel would put the fragments together again.
        set_option(&socket, libc::IPPROTO_IP, libc::IP_NODEFRAG, 1)?;
    }
    let [first, second] = packet::fragments(&whole, fragment_id(canary)).ok_or(Errno::EINVAL)?;
    let first = put(&first);
    // Also if the first was refused: the second alone would be a leak.
    put(&second).and(first)?;
    Ok(socket)
}

/// What the fragments of one datagram have in common, and those of another have not.
fn fragment_id(canary: &Canary) -> u16 {
    /// Kernels count up from small numbers.
    const HIGH: u16 = 0x8000;

    let digits = canary.label.rsplit('-').next().unwrap_or_default();
    u16::from_str_radix(digits, 16).unwrap_or_default() | HIGH
}

/// A packet socket for which the kernel writes the link layer's header, whatever the device. Without a protocol, it
/// receives nothing.
fn packet_socket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Packet, SockType::Datagram, flags, None)
}

fn by_packet_socket(canary: &Canary, egress: &Egress, socket: &OwnedFd) -> Result<(), Errno> {
    let ip = canary.destination.ip();
    let ethertype = if ip.is_ipv4() {
        libc::ETH_P_IP
    } else {
        libc::ETH_P_IPV6
    };
    let source = egress.source(ip).unwrap_or(match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    });
    let mut whole = packet::whole(canary, source, CRAFTED_PORT, HOPS).ok_or(Errno::EINVAL)?;
    if canary.way == Way::LateFragment {
        let [_, second] = packet::fragments(&whole, fragment_id(canary)).ok_or(Errno::EINVAL)?;
        whole = second;
    }
    let mut address = [0; 8];
    let length = if egress.ethernet { NO_DEVICE.len() } else { 0 };
    for (byte, wanted) in address.iter_mut().zip(NO_DEVICE).take(length) {
        *byte = wanted;
    }
    let invalid = |_| Errno::EINVAL;
    let to = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(invalid)?,
        sll_protocol: u16::try_from(ethertype).map_err(invalid)?.to_be(),
        sll_ifindex: c_int::try_from(egress.index).map_err(invalid)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: u8::try_from(length).map_err(invalid)?,
        sll_addr: address,
    };
    // SAFETY: a live structure of the length given.
    let to = unsafe {
        nix::sys::socket::LinkAddr::from_raw(
            (&raw const to).cast(),
            Some(size_u32::<libc::sockaddr_ll>()),
        )
    }
    .ok_or(Errno::EINVAL)?;
    sendto(socket.as_raw_fd(), &whole, &to, MsgFlags::empty()).map(drop)
}

/// Sets an option that is an integer.
pub(super) fn set_option(
    socket: &impl AsRawFd,
    level: c_int,
    name: c_int,
    value: c_int,
) -> Result<(), Errno> {
    // SAFETY: a live integer of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_u32::<c_int>(),
        )
    };
    Errno::result(result).map(drop)
}

/// The size of a structure, in the type that socket calls want.
#[expect(
    clippy::cast_possible_truncation,
    reason = "structures are a few bytes long"
)]
const fn size_u32<T>() -> u32 {
    size_of::<T>() as u32
}
