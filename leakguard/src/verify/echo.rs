//! An ICMP echo of a size.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type};
use nix::sys::socket::sockopt::BindToDevice;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, setsockopt, socket,
};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::tunnel::{SIZE_LIMIT, Server, do_not_fragment};

/// What the data consists of.
const FILLING: u8 = 0x6c;
const ICMP_HEADER: usize = 8;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// The types of an answer.
const REPLY_V4: u8 = 0;
const REPLY_V6: u8 = 129;
const REQUEST_V6: u8 = 128;

/// Whether a packet of this size is answered that must not be fragmented.
pub(super) async fn passes(server: &Server, size: u32) -> bool {
    match timeout(SIZE_LIMIT, exchange(server, size as usize)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            log::debug!("an echo of {size} bytes: {error}");
            false
        }
        Err(_elapsed) => false,
    }
}

async fn exchange(server: &Server, size: usize) -> io::Result<()> {
    let address = server.address;
    let (family, protocol, header) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, IPV4_HEADER),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, IPV6_HEADER),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Raw, flags, protocol)?;
    setsockopt(&socket, BindToDevice, &OsString::from(&server.tunnel))?;
    do_not_fragment(&socket, address)?;
    connect(
        socket.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(address, 0)),
    )?;
    let data = size
        .checked_sub(header + ICMP_HEADER)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let data = vec![FILLING; data];
    let id = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
    let echo = IcmpEchoHeader {
        id,
        seq: u16::try_from(size & 0xffff).unwrap_or_default(),
    };
    let mut message = match address {
        IpAddr::V4(_) => Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &data)
            .to_bytes()
            .to_vec(),
        // The kernel fills in this checksum.
        IpAddr::V6(_) => [&[REQUEST_V6, 0, 0, 0][..], &echo.to_bytes()].concat(),
    };
    message.extend_from_slice(&data);
    // A connected socket that sends and receives, whatever its protocol.
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
    socket.send(&message).await?;
    let mut buffer = vec![0; size + IPV6_HEADER];
    loop {
        let received = socket.recv(&mut buffer).await?;
        // IPv4 comes with its header, IPv6 without.
        let (start, kind) = if address.is_ipv4() {
            (IPV4_HEADER, REPLY_V4)
        } else {
            (0, REPLY_V6)
        };
        let answer = buffer.get(start..received).unwrap_or_default();
        if answer.first() == Some(&kind) && answer.get(4..8) == Some(&echo.to_bytes()[..]) {
            return Ok(());
        }
    }
}
