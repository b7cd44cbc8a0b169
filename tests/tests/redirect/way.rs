//! The ways in which a socket can ask, and what its process is told.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use leakguard::lab::WHO_NAME;
use leakguard_tests::{Origin, connect, send_many_to, set_option};
use nix::libc;
use nix::sys::socket::{MsgFlags, SockaddrLike, SockaddrStorage, getpeername, sendto};

use crate::message::{is_from_tunnel, question, with_length};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// How a socket asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    SendTo,
    Connected,
    /// Several datagrams in one call, each with its address.
    SendMany,
    /// `sendmsg` and `recvmsg` by `io_uring`, with addresses.
    Uring,
    /// The same by a thread of the kernel.
    UringAsync,
    Tcp,
    /// The question goes with the first packet, in the call that connects.
    FastOpen,
    /// The question goes with the first packet, after a call that seems to connect.
    FastOpenConnect,
}

/// All of them.
pub(crate) const WAYS: [Way; 8] = [
    Way::SendTo,
    Way::Connected,
    Way::SendMany,
    Way::Uring,
    Way::UringAsync,
    Way::Tcp,
    Way::FastOpen,
    Way::FastOpenConnect,
];

/// What a process is told when it asks.
#[derive(Debug)]
pub(crate) struct Told {
    /// Whether the answer is the tunnel's resolver's.
    pub(crate) by_tunnel: bool,
    /// Whom the answer comes from.
    pub(crate) from: SocketAddr,
}

impl Way {
    pub(crate) fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::FastOpen | Self::FastOpenConnect)
    }

    /// Asks whom it is told to, with a new socket of the family of `socket`.
    pub(crate) fn ask(
        self,
        origin: Origin<'_>,
        socket: SocketAddr,
        asked: SocketAddr,
    ) -> io::Result<Told> {
        if self.is_tcp() {
            let stream = origin.tcp(socket.ip(), 1).remove(0);
            return self.ask_stream(stream, asked);
        }
        self.ask_by(&origin.udp(socket.ip()), asked)
    }

    /// Asks whom it is told to, with a UDP socket.
    pub(crate) fn ask_by(self, socket: &UdpSocket, asked: SocketAddr) -> io::Result<Told> {
        let message = &question(WHO_NAME)[..];
        socket.set_read_timeout(Some(PATIENCE))?;
        match self {
            Self::Connected => {
                connect(socket, asked)?;
                // As a process that asks the kernel whom it has connected to.
                assert_eq!(peer(socket)?.ip().to_canonical(), asked.ip().to_canonical());
                socket.send(message)?;
            }
            Self::SendMany => {
                let sent = send_many_to(socket, asked, &[message, message])?;
                assert_eq!(sent, 2);
                let first = receive(socket, message)?;
                let second = receive(socket, message)?;
                assert_eq!(first.from, second.from);
                return Ok(second);
            }
            Self::Uring => return exchange_by_ring(socket, asked, message, squeue::Flags::empty()),
            Self::UringAsync => {
                return exchange_by_ring(socket, asked, message, squeue::Flags::ASYNC);
            }
            _ => {
                let to = SockaddrStorage::from(asked);
                sendto(socket.as_raw_fd(), message, &to, MsgFlags::empty())?;
            }
        }
        receive(socket, message)
    }

    fn ask_stream(self, mut stream: TcpStream, asked: SocketAddr) -> io::Result<Told> {
        let message = &question(WHO_NAME)[..];
        // Of `connect` too.
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let bytes = with_length(message);
        if self == Self::FastOpen {
            let to = SockaddrStorage::from(asked);
            let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
            sendto(stream.as_raw_fd(), &bytes, &to, flags)?;
        } else {
            if self == Self::FastOpenConnect {
                let option = libc::TCP_FASTOPEN_CONNECT;
                set_option(&stream, libc::IPPROTO_TCP, option, &1_i32)?;
            }
            connect(&stream, asked)?;
            stream.write_all(&bytes)?;
        }
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        Ok(Told {
            by_tunnel: is_from_tunnel(&answer, message),
            from: peer(&stream)?,
        })
    }
}

fn receive(socket: &UdpSocket, message: &[u8]) -> io::Result<Told> {
    let mut answer = [0; 512];
    let (length, from) = socket.recv_from(&mut answer)?;
    Ok(Told {
        by_tunnel: is_from_tunnel(&answer[..length], message),
        from,
    })
}

/// Whom the kernel says that a socket is connected to.
fn peer(socket: &impl AsRawFd) -> io::Result<SocketAddr> {
    let peer: SockaddrStorage = getpeername(socket.as_raw_fd())?;
    to_std(&peer)
}

fn to_std(address: &SockaddrStorage) -> io::Result<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|v4| SocketAddr::V4((*v4).into()));
    let v6 = || {
        address
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::V6((*v6).into()))
    };
    v4.or_else(v6).ok_or_else(|| ErrorKind::InvalidData.into())
}

fn exchange_by_ring(
    socket: &UdpSocket,
    asked: SocketAddr,
    message: &[u8],
    flags: squeue::Flags,
) -> io::Result<Told> {
    let mut ring = IoUring::new(4)?;
    let fd = types::Fd(socket.as_raw_fd());
    let to = SockaddrStorage::from(asked);
    let mut question = message.to_vec();
    let mut vector = vector(&mut question);
    let mut header = header(&mut vector);
    header.msg_name = to.as_ptr().cast_mut().cast();
    header.msg_namelen = to.len();
    submit(
        &mut ring,
        &opcode::SendMsg::new(fd, &raw const header)
            .build()
            .flags(flags),
    )?;

    let mut answer = vec![0; 512];
    let mut vector = self::vector(&mut answer);
    let mut header = self::header(&mut vector);
    // SAFETY: a plain C structure, for which all zeroes are valid.
    let mut from: libc::sockaddr_storage = unsafe { mem::zeroed() };
    header.msg_name = (&raw mut from).cast();
    header.msg_namelen = libc::socklen_t::try_from(size_of_val(&from)).unwrap();
    let receive = opcode::RecvMsg::new(fd, &raw mut header)
        .build()
        .flags(flags);
    // The ring does not know of the socket's own patience.
    let length = submit_within(&mut ring, &receive, PATIENCE)?;
    // SAFETY: the kernel has written an address of this length.
    let from =
        unsafe { SockaddrStorage::from_raw((&raw const from).cast(), Some(header.msg_namelen)) };
    Ok(Told {
        by_tunnel: is_from_tunnel(&answer[..length], message),
        from: to_std(&from.unwrap())?,
    })
}

fn vector(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

fn header(vector: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a plain C structure, for which all zeroes are valid.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = vector;
    header.msg_iovlen = 1;
    header
}

fn submit(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<usize> {
    submit_within(ring, entry, PATIENCE)
}

/// Does one thing and waits for it; takes it back if it takes too long.
fn submit_within(ring: &mut IoUring, entry: &squeue::Entry, limit: Duration) -> io::Result<usize> {
    let limit = types::Timespec::from(limit);
    let timed = entry.clone().flags(squeue::Flags::IO_LINK);
    let timer = opcode::LinkTimeout::new(&raw const limit)
        .build()
        .user_data(1);
    // SAFETY: what the entries point to lives until both are complete.
    unsafe {
        let mut queue = ring.submission();
        queue.push(&timed).unwrap();
        queue.push(&timer).unwrap();
    }
    ring.submit_and_wait(2)?;
    let done = ring.completion().find(|entry| entry.user_data() == 0);
    let result = done.unwrap().result();
    usize::try_from(result).map_err(|_negative| io::Error::from_raw_os_error(-result))
}
