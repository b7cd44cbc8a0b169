//! Several datagrams in one system call.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

/// Sends datagrams by a connected socket with `sendmmsg`; says how many the kernel has taken.
pub fn send_many(socket: &impl AsRawFd, payloads: &[impl AsRef<[u8]>]) -> io::Result<usize> {
    send_all(socket, None, payloads)
}

/// Sends datagrams to an address with `sendmmsg`; says how many the kernel has taken.
pub fn send_many_to(
    socket: &impl AsRawFd,
    target: SocketAddr,
    payloads: &[impl AsRef<[u8]>],
) -> io::Result<usize> {
    send_all(socket, Some(&target.into()), payloads)
}

fn send_all(
    socket: &impl AsRawFd,
    target: Option<&SockaddrStorage>,
    payloads: &[impl AsRef<[u8]>],
) -> io::Result<usize> {
    let mut vectors: Vec<libc::iovec> = payloads
        .iter()
        .map(AsRef::as_ref)
        .map(|payload| libc::iovec {
            iov_base: payload.as_ptr().cast_mut().cast(),
            iov_len: payload.len(),
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: a plain C structure, for which all zeroes are valid.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            if let Some(target) = target {
                message.msg_hdr.msg_name = target.as_ptr().cast_mut().cast();
                message.msg_hdr.msg_namelen = target.len();
            }
            message
        })
        .collect();
    let count = libc::c_uint::try_from(messages.len()).map_err(io::Error::other)?;
    // SAFETY: so many messages, which describe live buffers that are only read.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    let sent = Errno::result(sent)?;
    usize::try_from(sent).map_err(io::Error::other)
}
