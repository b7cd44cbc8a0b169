//! Single requests over `NETLINK_ROUTE`, answered before they return.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Length of `struct nlmsghdr` in bytes.
const HEADER: usize = 16;

/// Netlink messages and attributes start at multiples of four bytes.
const ALIGNMENT: usize = 4;

/// Sends one request in the network namespace of the calling thread, and hands the payload of each message that
/// answers it to `visit`.
///
/// `body` is the request's fixed structure with its attributes.
pub(super) fn request(
    message_type: u16,
    flags: u16,
    body: &[u8],
    mut visit: impl FnMut(&[u8]) -> Result<(), DecodeError>,
) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&encode(message_type, flags, body)?, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            match message.message_type() {
                NLMSG_DONE | NLMSG_ERROR => return status(message.payload()),
                _ => visit(message.payload()).map_err(io::Error::other)?,
            }
            let length = usize::try_from(message.length()).map_err(io::Error::other)?;
            rest = rest
                .get(length.next_multiple_of(ALIGNMENT)..)
                .unwrap_or_default();
        }
    }
}

/// Appends an attribute.
pub(super) fn push_attribute(
    body: &mut Vec<u8>,
    attribute_type: u16,
    value: &[u8],
) -> io::Result<()> {
    let length = u16::try_from(2 * size_of::<u16>() + value.len()).map_err(io::Error::other)?;
    body.extend(length.to_ne_bytes());
    body.extend(attribute_type.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(ALIGNMENT), 0);
    Ok(())
}

fn encode(message_type: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut message = vec![0; HEADER + body.len()];
    message[HEADER..].copy_from_slice(body);
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    let mut header = NetlinkBuffer::new(&mut message);
    header.set_length(length);
    header.set_message_type(message_type);
    header.set_flags(NLM_F_REQUEST | NLM_F_ACK | flags);
    Ok(message)
}

/// Turns the error number at the start of `NLMSG_ERROR` and `NLMSG_DONE` into a result.
fn status(payload: &[u8]) -> io::Result<()> {
    match payload
        .first_chunk()
        .map(|bytes| i32::from_ne_bytes(*bytes))
    {
        None | Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded() {
        let mut body = Vec::new();
        push_attribute(&mut body, 1, b"bpf\0x").unwrap();
        assert_eq!(body.len(), 12);
        assert_eq!(body[..2], 9_u16.to_ne_bytes());
    }

    #[test]
    fn a_refusal_is_an_error_with_its_number() {
        const RTM_GETLINK: u16 = 18;
        let mut body = [0; 16];
        body[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let error = request(RTM_GETLINK, 0, &body, |_| Ok(())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENODEV));
    }
}
