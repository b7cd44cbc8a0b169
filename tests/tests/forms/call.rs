//! The system calls of the ways to send.

use std::io::{self, IoSlice, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use io_uring::{IoUring, opcode, types};
use leakguard_tests::{connect, send_many, set_option};
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice as splice_pages};
use nix::libc::{self, c_int};
use nix::sys::sendfile::sendfile as send_file;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, send, sendmsg};

use crate::way::Aim;

const UDP_HEADER: usize = 8;

impl Aim {
    fn address(&self) -> SockaddrStorage {
        SockaddrStorage::from(self.target)
    }

    fn is_ipv6(&self) -> bool {
        self.target.is_ipv6()
    }
}

pub(crate) fn sendto(socket: &OwnedFd, aim: &Aim, payload: &[u8]) -> io::Result<()> {
    sendto_with(socket, aim, payload, MsgFlags::empty())
}

fn sendto_with(socket: &OwnedFd, aim: &Aim, payload: &[u8], flags: MsgFlags) -> io::Result<()> {
    let sent = nix::sys::socket::sendto(socket.as_raw_fd(), payload, &aim.address(), flags);
    Ok(sent.map(drop)?)
}

pub(crate) fn send_connected(socket: &OwnedFd, aim: &Aim, payload: &[u8]) -> io::Result<()> {
    connect(socket, aim.target)?;
    Ok(send(socket.as_raw_fd(), payload, MsgFlags::empty()).map(drop)?)
}

pub(crate) fn sendmmsg(socket: &OwnedFd, aim: &Aim, payloads: &[Vec<u8>]) -> io::Result<()> {
    connect(socket, aim.target)?;
    let mut rest = payloads;
    while !rest.is_empty() {
        match send_many(socket, rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            sent => rest = &rest[sent..],
        }
    }
    Ok(())
}

pub(crate) fn io_uring(socket: &OwnedFd, aim: &Aim, payloads: &[Vec<u8>]) -> io::Result<()> {
    connect(socket, aim.target)?;
    let mut ring = IoUring::new(u32::try_from(payloads.len().next_power_of_two()).unwrap())?;
    for payload in payloads {
        let length = u32::try_from(payload.len()).unwrap();
        let descriptor = types::Fd(socket.as_raw_fd());
        let entry = opcode::Send::new(descriptor, payload.as_ptr(), length).build();
        // SAFETY: socket and payload outlive the call below, which waits until the kernel has done with them.
        unsafe { ring.submission().push(&entry).unwrap() };
    }
    ring.submit_and_wait(payloads.len())?;
    let failed = ring.completion().find(|entry| entry.result() < 0);
    match failed {
        Some(entry) => Err(io::Error::from_raw_os_error(-entry.result())),
        None => Ok(()),
    }
}

pub(crate) fn bind_to_device(socket: &OwnedFd, aim: &Aim) -> io::Result<()> {
    // `SO_BINDTOIFINDEX` does the same by number.
    let index = c_int::try_from(aim.interface).unwrap();
    Ok(set_option(
        socket,
        libc::SOL_SOCKET,
        libc::SO_BINDTOIFINDEX,
        &index,
    )?)
}

pub(crate) fn unicast_interface(socket: &OwnedFd, aim: &Aim) -> io::Result<()> {
    /// `IP_UNICAST_IF` and `IPV6_UNICAST_IF`.
    const UNICAST_IF: [c_int; 2] = [50, 76];
    let index = aim.interface.to_be();
    let (level, option) = if aim.is_ipv6() {
        (libc::IPPROTO_IPV6, UNICAST_IF[1])
    } else {
        (libc::IPPROTO_IP, UNICAST_IF[0])
    };
    Ok(set_option(socket, level, option, &index)?)
}

pub(crate) fn with_packet_info(socket: &OwnedFd, aim: &Aim, payload: &[u8]) -> io::Result<()> {
    let v4 = libc::in_pktinfo {
        ipi_ifindex: c_int::try_from(aim.interface).unwrap(),
        ipi_spec_dst: libc::in_addr { s_addr: 0 },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let v6 = libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr { s6_addr: [0; 16] },
        ipi6_ifindex: aim.interface,
    };
    let control = if aim.is_ipv6() {
        ControlMessage::Ipv6PacketInfo(&v6)
    } else {
        ControlMessage::Ipv4PacketInfo(&v4)
    };
    send_with(socket, aim, payload, &control)
}

pub(crate) fn segments(socket: &OwnedFd, aim: &Aim, payloads: &[Vec<u8>]) -> io::Result<()> {
    let size = u16::try_from(payloads[0].len()).unwrap();
    let control = ControlMessage::UdpGsoSegments(&size);
    send_with(socket, aim, &payloads.concat(), &control)
}

fn send_with(
    socket: &OwnedFd,
    aim: &Aim,
    payload: &[u8],
    control: &ControlMessage<'_>,
) -> io::Result<()> {
    let sent = sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(payload)],
        std::slice::from_ref(control),
        MsgFlags::empty(),
        Some(&aim.address()),
    );
    Ok(sent.map(drop)?)
}

/// The group that a class of DNS is sent to.
pub(crate) fn group(family: usize, port: u16) -> Option<IpAddr> {
    let groups: [IpAddr; 2] = match port {
        5353 => [
            Ipv4Addr::new(224, 0, 0, 251).into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into(),
        ],
        5355 => [
            Ipv4Addr::new(224, 0, 0, 252).into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 3).into(),
        ],
        _ => return None,
    };
    Some(groups[family])
}

pub(crate) fn to_group(socket: &OwnedFd, aim: &Aim, payload: &[u8]) -> io::Result<()> {
    let index = c_int::try_from(aim.interface).unwrap();
    let family = usize::from(aim.is_ipv6());
    if aim.is_ipv6() {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &index)?;
    } else {
        let request = libc::ip_mreqn {
            imr_multiaddr: libc::in_addr { s_addr: 0 },
            imr_address: libc::in_addr { s_addr: 0 },
            imr_ifindex: index,
        };
        set_option(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)?;
    }
    let port = aim.target.port();
    let target = SocketAddr::new(group(family, port).unwrap(), port);
    sendto(socket, &Aim { target, ..*aim }, payload)
}

pub(crate) fn in_two_parts(socket: &OwnedFd, aim: &Aim, payload: &[u8]) -> io::Result<()> {
    let (first, second) = payload.split_at(payload.len() / 2);
    sendto_with(
        socket,
        aim,
        first,
        MsgFlags::from_bits_retain(libc::MSG_MORE),
    )?;
    sendto(socket, aim, second)
}

pub(crate) fn splice(socket: &OwnedFd, aim: &Aim, payload: &[u8]) -> io::Result<()> {
    connect(socket, aim.target)?;
    let (from, to) = nix::unistd::pipe()?;
    nix::unistd::write(&to, payload)?;
    let flags = SpliceFFlags::empty();
    Ok(splice_pages(
        from.as_fd(),
        None,
        socket.as_fd(),
        None,
        payload.len(),
        flags,
    )
    .map(drop)?)
}

pub(crate) fn sendfile(socket: &OwnedFd, aim: &Aim, payload: &[u8]) -> io::Result<()> {
    connect(socket, aim.target)?;
    let mut file = tempfile::tempfile()?;
    file.write_all(payload)?;
    file.rewind()?;
    Ok(send_file(socket.as_fd(), file.as_fd(), None, payload.len()).map(drop)?)
}

pub(crate) fn allow_zero_copy(socket: &OwnedFd, _: &Aim) -> io::Result<()> {
    let on: c_int = 1;
    Ok(set_option(
        socket,
        libc::SOL_SOCKET,
        libc::SO_ZEROCOPY,
        &on,
    )?)
}

pub(crate) fn zero_copy(socket: &OwnedFd, aim: &Aim, payload: &[u8]) -> io::Result<()> {
    // The kernel reads it until the packet has been read: it is never freed.
    let payload: &'static [u8] = Vec::leak(payload.to_vec());
    sendto_with(
        socket,
        aim,
        payload,
        MsgFlags::from_bits_retain(libc::MSG_ZEROCOPY),
    )
}

/// Options that every packet of the socket carries: no operation, or eight bytes of padding.
pub(crate) fn set_options(socket: &OwnedFd, aim: &Aim) -> io::Result<()> {
    const NOPS: [u8; 4] = [1, 1, 1, 0];
    const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    if aim.is_ipv6() {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS, &PADDING)?;
        Ok(set_option(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_DSTOPTS,
            &PADDING,
        )?)
    } else {
        Ok(set_option(
            socket,
            libc::IPPROTO_IP,
            libc::IP_OPTIONS,
            &NOPS,
        )?)
    }
}

/// Sends a UDP header of its own making behind the kernel's IP header.
pub(crate) fn raw_udp(socket: &OwnedFd, aim: &Aim, payload: &[u8]) -> io::Result<()> {
    let length = u16::try_from(UDP_HEADER + payload.len()).unwrap();
    let mut datagram = 40_053_u16.to_be_bytes().to_vec();
    datagram.extend(aim.target.port().to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    // A raw socket of IPv6 takes a port for a protocol.
    let target = SocketAddr::new(aim.target.ip(), 0);
    sendto(socket, &Aim { target, ..*aim }, &datagram)
}

pub(crate) fn start_connecting(socket: &OwnedFd, aim: &Aim) -> io::Result<()> {
    make_non_blocking(socket)?;
    in_progress(connect(socket, aim.target))
}

pub(crate) fn fast_open(socket: &OwnedFd, aim: &Aim) -> io::Result<()> {
    make_non_blocking(socket)?;
    let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
    let sent = nix::sys::socket::sendto(socket.as_raw_fd(), b"early", &aim.address(), flags);
    in_progress(sent.map(drop))
}

fn make_non_blocking(socket: &OwnedFd) -> io::Result<()> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    Ok(nix::fcntl::fcntl(socket, nix::fcntl::F_SETFL(flags)).map(drop)?)
}

fn in_progress(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
