//! What a socket says of itself.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, OwnedFd};

use leakguard_common::hardening::{PACKET_QDISC_BYPASS, SOL_PACKET};
use nix::errno::Errno;
use nix::libc;

use crate::kernel::netns::{cookie_of, is_current};

/// What a packet or `AF_XDP` socket of the current namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    /// A packet socket that bypasses the queueing layer.
    Bypass,
    /// A packet socket that does not.
    Ordinary,
    /// An `AF_XDP` socket.
    AfXdp,
}

/// Asks a socket; `None` if it is of another family or namespace.
pub(super) fn ask(socket: &OwnedFd) -> Option<Probed> {
    let probed = match option(socket, libc::SOL_SOCKET, libc::SO_DOMAIN).ok()? {
        libc::AF_PACKET => match option(socket, SOL_PACKET, PACKET_QDISC_BYPASS) {
            Ok(0) => Probed::Ordinary,
            Ok(_) => Probed::Bypass,
            Err(_) => return None,
        },
        libc::AF_XDP => Probed::AfXdp,
        _ => return None,
    };
    is_current(cookie_of(socket).ok()?).then_some(probed)
}

fn option(socket: &OwnedFd, level: c_int, name: c_int) -> nix::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of::<c_int>()).or(Err(Errno::EINVAL))?;
    // SAFETY: `value` is `length` writable bytes, and the descriptor is open.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map(|_| value)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn other_families_are_left_out() {
        let socket = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        assert_eq!(ask(&socket), None);
    }
}
