//! Dumps over `NETLINK_ROUTE` that are either complete or an error.
//!
//! rtnetlink's connection logs and skips a message it cannot decode and does not report a dump that
//! the kernel marked as inconsistent (`NLM_F_DUMP_INTR`). A route that goes missing that way could
//! turn an uplink into a local interface, so this module reads the few attributes it needs itself.

use std::io;
use std::net::IpAddr;

use bytes::BytesMut;
use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer, NlaBuffer, NlasIterator,
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

/// Length of `struct nlmsghdr` in bytes.
const HEADER: usize = 16;

/// What a read takes at most, in bytes; the kernel fills at most 32 KiB of it per datagram.
const DATAGRAM: usize = 64 * 1024;

/// A socket for one dump after the other.
pub(super) struct Dumper {
    socket: TokioSocket,
    sequence: u32,
    buffer: BytesMut,
}

impl Dumper {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(NetlinkError::open)?;
        let socket_ref = socket.socket_mut();
        socket_ref.bind_auto().map_err(NetlinkError::open)?;
        socket_ref
            .connect(&SocketAddr::new(0, 0))
            .map_err(NetlinkError::open)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: BytesMut::with_capacity(DATAGRAM),
        })
    }

    /// Asks for a dump, or for one link or route, and hands the payload of each message to `visit`.
    ///
    /// `body` is the request's fixed structure with its attributes. After an error the socket may
    /// hold the rest of the answer: drop it.
    pub(super) async fn dump(
        &mut self,
        request: Request,
        body: &[u8],
        mut visit: impl FnMut(&[u8]) -> Result<(), DecodeError>,
    ) -> Result<(), NetlinkError> {
        self.sequence += 1;
        let message = encode(request, self.sequence, body);
        self.socket
            .send(&message)
            .await
            .map_err(|source| NetlinkError::Exchange { request, source })?;

        let mut interrupted = false;
        loop {
            self.buffer.clear();
            self.buffer.reserve(DATAGRAM);
            self.socket
                .recv(&mut self.buffer)
                .await
                .map_err(|source| NetlinkError::Exchange { request, source })?;
            let malformed = |source| NetlinkError::Malformed { request, source };
            let mut rest: &[u8] = &self.buffer;
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
                let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
                let (message, tail) = split_aligned(rest, length);
                let message = NetlinkBuffer::new_checked(message).map_err(malformed)?;
                rest = tail;
                if message.sequence_number() != self.sequence {
                    continue;
                }
                interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_NOOP => {}
                    // A dump can fail after its first message: DONE carries the error then.
                    NLMSG_DONE | NLMSG_ERROR => {
                        check_status(request, message.payload())?;
                        return if interrupted {
                            Err(NetlinkError::Interrupted { request })
                        } else {
                            Ok(())
                        };
                    }
                    NLMSG_OVERRUN => return Err(NetlinkError::Interrupted { request }),
                    kind if kind == request.answer() => {
                        visit(message.payload()).map_err(malformed)?;
                    }
                    _ => {}
                }
            }
        }
    }
}

/// What can be dumped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// `RTM_GETLINK`
    Links,
    /// `RTM_GETLINK` for one of them
    Link,
    /// `RTM_GETROUTE`
    Routes,
    /// `RTM_GETNEXTHOP`
    NextHops,
    /// `RTM_GETROUTE` for one destination
    RouteTo,
    /// `RTM_GETADDR`
    Addresses,
    /// `RTM_GETRULE`
    Rules,
}

impl Request {
    fn message_type(self) -> u16 {
        match self {
            Self::Links | Self::Link => 18,
            Self::Routes | Self::RouteTo => 26,
            Self::NextHops => 106,
            Self::Addresses => 22,
            Self::Rules => 34,
        }
    }

    /// The type of the messages that answer it (`RTM_NEW…`).
    fn answer(self) -> u16 {
        self.message_type() - 2
    }

    /// A dump ends with `NLMSG_DONE`, a single answer with the acknowledgement.
    fn flags(self) -> u16 {
        match self {
            Self::Link | Self::RouteTo => NLM_F_ACK,
            Self::Links | Self::Routes | Self::NextHops | Self::Addresses | Self::Rules => {
                NLM_F_DUMP
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Links | Self::Link => "links",
            Self::Routes | Self::RouteTo => "routes",
            Self::NextHops => "next hops",
            Self::Addresses => "addresses",
            Self::Rules => "policy rules",
        }
    }
}

/// Why the kernel's tables could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Open {
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Sending the request or receiving the answer failed.
    #[error("cannot read the kernel's {}", request.name())]
    Exchange {
        /// What was asked for.
        request: Request,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("the kernel does not list its {}", request.name())]
    Refused {
        /// What was asked for.
        request: Request,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// An answer that does not have the documented form.
    #[error("cannot decode the kernel's list of {}", request.name())]
    Malformed {
        /// What was asked for.
        request: Request,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// The table changed while it was read, again and again.
    #[error("the kernel's {} keep changing while they are read", request.name())]
    Interrupted {
        /// What was asked for.
        request: Request,
    },
}

impl NetlinkError {
    fn open(source: io::Error) -> Self {
        Self::Open { source }
    }

    /// Whether reading once more may succeed at once.
    pub(super) fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted { .. })
    }

    /// Whether there is no such link.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { source, .. }
            if source.raw_os_error() == Some(nix::libc::ENODEV))
    }

    /// Whether the answer is that there is no way, or that it was made to end (`RTN_UNREACHABLE` and its like).
    pub(super) fn is_no_route(&self) -> bool {
        const ANSWERS: [i32; 5] = [
            nix::libc::ENETUNREACH,
            nix::libc::EHOSTUNREACH,
            nix::libc::EACCES,
            nix::libc::EINVAL,
            nix::libc::ENODEV,
        ];
        matches!(self, Self::Refused { source, .. }
            if source.raw_os_error().is_some_and(|code| ANSWERS.contains(&code)))
    }

    /// Whether the kernel does not know the request (next hops before 5.3).
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Refused { source, .. }
            if source.raw_os_error() == Some(nix::libc::EOPNOTSUPP))
    }
}

/// Calls `visit` with the type and value of each attribute.
pub(crate) fn attributes<'a>(
    bytes: &'a [u8],
    mut visit: impl FnMut(u16, &'a [u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut position = 0;
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute?;
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        // The iterator's items borrow from the iterator, the caller's slices must not.
        let value = bytes
            .get(position + ATTRIBUTE_HEADER..position + length)
            .unwrap_or_default();
        visit(kind, value)?;
        position += length.next_multiple_of(ALIGNMENT);
    }
    Ok(())
}

/// Encodes one attribute with a 32-bit value.
pub(super) fn attribute_u32(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_ne_bytes())
}

/// Encodes one attribute, with the padding behind it.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = ATTRIBUTE_HEADER + value.len();
    let mut bytes = vec![0; length.next_multiple_of(ALIGNMENT)];
    let mut attribute = NlaBuffer::new(&mut bytes);
    attribute.set_kind(kind);
    attribute.set_length(u16::try_from(length).unwrap_or(u16::MAX));
    bytes[ATTRIBUTE_HEADER..length].copy_from_slice(value);
    bytes
}

/// Splits a message's fixed structure of `length` bytes from its attributes.
pub(super) fn split_fixed(payload: &[u8], length: usize) -> Result<(&[u8], &[u8]), DecodeError> {
    payload
        .split_at_checked(length)
        .ok_or_else(|| DecodeError::buffer_too_small(payload.len(), length))
}

/// The 32-bit number at `offset` of a fixed structure.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, DecodeError> {
    let number = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    number
        .map(|bytes| u32::from_ne_bytes(*bytes))
        .ok_or_else(|| DecodeError::buffer_too_small(bytes.len(), offset + 4))
}

/// The 16-bit number at `offset` of a fixed structure.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Result<u16, DecodeError> {
    let number = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    number
        .map(|bytes| u16::from_ne_bytes(*bytes))
        .ok_or_else(|| DecodeError::buffer_too_small(bytes.len(), offset + 2))
}

/// An address, which is as long as its family's.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// `AF_INET` and `AF_INET6` as they stand in a message.
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;

/// Splits off `length` bytes and the padding behind them.
pub(super) fn split_aligned(bytes: &[u8], length: usize) -> (&[u8], &[u8]) {
    let end = length.min(bytes.len());
    let next = length.next_multiple_of(ALIGNMENT).min(bytes.len());
    (&bytes[..end], &bytes[next..])
}

/// Netlink messages, attributes and next hops all start at multiples of four bytes.
const ALIGNMENT: usize = 4;

/// Length of `struct nlattr` in bytes.
const ATTRIBUTE_HEADER: usize = 4;

fn encode(request: Request, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0; HEADER + body.len()];
    message[HEADER..].copy_from_slice(body);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut header = NetlinkBuffer::new(&mut message);
    header.set_length(length);
    header.set_message_type(request.message_type());
    header.set_flags(NLM_F_REQUEST | request.flags());
    header.set_sequence_number(sequence);
    message
}

/// Turns the error number at the start of `NLMSG_ERROR` and `NLMSG_DONE` into a result.
fn check_status(request: Request, payload: &[u8]) -> Result<(), NetlinkError> {
    // A DONE without a number, as very old kernels send it, is the end and no error.
    let Some(code) = payload
        .first_chunk()
        .map(|bytes| i32::from_ne_bytes(*bytes))
    else {
        return Ok(());
    };
    if code == 0 {
        return Ok(());
    }
    let source = io::Error::from_raw_os_error(code.saturating_neg());
    Err(NetlinkError::Refused { request, source })
}
